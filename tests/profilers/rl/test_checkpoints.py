"""A checkpoint that takes long is written now and then; one that cannot be held in memory is not damaged."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from reclm.errors import BadInput, Damaged
from reclm.profilers.rl import loop
from reclm.profilers.rl.rlso import RLSO
from reclm.profilers.tuning.metrics_log import reading


def saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cost: float) -> list[int]:
    """Steps whose checkpoints are written, of 30 updates of a second each, where writing takes ``cost`` seconds."""
    now, written = [0.0], []
    monkeypatch.setattr(loop, "perf_counter", lambda: now[0])
    rlso: Any = object.__new__(RLSO)
    rlso.accelerator = SimpleNamespace(is_main_process=True, wait_for_everyone=lambda: None)
    rlso._cost = rlso._saved = 0.0

    def write(folder: Path) -> None:
        written.append(rlso.step)
        now[0] += cost

    rlso._write = write
    for step in range(1, 31):
        now[0] += 1.0
        rlso.step = step
        rlso.save(tmp_path, newest=1, last=step == 30)
        assert len(loop.checkpoints(tmp_path)) == 1
    return written


def test_fault_20_a_slow_checkpoint_is_not_written_after_every_update(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert saved(tmp_path / "quick", monkeypatch, 0.5) == list(range(1, 31))
    assert saved(tmp_path / "slow", monkeypatch, 2.0) == [1, 21, 30]


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("out of memory")]
)
def test_fault_20_what_does_not_fit_the_memory_is_not_damaged(tmp_path: Path, error: Exception) -> None:
    with pytest.raises(BadInput, match="not enough memory") as told, reading(tmp_path):
        raise error
    assert "delete" not in str(told.value)
    with pytest.raises(Damaged), reading(tmp_path):
        raise RuntimeError("invalid header")
