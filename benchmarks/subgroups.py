"""Subgroups of a result: by items, warm (known from training) or cold; by users, active or not."""

from dataclasses import dataclass

import numpy as np
import torch

from reclm.benchmarks.results import Result
from reclm.benchmarks.significance import over_users, paired
from reclm.data.dataset import Interactions
from reclm.intervals import Estimate
from reclm.recommend.evaluate import Task

ACTIVITY = (0, 1, 3, 6, 11, 21)
"""Fewest training interactions of each group of users: 0, 1-2, 3-5, 6-10, 11-20, 21+."""
QUANTILES = 5
"""Groups of about equal size that replace :data:`ACTIVITY` where it puts nearly all users into one group."""


def item_subgroups(protocol: str, task: Task, train: Interactions) -> dict[str, Task]:
    """Return the parts of a protocol's task whose positives are warm or cold: items with and without training data.

    All candidates are still ranked. Empty where all positives are of one sort: the task is that subgroup already.
    Coverage, novelty and lift of a subgroup are those of its users' lists.

    Args:
        train: what the recommender learns from.
    """
    warm = torch.from_numpy(np.isin(task.candidates.numpy(), train.item_idx))
    parts = {f"{protocol}, warm items": task.only(warm), f"{protocol}, cold items": task.only(~warm)}
    return parts if all(len(part.users) for part in parts.values()) else {}


@dataclass(frozen=True)
class ActivityGroup:
    """Users of about the same number of training interactions.

    Attributes:
        name: the numbers, e.g. ``"3-5"`` or ``"21+"``.
        users: how many have a value of the metric.
        base, row: means over users and seeds with 95 % intervals over users; ``base`` is None where the row has none.
        difference: of ``row`` less ``base``, with the interval of the paired test.
    """

    name: str
    users: int
    base: Estimate | None
    row: Estimate | None
    difference: Estimate | None


def by_activity(result: Result, row: str, protocol: str, metric: str) -> list[ActivityGroup]:
    """Compare a row with its base for users of more and more training interactions.

    The groups are :data:`ACTIVITY` without empty ones. Where fewer than three are left (all users are active, say),
    they are up to :data:`QUANTILES` groups of about equal size, if those are more.

    Returns:
        The groups in ascending order; none where the row did not run, or lacks the metric.
    """
    base = result.row(row).base
    users, arrays = result.aligned([row] if base is None else [row, base], protocol, metric)
    trials = [result.trials[row, seed, protocol] for seed in result.seeds(row, protocol)]
    known = {
        user: count for trial in trials for user, count in zip(trial.user_ids, trial.activity, strict=True)
    }
    activity = np.array([known[user] for user in users], np.int64)
    groups = []
    for name, members in _groups(activity):
        drawn = ~np.isnan(arrays[0][:, members]).all(1)  # seeds that drew a user of the group
        values, *others = (array[drawn][:, members] for array in arrays)
        base_values = others[0] if others else None
        groups.append(
            ActivityGroup(
                name=name,
                users=int(members.sum()),
                base=None if base_values is None else over_users(base_values),
                row=over_users(values),
                difference=None if base_values is None else _difference(base_values, values),
            )
        )
    return groups


def _difference(before: np.ndarray, after: np.ndarray) -> Estimate:
    test = paired(before, after)
    known = test.n > 1
    return Estimate(test.difference, test.low if known else None, test.high if known else None, test.n)


def _groups(activity: np.ndarray) -> list[tuple[str, np.ndarray]]:
    """Return names and members ``(n,)`` bool of the groups that have users."""
    groups = _between(activity, np.array(ACTIVITY))
    if len(groups) >= 3 or not len(activity):
        return groups
    least = np.unique(np.quantile(activity, np.arange(QUANTILES) / QUANTILES, method="higher"))
    return max(groups, _between(activity, least), key=len)


def _between(activity: np.ndarray, least: np.ndarray) -> list[tuple[str, np.ndarray]]:
    """Return the groups that begin at ``least`` ``(g,)``, ascending."""
    group = np.searchsorted(least, activity, side="right") - 1
    names = [
        str(low) if high == low else f"{low}-{high}"
        for low, high in zip(least[:-1].tolist(), (least[1:] - 1).tolist(), strict=True)
    ] + [f"{least[-1]}+"]
    members = ((name, group == place) for place, name in enumerate(names))
    return [(name, chosen) for name, chosen in members if chosen.any()]
