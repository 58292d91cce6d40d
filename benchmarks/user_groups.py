"""Subgroups of users: how a row compares with its base by the users' activity, and by whether they have a profile."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from reclm import intervals
from reclm.benchmarks.results import Result
from reclm.benchmarks.significance import over_users, paired

ACTIVITY = (0, 1, 3, 6, 11, 21)
"""Fewest training interactions of each group of users: 0, 1-2, 3-5, 6-10, 11-20, 21+."""
QUANTILES = 5
"""Groups of about equal size that replace :data:`ACTIVITY` where it puts nearly all users into one group."""


@dataclass(frozen=True)
class UserGroup:
    """Users who are alike: about as many training interactions, ``"3-5"``, say, or ``"21+"``; with or without profile.

    ``users`` have a value of the metric. ``base`` (None where the row has none) and ``row`` are means over users and
    seeds with 95 % intervals over users, ``difference`` is ``row`` less ``base`` with the interval of the paired test.
    """

    name: str
    users: int
    base: intervals.Estimate | None
    row: intervals.Estimate | None
    difference: intervals.Estimate | None


def by_activity(result: Result, row: str, protocol: str, metric: str) -> list[UserGroup]:
    """Compare a row with its base for users of more and more training interactions; of a row that did not run, nothing.

    The groups are :data:`ACTIVITY` without empty ones. Where fewer than three are left (all users are active, say),
    they are up to :data:`QUANTILES` groups of about equal size, if those are more.
    """
    trials = [result.trials[row, seed, protocol] for seed in result.seeds(row, protocol)]
    known = {user: n for trial in trials for user, n in zip(trial.user_ids, trial.activity, strict=True)}
    return _in_groups(result, row, protocol, metric, known, _groups)


PROFILED = ("with a profile", "without")
"""Groups of users by whether they have a profile."""


def by_profile(result: Result, row: str, protocol: str, metric: str) -> list[UserGroup]:
    """Compare a row with its base for users who have a profile in it, and for those who have none, if there are such.

    Of a row without profiles of users, nothing. A user who has one with some seeds only counts as having one.
    """
    trials = [result.trials[row, seed, protocol] for seed in result.seeds(row, protocol)]
    known: dict[str, bool] = {}
    for trial in trials:
        for user, has_one in zip(
            trial.user_ids, () if trial.profiled is None else trial.profiled, strict=False
        ):
            known[user] = known.get(user, False) or bool(has_one)

    def groups(profiled: np.ndarray) -> list[tuple[str, np.ndarray]]:
        both = zip(PROFILED, (profiled > 0, profiled == 0), strict=True)
        return [(name, members) for name, members in both if members.any()]

    return _in_groups(result, row, protocol, metric, known, groups) if known else []


def _in_groups(
    result: Result,
    row: str,
    protocol: str,
    metric: str,
    known: Mapping[str, int],
    groups_of: Callable[[np.ndarray], list[tuple[str, np.ndarray]]],
) -> list[UserGroup]:
    """Compare a row with its base for groups of users by the number that is known of each."""
    base = result.row(row).base
    users, arrays = result.aligned([row] if base is None else [row, base], protocol, metric)
    groups = []
    for name, members in groups_of(np.array([known[user] for user in users], np.int64)):
        drawn = ~np.isnan(arrays[0][:, members]).all(1)  # seeds that drew a user of the group
        values, *others = (array[drawn][:, members] for array in arrays)
        means, difference = None, None
        if others:
            means, test = over_users(others[0]), paired(others[0], values, result.about.first_look)
            bounds = (test.low, test.high) if test.n > 1 else (None, None)
            difference = intervals.Estimate(test.difference, *bounds, test.n)
        groups.append(UserGroup(name, int(members.sum()), means, over_users(values), difference))
    return groups


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
    names = [f"{low}-{high - 1}" if high - low > 1 else f"{low}" for low, high in pairwise(least.tolist())]
    members = ((name, group == place) for place, name in enumerate([*names, f"{least[-1]}+"]))
    return [(name, chosen) for name, chosen in members if chosen.any()]
