"""A language model's network, as training takes it."""

import importlib.util
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft import prepare_model_for_kbit_training
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification
from transformers.utils import logging

from reclm.errors import ReclmError
from reclm.llm.models import LanguageModel, transformers_folder


def load_network(
    model: LanguageModel,
    four_bit: bool | None = False,
    *,
    scores: bool = False,
    device: str | None = None,
    full: bool = False,
) -> Any:
    """The model's network as training takes it: bf16 on a GPU that has it, else f32.

    Args:
        four_bit: see :attr:`TuningConfig.four_bit`.
        scores: with one number for a text (a reward model) in place of the output layer.
        full: f32 in any case, for weights that are trained themselves: small steps are lost in bf16.

    Raises:
        ReclmError: if 4 bits are asked for and cannot be had.
    """
    gpu = device != "cpu" and torch.cuda.is_available()
    possible = gpu and importlib.util.find_spec("bitsandbytes") is not None
    if four_bit and not possible:
        raise ReclmError(
            "four_bit = true needs a GPU and bitsandbytes; pip install bitsandbytes, or leave it out"
        )
    bf16 = gpu and not full and torch.cuda.is_bf16_supported(including_emulation=False)
    options: dict[str, Any] = {"dtype": torch.bfloat16 if bf16 else torch.float32, "use_safetensors": True}
    if possible and four_bit is not False:
        from transformers import BitsAndBytesConfig

        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=options["dtype"]
        )
    kind: Any = AutoModelForSequenceClassification if scores else AutoModelForCausalLM
    with quiet():
        network = kind.from_pretrained(
            transformers_folder(model, weights=True), **options, **({"num_labels": 1} if scores else {})
        )
    if "quantization_config" in options:
        return prepare_model_for_kbit_training(network)
    return network.to(device or ("cuda" if gpu else "cpu"))


@contextmanager
def quiet() -> Iterator[None]:
    """Without the bars, tables and deprecation notes of transformers, datasets and TRL."""
    import datasets

    bars, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    data_bars = datasets.are_progress_bars_disabled()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    datasets.disable_progress_bars()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
        if not data_bars:
            datasets.enable_progress_bars()
