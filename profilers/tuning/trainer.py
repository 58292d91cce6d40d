"""Supervised training by TRL's trainers: order of the samples, arguments, log, checkpoints, resuming."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PrinterCallback, TrainerCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from reclm.console import progress_bar
from reclm.files import atomic_folder
from reclm.profilers.tuning.load_model import quiet
from reclm.profilers.tuning.metrics_log import MetricsLog, writing
from reclm.profilers.tuning.run_folder import ADAPTER

_POOL = 16
"""Batches whose samples are sorted by length together."""


def batch_order(lengths: np.ndarray, config: Any, generator: np.random.Generator) -> np.ndarray:
    """Return the order in which samples are learned from, all epochs one after the other: ``(n,)`` sample numbers.

    Each epoch is shuffled, and batches hold samples of similar length. The order is fixed before training, so that a
    resumed run sees the samples that the unbroken run would have seen.

    Args:
        lengths: ``(n,)`` tokens of each sample.
        config: options with ``epochs``, ``batch_size`` and ``limit``.
    """
    chosen = evenly(len(lengths), config.limit)
    epochs = [
        _epoch(chosen, lengths, config.batch_size, generator) for _ in range(int(np.ceil(config.epochs)))
    ]
    return np.concatenate(epochs)[: max(1, round(config.epochs * len(chosen)))]


def evenly(total: int, most: int | None) -> np.ndarray:
    """Return at most ``most`` of the numbers below ``total``, evenly spread."""
    return np.linspace(0, total - 1, total if most is None else min(most, total)).round().astype(np.int64)


def _epoch(chosen: np.ndarray, lengths: np.ndarray, batch: int, generator: np.random.Generator) -> np.ndarray:
    shuffled = generator.permutation(chosen)
    pools = [shuffled[start : start + _POOL * batch] for start in range(0, len(shuffled), _POOL * batch)]
    ordered = np.concatenate([pool[np.argsort(lengths[pool], kind="stable")] for pool in pools])
    whole = len(ordered) // batch * batch
    batches = generator.permutation(ordered[:whole].reshape(-1, batch))
    return np.concatenate([batches.reshape(-1), ordered[whole:]])


def trainer_arguments(
    kind: Any, folder: Path, config: Any, samples: int, seed: int, evaluate: bool, **more: Any
) -> Any:
    """Return ``SFTConfig`` or ``RewardConfig`` for ``samples`` samples in their order."""
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
    """Train, or resume from the latest complete checkpoint; return the adapter's folder, ``folder/adapter``.

    Beside it ``metrics.jsonl`` and TensorBoard's files. Checkpoints are deleted at the end.
    """
    first = trainer.is_world_process_zero()
    each = trainer.args.per_device_train_batch_size * trainer.args.gradient_accumulation_steps
    updates = int(np.ceil(len(trainer.train_dataset) / (each * trainer.args.world_size)))
    with progress_bar(what, updates, progress and first) as advance:
        trainer.remove_callback(PrinterCallback)
        if first:
            trainer.add_callback(_LogCallback(folder, advance))
        with writing(folder), quiet():
            trainer.train(resume_from_checkpoint=_latest(folder / "checkpoints"))
            if first:
                # the embeddings are not trained, whether or not their vocabulary can be looked up
                with atomic_folder(folder / ADAPTER) as draft:
                    trainer.model.save_pretrained(str(draft), save_embedding_layers=False)
                shutil.rmtree(folder / "checkpoints", ignore_errors=True)
            trainer.accelerator.wait_for_everyone()
    return folder / ADAPTER


def _latest(folder: Path) -> str | None:
    """Return the newest checkpoint that is complete: its state is written last."""
    complete = [
        path for path in folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*") if _readable(path / "trainer_state.json")
    ]
    return str(max(complete, key=lambda path: int(path.name.rpartition("-")[2]))) if complete else None


def _readable(path: Path) -> bool:
    try:
        json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return True


class _LogCallback(TrainerCallback):
    """Writes the metrics log and moves the progress bar."""

    def __init__(self, folder: Path, advance: Callable[[int], None]) -> None:
        self.folder, self.advance = folder, advance
        self.log: MetricsLog | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.is_world_process_zero:
            self.log = MetricsLog(self.folder, state.global_step, map(_numbers, state.log_history))
            self.advance(state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.advance(1)

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any
    ) -> None:
        if logs and self.log:
            self.log.add(state.global_step, _numbers(logs))

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.log:
            self.log.close()


def _numbers(row: dict[str, Any]) -> dict[str, float]:
    return {name: value for name, value in row.items() if isinstance(value, int | float)}
