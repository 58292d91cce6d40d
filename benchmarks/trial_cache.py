"""A cell of a grid: one training with one seed, known by the hash of all that defines it, kept once it has run."""

import json
import os
import shutil
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock, Timeout
from pydantic import Field
from safetensors.torch import save_file
from torch import Tensor, nn

from reclm import plugins
from reclm.benchmarks.features import Features, TunedFeatures, key_of
from reclm.benchmarks.trial import Plan, Runner
from reclm.config import Config
from reclm.data.dataset import Dataset, ProfileKind
from reclm.environment import environment
from reclm.errors import Damaged, ReclmError
from reclm.recommend.evaluate import PerUser, Task

FORMAT = 3
"""Of what a cell keeps; raised when it keeps more."""

WATCHED, TOP = 10, 10
"""Users whose top lists are kept with a cell, and items of each."""


@dataclass(frozen=True, eq=False)
class Trial:
    """One plan on one data set, with one seed.

    Attributes:
        plan: what to train, how, and what to measure.
        seed: of this run.
        dataset: its splits and protocols.
        features: item text and profiles, or how the trial makes them.
    """

    plan: Plan
    seed: int
    dataset: Dataset
    features: Features | TunedFeatures

    @cached_property
    def definition(self) -> dict[str, Any]:
        """All that the numbers depend on, defaults written out: two trials of equal definition are the same."""
        config = plugins.get("backbone", self.plan.backbone).Config.build(
            dict(self.plan.model), where=f"backbone {self.plan.backbone}"
        )
        return {
            "toolkit": version("reclm-toolkit"),
            "format": FORMAT,
            "dataset": self.dataset.fingerprint,
            **self.plan.model_dump(mode="json", exclude={"model", "profiles"}),
            "model": config.model_dump(mode="json"),
            **self.features.definition,
            "seed": self.seed,
        }

    @cached_property
    def key(self) -> str:
        """Hash of the definition, 20 hex digits."""
        return key_of(self.definition)

    @property
    def locks(self) -> tuple[str, ...]:
        """Return the keys that one process at a time may hold: the trial's, and that of its profiler's training."""
        tuned = isinstance(self.features, TunedFeatures)
        return (self.key, f"tuned-{self.features.training_key}") if tuned else (self.key,)


class TrialRecord(Config):
    """The results of a trial; one that failed has an ``error`` and no numbers."""

    definition: dict[str, Any]
    run: str
    """The run that it belongs to."""
    error: str | None = None
    """Why it failed, in one line."""
    traceback: str | None = None
    means: dict[str, dict[str, float | None]] = Field(default_factory=dict)
    """Protocol and metric to the mean over users; null where there is no user."""
    best_epoch: dict[str, int] = Field(default_factory=dict)
    """Of each protocol; 0 where nothing was trained."""
    history: list[dict[str, float]] = Field(default_factory=list)
    """Loss, seconds and selection metric of every epoch."""
    seconds: float = 0.0
    """Of training and evaluation together."""
    top: dict[str, dict[str, list[str]]] = Field(default_factory=dict)
    """Protocol and user_id, of a few users, to the item_ids ranked best."""
    environment: dict[str, Any] = Field(default_factory=dict)
    """Machine and versions."""
    validation: dict[str, float] = Field(default_factory=dict)
    """Metric to its best value on validation."""
    log: list[dict[str, float]] = Field(default_factory=list)
    """What the training of a profiler logged, a row a step."""
    measures: dict[str, float | None] = Field(default_factory=dict)
    """How the profiles of a profiler that the trial tuned read."""
    coverage: dict[ProfileKind, tuple[int, int]] = Field(default_factory=dict)
    """How many of a side have such a profile, of how many."""
    checked: tuple[str, ...] = ()
    """Sentences on what was checked for leaks."""
    encoder: tuple[str, str] | None = None
    """Name and source of the encoder of its texts."""
    store: Path | None = None
    """Of its profiles."""
    writer: str | None = None
    """Of its profiles."""


class TrialCache:
    """Results by key in a folder: ``KEY/cell.json``, ``KEY/users.parquet`` and, if asked for, the trained weights.

    Args:
        folder: is made where it is missing.
        weights: keep ``KEY/weights.safetensors``, too; a cell that was kept without them is run again.
    """

    def __init__(self, folder: Path, *, weights: bool = False) -> None:
        self.folder, self.weights = folder, weights

    def get(self, key: str) -> TrialRecord | None:
        """The result kept under ``key``.

        Raises:
            ReclmError: if it is damaged.
        """
        path = self.folder / key / "trial.json"
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise Damaged(
                f"{path} is damaged; remove {path.parent} to run the trial again", where=path
            ) from error
        return TrialRecord.build(values, where=str(path))

    def finished(self, key: str, run: str) -> TrialRecord | None:
        """The result under ``key``, unless it failed in another run than ``run``: then it is worth a second try."""
        result = self.get(key)
        if result is None or (self.weights and result.error is None and not self.weights_of(key).is_file()):
            return None
        return result if result.error is None or result.run == run else None

    def weights_of(self, key: str) -> Path:
        """The file of the weights."""
        return self.folder / key / "weights.safetensors"

    def users(self, key: str) -> pa.Table:
        """Every user's values of a cell that did not fail: ``protocol``, ``user_id`` and a column a metric.

        Raises:
            ReclmError: if they are not there.
        """
        path = self.folder / key / "users.parquet"
        try:
            return pq.read_table(path)
        except FileNotFoundError as error:
            raise Damaged(
                f"{path} is gone (does another command run with --fresh?); run the same again"
            ) from error

    def put(
        self,
        key: str,
        result: TrialRecord,
        users: pa.Table | None = None,
        weights: dict[str, Tensor] | None = None,
    ) -> None:
        """Keep a result as a whole or, if the process is killed, not at all."""
        scratch = self.folder / f".{key}.{os.getpid()}.new"
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        if users is not None:
            pq.write_table(users, scratch / "users.parquet")
        if weights is not None:
            save_file(weights, scratch / "weights.safetensors")
        text = json.dumps(result.model_dump(mode="json"), indent=1)
        (scratch / "trial.json").write_text(text, encoding="utf-8")
        self.remove(key)
        scratch.rename(self.folder / key)

    def remove(self, key: str) -> None:
        """Forget what is kept under ``key``, if anything is: as a whole, wherever the process is killed."""
        aside = self.folder / f".{key}.{os.getpid()}.old"
        shutil.rmtree(aside, ignore_errors=True)
        with suppress(FileNotFoundError):
            (self.folder / key).rename(aside)
        shutil.rmtree(aside, ignore_errors=True)

    @contextmanager
    def claim(self, *keys: str) -> Iterator[bool]:
        """Tell whether no other process works on ``keys``, and keep others from them while the context lasts.

        The locks go with the process that holds them, however that ends.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with ExitStack() as locks:
            try:
                for key in keys:
                    locks.enter_context(FileLock(self.folder / f".{key}.lock", timeout=0))
            except Timeout:
                locks.close()
                yield False
                return
            yield True

    def begin(self, key: str, run: str) -> bool:
        """Note that ``run`` begins with a claimed cell; False if it did before, in a process that then died."""
        mark = self.folder / f".{key}.begun"
        if mark.is_file() and mark.read_text(encoding="utf-8") == run:
            return False
        mark.write_text(run, encoding="utf-8")
        return True

    def end(self, key: str) -> None:
        """Take the note of :meth:`begin` away."""
        (self.folder / f".{key}.begun").unlink(missing_ok=True)


def watched(tasks: Mapping[str, Task]) -> list[int]:
    """The few users whose top lists are kept: evenly spread over those of the first protocol."""
    users = next(iter(tasks.values())).users.numpy()
    places = np.linspace(0, len(users) - 1, min(WATCHED, len(users))).astype(int)
    return users[places].tolist()


def run_trial(
    trial: Trial,
    cache: TrialCache,
    run: str,
    on_epoch: Callable[[dict[str, float]], None] | None = None,
) -> TrialRecord:
    """Train and evaluate a claimed trial, and save the result; a failure is a result too.

    Args:
        run: the run that the trial belongs to.
        on_epoch: called with the history row of each epoch.
    """
    if not cache.begin(trial.key, run):
        error = "the process that ran it died (out of memory?)"
        record = TrialRecord(definition=trial.definition, run=run, error=error)
        cache.put(trial.key, record)
        cache.end(trial.key)
        return record
    users = None
    weights: dict[str, Tensor] | None = {} if cache.weights else None

    def on_model(model: nn.Module) -> None:
        if weights is not None:
            weights.update({name: value.clone().contiguous() for name, value in model.state_dict().items()})

    try:
        runner = Runner(trial.plan, trial.dataset)
        features = trial.features
        features = features.make() if isinstance(features, TunedFeatures) else features
        begun = time.perf_counter()
        trained = runner.run(features.inputs, trial.seed, on_epoch, on_model, watched(runner.tasks))
        seconds = time.perf_counter() - begun
        users = _per_user(trial.dataset, trained.results)
        record = TrialRecord(
            definition=trial.definition,
            run=run,
            means={
                protocol: {name: _number(value) for name, value in results.mean().items()}
                for protocol, results in trained.results.items()
            },
            best_epoch=trained.best_epoch,
            history=trained.fit.history,
            # what a profiler's training takes does not depend on which trial did it
            seconds=seconds + sum(row["seconds"] for row in features.log),
            top={
                protocol: {
                    trial.dataset.users.ids(np.array([user]))[0]: trial.dataset.items.ids(items[:TOP])
                    for user, items in results.top.items()
                }
                for protocol, results in trained.results.items()
                if protocol in runner.tasks
            },
            environment=environment(),
            validation=trained.validation,
            **(_of_tuned(features) if isinstance(trial.features, TunedFeatures) else {}),
        )
    except Exception as error:  # recorded and shown: one trial's failure must not cost the others
        line = " ".join(str(error).split()) or "no message"
        line = line if isinstance(error, ReclmError) else f"{type(error).__name__}: {line}"
        trace = traceback.format_exc()
        record = TrialRecord(definition=trial.definition, run=run, error=line, traceback=trace)
    cache.put(trial.key, record, users, weights if record.error is None else None)
    cache.end(trial.key)
    return record


def _per_user(dataset: Dataset, results: Mapping[str, PerUser]) -> pa.Table:
    return pa.concat_tables(
        pa.table(
            {
                "protocol": pa.array([protocol] * len(values.users), pa.string()),
                "user_id": dataset.users.array.take(pa.array(values.users)),
                **values.values,
            }
        )
        for protocol, values in results.items()
    )


def _of_tuned(features: Features) -> dict[str, Any]:
    """Return what is known of tuned features only once they are made."""
    return {
        "log": list(features.log),
        "measures": {name: _number(value) for name, value in features.measures.items()},
        "coverage": features.coverage,
        "checked": features.checked,
        "encoder": features.encoder,
        "store": features.store and features.store.folder,
        "writer": features.store and features.store.info.writer,
    }


def _number(value: float) -> float | None:
    return None if np.isnan(value) else value
