"""Trials: one training of a backbone and its evaluation, and the cache of their results."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from pydantic import Field
from safetensors.torch import save_file
from torch import Tensor, nn

from reclm import plugins
from reclm.config import Config
from reclm.data.dataset import Dataset, Interactions, ProfileKind
from reclm.errors import Busy, Damaged
from reclm.files import Lock, atomic_folder, remove_folder
from reclm.recommend.base import Backbone, Inputs
from reclm.recommend.evaluate import (
    DEFAULT_METRICS,
    PerUser,
    Task,
    deepest,
    evaluate,
    measure,
    rank,
    test_tasks,
    trained_on,
    validation_task,
)
from reclm.recommend.training import TrainConfig, TrainingResult, TripleSampler, train_backbone

SelectOn = Literal["valid", "test"]

Control = Literal["shuffled", "random", "text", "keywords"]
"""Vectors in place of a profiler's profiles, to tell whether it is their words that help.

- ``shuffled``: the same texts, given to the wrong users (items);
- ``random``: vectors of random direction, each as long as the profile's;
- ``text``: no language model: a user has the mean of its history's item-text embeddings, an item its own text twice;
- ``keywords``: profiles by the keywords profiler (:mod:`reclm.profilers.keywords`).

Each keeps who has a profile and changes what it says: a gain that a control has too is no gain of the text.
"""
CONTROLS: tuple[Control, ...] = get_args(Control)


class ProfileOptions(Config):
    """Profiles that a row is augmented with; see :func:`~reclm.profiles.write.open_profiler`."""

    profiler: str = "zero-shot"
    settings: dict[str, Any] = Field(default_factory=dict)
    model: str | None = None
    engine: str | None = None
    engine_options: dict[str, Any] = Field(default_factory=dict)
    """Options of the engine, such as ``in_flight``."""
    adapter: Path | None = None
    """Folder of a profiler that was tuned before; a relative path starts where the command runs."""
    tune: bool = True
    """Tune a tunable profiler without ``adapter`` in each trial, by the trial's seed."""
    limit: int | None = Field(default=None, ge=0)
    """Missing profiles are written of the first so many users, and items, 0 for all. By default of 300 with a
    language model and of all without one."""
    kinds: tuple[ProfileKind, ...] = ("user", "item")
    """The sides that are augmented."""
    store: Path | None = None
    """A store to take as it is: nothing is generated."""
    edits: dict[ProfileKind, dict[str, str]] = Field(default_factory=dict)
    """Texts by id in place of those in ``store``."""
    control: Control | None = None
    """Replaces the profiles."""

    @property
    def opener(self) -> dict[str, Any]:
        """The arguments of :func:`~reclm.profiles.write.open_profiler` that open the profiler."""
        values = self.model_dump(mode="json", include={"profiler", "settings", "model", "engine"})
        values |= {"adapter": str(self.adapter.resolve())} if self.adapter else {}
        return {name: value for name, value in values.items() if value}


class Plan(Config):
    """A training and its measures; together with data, features and seed it determines every number."""

    backbone: str = "lightgcn"
    model: dict[str, Any] = Field(default_factory=dict)
    """Options of the backbone."""
    train: TrainConfig = TrainConfig()
    select_on: SelectOn = "valid"
    """``test`` is the paper's selection: each protocol's best *test* epoch. It flatters, and the table says so."""
    metrics: tuple[str, ...] = DEFAULT_METRICS
    profiles: ProfileOptions | None = None
    """None: the plain backbone."""


@dataclass(frozen=True, eq=False)
class Run:
    """A training with its test results and best epochs, by the names of protocols and of their subgroups.

    ``validation`` maps the metric to its best value there; empty where selection is on test.
    """

    fit: TrainingResult
    results: dict[str, PerUser]
    best_epoch: dict[str, int]
    validation: dict[str, float]


def item_subgroups(protocol: str, task: Task, train: Interactions) -> dict[str, Task]:
    """Return the parts of a protocol's task whose positives are warm or cold: items with and without training data.

    All candidates are still ranked. Empty where all positives are of one sort: the task is that subgroup already.
    """
    warm = torch.from_numpy(np.isin(task.candidates.numpy(), train.item_idx))
    parts = {f"{protocol}, warm items": task.only(warm), f"{protocol}, cold items": task.only(~warm)}
    return parts if all(len(part.users) for part in parts.values()) else {}


class Layout:
    """Tasks, subgroups and samples of a data set: laid out once for all trials on it."""

    def __init__(self, dataset: Dataset, on_test: bool) -> None:
        self.train = trained_on(dataset, on_test)
        self.tasks = test_tasks(dataset, on_test)
        self.subgroups = {name: item_subgroups(name, task, self.train) for name, task in self.tasks.items()}
        self.select = self.tasks if on_test else {"valid": validation_task(dataset)}
        self.sampler = TripleSampler(self.train, len(dataset.users), len(dataset.items))


layout = lru_cache(maxsize=8)(Layout)
"""A process lays a data set out once."""


class Runner:
    """The runs of a plan on a data set."""

    def __init__(self, plan: Plan, dataset: Dataset) -> None:
        self.plan = plan
        self.on_test = plan.select_on == "test"
        self.backbone: type[Backbone] = plugins.get("backbone", plan.backbone)
        self.config = self.backbone.Config.build(dict(plan.model), where=f"backbone {plan.backbone}")
        self.layout = layout(dataset, self.on_test)
        self.tasks = self.layout.tasks

    def run(
        self,
        inputs: Inputs,
        seed: int,
        on_epoch: Callable[[dict[str, float]], None] | None = None,
        on_model: Callable[[nn.Module], None] | None = None,
        top: Sequence[int] = (),
    ) -> Run:
        """Train and evaluate with one seed. A backbone without parameters is evaluated as it is.

        ``on_epoch`` gets the history row of each epoch, ``on_model`` the model with its best weights, those of the
        first protocol where each has its own. The results hold the top lists of the users ``top``.
        """
        data, metric, metrics = self.layout, self.plan.train.metric, self.plan.metrics
        inputs, train = replace(inputs, train=data.train), self.plan.train
        options = (inputs, data.sampler, data.select, train, seed, on_epoch)
        model, trained = train_backbone(self.backbone, self.config, *options)
        if not self.on_test and not trained.history:
            values = evaluate(model.scorer(), data.select["valid"], [metric]).mean()
            trained.best_value["valid"] = values[metric]
        results: dict[str, PerUser] = {}
        best: dict[str, int] = {}
        for name, task in self.tasks.items():
            if self.on_test and name in trained.weights:
                model.load_state_dict(trained.weights[name])
            ranking = rank(model.scorer(), task, deepest(metrics), seed=seed)
            for part, subtask in {name: task, **data.subgroups[name]}.items():
                results[part] = measure(ranking, subtask, metrics, top)
                best[part] = trained.best_epoch.get(name if self.on_test else "valid", 0)
            if on_model and name == next(iter(self.tasks)):
                on_model(model)
        trained.weights.clear()
        validation = {} if self.on_test else {metric: trained.best_value["valid"]}
        return Run(trained, results, best, validation)


class TrialRecord(Config):
    """The results of a trial; one that failed has an ``error``, in one line, and no numbers.

    What follows ``validation`` is of the profiles, as in :class:`~reclm.benchmarks.features.Features`, where the trial
    tuned their profiler.
    """

    definition: dict[str, Any]
    run: str
    error: str | None = None
    traceback: str | None = None
    means: dict[str, dict[str, float | None]] = Field(default_factory=dict)
    """Protocol and metric to the mean over users; null where there is no user."""
    best_epoch: dict[str, int] = Field(default_factory=dict)
    """Best epoch by protocol; 0 where nothing was trained."""
    history: list[dict[str, float]] = Field(default_factory=list)
    """Loss, seconds and selection metric of every epoch."""
    seconds: float = 0.0
    """Seconds of training and evaluation together."""
    top: dict[str, dict[str, list[str]]] = Field(default_factory=dict)
    """Protocol and user_id, of a few users, to the item_ids ranked best."""
    environment: dict[str, Any] = Field(default_factory=dict)
    validation: dict[str, float] = Field(default_factory=dict)
    """Metric to its best value on validation."""
    log: list[dict[str, float]] = Field(default_factory=list)
    measures: dict[str, float | None] = Field(default_factory=dict)
    coverage: dict[ProfileKind, tuple[int, int]] = Field(default_factory=dict)
    checked: tuple[str, ...] = ()
    encoder: tuple[str, str] | None = None
    store: Path | None = None
    writer: str | None = None


class TrialCache:
    """Results by key in a folder: ``KEY/trial.json`` and ``KEY/users.parquet``.

    With ``weights`` there is ``KEY/weights.safetensors``, too; a trial that was cached without them is run again.
    """

    def __init__(self, folder: Path, *, weights: bool = False) -> None:
        self.folder, self.weights = folder, weights

    def get(self, key: str) -> TrialRecord | None:
        """Return the result cached under ``key``."""
        path = self.folder / key / "trial.json"
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, RecursionError) as error:
            message = f"{path} is damaged; remove {path.parent} to run the trial again"
            raise Damaged(message, where=path) from error
        return TrialRecord.build(values, where=str(path))

    def finished(self, key: str, run: str) -> TrialRecord | None:
        """Return the result under ``key``, unless it failed in another run than ``run``: that is tried again."""
        result = self.get(key)
        if result is None or (self.weights and result.error is None and not self.weights_of(key).is_file()):
            return None
        return result if result.error is None or result.run == run else None

    def weights_of(self, key: str) -> Path:
        return self.folder / key / "weights.safetensors"

    def users(self, key: str) -> pa.Table:
        """Return every user's values of a trial that did not fail: ``protocol``, ``user_id`` and a column a metric."""
        path = self.folder / key / "users.parquet"
        try:
            table = pq.read_table(path)
            table.select(["protocol", "user_id"])
        except FileNotFoundError as error:
            message = f"{path} is gone (does another command run with --fresh?); run the same again"
            raise Damaged(message, where=path) from error
        except (OSError, LookupError, pa.ArrowException) as error:
            reason = " ".join(str(error).split())[:200]
            message = f"{path} is damaged ({reason}); remove {path.parent} to run the trial again"
            raise Damaged(message, where=path) from error
        return table

    def put(
        self, key: str, result: TrialRecord, users: pa.Table | None, weights: dict[str, Tensor] | None
    ) -> None:
        """Write a result as a whole or, if the process is killed, not at all."""
        with atomic_folder(self.folder / key) as draft:
            if users is not None:
                pq.write_table(users, draft / "users.parquet")
            if weights is not None:
                save_file(weights, draft / "weights.safetensors")
            text = json.dumps(result.model_dump(mode="json"), indent=1)
            (draft / "trial.json").write_text(text, encoding="utf-8")

    def remove(self, key: str) -> None:
        """Forget what is cached under ``key``: as a whole, wherever the process is killed."""
        remove_folder(self.folder / key)

    @contextmanager
    def claim(self, *keys: str) -> Iterator[bool]:
        """Yield whether no other process works on ``keys``, and lock them while the context lasts."""
        with ExitStack() as locks:
            try:
                for key in keys:
                    path = self.folder / f".{key.replace('/', '-')}.lock"
                    locks.enter_context(Lock(path, f"{key} is in use"))
            except Busy:
                locks.close()
                yield False
                return
            yield True

    def begin(self, key: str, run: str) -> bool:
        """Note that ``run`` begins with a claimed trial; False if it did before, in a process that then died."""
        mark = self.folder / f".{key}.begun"
        if mark.is_file() and mark.read_text(encoding="utf-8") == run:
            return False
        mark.write_text(run, encoding="utf-8")
        return True

    def end(self, key: str) -> None:
        """Delete the note of :meth:`begin`."""
        (self.folder / f".{key}.begun").unlink(missing_ok=True)
