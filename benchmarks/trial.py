"""Trials: one training of a backbone and its evaluation, defined by plan, data set, features and seed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from pydantic import Field
from torch import nn

from reclm import plugins
from reclm.benchmarks.controls import Control
from reclm.benchmarks.subgroups import item_subgroups
from reclm.config import Config
from reclm.data.dataset import Dataset, ProfileKind
from reclm.recommend.base import Backbone, Inputs
from reclm.recommend.evaluate import (
    DEFAULT_METRICS,
    PerUser,
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


class ProfileOptions(Config):
    """Profiles that a row is augmented with; see :func:`~reclm.profiles.write.open_profiler`."""

    profiler: str = "zero-shot"
    settings: dict[str, Any] = Field(default_factory=dict)
    model: str | None = None
    engine: str | None = None
    adapter: Path | None = None
    """Of a profiler that was tuned before; a relative path starts where the command runs."""
    tune: bool = True
    """Tune a tunable profiler without ``adapter`` in each trial, by the trial's seed."""
    limit: int | None = Field(default=None, ge=0)
    """Missing profiles are written of the first so many users, and items, 0 for all. By default of 300 with a
    language model and of all without one."""
    kinds: tuple[ProfileKind, ...] = ("user", "item")
    """The sides that are augmented."""
    store: Path | None = None
    """A store to take as it is: nothing is generated."""
    control: Control | None = None
    """Replaces the profiles (see :mod:`reclm.benchmarks.controls`)."""


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
    """A training with its results.

    Attributes:
        fit: of the training.
        results: name of a protocol, or of a subgroup of one, to per-user test results.
        best_epoch: by the same names.
        validation: metric to its best value on validation; empty where selection is on test.
    """

    fit: TrainingResult
    results: dict[str, PerUser]
    best_epoch: dict[str, int]
    validation: dict[str, float]


class Layout:
    """Tasks, subgroups and samples of a data set: laid out once for all trials on it.

    Args:
        on_test: selection is on test.
    """

    def __init__(self, dataset: Dataset, on_test: bool) -> None:
        self.train = trained_on(dataset, on_test)
        self.tasks = test_tasks(dataset, on_test)
        self.subgroups = {name: item_subgroups(name, task, self.train) for name, task in self.tasks.items()}
        self.select = self.tasks if on_test else {"valid": validation_task(dataset)}
        self.sampler = TripleSampler(self.train, len(dataset.users), len(dataset.items))


layout = lru_cache(maxsize=8)(Layout)
"""A process lays a data set out once."""


class Runner:
    """The runs of a plan on a data set.

    Raises:
        NotFound: for an unknown backbone.
        BadInput: for an option that it has not, and where there is nothing to select on.
    """

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

        With ``select_on="test"`` validation interactions join the training part, as in the paper.

        Args:
            inputs: their ``train`` is set here.
            seed: of initial weights and of all draws.
            on_epoch: called with the history row of each epoch.
            on_model: called with the model and its best weights, those of the first protocol where each has its own.
            top: user_idx whose top lists the results hold, as long as the largest k of the metrics.
        """
        model, trained = train_backbone(
            self.backbone,
            self.config,
            replace(inputs, train=self.layout.train),
            self.layout.sampler,
            self.layout.select,
            self.plan.train,
            seed,
            on_epoch,
        )
        metric = self.plan.train.metric
        if not self.on_test and not trained.history:
            values = evaluate(model.scorer(), self.layout.select["valid"], [metric]).mean()
            trained.best_value["valid"] = values[metric]
        metrics = self.plan.metrics
        results: dict[str, PerUser] = {}
        best: dict[str, int] = {}
        for name, task in self.tasks.items():
            if self.on_test and name in trained.weights:
                model.load_state_dict(trained.weights[name])
            ranking = rank(model.scorer(), task, deepest(metrics))
            for part, subtask in {name: task, **self.layout.subgroups[name]}.items():
                results[part] = measure(ranking, subtask, metrics, top)
                best[part] = trained.best_epoch.get(name if self.on_test else "valid", 0)
            if on_model and name == next(iter(self.tasks)):
                on_model(model)
        trained.weights.clear()
        validation = {} if self.on_test else {metric: trained.best_value["valid"]}
        return Run(trained, results, best, validation)
