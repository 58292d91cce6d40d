"""Test differences over users and seeds: paired tests, intervals, and the correction for many tests."""

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize, special

from reclm import intervals
from reclm.benchmarks.results import Result

LEVEL = 0.05
"""Significance level of every test; intervals hold ``1 - LEVEL``."""

ACTIVITY = (0, 1, 3, 6, 11, 21)
"""Fewest training interactions of each group of users: 0, 1-2, 3-5, 6-10, 11-20, 21+."""
QUANTILES = 5
"""Groups of about equal size that replace :data:`ACTIVITY` where it puts nearly all users into one group."""


@dataclass(frozen=True)
class PairedTest:
    """A two-sided test of a mean difference between two rows (:func:`paired`).

    ``difference`` is the mean of ``after - before``, ``low`` and ``high`` its 95 % interval. ``p`` is the probability
    of so large a difference by chance; 1 where no value differs. ``n`` users were compared, with ``seeds`` trainings of
    each row: with one, the claim is about these two trained models, not about the methods. ``effect`` is Cohen's d_z,
    the mean over users of each user's mean difference by its standard deviation; nan where users do not differ.
    """

    difference: float
    low: float
    high: float
    p: float
    n: int
    seeds: int = 1
    effect: float = float("nan")


def average(values: np.ndarray) -> float:
    """Return the mean over seeds of the means over users of ``(s, n)``; nan marks users that a seed did not draw."""
    if not values.size:
        return float("nan")
    return float(np.nanmean(np.atleast_2d(values), axis=1).mean())


def paired(before: np.ndarray, after: np.ndarray) -> PairedTest:
    r"""Test ``(s, n)`` values of the same ``s`` seeds and ``n`` users (``(n,)``: one seed), both drawn at random.

    Where a seed did not draw a user, the value is nan: see :func:`_own_users`. Below, all seeds have all users.

    A user's difference with a seed is ``d_ij = μ + user_i + seed_j + rest_ij``. With the mean squares of the two-way
    analysis of variance (``U`` of users, ``S`` of seeds, ``R`` of the rest; n - 1, s - 1 and (n - 1)(s - 1) degrees
    of freedom) the variance of the mean has the unbiased estimate ``(U + S - R) / (n s)`` (Cornfield and Tukey,
    "Average values of mean squares in factorials", Ann. Math. Statist. 27, 1956; Clark, "The language-as-fixed-effect
    fallacy", J. Verbal Learning Verbal Behav. 12, 1973). It is never taken below what one factor alone would give::

        variance = max(U + S - R, U, S, R) / (n s)

    Its critical value lies between those of Student's t with s - 1 and n - 1 degrees of freedom, weighted by the
    parts of the variance, ``S`` of seeds and ``max(U - R, 0)`` of users (Cochran and Cox, *Experimental Designs*,
    1950; Cochran, "Approximate significance levels of the Behrens-Fisher test", Biometrics 20, 1964)::

        t(p) = (S · t_{s-1}(p) + max(U - R, 0) · t_{n-1}(p)) / (S + max(U - R, 0))

    ``p`` is the level at which it equals ``|difference| / √variance``. Satterthwaite's degrees of freedom are the
    usual choice; with the two to five seeds that one can afford they let false alarms rise (simulated, of nominal
    5 %: up to 13 % with 2 seeds, 8 % with 3, 6 % with 5), and this does not (up to 6 %, 5 %, 5 %; near 0 where seeds
    hardly differ). With no more seeds than users, ``p`` is never below that of the t-test over each user's mean of
    its seeds; with one seed it is just that test.
    """
    if before.shape != after.shape:
        raise ValueError(f"paired values of different shape: {before.shape} and {after.shape}")
    change = np.atleast_2d(after.astype(np.float64) - before.astype(np.float64))
    seeds, n = change.shape
    mean = average(change)
    if n < 2 or seeds == 0 or np.nanmax(change) == np.nanmin(change):
        # no spread: the test is undefined; equal pairs are no evidence, a constant shift of two or more is
        return PairedTest(mean, mean, mean, 0.0 if n >= 2 and mean != 0 else 1.0, n, seeds)
    if np.isnan(change).any():
        return _own_users(change)
    by_user, by_seed = change.mean(0), change.mean(1)
    of_users = seeds * float(by_user.var(ddof=1))
    variance, shares = of_users, [(n - 1, 1.0)]
    if seeds > 1:
        of_seeds = n * float(by_seed.var(ddof=1))
        rest = change - by_user - by_seed[:, None] + mean
        of_rest = float((rest**2).sum()) / ((n - 1) * (seeds - 1))
        variance = max(of_users + of_seeds - of_rest, of_users, of_seeds, of_rest)
        user_part = max(of_users - of_rest, 0.0)
        share = of_seeds / (of_seeds + user_part) if of_seeds + user_part else 1.0
        shares = [(n - 1, 1 - share), (seeds - 1, share)]
    return _test(mean, variance / change.size, shares, by_user, seeds)


def _own_users(change: np.ndarray) -> PairedTest:
    """Test ``(s, n)`` differences where each seed drew users of its own, some of them perhaps again.

    The mean is that of the seeds' means. Users alone give it the variance ``W = Σ_u (Σ_j rest_uj / (s n_j))²`` times
    ``n / (n - s)``, ``rest`` being what is left of a difference without its seed's mean: a user of several seeds
    counts as one cluster. The seeds' means give it ``B``, their variance by s. The variance is ``max(W, B)``, its
    critical value that of :func:`paired` with the parts ``B`` of seeds, s - 1 degrees of freedom, and ``W`` of users,
    n - s. ``tests/benchmarks/test_null_case.py`` simulates it: false alarms are not significantly above nominal.
    """
    seeds, n = change.shape
    by_seed = np.nanmean(change, axis=1)
    of_users = _drawn_users(change)
    of_seeds = float(by_seed.var(ddof=1)) / seeds if seeds > 1 else 0.0
    variance = max(of_users, of_seeds)
    seed_share = of_seeds / (of_seeds + of_users)
    shares = [(max(n - seeds, 1), 1 - seed_share), (seeds - 1, seed_share)]
    return _test(float(by_seed.mean()), variance, shares, np.nanmean(change, axis=0), seeds)


def _drawn_users(values: np.ndarray) -> float:
    """Return the variance ``W`` of :func:`_own_users`."""
    seeds, n = values.shape
    present = ~np.isnan(values)
    rest = np.where(present, values - np.nanmean(values, axis=1, keepdims=True), 0.0)
    rest /= (seeds * present.sum(1))[:, None]
    return float(np.square(rest.sum(0)).sum()) * n / max(n - seeds, 1)


def over_users(values: np.ndarray) -> intervals.Estimate | None:
    """Return the mean over seeds and users of ``(s, n)`` with its 95 % interval over users, the seeds being fixed.

    nan marks users that a seed did not draw. None of an empty array.
    """
    if not values.size:
        return None
    if not np.isnan(values).any():
        return intervals.mean(values.mean(0))
    seeds, n = values.shape
    half = math.sqrt(_drawn_users(values)) * _critical(LEVEL, [(max(n - seeds, 1), 1.0)])
    mean = average(values)
    return intervals.Estimate(mean, mean - half, mean + half, n)


def _test(
    mean: float, variance: float, shares: list[tuple[int, float]], by_user: np.ndarray, seeds: int
) -> PairedTest:
    """Test a mean of this variance against 0; ``shares`` as of :func:`_critical`."""
    error = math.sqrt(variance)
    margin = error * _critical(LEVEL, shares)
    spread = float(by_user.std(ddof=1)) if np.ptp(by_user) else 0.0
    p, effect = _chance(abs(mean) / error, shares), mean / spread if spread else float("nan")
    return PairedTest(mean, mean - margin, mean + margin, p, len(by_user), seeds, effect)


def holm(p: ArrayLike) -> np.ndarray:
    """Adjust a family of p-values: with probability .95 or more, all claims below .05 are right together.

    Holm, "A simple sequentially rejective multiple test procedure", Scand. J. Statist. 6(2), 1979: the k-th smallest
    of m (from 0) becomes ``max over j <= k of min(1, (m - j) p_(j))``. A nan is no test: it stays nan and does not
    count.
    """
    adjusted = np.array(p, np.float64)
    tested = np.flatnonzero(~np.isnan(adjusted))
    order = tested[np.argsort(adjusted[tested], kind="stable")]
    steps = np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps * adjusted[order]), 1)
    return adjusted


def _critical(p: float, shares: list[tuple[int, float]]) -> float:
    """Return the two-sided critical value at level ``p``: the weighted mean of Student's t by degrees of freedom."""
    return -sum(share * float(special.stdtrit(dof, p / 2)) for dof, share in shares if share)


def _chance(t: float, shares: list[tuple[int, float]]) -> float:
    """Return the level at which :func:`_critical` is ``t``; below 1e-300 it is 0."""
    single = [2 * float(special.stdtr(dof, -t)) for dof, share in shares if share]
    if len(single) == 1 or t == 0:
        return single[0]
    least, most = math.log(max(min(single), 1e-300)), math.log(max(*single, 1e-300))

    def excess(log_p: float) -> float:
        return _critical(math.exp(log_p), shares) - t

    if excess(least) <= 0:
        return math.exp(least) if min(single) > 1e-300 else 0.0
    if excess(most) >= 0:
        return math.exp(most)
    return math.exp(float(optimize.brentq(excess, least, most)))  # pyright: ignore[reportArgumentType]


@dataclass(frozen=True)
class ActivityGroup:
    """Users of about the same number of training interactions, ``name``: ``"3-5"``, say, or ``"21+"``.

    ``users`` have a value of the metric. ``base`` (None where the row has none) and ``row`` are means over users and
    seeds with 95 % intervals over users, ``difference`` is ``row`` less ``base`` with the interval of the paired test.
    """

    name: str
    users: int
    base: intervals.Estimate | None
    row: intervals.Estimate | None
    difference: intervals.Estimate | None


def by_activity(result: Result, row: str, protocol: str, metric: str) -> list[ActivityGroup]:
    """Compare a row with its base for users of more and more training interactions; of a row that did not run, nothing.

    The groups are :data:`ACTIVITY` without empty ones. Where fewer than three are left (all users are active, say),
    they are up to :data:`QUANTILES` groups of about equal size, if those are more.
    """
    base = result.row(row).base
    users, arrays = result.aligned([row] if base is None else [row, base], protocol, metric)
    trials = [result.trials[row, seed, protocol] for seed in result.seeds(row, protocol)]
    known = {user: n for trial in trials for user, n in zip(trial.user_ids, trial.activity, strict=True)}
    groups = []
    for name, members in _groups(np.array([known[user] for user in users], np.int64)):
        drawn = ~np.isnan(arrays[0][:, members]).all(1)  # seeds that drew a user of the group
        values, *others = (array[drawn][:, members] for array in arrays)
        means, difference = None, None
        if others:
            means, test = over_users(others[0]), paired(others[0], values)
            bounds = (test.low, test.high) if test.n > 1 else (None, None)
            difference = intervals.Estimate(test.difference, *bounds, test.n)
        groups.append(ActivityGroup(name, int(members.sum()), means, over_users(values), difference))
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
