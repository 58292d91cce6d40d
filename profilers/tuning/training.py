"""Load a language model to train it, and train it by one of TRL's trainers."""

import importlib.util
import json
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import broadcast_object_list
from peft import (
    prepare_model_for_kbit_training,
)
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PrinterCallback,
    TrainerCallback,
)
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import logging

from reclm.console import progress_bar
from reclm.errors import MissingExtra, ReclmError
from reclm.files import atomic_folder
from reclm.llm.engines.transformers import read_network
from reclm.llm.models import LanguageModel
from reclm.profilers.tuning.adapter import ADAPTER
from reclm.profilers.tuning.checkpoints import CHECKPOINTS, Pace, check_trainer_checkpoint
from reclm.profilers.tuning.metrics_log import MetricsLog, reading, writing

_OF_A_RUN = {"num_tokens", "eval_num_tokens", "train_loss", "total_flos"}
"""Metrics that a trainer counts from where it was begun, or begun again; they are not logged."""
_POOL = 16
"""Batches whose samples are sorted by length together."""


def load_network(
    model: LanguageModel,
    four_bit: bool | None = False,
    *,
    scores: bool = False,
    device: str | None = None,
    full: bool = False,
) -> Any:
    """Load the model to be trained: bf16 on a GPU that has it, else f32.

    ``four_bit``: hold the weights in 4 bits; None: where bitsandbytes and a GPU are there. ``scores``: a model of one
    number for a text (a reward model), in place of a causal one. ``full``: f32 in any case, for weights that are
    trained themselves: small steps are lost in bf16.
    """
    gpu = device != "cpu" and torch.cuda.is_available()
    possible = gpu and importlib.util.find_spec("bitsandbytes") is not None
    if four_bit and not possible:
        remedy = "pip install bitsandbytes"
        message = f"four_bit = true needs a GPU and bitsandbytes; {remedy}, or leave it out"
        raise MissingExtra(message, where="four_bit", remedy=remedy)
    bf16 = gpu and not full and torch.cuda.is_bf16_supported(including_emulation=False)
    options: dict[str, Any] = {"dtype": torch.bfloat16 if bf16 else torch.float32}
    if possible and four_bit is not False:
        from transformers import BitsAndBytesConfig

        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=options["dtype"]
        )
    if scores:
        options["num_labels"] = 1
    kind: Any = AutoModelForSequenceClassification if scores else AutoModelForCausalLM
    with quiet():
        network = read_network(kind, model, new_head=scores, **options)
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


def batch_order(lengths: np.ndarray, config: Any, generator: np.random.Generator) -> np.ndarray:
    """Return the order in which samples are learned from, all epochs one after the other: ``(n,)`` sample numbers.

    Each epoch is shuffled, and batches hold samples of similar length (``lengths``, in tokens). The order is fixed
    before training, so that a resumed run sees the samples that the unbroken run would have seen.
    """
    chosen, count = evenly(len(lengths), config.limit), int(np.ceil(config.epochs))
    epochs = [_epoch(chosen, lengths, config.batch_size, generator) for _ in range(count)]
    return np.concatenate(epochs)[: max(1, round(config.epochs * len(chosen)))]


def evenly(total: int, most: int | None) -> np.ndarray:
    """Return at most ``most`` of the numbers below ``total``, evenly spread, ``(n,)`` int64."""
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
        output_dir=str(folder / CHECKPOINTS),
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
        save_strategy="no",  # _SaveCallback tells when
        save_total_limit=2,
        eval_strategy="steps" if evaluate else "no",
        eval_steps=max(1, round(updates / max(1, round(config.epochs)))),
        disable_tqdm=True,
        report_to=[],
        **more,
    )


def train(
    trainer: Any, folder: Path, what: str, progress: bool = True, checkpoint_steps: int | None = None
) -> Path:
    """Train, or resume from the latest complete checkpoint; return the adapter's folder, ``folder/adapter``."""
    first = trainer.is_world_process_zero()
    per_update = trainer.args.per_device_train_batch_size * trainer.args.gradient_accumulation_steps
    updates = int(np.ceil(len(trainer.train_dataset) / (per_update * trainer.args.world_size)))
    with progress_bar(what, updates, progress and first) as advance:
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(_SaveCallback(Pace(checkpoint_steps)))
        if first:
            trainer.add_callback(_LogCallback(folder, advance))
        with writing(folder), quiet():
            _train(trainer, folder)
            if first:
                # the embeddings are not trained, whether or not their vocabulary can be looked up
                with atomic_folder(folder / ADAPTER) as draft:
                    trainer.model.save_pretrained(str(draft), save_embedding_layers=False)
                shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
            trainer.accelerator.wait_for_everyone()
    return folder / ADAPTER


def _train(trainer: Any, folder: Path) -> None:
    """Run ``trainer``, from the latest checkpoint if there is one: what fails before its first step is damaged."""
    checkpoint = _latest(folder / CHECKPOINTS)
    if checkpoint is None:
        trainer.train()
        return
    check_trainer_checkpoint(checkpoint, trainer)
    trainer.add_callback(first_step := _FirstStep())
    try:
        with writing(folder):
            trainer.train(resume_from_checkpoint=str(checkpoint))
    except ReclmError:
        raise
    except Exception:
        if first_step.begun:
            raise
        with reading(checkpoint):
            raise


def _latest(folder: Path) -> Path | None:
    """Return the newest checkpoint that is complete: its state is written last."""
    complete: dict[int, Path] = {}
    for path in folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*"):
        with suppress(OSError, ValueError):
            json.loads((path / "trainer_state.json").read_text(encoding="utf-8"))
            complete[int(path.name.rpartition("-")[2])] = path
    return complete[max(complete)] if complete else None


class _FirstStep(TrainerCallback):
    """Notes that the first step has begun."""

    begun = False

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.begun = True


class _SaveCallback(TrainerCallback):
    """Asks for checkpoints at their pace, the same ones on all processes."""

    def __init__(self, pace: Pace) -> None:
        self.pace = pace

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        (control.should_save,) = broadcast_object_list([self.pace.due(state.global_step)])
        self.pace.begin()

    def on_evaluate(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.pace.begin()  # evaluation comes between

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.pace.end()


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

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if logs and self.log:
            self.log.add(state.global_step, _numbers(logs))

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.log:
            self.log.close()


def _numbers(row: dict[str, Any]) -> dict[str, float]:
    return {
        name: value for name, value in row.items() if isinstance(value, int | float) and name not in _OF_A_RUN
    }
