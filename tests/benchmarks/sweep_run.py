"""A sweep of 40 small cells, killed at a random training: started by test_sweep.py.

Run by ``runpy`` with ``FOLDER`` (the workspace), ``LOG`` (a file, a line a training) and ``DIES`` (``(n, epoch)``: in
that epoch of the n-th training of this process; None: not at all).
"""

import itertools
import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path

from torch import nn

from reclm.benchmarks.experiment import execute
from reclm.benchmarks.suite import Row, Suite
from reclm.benchmarks.trial import Run, Runner
from reclm.folders import workspace
from reclm.recommend.base import Inputs

FOLDER: Path = globals()["FOLDER"]
LOG: Path = globals()["LOG"]
DIES: tuple[int, int] | None = globals()["DIES"]

real, begun = Runner.run, itertools.count(1)


def run(
    self: Runner,
    inputs: Inputs,
    seed: int,
    on_epoch: Callable[[dict[str, float]], None] | None = None,
    on_model: Callable[[nn.Module], None] | None = None,
    top: Sequence[int] = (),
) -> Run:
    """A training that is noted when it begins, and may be the last."""
    number = next(begun)
    with LOG.open("a") as file:
        file.write(f"{self.config.dim} {seed}\n")  # pyright: ignore[reportAttributeAccessIssue]

    def tell(row: dict[str, float]) -> None:
        if (number, int(row["epoch"])) == DIES:
            os.kill(os.getpid(), signal.SIGKILL)
        if on_epoch:
            on_epoch(row)

    return real(self, inputs, seed, tell, on_model, top)


Runner.run = run
suite = Suite(
    title="sweep",
    dataset="checkerboard",
    seeds=4,
    metrics=("ndcg@5",),
    model={"items": "id"},
    train={"epochs": 2, "batch_size": 64, "metric": "ndcg@5"},
    rows=tuple(Row(name=f"d {dim}", backbone="biasmf", model={"dim": dim}) for dim in range(1, 11)),
)
workspace(FOLDER)
execute(suite, progress=False).result().save(FOLDER / "result")
