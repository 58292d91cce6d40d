"""Checkpoints of a training: how often one is written, where it lies, and whether there is room for it."""

import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from accelerate import Accelerator
from peft import get_peft_model_state_dict, load_peft_weights
from torch import Tensor

from reclm.console import say
from reclm.errors import BadInput
from reclm.files import atomic_folder, parse_object, remove_folder
from reclm.profilers.tuning.metrics_log import reading, writing

CHECKPOINTS = "checkpoints"
"""The folder of a training's checkpoints."""
_SPARED = 20
"""A checkpoint is followed by training for so many times as long as it took: it takes a twentieth of the time."""
_LARGE = 2**30
"""Bytes from which on a checkpoint's size is said."""


class Pace:
    """Tells after which updates a checkpoint is written.

    ``steps``: after each so many; None: as often as that takes at most a twentieth of the time.
    """

    def __init__(self, steps: int | None = None) -> None:
        self.steps = steps
        self._begun = self._ended = perf_counter()
        self._cost = 0.0

    def due(self, step: int) -> bool:
        """Return whether a checkpoint is written after update number ``step``."""
        if self.steps is not None:
            return step % self.steps == 0
        return perf_counter() - self._ended >= _SPARED * self._cost

    def begin(self) -> None:
        """Take the time at which a checkpoint begins to be written."""
        self._begun = perf_counter()

    def end(self) -> None:
        """Take the time at which it is written."""
        self._ended = perf_counter()
        self._cost = self._ended - self._begun


def checkpoints(folder: Path) -> list[Path]:
    """Return the complete checkpoints in ``folder``, by step."""
    return sorted((path for path in folder.glob("step-*") if path.name[5:].isdigit()), key=step_of)


def step_of(checkpoint: Path) -> int:
    """Return the step of a checkpoint."""
    return int(checkpoint.name.removeprefix("step-"))


def save_checkpoint(
    folder: Path,
    step: int,
    write: Callable[[Path], None],
    accelerator: Accelerator,
    newest: int | None,
    pace: Pace,
    last: bool = True,
) -> Path:
    """Write the checkpoint of a step, complete or not at all; delete all but the ``newest``; return its path.

    One that is neither due by its ``pace`` nor the ``last`` is left out: the processes only wait for each other.
    """
    path = folder / f"step-{step:06d}"
    if accelerator.is_main_process and (last or pace.due(step)):
        pace.begin()
        with writing(path), atomic_folder(path) as draft:
            write(draft)
        for old in checkpoints(folder)[:-newest] if newest else ():
            remove_folder(old)
        pace.end()
    accelerator.wait_for_everyone()
    return path


def read_state(checkpoint: Path) -> dict[str, Any]:
    """Return what ``state.json`` of a checkpoint says; ValueError where it is that of no step, or of another one."""
    state = parse_object((checkpoint / "state.json").read_bytes())
    if type(state.get("step")) is not int or state["step"] != step_of(checkpoint):
        raise ValueError(f"state.json is not that of step {step_of(checkpoint)}")
    return state


def read_optimizer(checkpoint: Path, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Return what ``optimizer`` (an AdamW) is to load of a checkpoint; ValueError where it does not fit its weights.

    Options stay as they are: they are those of the config.
    """
    saved = torch.load(checkpoint / "optimizer.pt", map_location="cpu", weights_only=True)
    own = optimizer.state_dict()["param_groups"]
    if [group["params"] for group in saved["param_groups"]] != [group["params"] for group in own]:
        raise ValueError("optimizer.pt is that of other weights")
    weights = dict(enumerate(weight for group in optimizer.param_groups for weight in group["params"]))
    for number, state in saved["state"].items():
        shapes = {"step": (), "exp_avg": weights[number].shape, "exp_avg_sq": weights[number].shape}
        if {name: one.shape for name, one in state.items()} != shapes or not all(
            one.is_floating_point() for one in state.values()
        ):
            raise ValueError(f"optimizer.pt does not fit weight {number}")
    return {"state": saved["state"], "param_groups": own}


def check_trainer_checkpoint(checkpoint: Path, trainer: Any) -> None:
    """Raise Damaged where a trainer of transformers would go on from ``checkpoint`` without a part of it, or cannot.

    It passes over files and weights that are missing, and learns of an optimiser's shapes in its first step.
    """
    if trainer.is_deepspeed_enabled or trainer.is_fsdp_enabled:
        return  # whose files are others
    process = f"_{trainer.args.process_index}" if trainer.args.world_size > 1 else ""
    with reading(checkpoint):
        step = int(checkpoint.name.rpartition("-")[2])
        state = parse_object((checkpoint / "trainer_state.json").read_bytes())
        if type(state.get("global_step")) is not int or state["global_step"] != step:
            raise ValueError(f"trainer_state.json is not that of step {step}")
        for name in (f"rng_state{process}.pth", "adapter_model.safetensors"):
            if not (checkpoint / name).is_file():
                raise FileNotFoundError(f"{name} is missing")
        stored = load_peft_weights(str(checkpoint), device="cpu")
        for name, weights in get_peft_model_state_dict(trainer.model, save_embedding_layers=False).items():
            if name not in stored or stored[name].shape != weights.shape:
                raise ValueError(f"weights are missing or of another model, such as {name}")
        before, optimizer = trainer.optimizer, trainer.create_optimizer()
        trainer.optimizer = before  # it makes its own after the weights are loaded
        read_optimizer(checkpoint, optimizer)
        schedule = torch.load(checkpoint / "scheduler.pt", map_location="cpu", weights_only=True)
        rates = [trainer.args.learning_rate] * len(optimizer.param_groups)
        if schedule["last_epoch"] != step or schedule["base_lrs"] != rates:
            raise ValueError(f"scheduler.pt is not that of step {step}")


def check_room(folder: Path, weights: Iterable[Tensor], accelerator: Accelerator, newest: int) -> None:
    """Raise BadInput where the disk cannot hold the ``newest`` checkpoints and one more; say how large they are.

    A checkpoint holds the ``weights`` that are trained, and two numbers of AdamW for each; of small ones all is well.
    """
    size = 3 * sum(weight.numel() * weight.element_size() for weight in weights)
    if size < _LARGE:
        return
    place = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    missing = max(1, newest + 1 - len(checkpoints(folder))) * size / 2**30
    free = shutil.disk_usage(place).free / 2**30
    told = f"{folder.parent.name}: a checkpoint takes {size / 2**30:.1f} GiB, and {newest + 1} are there at times"
    if free < missing:
        remedy = "make room, choose another --out, or train a smaller adapter"
        message = f"{told}; {place} has {free:.1f} GiB left, {missing:.1f} are needed: {remedy}"
        raise BadInput(message, value=size, where=folder)
    if accelerator.is_main_process:
        say(f"{told}; checkpoint_steps sets how often one is written", error=True)
