"""The training loop of all backbones: epochs of triples, early stopping, best weights restored."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from reclm.config import Config
from reclm.data.dataset import Interactions
from reclm.errors import BadInput
from reclm.recommend.base import Backbone, Inputs
from reclm.recommend.evaluate import PerUser, Task, evaluate


class TripleSampler:
    """Draw ``(user, positive, negative)`` triples: every distinct interaction once an epoch, with a uniform negative.

    A negative is drawn uniformly from the items of the training part that the user has *not* touched, exactly and
    without rejection: rank r among the untouched items is turned into the item by one binary search, since the
    j-th touched item p_j has ``p_j - j`` untouched items before it.

    Users who touched every training item are left out; BadInput if that leaves none. ``users`` and ``items`` are the
    sizes of the id maps.
    """

    def __init__(self, train: Interactions, users: int, items: int) -> None:
        self.pool = np.unique(train.item_idx)
        place = np.zeros(items, np.int64)
        place[self.pool] = np.arange(len(self.pool))
        keys = np.unique(train.user_idx * len(self.pool) + place[train.item_idx])
        user, column = np.divmod(keys, len(self.pool))
        degree = np.bincount(user, minlength=users)
        start = np.cumsum(degree) - degree
        # untouched items before each touched one, made ascending over users by a stride
        self._stride = len(self.pool) + 1
        self._before = torch.from_numpy(user * self._stride + column - (np.arange(len(keys)) - start[user]))
        usable = degree[user] < len(self.pool)
        if not usable.any():
            raise BadInput(
                f"every user has touched all {len(self.pool)} training items: none is left as a negative"
            )
        self.users = torch.from_numpy(user[usable])
        self.positives = torch.from_numpy(self.pool[column[usable]])
        self._free = torch.from_numpy(len(self.pool) - degree[user[usable]])
        self._start = torch.from_numpy(start[user[usable]])
        self._pool = torch.from_numpy(self.pool)

    def __len__(self) -> int:
        return len(self.users)

    def epoch(self, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Return users, positives and fresh negatives, ``(n,)`` user_idx and item_idx, in a fresh random order."""
        order = torch.randperm(len(self), generator=generator)
        users = self.users[order]
        # float64 keeps 53 bits: the bias of floor(u·m) against a true uniform is below m / 2^53
        rank = (torch.rand(len(self), generator=generator, dtype=torch.float64) * self._free[order]).long()
        touched = torch.searchsorted(self._before, users * self._stride + rank, right=True)
        return users, self.positives[order], self._pool[rank + touched - self._start[order]]


class TrainConfig(Config):
    """Options of the training. Defaults: RecLM, arXiv 2412.19302, section 6."""

    epochs: int = Field(default=50, ge=0)
    """Most epochs."""
    batch_size: int = Field(default=4096, ge=1)
    """Triples a step."""
    lr: float = Field(default=1e-3, gt=0)
    """Adam's learning rate."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Decay of all weights, decoupled from the gradients (AdamW, arXiv 1711.05101); 0: Adam."""
    patience: int = Field(default=10, ge=1)
    """Epochs without a better selection metric before training stops."""
    eval_every: int = Field(default=1, ge=1)
    """Epochs between evaluations of the selection metric."""
    metric: str = "ndcg@20"
    """Metric that selects the epoch."""
    cold_validation: float = Field(default=0.0, ge=0, lt=1)
    """Share of the training items that validates zero-shot in a comparison: a training of its own leaves them out, and
    its epoch that ranks them best ranks new items. 0: the epoch that is best on validation ranks these, too."""


@dataclass
class TrainingResult:
    """The history of a training, and the best epoch, its metric, its users' metric and its weights by selection task.

    It has one mapping an epoch: ``epoch`` (from 1), ``loss`` (mean over triples), ``seconds`` (training only), and the
    selection metric of each task.
    """

    history: list[dict[str, float]] = field(default_factory=list)
    best_epoch: dict[str, int] = field(default_factory=dict)
    best_value: dict[str, float] = field(default_factory=dict)
    best_users: dict[str, PerUser] = field(default_factory=dict)
    weights: dict[str, dict[str, Tensor]] = field(default_factory=dict)


def train_epoch(
    model: Backbone,
    optimizer: torch.optim.Optimizer,
    sampler: TripleSampler,
    batch_size: int,
    generator: torch.Generator,
) -> float:
    """Train on all triples once; return the mean loss."""
    model.begin_epoch(generator)
    users, positives, negatives = sampler.epoch(generator)
    total = torch.zeros(())
    for start in range(0, len(users), batch_size):
        batch = slice(start, start + batch_size)
        optimizer.zero_grad(set_to_none=True)
        loss = model.loss(users[batch], positives[batch], negatives[batch])
        loss.backward()
        optimizer.step()
        total += loss.detach() * len(users[batch])
    return float(total) / max(len(users), 1)


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """Return Adam, or AdamW, in its fused form: one pass over parameters and moments a step."""
    if config.weight_decay:
        return torch.optim.AdamW(
            model.parameters(), lr=config.lr, weight_decay=config.weight_decay, fused=True
        )
    return torch.optim.Adam(model.parameters(), lr=config.lr, fused=True)


def train(
    model: Backbone,
    sampler: TripleSampler,
    select: Mapping[str, Task],
    config: TrainConfig,
    generator: torch.Generator,
    on_epoch: Callable[[dict[str, float]], None] | None = None,
) -> TrainingResult:
    """Train a model; return the history and, for every selection task, the weights of its best epoch.

    With one task its best weights are in the model at the end; with several, load ``weights[name]`` yourself.

    Args:
        select: ranking tasks that choose the epoch; training stops when none has improved for ``patience`` epochs;
            without any all epochs are trained.
        on_epoch: called with each row of the history.
    """
    optimizer = make_optimizer(model, config)
    result = TrainingResult(best_value=dict.fromkeys(select, -1.0))
    waited = 0
    for epoch in range(1, config.epochs + 1):
        model.train()
        begun = time.perf_counter()
        loss = train_epoch(model, optimizer, sampler, config.batch_size, generator)
        if not math.isfinite(loss):
            message = (
                f"training diverged: the loss of epoch {epoch} is {loss}; lower lr (it is {config.lr:g})"
            )
            raise BadInput(message, value=config.lr, where="lr", remedy="lower lr")
        row: dict[str, float] = {"epoch": epoch, "loss": loss, "seconds": time.perf_counter() - begun}
        model.eval()
        waited += 1
        evaluated = epoch % config.eval_every == 0 or epoch == config.epochs
        if evaluated:
            scorer = model.scorer()
            for name, task in select.items():
                measured = evaluate(scorer, task, [config.metric])
                value = measured.mean()[config.metric]
                row[f"{name} {config.metric}"] = value
                if value > result.best_value[name]:
                    result.best_value[name], result.best_epoch[name] = value, epoch
                    result.best_users[name] = measured
                    result.weights[name] = {key: weight.clone() for key, weight in model.state_dict().items()}
                    waited = 0
        result.history.append(row)
        if on_epoch:
            on_epoch(row)
        if evaluated and select and waited >= config.patience:
            break
    if len(result.weights) == 1:
        model.load_state_dict(next(iter(result.weights.values())))
    model.eval()
    return result


def train_backbone(
    backbone: type[Backbone],
    config: Config,
    inputs: Inputs,
    sampler: TripleSampler | None,
    select: Mapping[str, Task],
    schedule: TrainConfig,
    seed: int,
    on_epoch: Callable[[dict[str, float]], None] | None = None,
) -> tuple[Backbone, TrainingResult]:
    """Build a backbone and, if it ``trains``, :func:`train` it; the generators' seeds are ``2 · seed`` and the next."""
    init, draw = (torch.Generator().manual_seed(2 * seed + k) for k in (0, 1))
    model = backbone(config, inputs, init)
    if not backbone.trains:
        if select:
            model.choose(next(iter(select.values())), schedule.metric)
        return model.eval(), TrainingResult()
    assert sampler is not None  # only a backbone without parameters needs none
    return model, train(model, sampler, select, schedule, draw, on_epoch)
