"""Measure the cost of the harness beside training and scoring: ``python -m tools.perf.harness --dataset ml-100k``.

A suite with controls runs from nothing to its files (cells, record, table, picture, examples, report). Training epochs
and rankings are timed where they are called, all else is the harness.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import reclm.recommend.training
from reclm.benchmarks import trial as runner
from reclm.benchmarks.experiment import execute
from reclm.benchmarks.report import write_report
from reclm.benchmarks.suite import Row, Suite
from reclm.benchmarks.trial import ProfileOptions
from reclm.folders import Workspace, workspace
from tools.perf.common import arguments, machine


def timed(call: Callable[..., Any], spent: dict[str, float], what: str) -> Callable[..., Any]:
    """``call``, whose seconds are added to ``spent[what]``."""

    def measured(*given: Any, **named: Any) -> Any:
        begun = time.perf_counter()
        try:
            return call(*given, **named)
        finally:
            spent[what] += time.perf_counter() - begun

    return measured


def main() -> None:
    """Print seconds of training, scoring and the rest, and the share of the rest."""
    parser = arguments("what the harness costs", "ml-100k")
    parser.add_argument("--epochs", type=int, default=50, help="of each training")
    options = parser.parse_args()
    workspace(Workspace.at(options.home).root)
    suite = Suite(
        title="harness",
        dataset=options.dataset,
        seeds=3,
        train={"epochs": options.epochs, "patience": options.epochs},
        rows=(
            Row(name="base", backbone="lightgcn"),
            Row(name="augment", backbone="lightgcn", profiles=ProfileOptions(profiler="keywords")),
            Row(name="BiasMF", backbone="biasmf"),
        ),
    )
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        # profiles and embeddings are made before, and kept: they are the profiler's cost, not the harness's
        execute(suite.model_copy(update={"seeds": 1, "train": {"epochs": 1}}), controls=True)
        spent = {"training": 0.0, "scoring": 0.0}
        reclm.recommend.training.train_epoch = timed(reclm.recommend.training.train_epoch, spent, "training")
        reclm.recommend.training.evaluate = timed(reclm.recommend.training.evaluate, spent, "scoring")
        runner.rank = timed(runner.rank, spent, "scoring")
        runner.measure = timed(runner.measure, spent, "scoring")
        begun = time.perf_counter()
        run = execute(suite, fresh=True, controls=True)
        record = run.save(folder)
        (folder / "table.md").write_text(record.to_markdown(), encoding="utf-8")
        write_report(folder)
        whole = time.perf_counter() - begun
    rest = whole - sum(spent.values())
    trainings = sum(map(len, run.records.values()))
    print(f"{options.dataset}: {trainings} trainings of {options.epochs} epochs; {machine()}")
    for what, seconds in [*spent.items(), ("the harness", rest)]:
        print(f"{what:12} {seconds:7.2f} s   {seconds / whole:6.1%}")


if __name__ == "__main__":
    main()
