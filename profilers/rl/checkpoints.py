"""Checkpoints: a folder a step, complete or not there.

``step-000012/`` holds the adapter as PEFT writes it, ``value_head.safetensors``, ``optimizer.pt`` (read with
``weights_only=True``), ``random.safetensors`` (torch's global states, which a reward may draw from) and
``state.json``.
"""

import json
import shutil
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from reclm.errors import BadInput, Damaged
from reclm.files import atomic_folder
from reclm.profilers.rl.config import OnPolicyConfig
from reclm.profilers.rl.policy import Policy
from reclm.profilers.tuning.metrics_log import writing


def write(path: Path, policy: Policy, optimizer: dict[str, Any], state: dict[str, Any]) -> None:
    """Write a checkpoint; one that is there already is replaced."""
    random = {
        f"cuda{number}": torch.cuda.get_rng_state(number) for number in range(torch.cuda.device_count())
    }
    with writing(path), atomic_folder(path) as draft:
        policy.save(draft)
        torch.save(optimizer, draft / "optimizer.pt")
        save_file(random | {"cpu": torch.get_rng_state()}, draft / "random.safetensors")
        (draft / "state.json").write_text(json.dumps(state), encoding="utf-8")


def complete(folder: Path) -> list[Path]:
    """Return the complete checkpoints, by step."""
    steps = {path: path.name.removeprefix("step-") for path in folder.glob("step-*")}
    return sorted((path for path in steps if steps[path].isdigit()), key=lambda path: int(steps[path]))


def keep(folder: Path, newest: int) -> None:
    """Delete all complete checkpoints but the ``newest``."""
    for old in complete(folder)[:-newest]:
        shutil.rmtree(old)


def latest(folder: Path) -> Path | None:
    """Return the complete checkpoint of the highest step, None if there is none."""
    return next(reversed(complete(folder)), None)


def read(path: Path, policy: Policy, config: OnPolicyConfig) -> tuple[dict[str, Any], dict[str, Any]]:
    """Restore the policy and torch's random states, and return the optimizer's state and that of the run."""
    try:
        optimizer = torch.load(path / "optimizer.pt", map_location="cpu", weights_only=True)
        states = load_file(path / "random.safetensors")
        state = json.loads((path / "state.json").read_text(encoding="utf-8"))
    except (
        OSError,
        ValueError,
        RuntimeError,
        LookupError,
        EOFError,
        UnpicklingError,
        SafetensorError,
    ) as error:
        reason = " ".join(str(error).split())[:200]
        raise Damaged(
            f"the checkpoint {path} is damaged; delete it to go on from the one before ({reason})", value=path
        ) from error
    for name, value in config.model_dump(mode="json", exclude={"steps"}).items():
        if state["config"].get(name) != value:
            raise BadInput(
                f"the checkpoint {path} was written with {name} = {state['config'].get(name)}, not {value}; "
                "go on with the same options, or begin in another folder",
                value=name,
                where=path,
            )
    policy.load(path)
    torch.set_rng_state(states["cpu"])
    for number in range(torch.cuda.device_count()):
        if f"cuda{number}" in states:
            torch.cuda.set_rng_state(states[f"cuda{number}"], number)
    return optimizer, state
