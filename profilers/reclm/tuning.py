"""What the supervised stages share: network, order of samples, Trainer's arguments, going on from a checkpoint."""

import errno
import importlib.util
import json
import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model, prepare_model_for_kbit_training
from safetensors import SafetensorError
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PrinterCallback,
    TrainerCallback,
)
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import logging

from reclm.errors import ReclmError
from reclm.profilers.policy.config import LoraOptions
from reclm.profilers.reclm.config import TuningConfig
from reclm.profilers.reclm.report import curves
from reclm.progress import progress_bar
from reclm.text.models import LanguageModel, transformers_folder

METRICS = curves.FILE
ADAPTER = "adapter"
_POOL = 16
_UNWRITABLE = {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.EFBIG, errno.EIO}
_SAID = ("PytorchStreamWriter", "inline_container", "No space left", "os error 28", "Quota exceeded")


def load_network(
    model: LanguageModel, four_bit: bool | None = False, *, scores: bool = False, device: str | None = None
) -> Any:
    """The model's network as training takes it: bf16 on a GPU that has it, else f32.

    Args:
        four_bit: see :attr:`TuningConfig.four_bit`.
        scores: with one number for a text (a reward model) in place of the output layer.

    Raises:
        ReclmError: if 4 bits are asked for and cannot be had.
    """
    gpu = device != "cpu" and torch.cuda.is_available()
    possible = gpu and importlib.util.find_spec("bitsandbytes") is not None
    if four_bit and not possible:
        raise ReclmError(
            "four_bit = true needs a GPU and bitsandbytes; pip install bitsandbytes, or leave it out"
        )
    bf16 = gpu and torch.cuda.is_bf16_supported(including_emulation=False)
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


def adapted(network: Any, lora: LoraOptions, task: str, start: Path | None, seed: int) -> PeftModel:
    """The network with an adapter to train: a new one, or a copy of the one at ``start``.

    Torch's global random state is left as it was.
    """
    if start is not None:
        return PeftModel.from_pretrained(network, str(start), is_trainable=True)
    config = LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=lora.modules,
        task_type=task,
    )
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


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """What fails within because something cannot be written is a ReclmError."""
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        # torch.save and safetensors have errors of their own for a full disk
        full = getattr(error, "errno", None) in _UNWRITABLE or any(one in str(error) for one in _SAID)
        if not full:
            raise
        raise _unwritten(folder, error) from error


def _unwritten(folder: Path, error: Exception) -> ReclmError:
    reason = " ".join(str(getattr(error, "strerror", None) or error).split())[:200]
    return ReclmError(f"cannot write {folder}: {reason}; make room and run the same command again to go on")


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
        (self.folder / METRICS).write_text(rows, encoding="utf-8")
        self.advance(state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.advance(1)

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any
    ) -> None:
        if not logs or self.board is None:
            return
        with (self.folder / METRICS).open("a", encoding="utf-8") as file:
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
