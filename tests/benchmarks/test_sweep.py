"""A sweep that is killed ten times ends with the table of an unbroken one, and two that share it do no cell twice."""

import multiprocessing
import random
import runpy
import signal
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path

import pytest

from reclm.data.storage import save
from reclm.testing import checkerboard

CELLS, KILLS = 40, 10


@pytest.fixture(scope="module")
def context() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["reclm.benchmarks.experiment"])  # imported once, not once a run
    return context


def started(
    context: ForkServerContext, folder: Path, dies: tuple[int, int] | None = None
) -> ForkServerProcess:
    """A run of the sweep in the workspace ``folder``."""
    if not folder.exists():
        save(checkerboard(), folder / "datasets" / "checkerboard")
    given = {
        "init_globals": {"FOLDER": folder, "LOG": folder / "trained", "DIES": dies},
        "run_name": "__main__",
    }
    path = str(Path(__file__).with_name("sweep_run.py"))
    process = context.Process(target=runpy.run_path, args=(path,), kwargs=given)
    process.start()
    return process


def ended(process: ForkServerProcess) -> int | None:
    process.join()
    return process.exitcode


def trained(folder: Path) -> list[str]:
    return (folder / "trained").read_text().splitlines()


@pytest.fixture(scope="module")
def unbroken(context: ForkServerContext, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The results of a sweep that nothing disturbs."""
    folder = tmp_path_factory.mktemp("sweep") / "unbroken"
    assert ended(started(context, folder)) == 0
    assert len(set(trained(folder))) == len(trained(folder)) == CELLS
    return (folder / "result" / "users.parquet").read_bytes()


def test_ten_kills_change_nothing(context: ForkServerContext, unbroken: bytes, tmp_path: Path) -> None:
    folder, moments = tmp_path / "killed", random.Random(3)
    for _ in range(KILLS):
        dies = (moments.randint(1, 6), moments.randint(1, 2))
        assert ended(started(context, folder, dies)) == -signal.SIGKILL
    assert ended(started(context, folder)) == 0
    assert (folder / "result" / "users.parquet").read_bytes() == unbroken
    # a kill costs the one training that was under way
    assert len(set(trained(folder))) == CELLS
    assert len(trained(folder)) == CELLS + KILLS


def test_two_processes_share_a_sweep(context: ForkServerContext, unbroken: bytes, tmp_path: Path) -> None:
    folder = tmp_path / "shared"
    save(checkerboard(), folder / "datasets" / "checkerboard")
    both = [started(context, folder) for _ in range(2)]
    assert [ended(one) for one in both] == [0, 0]
    assert sorted(trained(folder)) == sorted(set(trained(folder)))
    assert len(trained(folder)) == CELLS
    assert (folder / "result" / "users.parquet").read_bytes() == unbroken
