"""Slices of a result: by items, known from training or new; by users, busy or quiet."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch

from reclm import intervals
from reclm.benchmarks.results import Result, TrialResult
from reclm.data.dataset import Interactions
from reclm.intervals import Estimate
from reclm.recommend.tasks import Task

ACTIVITY = (0, 1, 3, 6, 11, 21)
"""Fewest training interactions of each group of users: 0, 1-2, 3-5, 6-10, 11-20, 21+."""
QUANTILES = 5
"""Groups of about equal size that stand in for :data:`ACTIVITY` where that tells users apart poorly."""


def item_slices(protocol: str, task: Task, train: Interactions) -> dict[str, Task]:
    """The parts of a protocol's task whose positives are warm or cold: items with and without a training interaction.

    All candidates are still ranked. Nothing where the positives are all of one sort: the task says it already.
    Coverage, novelty and lift of a slice are those of its users' lists.

    Args:
        train: what the recommender learns from.
    """
    warm = torch.from_numpy(np.isin(task.candidates.numpy(), train.item_idx))
    parts = {f"{protocol}, warm items": task.only(warm), f"{protocol}, cold items": task.only(~warm)}
    return parts if all(len(one.users) for one in parts.values()) else {}


@dataclass(frozen=True)
class ActivitySlice:
    """Users of about the same number of training interactions.

    Attributes:
        name: the numbers, e.g. ``"3-5"`` or ``"21+"``.
        users: how many have a value of the metric.
        base, row: means with 95 % intervals over users, each user's value being a mean over seeds; ``base`` is the
            line compared with, None where there is none.
        difference: of ``row`` less ``base``, user by user.
    """

    name: str
    users: int
    base: Estimate | None
    row: Estimate | None
    difference: Estimate | None


def activity_slices(record: Result, line: str, protocol: str, metric: str) -> list[ActivitySlice]:
    """What a line, and the one that it is compared with, come to for users of more and more training interactions.

    The groups are :data:`ACTIVITY`, empty ones left out. Where fewer than three hold anybody (a data set whose users
    are all busy, say), they are up to :data:`QUANTILES` groups of about equal size, if those are more.

    Args:
        record: a run.
        line: name of a line.
        protocol, metric: what to look at.

    Returns:
        The groups in ascending order; none where the line did not run, or lacks the metric.
    """
    against = record.row(line).base
    seeds = set(record.seeds(line, protocol))
    if against is not None:
        seeds &= set(record.seeds(against, protocol))
    users, activity, values = _per_user((record.cells[line, one, protocol] for one in sorted(seeds)), metric)
    base = None
    if against is not None:
        others, _, found = _per_user((record.cells[against, one, protocol] for one in sorted(seeds)), metric)
        _, ours, theirs = np.intersect1d(users, others, assume_unique=True, return_indices=True)
        activity, values, base = activity[ours], values[ours], found[theirs]
    slices = []
    for name, members in _groups(activity):
        line_values = values[members]
        base_values = None if base is None else base[members]
        slices.append(
            ActivitySlice(
                name,
                len(line_values),
                None if base_values is None else intervals.mean(base_values),
                intervals.mean(line_values),
                None if base_values is None else intervals.mean(line_values - base_values),
            )
        )
    return slices


def _per_user(cells: Iterable[TrialResult], metric: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """User ids, activities and values (means over the cells that have one): ``(n,)`` each, ids ascending."""
    kept = [one for one in cells if metric in one.values]
    if not kept:
        return np.empty(0, str), np.empty(0, np.int64), np.empty(0)
    values = np.concatenate([one.values[metric] for one in kept]).astype(np.float64)
    there = ~np.isnan(values)
    ids = np.concatenate([one.user_ids for one in kept])[there].astype(str)
    activity = np.concatenate([one.activity for one in kept])[there]
    users, first, which = np.unique(ids, return_index=True, return_inverse=True)
    return users, activity[first], np.bincount(which, values[there]) / np.bincount(which)


def _groups(activity: np.ndarray) -> list[tuple[str, np.ndarray]]:
    """Names and members ``(n,)`` bool of the groups that hold anybody."""
    found = _between(activity, np.array(ACTIVITY))
    if len(found) >= 3 or not len(activity):
        return found
    least = np.unique(np.quantile(activity, np.arange(QUANTILES) / QUANTILES, method="higher"))
    return max(found, _between(activity, least), key=len)


def _between(activity: np.ndarray, least: np.ndarray) -> list[tuple[str, np.ndarray]]:
    """The groups that begin at ``least`` ``(g,)``, ascending."""
    which = np.searchsorted(least, activity, side="right") - 1
    names = [
        str(low) if high == low else f"{low}-{high}"
        for low, high in zip(least[:-1].tolist(), (least[1:] - 1).tolist(), strict=True)
    ] + [f"{least[-1]}+"]
    groups = ((name, which == place) for place, name in enumerate(names))
    return [(name, members) for name, members in groups if members.any()]
