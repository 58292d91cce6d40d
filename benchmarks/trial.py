"""One training and its evaluation: a backbone, its inputs, a seed, on a data set."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from pydantic import Field
from torch import nn

from reclm import plugins
from reclm.benchmarks.subgroups import item_slices
from reclm.config import Config
from reclm.data.dataset import Dataset
from reclm.recommend.base import Backbone, Inputs
from reclm.recommend.evaluate import DEFAULT_METRICS, PerUser, deepest, measure, rank
from reclm.recommend.sampling import TripleSampler
from reclm.recommend.tasks import test_tasks, trained_on, validation_task
from reclm.recommend.training import TrainConfig, TrainingResult, train_backbone

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

    fit: TrainingResult
    results: dict[str, PerUser]
    """Name of a protocol, or of a slice of one, to per-user test results."""
    best_epoch: dict[str, int]
    """By the same names."""


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
        self.backbone: type[Backbone] = plugins.get("backbone", plan.backbone)
        self.config = self.backbone.Config.build(dict(plan.model), where=f"backbone {plan.backbone}")
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
        model, trained = train_backbone(
            self.backbone,
            self.config,
            replace(inputs, train=self.train),
            self.sampler,
            self.select,
            self.plan.train,
            seed,
            on_epoch,
        )
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
