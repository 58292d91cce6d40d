"""Load a language model to train it, and give it a LoRA adapter."""

import importlib.util
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model, prepare_model_for_kbit_training
from peft.tuners.tuners_utils import check_target_module_exists
from peft.utils.constants import DUMMY_TARGET_MODULES
from torch import nn
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification
from transformers.pytorch_utils import Conv1D
from transformers.utils import logging

from reclm.errors import BadInput, MissingExtra
from reclm.llm.models import LanguageModel, transformers_folder
from reclm.profilers.rl.config import LoraOptions


def load_network(
    model: LanguageModel,
    four_bit: bool | None = False,
    *,
    scores: bool = False,
    device: str | None = None,
    full: bool = False,
) -> Any:
    """Load the model to be trained: bf16 on a GPU that has it, else f32.

    Args:
        four_bit: hold the weights in 4 bits; None: where bitsandbytes and a GPU are there.
        scores: with one number for a text (a reward model) in place of the output layer.
        full: f32 in any case, for weights that are trained themselves: small steps are lost in bf16.
    """
    gpu = device != "cpu" and torch.cuda.is_available()
    possible = gpu and importlib.util.find_spec("bitsandbytes") is not None
    if four_bit and not possible:
        raise MissingExtra(
            "four_bit = true needs a GPU and bitsandbytes; pip install bitsandbytes, or leave it out",
            where="four_bit",
            remedy="pip install bitsandbytes",
        )
    bf16 = gpu and not full and torch.cuda.is_bf16_supported(including_emulation=False)
    options: dict[str, Any] = {"dtype": torch.bfloat16 if bf16 else torch.float32, "use_safetensors": True}
    if possible and four_bit is not False:
        from transformers import BitsAndBytesConfig

        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=options["dtype"]
        )
    if scores:
        options["num_labels"] = 1
    kind: Any = AutoModelForSequenceClassification if scores else AutoModelForCausalLM
    with quiet():
        network = kind.from_pretrained(transformers_folder(model, weights=True), **options)
    if "quantization_config" in options:
        return prepare_model_for_kbit_training(network)
    return network.to(device or ("cuda" if gpu else "cpu"))


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the bars, tables and deprecation notes of transformers, datasets and TRL within the block."""
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


def add_adapter(
    network: Any, lora: LoraOptions, task: str = "CAUSAL_LM", start: Path | None = None, seed: int = 0
) -> Any:
    """Return the network with an adapter to train: a new one, or a copy of the one at ``start``.

    Torch's global random state is left as it was.
    """
    if start is not None:
        return PeftModel.from_pretrained(network, str(start), is_trainable=True)
    config = lora_config(network, lora, task)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return get_peft_model(network, config)


def lora_config(network: Any, options: LoraOptions, task: str = "CAUSAL_LM") -> LoraConfig:
    """Return PEFT's configuration for ``options``.

    Layers that are trained themselves are ``modules_to_save`` without a LoRA target: PEFT trains a copy of each, and
    runs the layers as they were when the adapter is off.

    Args:
        network: a transformers model without an adapter.
        task: PEFT's task type.
    """
    targets: Any = options.modules
    whole: list[str] | None = None
    if options.last_layers is not None:
        layers = _last_layers(network, options.last_layers)
        if options.whole:
            _in_float32(layers)
            targets, whole = DUMMY_TARGET_MODULES, list(layers)
        else:
            targets = _targets(layers, options.modules)
    return LoraConfig(
        r=options.r,
        lora_alpha=options.alpha,
        lora_dropout=options.dropout,
        target_modules=targets,
        modules_to_save=whole,
        task_type=task,
    )


def _last_layers(network: Any, count: int) -> dict[str, nn.Module]:
    """Return the last decoder layers, by their names within the network."""
    depth = network.config.get_text_config().num_hidden_layers
    if count > depth:
        raise BadInput(
            f"last_layers = {count}, but {type(network).__name__} has {depth} layers; ask for fewer"
        )
    for name, module in network.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == depth:
            return {f"{name}.{at}": module[at] for at in range(depth - count, depth)}
    raise BadInput(
        f"{type(network).__name__} does not hold its {depth} layers in a list; leave last_layers out"
    )


def _targets(layers: dict[str, nn.Module], modules: str | list[str]) -> list[str]:
    """Return the names of the modules within ``layers`` that get LoRA matrices, by PEFT's rules."""
    within = [
        (f"{layer}.{name}", part)
        for layer, top in layers.items()
        for name, part in top.named_modules()
        if name
    ]
    if modules == "all-linear":
        names = [name for name, part in within if isinstance(part, nn.Linear | Conv1D)]
    else:
        rule = LoraConfig(target_modules=modules)
        names = [name for name, _ in within if check_target_module_exists(rule, name)]
    if not names:
        raise BadInput(
            f"the last {len(layers)} layers have no modules {modules}; choose others, or all-linear"
        )
    return names


def _in_float32(layers: dict[str, nn.Module]) -> None:
    other = {weights.dtype for layer in layers.values() for weights in layer.parameters()} - {torch.float32}
    if other:
        raise BadInput(
            f"whole = true trains layers in place, and small steps are lost in {other.pop()}; "
            "load the model in float32, or leave whole out"
        )
