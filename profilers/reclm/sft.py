"""Knowledge distillation and two-turn tuning by TRL's SFTTrainer with LoRA (RecLM, arXiv 2412.19302, 2.2 and 2.3)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from reclm.profilers.network import load_network
from reclm.profilers.reclm.config import TuningConfig
from reclm.profilers.reclm.masking import Variant, tokenised
from reclm.profilers.reclm.tuning import adapted, arguments, arranged, evenly, train
from reclm.text.models import LanguageModel
from reclm.text.prompt_tokens import PromptTokenizer


def tune(
    model: LanguageModel,
    prompts: PromptTokenizer,
    samples: Any,
    held_out: Any,
    folder: Path,
    config: TuningConfig,
    *,
    variant: Variant = "mask",
    start: Path | None = None,
    seed: int = 0,
    what: str = "tuning",
    progress: bool = True,
) -> Path:
    """Train a LoRA adapter on answers, and return where it lies; a run that was broken goes on.

    Args:
        prompts: the model's tokenizer.
        samples, held_out: ``datasets.Dataset`` of ``messages`` (see :mod:`~reclm.profilers.reclm.dataset`); the loss on
            ``held_out`` is logged after each pass.
        folder: where everything goes.
        variant: which answers carry loss.
        start: an adapter to go on with.

    Raises:
        ReclmError: if a sample does not fit the model, or something cannot be written.
    """
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    tokens = tokenised(samples, prompts, variant)
    lengths = np.fromiter(map(len, tokens["input_ids"]), np.int64, len(tokens))
    order = arranged(lengths, config, np.random.default_rng([seed, 1]))
    tested = held_out.select(evenly(len(held_out), config.evaluated))
    tested = tokenised(tested, prompts, variant) if len(tested) else None
    network = adapted(load_network(model, config.four_bit), config.lora, "CAUSAL_LM", start, seed)
    trainer = SFTTrainer(
        model=network,
        args=arguments(SFTConfig, folder, config, len(order), seed, tested is not None, packing=False),
        train_dataset=tokens.select(order),
        eval_dataset=tested,
        processing_class=prompts.tokenizer,
    )
    return train(trainer, folder, what, progress)


def subset(samples: Any, subjects: Sequence[str]) -> Any:
    """The samples of a ``datasets.Dataset`` that are of ``subjects``."""
    wanted = set(subjects)
    return samples.select([at for at, one in enumerate(samples["subject"]) if one in wanted])
