"""``fusion="auto"``: profiles are left out unless validation says that they gain, and how they enter best."""

from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np

from reclm.config import Config
from reclm.errors import NotFound
from reclm.recommend.base import Backbone, Inputs
from reclm.recommend.evaluate import Task, evaluate
from reclm.recommend.training import TrainConfig, TrainingResult, TripleSampler, train_backbone

Way = Literal["none", "residual", "text"]
"""What ``auto`` chooses among: the plain model, and two fusions."""


def ways(inputs: Inputs) -> dict[Way, Inputs]:
    """Return the inputs of each model that is tried: ``text`` where the items' joined texts are there."""
    tried: dict[Way, Inputs] = {"none": inputs.by(None), "residual": inputs.by("residual")}
    if inputs.joined is not None:
        tried["text"] = inputs.by("text")
    return tried


def best_way(values: Mapping[Way, np.ndarray]) -> Way:
    """Return the way of the highest mean that is above ``none`` by more than the standard error of the difference.

    ``values`` are those of the validation users ``(n,)``, the same for all ways. The plain model stays within one
    standard error (Breiman et al., "Classification and regression trees", 1984): what profiles gain there is chance.
    """
    plain = values["none"].astype(np.float64)
    best, gain = "none", 0.0
    for way, own in values.items():
        difference = own - plain
        if way == "none" or len(difference) < 2:
            continue
        error = difference.std(ddof=1) / np.sqrt(len(difference))
        if difference.mean() > max(gain, error):
            best, gain = way, float(difference.mean())
    return best


def train_auto(
    backbone: type[Backbone],
    config: Config,
    inputs: Inputs,
    sampler: TripleSampler | None,
    select: Mapping[str, Task],
    schedule: TrainConfig,
    seed: int,
    on_epoch: Callable[[dict[str, float]], None] | None = None,
) -> tuple[Way, Backbone, TrainingResult]:
    """Train a model of each way by :func:`~reclm.recommend.training.train_backbone`, and return that of the best.

    The first task of ``select`` chooses; NotFound where there is none.
    """
    if not select:
        remedy = "--set valid=0.1"
        message = f"fusion='auto' chooses on validation, and the data set has none; prepare it with {remedy}"
        raise NotFound(message, value="auto", where="fusion", remedy=remedy)
    values: dict[Way, np.ndarray] = {}
    name, task = next(iter(select.items()))
    models: dict[Way, Any] = {}
    for way, own in ways(inputs).items():
        model, result = train_backbone(backbone, config, own, sampler, select, schedule, seed, on_epoch)
        measured = result.best_users.get(name) or evaluate(model.scorer(), task, [schedule.metric])
        values[way] = measured.values[schedule.metric]
        models[way] = model, result
    kept = best_way(values)
    return kept, *models[kept]
