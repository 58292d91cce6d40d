"""Checkpoints take a twentieth of the time at most; one that cannot be held in memory is not damaged."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from reclm.errors import BadInput, Damaged
from reclm.profilers.rl.rlso import RLSO
from reclm.profilers.tuning import checkpoints
from reclm.profilers.tuning.metrics_log import reading


def saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cost: float, steps: int | None = None
) -> list[int]:
    """Steps whose checkpoints are written, of 30 updates of a second each, where writing takes ``cost`` seconds."""
    now, written = [0.0], []
    monkeypatch.setattr(checkpoints, "perf_counter", lambda: now[0])
    rlso: Any = object.__new__(RLSO)
    rlso.accelerator = SimpleNamespace(is_main_process=True, wait_for_everyone=lambda: None)
    rlso._pace = checkpoints.Pace(steps)

    def write(folder: Path) -> None:
        written.append(rlso.step)
        now[0] += cost

    rlso._write = write
    for step in range(1, 31):
        now[0] += 1.0
        rlso.step = step
        rlso.save(tmp_path, newest=1, last=step == 30)
        assert len(checkpoints.checkpoints(tmp_path)) == bool(written)
    return written


def test_fault_20_a_slow_checkpoint_is_not_written_after_every_update(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert saved(tmp_path / "quick", monkeypatch, 0.04) == list(range(1, 31))
    assert saved(tmp_path / "slow", monkeypatch, 0.5) == [1, 11, 21, 30]
    assert saved(tmp_path / "option", monkeypatch, 0.5, steps=12) == [12, 24, 30]


def test_a_large_checkpoint_is_said_and_needs_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    group: Any = SimpleNamespace(is_main_process=True)
    small, large = (
        torch.empty(10, device="meta"),
        torch.empty(2**30, device="meta"),
    )  # 12 GiB with AdamW's state
    folder = tmp_path / "ppo" / "checkpoints"

    def free(gigabytes: float) -> None:
        usage = SimpleNamespace(free=int(gigabytes * 2**30))
        monkeypatch.setattr("shutil.disk_usage", lambda _: usage)

    free(0)
    checkpoints.check_room(folder, [small], group, 2)
    with pytest.raises(BadInput) as error:
        checkpoints.check_room(folder, [small, large], group, 2)
    assert error.value.where == folder
    free(35)
    with pytest.raises(BadInput):
        checkpoints.check_room(folder, [small, large], group, 2)
    for step in (1, 2):  # a run that goes on has two of the three
        (folder / f"step-{step:06d}").mkdir(parents=True)
    free(13)
    assert not capsys.readouterr().err
    checkpoints.check_room(folder, [small, large], group, 2)
    assert "12.0 GiB" in capsys.readouterr().err


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("out of memory")]
)
def test_fault_20_what_does_not_fit_the_memory_is_not_damaged(tmp_path: Path, error: Exception) -> None:
    with pytest.raises(BadInput, match="not enough memory") as told, reading(tmp_path):
        raise error
    assert "delete" not in str(told.value)
    with pytest.raises(Damaged), reading(tmp_path):
        raise RuntimeError("invalid header")


WEIGHTS = torch.nn.Parameter(torch.ones(2, 3))


def checkpoint(folder: Path, state: Any, **parts: Any) -> Path:
    """A checkpoint of step 4, ``parts`` of AdamW's state of one weight are others."""
    path = folder / "step-000004"
    path.mkdir()
    one = {"step": torch.tensor(4.0), "exp_avg": torch.ones(2, 3), "exp_avg_sq": torch.ones(2, 3)} | parts
    torch.save({"state": {0: one}, "param_groups": [{"params": [0]}]}, path / "optimizer.pt")
    (path / "state.json").write_text(json.dumps(state))
    return path


def test_a_checkpoint_is_read(tmp_path: Path) -> None:
    path, adam = checkpoint(tmp_path, {"step": 4, "more": 1}), torch.optim.AdamW([WEIGHTS], lr=0.5)
    assert checkpoints.read_state(path) == {"step": 4, "more": 1}
    adam.load_state_dict(checkpoints.read_optimizer(path, adam))
    assert adam.param_groups[0]["lr"] == 0.5
    assert adam.state[WEIGHTS]["step"] == 4


@pytest.mark.parametrize("state", [[], {}, {"step": 5}, {"step": 4.0}, {"step": None}, {"step": 10**30}])
def test_a_checkpoint_of_another_step_is_damaged(tmp_path: Path, state: Any) -> None:
    path = checkpoint(tmp_path, state)
    with pytest.raises(Damaged) as told, reading(path):
        checkpoints.read_state(path)
    assert told.value.value == path


@pytest.mark.parametrize(
    "parts",
    [
        {"exp_avg": torch.ones(3, 3)},
        {"exp_avg": torch.ones(2, 3, dtype=torch.int64)},
        {"exp_avg_sq": None},
        {"step": torch.ones(1)},
        {"other": torch.ones(1)},
    ],
)
def test_adamw_does_not_go_on_with_numbers_that_do_not_fit_its_weights(tmp_path: Path, parts: Any) -> None:
    path, adam = checkpoint(tmp_path, {"step": 4}, **parts), torch.optim.AdamW([WEIGHTS])
    with pytest.raises(Damaged), reading(path):
        checkpoints.read_optimizer(path, adam)


@pytest.mark.parametrize("saved", [[], 5, {"state": {}}, {"state": {}, "param_groups": [{"params": [0, 1]}]}])
def test_an_optimizer_of_other_weights_is_damaged(tmp_path: Path, saved: Any) -> None:
    path = checkpoint(tmp_path, {"step": 4})
    torch.save(saved, path / "optimizer.pt")
    with pytest.raises(Damaged), reading(path):
        checkpoints.read_optimizer(path, torch.optim.AdamW([WEIGHTS]))
