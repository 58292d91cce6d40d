"""A cell of a grid: one training with one seed, known by the hash of all that defines it, kept once it has run."""

import hashlib
import json
import os
import shutil
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock, Timeout
from pydantic import Field
from safetensors.torch import save_file
from torch import Tensor, nn

from reclm import plugins
from reclm.benchmarks.trial import Plan, Runner
from reclm.config import Config
from reclm.data.dataset import Dataset
from reclm.environment import environment
from reclm.errors import ReclmError
from reclm.profiles.matrix import ProfileMatrix
from reclm.recommend.base import Inputs
from reclm.recommend.tasks import Task

FORMAT = 2
"""Of what a cell keeps; raised when it keeps more."""

WATCHED, TOP = 10, 10
"""Users whose top lists are kept with a cell, and items of each."""


@dataclass(frozen=True, eq=False)
class Trial:
    """One backbone, one set of inputs, one seed.

    Attributes:
        plan: what to train, how, and what to measure.
        seed: of this run.
        inputs: item text and profiles; their ``train`` is not used.
        fingerprint: of the data set, its protocols included.
    """

    plan: Plan
    seed: int
    inputs: Inputs
    fingerprint: str

    @cached_property
    def definition(self) -> dict[str, Any]:
        """All that the numbers depend on, defaults written out: two cells of equal definition are the same."""
        config = plugins.get("backbone", self.plan.backbone).Config.build(
            dict(self.plan.model), where=f"backbone {self.plan.backbone}"
        )
        inputs = self.inputs
        return {
            "toolkit": version("reclm-toolkit"),
            "format": FORMAT,
            "dataset": self.fingerprint,
            **self.plan.model_dump(mode="json", exclude={"model"}),
            "model": config.model_dump(mode="json"),
            "item_text": None if inputs.item_text is None else _digest(inputs.item_text),
            "user_profiles": _of_profiles(inputs.user_profiles),
            "item_profiles": _of_profiles(inputs.item_profiles),
            "seed": self.seed,
        }

    @cached_property
    def key(self) -> str:
        """Hash of the definition, 20 hex digits."""
        text = json.dumps(self.definition, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:20]


_DIGESTS: WeakKeyDictionary[ProfileMatrix, str] = WeakKeyDictionary()


def _of_profiles(profiles: ProfileMatrix | None) -> str | None:
    """Their hash, worked out once: the seeds of a row, and its trials, share them."""
    if profiles is None:
        return None
    if profiles not in _DIGESTS:
        _DIGESTS[profiles] = _digest(profiles.vectors, profiles.present)
    return _DIGESTS[profiles]


def _digest(*arrays: np.ndarray) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()[:20]


class TrialRecord(Config):
    """What a cell came to.

    A cell that failed has an ``error`` and no numbers.
    """

    cell: dict[str, Any]
    """Its definition."""
    run: str
    """Which run of a grid it belongs to."""
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
        path = self.folder / key / "cell.json"
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise ReclmError(f"{path} is damaged; remove {path.parent} to run the cell again") from error
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
            raise ReclmError(
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
        (scratch / "cell.json").write_text(text, encoding="utf-8")
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
    def claim(self, key: str, wait: float = 0) -> Iterator[bool]:
        """Whether the cell is ours to run, for as long as the context lasts: no other process gets it meanwhile.

        The lock goes with the process that holds it, however that ends.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.folder / f".{key}.lock", timeout=wait)
        try:
            lock.acquire()
        except Timeout:
            yield False
            return
        try:
            yield True
        finally:
            lock.release()

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
    cell: Trial,
    dataset: Dataset,
    store: TrialCache,
    run: str,
    on_epoch: Callable[[dict[str, float]], None] | None = None,
) -> TrialRecord:
    """Train and evaluate a claimed cell, and keep the result; a failure is a result too.

    Args:
        cell: what to run.
        dataset: the one that ``cell.fingerprint`` is of.
        store: where the result is kept.
        run: the run of the grid.
        on_epoch: called with the history row of each epoch.
    """
    begun = time.perf_counter()
    if not store.begin(cell.key, run):
        result = TrialRecord(
            cell=cell.definition, run=run, error="the process that ran it died (out of memory?)"
        )
        store.put(cell.key, result)
        store.end(cell.key)
        return result
    users = None
    weights: dict[str, Tensor] | None = {} if store.weights else None

    def on_model(model: nn.Module) -> None:
        if weights is not None:
            weights.update({name: one.clone().contiguous() for name, one in model.state_dict().items()})

    try:
        runner = Runner(cell.plan, dataset)
        trained = runner.run(cell.inputs, cell.seed, on_epoch, on_model, watched(runner.tasks))
        means = {
            protocol: {name: None if np.isnan(value) else value for name, value in found.mean().items()}
            for protocol, found in trained.results.items()
        }
        users = pa.concat_tables(
            pa.table(
                {
                    "protocol": pa.array([protocol] * len(found.users), pa.string()),
                    "user_id": dataset.users.array.take(pa.array(found.users)),
                    **found.values,
                }
            )
            for protocol, found in trained.results.items()
        )
        result = TrialRecord(
            cell=cell.definition,
            run=run,
            means=means,
            best_epoch=trained.best_epoch,
            history=trained.fit.history,
            seconds=time.perf_counter() - begun,
            top={
                protocol: {
                    dataset.users.ids(np.array([user]))[0]: dataset.items.ids(items[:TOP])
                    for user, items in found.top.items()
                }
                for protocol, found in trained.results.items()
                if protocol in runner.tasks
            },
            environment=environment(),
        )
    except Exception as error:  # recorded and shown: one cell's failure must not cost the others
        line = " ".join(str(error).split()) or "no message"
        line = line if isinstance(error, ReclmError) else f"{type(error).__name__}: {line}"
        result = TrialRecord(cell=cell.definition, run=run, error=line, traceback=traceback.format_exc())
    store.put(cell.key, result, users, weights if result.error is None else None)
    store.end(cell.key)
    return result
