"""A record in other people's trackers: each line and seed as a run with its options, curves and final numbers."""

import logging
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from time import time
from typing import Any

from reclm import plugins
from reclm.benchmarks.results import Result, ResultRow
from reclm.benchmarks.search import with_options
from reclm.benchmarks.suite import Suite, row_plan
from reclm.config import merged
from reclm.errors import ReclmError, unknown
from reclm.folders import Workspace, slug

BATCH = 1000
"""Numbers that MLflow takes at once."""


@dataclass(frozen=True)
class Tracked:
    """A training, as trackers know it.

    Attributes:
        line, seed: of the record.
        options: by name, defaults written out.
        curves: ``epoch/NAME`` to the epochs and values, of loss, seconds and what the epoch was selected by.
        metrics: ``PROTOCOL/METRIC`` to the final number; what is nan is left out.
        error: why it failed, or empty.
    """

    row: str
    seed: int
    options: dict[str, Any]
    curves: dict[str, list[tuple[int, float]]]
    metrics: dict[str, float]
    error: str = ""

    @property
    def name(self) -> str:
        return f"{self.row} seed {self.seed}"


def trainings(record: Result) -> Iterator[Tracked]:
    """Every line and seed that ran or failed."""
    failed = {(one.row, one.seed): one.reason for one in record.about.failures}
    options = {line.name: _options(record, line) for line in record.about.rows}
    for line, seed in dict.fromkeys([*((line, seed) for line, seed, _ in record.cells), *failed]):
        curves: dict[str, list[tuple[int, float]]] = {}
        for row in record.history.get((line, seed), []):
            for name, value in row.items():
                if name != "epoch":
                    curves.setdefault(f"epoch/{name}", []).append((int(row["epoch"]), value))
        metrics = {
            f"{protocol}/{name}": value
            for (found, of, protocol), cell in record.cells.items()
            if (found, of) == (line, seed)
            for name, value in cell.means().items()
            if value is not None and not math.isnan(value)
        }
        yield Tracked(
            line, seed, {**options[line], "seed": seed}, curves, metrics, failed.get((line, seed), "")
        )


def _flat(settings: Mapping[str, Any], within: str = "") -> dict[str, Any]:
    """Settings by their dotted names."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        found |= (
            _flat(value, f"{within}{name}.") if isinstance(value, Mapping) else {f"{within}{name}": value}
        )
    return found


def _options(record: Result, line: ResultRow) -> dict[str, Any]:
    """What a line ran with; what a search chose is in it."""
    about, suite = record.about, record.about.suite
    fixed = {
        "dataset": about.dataset,
        "fingerprint": about.fingerprint,
        "line": line.name,
        "against": line.base,
        "profiles": line.writer,
        "control": line.control,
        "kinds": ", ".join(line.kinds) or None,
    }
    row = next((one for one in suite.get("rows", ()) if one["name"] == line.name), None)
    if row is None:
        found: dict[str, Any] = {"backbone": line.backbone or None}
    elif suite.get("kind") == "sessions":
        found = _flat(merged(suite.get("settings", {}), row.get("settings", {})))
    else:
        whole = Suite.build(suite, where="the record's suite")
        plan = row_plan(whole, next(one for one in whole.rows if one.name == line.name))
        plan = with_options(plan, line.chosen)
        model = plugins.get("backbone", plan.backbone).Config.build(dict(plan.model))
        train = {
            name if name not in type(model).model_fields else f"train.{name}": value
            for name, value in plan.train.model_dump(mode="json").items()
        }
        found = {"backbone": plan.backbone, "select_on": plan.select_on}
        found |= {**model.model_dump(mode="json"), **train}
    return {name: value for name, value in {**fixed, **found}.items() if value is not None}


def to_tensorboard(record: Result, folder: Path) -> str:
    """Write ``folder/tensorboard/LINE/seed-N`` and say how to look at it. What an earlier call wrote is replaced."""
    from torch.utils.tensorboard import SummaryWriter  # slow to import, and only this needs it

    places = _folders(record)
    for one in trainings(record):
        place = folder / "tensorboard" / places[one.row] / f"seed-{one.seed}"
        for old in place.glob("events.out.tfevents.*"):
            old.unlink()
        options = {
            name: value if isinstance(value, bool | int | float | str) else str(value)
            for name, value in one.options.items()
        }
        with SummaryWriter(str(place)) as writer:
            for name, points in one.curves.items():
                for epoch, value in points:
                    writer.add_scalar(name, value, epoch)
            if one.error:
                writer.add_text("error", one.error)
            writer.add_hparams(options, one.metrics, run_name=".")
    return f"tensorboard --logdir {folder / 'tensorboard'}"


def _folders(record: Result) -> dict[str, str]:
    """ResultRow to the name of its folder, each its own."""
    found: dict[str, str] = {}
    for place, line in enumerate(record.about.rows):
        name = slug(line.name)
        found[line.name] = f"{name}-{place}" if name in found.values() else name
    return found


def to_mlflow(record: Result, folder: Path, workspace: Workspace) -> str:
    """Write to ``$MLFLOW_TRACKING_URI`` or, without it, to ``mlflow.db`` in the workspace; say where.

    The experiment is named after the data set, ``reclm DATASET``; each call adds runs to it. MLflow's names have no
    ``@``: ``ndcg@20`` is ``ndcg_at_20`` there.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # nobody asked for reports to its makers
    from mlflow.tracking import MlflowClient

    logging.getLogger("mlflow").setLevel(logging.WARNING)  # it tells of each table that it makes
    uri = os.environ.get("MLFLOW_TRACKING_URI")
    artifacts = None
    if not uri:
        workspace.root.mkdir(parents=True, exist_ok=True)
        uri = f"sqlite:///{(workspace.root / 'mlflow.db').resolve()}"
        artifacts = (workspace.root / "mlflow").resolve().as_uri()
    client = MlflowClient(tracking_uri=uri)
    name = f"reclm {record.about.dataset}"
    known = client.get_experiment_by_name(name)
    experiment = known.experiment_id if known else client.create_experiment(name, artifacts)
    for one in trainings(record):
        _mlflow_run(client, experiment, one, {"run": folder.name, "title": record.about.title})
    return f"mlflow: experiment {name!r} in {uri}"


def _mlflow_run(client: Any, experiment: str, one: Tracked, tags: Mapping[str, str]) -> None:
    from mlflow.entities import Metric, Param

    now = int(time() * 1000)
    tags = {**tags, "error": one.error} if one.error else tags
    run = client.create_run(experiment, tags=dict(tags), run_name=one.name).info.run_id
    client.log_batch(run, params=[Param(_plain(name), str(value)) for name, value in one.options.items()])
    numbers = [Metric(_plain(name), value, now, 0) for name, value in one.metrics.items()]
    numbers += [
        Metric(_plain(name), value, now, epoch)
        for name, points in one.curves.items()
        for epoch, value in points
    ]
    for start in range(0, len(numbers), BATCH):
        client.log_batch(run, metrics=numbers[start : start + BATCH])
    client.set_terminated(run, "FAILED" if one.error else "FINISHED")


def _plain(name: str) -> str:
    return re.sub(r"[^\w\-. :/]", "_", name.replace("@", "_at_"), flags=re.ASCII)


TRACKERS: dict[str, tuple[str, Callable[[Result, Path, Workspace], str]]] = {
    "tensorboard": ("tensorboard", lambda record, folder, _: to_tensorboard(record, folder)),
    "mlflow": ("mlflow", to_mlflow),
}
"""Name to the package it needs, and what writes a record there."""


def check_trackers(names: list[str]) -> None:
    """Look for what trackers need, before anything slow.

    Raises:
        ReclmError: for an unknown tracker, or one that is not installed.
    """
    for name in names:
        if name not in TRACKERS:
            raise unknown("tracker", name, TRACKERS)
        if find_spec(TRACKERS[name][0]) is None:
            raise ReclmError(f"--track {name} needs {name}; run: pip install 'reclm-toolkit[{name}]'")


def track(record: Result, folder: Path, workspace: Workspace, names: list[str]) -> list[str]:
    """Write the record to each tracker once; where each can be looked at.

    Args:
        folder: of the run.

    Raises:
        ReclmError: as :func:`check_trackers`.
    """
    check_trackers(names)
    return [TRACKERS[name][1](record, folder, workspace) for name in dict.fromkeys(names)]
