"""One training and its evaluation: a backbone, its inputs, a seed, on a data set."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import nn

from reclm import plugins
from reclm.benchmarks.subgroups import item_slices
from reclm.config import Config
from reclm.data.dataset import Dataset, Interactions
from reclm.errors import ReclmError
from reclm.recommend.base import BackboneConfig, Inputs
from reclm.recommend.evaluate import DEFAULT_METRICS, PerUser, deepest, measure, rank
from reclm.recommend.sampling import TripleSampler
from reclm.recommend.tasks import Task
from reclm.recommend.training import Fit, TrainConfig, fit

SelectOn = Literal["valid", "test"]


class Plan(Config):
    """What is trained and measured; together with data, inputs and seed it determines every number."""

    backbone: str = "lightgcn"
    model: dict[str, Any] = Field(default_factory=dict)
    """Options of the backbone."""
    train: TrainConfig = TrainConfig()
    select_on: SelectOn = "valid"
    """``test`` is the paper's selection: each protocol's best *test* epoch. It flatters, and the table says so."""
    metrics: tuple[str, ...] = DEFAULT_METRICS


@dataclass(frozen=True, eq=False)
class Run:
    """What a training came to."""

    fit: Fit
    results: dict[str, PerUser]
    """Name of a protocol, or of a slice of one, to per-user test results."""
    best_epoch: dict[str, int]
    """By the same names."""


def test_tasks(dataset: Dataset, on_test: bool = False) -> dict[str, Task]:  # noqa: PT028
    """The ranking task of each protocol.

    Args:
        on_test: the recommender learns from the validation part, too (:func:`trained_on`). Popularity is counted in
            what it learns from, and where training items are no candidates again, these are none either.
    """
    sizes, train = (len(dataset.users), len(dataset.items)), trained_on(dataset, on_test)
    also = ("valid",) if on_test else ()
    tasks = {}
    for one in dataset.protocols:
        mask = tuple(dict.fromkeys((*one.mask, *also))) if "train" in one.mask else one.mask
        tasks[one.name] = Task.of(dataset.test, dataset.joined(mask), one.candidates, *sizes, train)
    return tasks


def trained_on(dataset: Dataset, on_test: bool) -> Interactions:
    """What a recommender learns from: with selection on the test set, as in the paper, the validation part, too."""
    return dataset.joined(["train", "valid"]) if on_test else dataset.train


def validation_task(dataset: Dataset) -> Task:
    """Validation interactions against every item seen in training or validation; training items masked.

    Raises:
        ReclmError: if the data set has no validation part.
    """
    if not len(dataset.valid):
        raise ReclmError(
            f"data set {dataset.name!r} has no validation interactions to select on; prepare it with --set valid=0.1, "
            "or use --select-on test (the paper's selection, which flatters)"
        )
    seen = np.unique(np.concatenate([dataset.train.item_idx, dataset.valid.item_idx]))
    return Task.of(dataset.valid, dataset.train, seen, len(dataset.users), len(dataset.items))


class Runner:
    """What all runs of a plan have in common.

    Args:
        plan: see :class:`Plan`.
        dataset: splits and protocols.

    Raises:
        ReclmError: for an unknown backbone or option, and where there is nothing to select on.
    """

    def __init__(self, plan: Plan, dataset: Dataset) -> None:
        self.plan = plan
        self.on_test = plan.select_on == "test"
        self.backbone = plugins.get("backbone", plan.backbone)
        self.config: BackboneConfig = self.backbone.Config.build(
            dict(plan.model), where=f"backbone {plan.backbone}"
        )
        self.train = trained_on(dataset, self.on_test)
        self.tasks = test_tasks(dataset, self.on_test)
        self.slices = {name: item_slices(name, task, self.train) for name, task in self.tasks.items()}
        self.select = self.tasks if self.on_test else {"valid": validation_task(dataset)}
        self.sampler = TripleSampler(self.train, len(dataset.users), len(dataset.items))

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
        init, draw = (torch.Generator().manual_seed(2 * seed + k) for k in (0, 1))
        model = self.backbone(self.config, replace(inputs, train=self.train), init)
        trained = Fit()
        if any(True for _ in model.parameters()):
            trained = fit(model, self.sampler, self.select, self.plan.train, draw, on_epoch)
        metrics = self.plan.metrics
        results: dict[str, PerUser] = {}
        best: dict[str, int] = {}
        for name, task in self.tasks.items():
            if self.on_test and name in trained.weights:
                model.load_state_dict(trained.weights[name])
            ranking = rank(model.scorer(), task, deepest(metrics))
            for part, one in {name: task, **self.slices[name]}.items():
                results[part] = measure(ranking, one, metrics, top)
                best[part] = trained.best_epoch.get(name if self.on_test else "valid", 0)
            if on_model and name == next(iter(self.tasks)):
                on_model(model)
        trained.weights.clear()
        return Run(trained, results, best)
