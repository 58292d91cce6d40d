"""A result in other people's trackers: each trial as a run with its options, curves and final numbers."""

import logging
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from time import time
from typing import Any

from reclm.benchmarks.results import Result, ResultRow
from reclm.errors import missing_extra, unknown
from reclm.folders import current, slug

BATCH = 1000
"""Numbers that MLflow takes in one call."""


@dataclass(frozen=True)
class Tracked:
    """A trial, as trackers know it; ``error`` says why it failed.

    ``curves`` map ``epoch/NAME`` to the epochs and values of loss, seconds and selection metrics, ``metrics``
    ``PROTOCOL/METRIC`` to the final number, without nan.
    """

    row: str
    seed: int
    options: dict[str, Any]
    curves: dict[str, list[tuple[int, float]]]
    metrics: dict[str, float]
    error: str = ""


def trials(result: Result) -> Iterator[Tracked]:
    """Yield every trial that ran or failed."""
    failed = {(failure.row, failure.seed): failure.reason for failure in result.about.failures}
    for row, seed in dict.fromkeys([*((row, seed) for row, seed, _ in result.trials), *failed]):
        curves: dict[str, list[tuple[int, float]]] = {}
        for at, epoch in enumerate(result.history.get((row, seed), []), start=1):
            number = int(epoch.get("epoch", at))
            for name in (name for name in epoch if name != "epoch"):
                curves.setdefault(f"epoch/{name}", []).append((number, epoch[name]))
        measured = [(key[2], trial.means) for key, trial in result.trials.items() if key[:2] == (row, seed)]
        means = {f"{where}/{name}": mean for where, by_name in measured for name, mean in by_name.items()}
        metrics = {name: mean for name, mean in means.items() if not math.isnan(mean)}
        options = {**_options(result, result.row(row)), "seed": seed}
        yield Tracked(row, seed, options, curves, metrics, failed.get((row, seed), ""))


def _options(result: Result, row: ResultRow) -> dict[str, Any]:
    """Return the options of a row, and what it was trained on."""
    options = {
        **{"dataset": result.about.dataset, "fingerprint": result.about.fingerprint, "row": row.name},
        **{"against": row.base, "profiles": row.writer, "control": row.control},
        **{"kinds": ", ".join(row.kinds) or None, "backbone": row.backbone or None},
        **row.options,
    }
    return {name: value for name, value in options.items() if value is not None}


def to_tensorboard(result: Result, folder: Path) -> str:
    """Write ``folder/tensorboard/ROW/seed-N``, replacing an earlier call's, and return the command that shows it."""
    from torch.utils.tensorboard import SummaryWriter

    places: dict[str, str] = {}
    for at, row in enumerate(result.about.rows):
        name = slug(row.name)
        places[row.name] = f"{name}-{at}" if name in places.values() else name
    for trial in trials(result):
        place = folder / "tensorboard" / places[trial.row] / f"seed-{trial.seed}"
        for old in place.glob("events.out.tfevents.*"):
            old.unlink()
        plain = (bool, int, float, str)
        options = {
            key: value if isinstance(value, plain) else str(value) for key, value in trial.options.items()
        }
        with SummaryWriter(str(place)) as writer:
            for name, points in trial.curves.items():
                for epoch, value in points:
                    writer.add_scalar(name, value, epoch)
            if trial.error:
                writer.add_text("error", trial.error)
            writer.add_hparams(options, trial.metrics, run_name=".")
    return f"tensorboard --logdir {folder / 'tensorboard'}"


def to_mlflow(result: Result, folder: Path) -> str:
    """Write to ``$MLFLOW_TRACKING_URI`` or, without it, to ``mlflow.db`` in the workspace, and return where.

    The experiment is named after the data set, ``reclm DATASET``; each call adds runs to it. MLflow's names have no
    ``@``: ``ndcg@20`` is ``ndcg_at_20`` there.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # no usage reports
    from mlflow.tracking import MlflowClient

    logging.getLogger("mlflow").setLevel(logging.WARNING)  # else it logs each table that it creates
    uri, artifacts = os.environ.get("MLFLOW_TRACKING_URI"), None
    if not uri:
        root = current().root.resolve()
        root.mkdir(parents=True, exist_ok=True)
        uri, artifacts = f"sqlite:///{root / 'mlflow.db'}", (root / "mlflow").as_uri()
    client = MlflowClient(tracking_uri=uri)
    name = f"reclm {result.about.dataset}"
    known = client.get_experiment_by_name(name)
    experiment = known.experiment_id if known else client.create_experiment(name, artifacts)
    for trial in trials(result):
        _mlflow_run(client, experiment, trial, {"run": folder.name, "title": result.about.title})
    return f"mlflow: experiment {name!r} in {uri}"


def _mlflow_run(client: Any, experiment: str, trial: Tracked, tags: Mapping[str, str]) -> None:
    from mlflow.entities import Metric, Param

    now = int(time() * 1000)
    tags = {**tags, "error": trial.error} if trial.error else tags
    name = f"{trial.row} seed {trial.seed}"
    run = client.create_run(experiment, tags=dict(tags), run_name=name).info.run_id
    client.log_batch(run, params=[Param(_plain(name), str(value)) for name, value in trial.options.items()])
    final = {name: [(0, value)] for name, value in trial.metrics.items()}
    curves = (final | trial.curves).items()
    numbers = [Metric(_plain(name), value, now, at) for name, points in curves for at, value in points]
    for start in range(0, len(numbers), BATCH):
        client.log_batch(run, metrics=numbers[start : start + BATCH])
    client.set_terminated(run, "FAILED" if trial.error else "FINISHED")


def _plain(name: str) -> str:
    return re.sub(r"[^\w\-. :/]", "_", name.replace("@", "_at_"), flags=re.ASCII)


TRACKERS: dict[str, Callable[[Result, Path], str]] = {"tensorboard": to_tensorboard, "mlflow": to_mlflow}
"""Name, which is also that of the package it needs, to the function that writes a result there."""


def check_trackers(names: Sequence[str]) -> None:
    """Look for what trackers need, before anything slow."""
    for name in names:
        if name not in TRACKERS:
            raise unknown("tracker", name, TRACKERS)
        if find_spec(name) is None:
            raise missing_extra(ModuleNotFoundError(name=name), f"--track {name}")


def track(result: Result, folder: Path, names: Sequence[str]) -> list[str]:
    """Write the result of the run in ``folder`` to each tracker once, and return where each can be looked at."""
    check_trackers(names)
    return [TRACKERS[name](result, folder) for name in dict.fromkeys(names)]
