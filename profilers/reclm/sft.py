"""Knowledge distillation and two-turn tuning by TRL's SFTTrainer with LoRA (RecLM, arXiv 2412.19302, 2.2 and 2.3)."""

import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import PeftModel, get_peft_model
from transformers import (
    PrinterCallback,
    TrainerCallback,
)
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from reclm.console import progress_bar
from reclm.llm.models import LanguageModel
from reclm.llm.tokens import PromptTokenizer
from reclm.profilers.reclm.config import TuningConfig
from reclm.profilers.reclm.masking import Variant, tokenised
from reclm.profilers.rl.config import LoraOptions
from reclm.profilers.rl.policy import adapter_config
from reclm.profilers.tuning.load_model import load_network, quiet
from reclm.profilers.tuning.metrics_log import FILE, writing

ADAPTER = "adapter"
_POOL = 16


def adapted(network: Any, lora: LoraOptions, task: str, start: Path | None, seed: int) -> PeftModel:
    """The network with an adapter to train: a new one, or a copy of the one at ``start``.

    Torch's global random state is left as it was.
    """
    if start is not None:
        return PeftModel.from_pretrained(network, str(start), is_trainable=True)
    config = adapter_config(network, lora, task)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return get_peft_model(network, config)  # pyright: ignore[reportReturnType]


def arranged(lengths: np.ndarray, config: TuningConfig, generator: np.random.Generator) -> np.ndarray:
    """The order in which samples are learned from, all passes one behind the other: ``(n,)`` places of samples.

    Each pass is shuffled, and batches hold samples of like length. The order is fixed before training, so that a run
    that goes on from a checkpoint sees what it would have seen.

    Args:
        lengths: ``(n,)`` tokens of each sample.
    """
    chosen = evenly(len(lengths), config.limit)
    passes = [
        _one_pass(chosen, lengths, config.batch_size, generator) for _ in range(int(np.ceil(config.epochs)))
    ]
    return np.concatenate(passes)[: max(1, round(config.epochs * len(chosen)))]


def evenly(total: int, most: int | None) -> np.ndarray:
    """Places of at most ``most`` of ``total``, spread over all of them."""
    return np.linspace(0, total - 1, total if most is None else min(most, total)).round().astype(np.int64)


def _one_pass(
    chosen: np.ndarray, lengths: np.ndarray, batch: int, generator: np.random.Generator
) -> np.ndarray:
    shuffled = generator.permutation(chosen)
    pools = [shuffled[start : start + _POOL * batch] for start in range(0, len(shuffled), _POOL * batch)]
    ordered = np.concatenate([pool[np.argsort(lengths[pool], kind="stable")] for pool in pools])
    whole = len(ordered) // batch * batch
    batches = generator.permutation(ordered[:whole].reshape(-1, batch))
    return np.concatenate([batches.reshape(-1), ordered[whole:]])


def arguments(
    kind: Any, folder: Path, config: TuningConfig, samples: int, seed: int, evaluate: bool, **more: Any
) -> Any:
    """``SFTConfig`` or ``RewardConfig`` for ``samples`` that are arranged already."""
    updates = int(np.ceil(samples / (config.batch_size * config.accumulate)))
    bf16 = torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    return kind(
        output_dir=str(folder / "checkpoints"),
        num_train_epochs=1,
        train_sampling_strategy="sequential",
        per_device_train_batch_size=config.batch_size,
        per_device_eval_batch_size=config.batch_size,
        gradient_accumulation_steps=config.accumulate,
        learning_rate=config.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=round(config.warmup * updates),
        max_grad_norm=config.max_gradient_norm,
        weight_decay=0.0,
        gradient_checkpointing=config.checkpoint_activations,
        bf16=bf16,
        use_cpu=not torch.cuda.is_available(),
        max_length=None,
        seed=seed,
        logging_steps=1,
        save_steps=config.checkpoint_steps,
        save_total_limit=2,
        eval_strategy="steps" if evaluate else "no",
        eval_steps=max(1, round(updates / max(1, round(config.epochs)))),
        disable_tqdm=True,
        report_to=[],
        **more,
    )


def train(trainer: Any, folder: Path, what: str, progress: bool = True) -> Path:
    """Train, or go on from the latest whole checkpoint; the adapter is then in ``folder/adapter``.

    Beside it ``metrics.jsonl`` and TensorBoard's files. Checkpoints are deleted at the end.

    Raises:
        ReclmError: if something cannot be written.
    """
    first = trainer.is_world_process_zero()
    with progress_bar(what, _updates(trainer), progress and first) as bar:
        trainer.remove_callback(PrinterCallback)
        if first:
            trainer.add_callback(_Journal(folder, bar))
        with writing(folder), quiet():
            trainer.train(resume_from_checkpoint=_latest(folder / "checkpoints"))
            if first:
                partial = folder / f"{ADAPTER}.partial"
                shutil.rmtree(partial, ignore_errors=True)
                # the embeddings are not trained, whether or not its vocabulary can be looked up
                trainer.model.save_pretrained(str(partial), save_embedding_layers=False)
                os.replace(partial, folder / ADAPTER)
                shutil.rmtree(folder / "checkpoints", ignore_errors=True)
            trainer.accelerator.wait_for_everyone()
    return folder / ADAPTER


def _updates(trainer: Any) -> int:
    each = trainer.args.per_device_train_batch_size * trainer.args.gradient_accumulation_steps
    return int(np.ceil(len(trainer.train_dataset) / (each * trainer.args.world_size)))


def _latest(folder: Path) -> str | None:
    """The newest checkpoint that was written to its end: its state comes last."""
    found = [
        one for one in folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*") if _readable(one / "trainer_state.json")
    ]
    return str(max(found, key=lambda one: int(one.name.rpartition("-")[2]))) if found else None


def _readable(path: Path) -> bool:
    try:
        json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return True


class _Journal(TrainerCallback):
    """``metrics.jsonl``, TensorBoard and the progress bar."""

    def __init__(self, folder: Path, advance: Callable[[int], None]) -> None:
        self.folder = folder
        self.advance = advance
        self.board: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if not state.is_world_process_zero:
            return
        from torch.utils.tensorboard import SummaryWriter

        self.board = SummaryWriter(str(self.folder / "tensorboard"), purge_step=state.global_step or None)
        rows = "".join(_line(row) for row in state.log_history)
        (self.folder / FILE).write_text(rows, encoding="utf-8")
        self.advance(state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.advance(1)

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any
    ) -> None:
        if not logs or self.board is None:
            return
        with (self.folder / FILE).open("a", encoding="utf-8") as file:
            file.write(_line({**logs, "step": state.global_step}))
        for name, value in logs.items():
            if isinstance(value, int | float):
                self.board.add_scalar(name, value, state.global_step)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.board is not None:
            self.board.close()


def _line(row: dict[str, Any]) -> str:
    numbers = {name: value for name, value in row.items() if isinstance(value, int | float)}
    return json.dumps({"step": numbers.pop("step", 0), **numbers}) + "\n"


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
