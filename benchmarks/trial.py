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
from reclm.recommend.base import Backbone, Fusion, Inputs
from reclm.recommend.cold_validation import NEW, ColdValidation, cold_validation
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
VALIDATION = "validation: "  # before the names of selection tasks among the protocols of a trial's users

Control = Literal["shuffled", "random", "text", "keywords"]
"""Vectors in place of a profiler's profiles, to tell whether it is their words that help.

- ``shuffled``: the same texts, given to the wrong users (items);
- ``random``: vectors of random direction, each as long as the profile's;
- ``text``: no language model: a user has the mean of its history's item-text embeddings, an item its own text twice;
- ``keywords``: profiles by the keywords profiler (:mod:`reclm.profilers.keywords`).

Each keeps who has a profile and changes what it says: a gain that a control has too is no gain of the text. Where
profiles join the items' texts, so do those of the controls; ``random`` has none, and is left out.
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
    """Missing profiles are written of so many users, and items, drawn at random (always the same), 0 for all. By
    default of 300 with a language model and of all without one."""
    kinds: tuple[ProfileKind, ...] = ("user", "item")
    """The sides that are augmented."""
    fusion: Fusion = "dual-mlp"
    """How the profiles enter. The controls go the same way."""
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
    new_items: dict[str, Any] = Field(default_factory=dict)
    """Options of backbone and training in place of these, of the training that ranks new items."""
    profiles: ProfileOptions | None = None
    """None: the plain backbone."""


@dataclass(frozen=True, eq=False)
class Run:
    """A training with its test results and best epochs, by the names of protocols and of their subgroups.

    ``validation`` maps the metric to its best value there, and ``"valid, new items METRIC"`` to that on new items;
    empty where selection is on test. ``valid`` has each user there. ``chosen`` is what the backbone chose itself there.
    """

    fit: TrainingResult
    results: dict[str, PerUser]
    best_epoch: dict[str, int]
    validation: dict[str, float]
    chosen: dict[str, Any]
    valid: dict[str, PerUser]


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
        self._dataset = dataset
        self._cold: dict[float, tuple[ColdValidation, TripleSampler] | None] = {}

    def cold(self, share: float) -> tuple[ColdValidation, TripleSampler] | None:
        """Return the validation on new items (:func:`~reclm.recommend.cold_validation.cold_validation`), if any."""
        if share not in self._cold:
            cold, sampler = cold_validation(self._dataset, share), self.sampler
            if cold is not None and cold.train is not self.train:
                sampler = TripleSampler(cold.train, len(self._dataset.users), len(self._dataset.items))
            self._cold[share] = None if cold is None else (cold, sampler)
        return self._cold[share]


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
        new = plan.new_items
        fields = {name: new[name] for name in new if name in self.backbone.Config.model_fields}
        self.new_config = self.backbone.Config.build(
            {**plan.model, **fields}, where=f"backbone {plan.backbone}"
        )
        fields = {name: new[name] for name in new if name in TrainConfig.model_fields}
        self.new_train = TrainConfig.build({**plan.train.model_dump(), **fields}, where="training")

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
        cold = None if self.on_test else self._cold(inputs)
        inputs, train = replace(inputs.by(inputs.fusion), train=data.train), self.plan.train
        # where no item has to be left out, one training serves all protocols
        together = cold is not None and cold[0].train is data.train and self.backbone.trains
        together = together and not self.plan.new_items
        select = {**data.select, NEW: cold[0].task} if cold and together else data.select
        options = (inputs, data.sampler, select, train, seed, on_epoch)
        model, trained = train_backbone(self.backbone, self.config, *options)
        if not self.on_test and not trained.history:
            trained.best_users["valid"] = evaluate(model.scorer(), data.select["valid"], [metric])
            trained.best_value["valid"] = trained.best_users["valid"].mean()[metric]
        by_choice = {NEW: (model, trained)} if together else {}
        if cold and not together:
            by_choice[NEW] = self._for_new_items(inputs, *cold, seed, len(trained.history), on_epoch)
        results: dict[str, PerUser] = {}
        best: dict[str, int] = {}
        for name, task in self.tasks.items():
            choice = name if self.on_test else NEW if cold and name in cold[0].protocols else "valid"
            scoring, chosen_by = by_choice.get(choice, (model, trained))
            if choice in chosen_by.weights:
                scoring.load_state_dict(chosen_by.weights[choice])
            ranking = rank(scoring.scorer(), task, deepest(metrics), seed=seed)
            for part, subtask in {name: task, **data.subgroups[name]}.items():
                results[part] = measure(ranking, subtask, metrics, top)
                best[part] = chosen_by.best_epoch.get(choice, 0)
            if on_model and name == next(iter(self.tasks)):
                on_model(scoring)
        trained.weights.clear()
        validation = {} if self.on_test else {metric: trained.best_value["valid"]}
        valid = {} if self.on_test else dict(trained.best_users)
        chosen = dict(model.chosen)
        for name, (scoring, chosen_by) in by_choice.items():
            validation[f"{name} {metric}"] = chosen_by.best_value[name]
            valid |= chosen_by.best_users
            chosen |= {f"{option}, new items": value for option, value in scoring.chosen.items()}
            trained.history = trained.history if together else _joined(trained.history, chosen_by.history)
        return Run(trained, results, best, validation, chosen, valid)

    def _cold(self, inputs: Inputs) -> tuple[ColdValidation, TripleSampler] | None:
        """Return the validation on new items, if the model can rank any."""
        knows_new = self.backbone.reads_text(self.config) or inputs.item_profiles is not None
        return self.layout.cold(self.plan.train.cold_validation) if knows_new else None

    def _for_new_items(
        self,
        inputs: Inputs,
        cold: ColdValidation,
        sampler: TripleSampler,
        seed: int,
        before: int,
        on_epoch: Callable[[dict[str, float]], None] | None,
    ) -> tuple[Backbone, TrainingResult]:
        """Train without the new items of validation, and choose by them; progress goes on ``before`` epochs."""

        def later(row: dict[str, float]) -> None:
            if on_epoch:
                on_epoch(row | {"epoch": min(before + row["epoch"], self.plan.train.epochs)})

        left, metric = replace(inputs, train=cold.train), self.plan.train.metric
        select, train = {NEW: cold.task}, self.new_train
        options = (left, sampler, select, train, seed, later)
        model, trained = train_backbone(self.backbone, self.new_config, *options)
        if not trained.history:  # what it chose is used with all items: nothing is trained
            trained.best_value[NEW] = evaluate(model.scorer(), cold.task, [metric]).mean()[metric]
            chosen = {**self.plan.model, **self.plan.new_items, **model.chosen}
            config = self.backbone.Config.build(
                {name: chosen[name] for name in chosen if name in self.backbone.Config.model_fields}
            )
            whole, _ = train_backbone(self.backbone, config, inputs, self.layout.sampler, {}, train, seed)
            whole.chosen = model.chosen
            return whole, trained
        return model, trained


def _joined(history: list[dict[str, float]], new: list[dict[str, float]]) -> list[dict[str, float]]:
    """Return the epochs of a training, with the selection metric of that for new items beside its own."""
    beside = [{name: row[name] for name in row if name == "epoch" or name.startswith(NEW)} for row in new]
    longer = [{**row, "seconds": new[at]["seconds"]} for at, row in enumerate(beside)][len(history) :]
    return [row | (beside[at] if at < len(beside) else {}) for at, row in enumerate(history)] + longer


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
    chosen: dict[str, Any] = Field(default_factory=dict)
    """Options that the backbone chose on validation itself, and the fusion that ``auto`` did for each protocol."""
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
        """Return every user's values of a trial that did not fail: ``protocol``, ``user_id`` and a column a metric.

        Of a row with profiles of users, also ``profile``: has a user one? :data:`VALIDATION` has its metric alone.
        """
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
