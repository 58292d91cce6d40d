"""Test differences over users and seeds: paired tests, intervals, and the correction for many tests."""

import math
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize, special

from reclm import intervals

LEVEL = 0.05
"""Significance level of every test; intervals hold ``1 - LEVEL``."""
POWER = 0.8
"""Probability with which the smallest findable effect is found."""


@dataclass(frozen=True)
class Parts:
    r"""The parts of the variance of a mean difference, and the effect that a test by them finds (:func:`paired`).

    ``users``, ``seeds`` and ``rest`` are the mean squares ``U``, ``S`` and ``R``, ``size`` is ``n s``. Where each seed
    drew users of its own (``crossed`` False) they are ``W``, ``B`` and 0, and ``size`` is 1. ``free_users`` and
    ``free_seeds`` are the degrees of freedom of ``U`` and ``S`` (0 for one seed), ``critical_seeds`` those of the
    seeds' critical value.
    """

    users: float
    free_users: int
    seeds: float = 0.0
    free_seeds: int = 0
    critical_seeds: int = 0
    rest: float = 0.0
    size: int = 1
    crossed: bool = True

    @property
    def shares(self) -> list[tuple[int, float]]:
        """Return degrees of freedom and weights of the critical value."""
        if not self.free_seeds:
            return [(self.free_users, 1.0)]
        share = float(self._seed_share(self.users, self.seeds))
        return [(self.free_users, 1 - share), (self.critical_seeds, share)]

    @property
    def variance(self) -> float:
        """Return the variance of the mean."""
        return float(self._variance(self.users, self.seeds))

    @property
    def of_users(self) -> "Parts":
        """Return the parts with infinitely many seeds: those of these users alone.

        With one seed nobody knows them: nan. Where each seed draws users of its own they vanish.
        """
        if not self.free_seeds:
            return Parts(float("nan"), self.free_users)
        users = max(self.users - self.rest, 0.0) if self.crossed else 0.0
        return Parts(users, self.free_users, size=self.size)

    def with_seeds(self, seeds: int, first_look: int | None = None) -> "Parts":
        """Return the parts that so many seeds are expected to have, instead of these (two or more)."""
        times = seeds / (self.free_seeds + 1)
        free = {"free_seeds": seeds - 1, "critical_seeds": min(seeds, first_look or seeds) - 1}
        if not self.crossed:
            return replace(self, users=self.users / times, seeds=self.seeds / times, **free)
        users = self.rest + times * max(self.users - self.rest, 0.0)
        return replace(self, users=users, size=round(self.size * times), **free)

    @cached_property
    def findable(self) -> float:
        r"""Return the smallest effect that the test finds with a probability of 80 % at the 5 % level.

        It is the minimal detectable effect (Bloom, "Minimum detectable effects", Evaluation Review 19(5), 1995), there
        ``(t(.05) + t(.4)) √variance``. Of few seeds the variance is itself uncertain, and that sum up to 15 % too
        small, so the power is computed here. For normal parts the mean is independent of the mean squares, of which
        those of seeds and users are ``S x`` and ``U y``, x and y being χ² by their degrees of freedom (the rest has the
        most of these, and is taken as known). So the effect δ is found with probability ::

            E_xy Φ((δ - t(x, y) √v(x, y)) / √v(1, 1)) + Φ((-δ - t(x, y) √v(x, y)) / √v(1, 1))

        ``v`` and ``t`` being variance and critical value of :func:`paired` by ``S x`` and ``U y``; solved for δ.
        """
        error = math.sqrt(self.variance)
        if not error > 0:
            return error  # 0 or nan
        x, y = _spread(self.free_seeds, 48)[:, None], _spread(self.free_users, 24)
        users, seeds = self.users * y, self.seeds * x
        share = self._seed_share(users, seeds) if self.free_seeds else 0.0
        critical = share * _t(LEVEL, self.critical_seeds) + (1 - share) * _t(LEVEL, self.free_users)
        least = critical * np.sqrt(self._variance(users, seeds)) / error

        def excess(effect: float) -> float:
            return float((special.ndtr(effect - least) + special.ndtr(-effect - least)).mean()) - POWER

        return error * float(optimize.brentq(excess, 0, float(least.max()) + 4))  # pyright: ignore[reportArgumentType]

    def _variance(self, users: Any, seeds: Any) -> Any:
        largest = np.maximum(users, seeds)
        if self.crossed:
            largest = np.maximum(np.maximum(users + seeds - self.rest, largest), self.rest)
        return largest / self.size

    def _seed_share(self, users: Any, seeds: Any) -> Any:
        """Return the weight of the seeds' degrees of freedom in the critical value."""
        users = np.maximum(users - self.rest, 0.0)
        both = seeds + users
        return np.divide(seeds, both, out=np.ones(np.shape(both)), where=np.asarray(both) > 0)


def _spread(free: int, nodes: int) -> np.ndarray:
    """Return χ² by its ``free`` degrees of freedom in the middle of ``nodes`` equally probable parts; 1 for none."""
    middle = (np.arange(nodes) + 0.5) / nodes
    return special.chdtri(free, 1 - middle) / free if free else np.ones(1)


@dataclass(frozen=True)
class PairedTest:
    """A two-sided test of a mean difference between two rows (:func:`paired`).

    ``difference`` is the mean of ``after - before``, ``low`` and ``high`` its 95 % interval. ``p`` is the probability
    of so large a difference by chance; 1 where no value differs. ``n`` users were compared, with ``seeds`` trainings of
    each row: with one, the claim is about these two trained models, not about the methods. ``effect`` is Cohen's d_z,
    the mean over users of each user's mean difference by its standard deviation; nan where users do not differ.
    ``parts`` are those of its variance; None where no value differs.
    """

    difference: float
    low: float
    high: float
    p: float
    n: int
    seeds: int = 1
    effect: float = float("nan")
    parts: Parts | None = field(default=None, compare=False, repr=False)

    @property
    def findable(self) -> float:
        """Return the smallest difference that is found in 80 % of such tests (:attr:`Parts.findable`); nan for no test.

        With one seed it is about these two trained models, as is the test.
        """
        return self.parts.findable if self.parts else 0.0 if self.n > 1 else float("nan")

    @property
    def findable_by_users(self) -> float:
        """Return the same with infinitely many seeds; nan where one seed tells nothing of them."""
        return self.parts.of_users.findable if self.parts else self.findable


def average(values: np.ndarray) -> float:
    """Return the mean over seeds of the means over users of ``(s, n)``; nan marks users that a seed did not draw."""
    if not values.size:
        return float("nan")
    return float(np.nanmean(np.atleast_2d(values), axis=1).mean())


def paired(before: np.ndarray, after: np.ndarray, first_look: int | None = None) -> PairedTest:
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

    ``first_look``: the fewest seeds after which a rule could have stopped by their variance (``--seeds auto``,
    :mod:`reclm.benchmarks.seeds`); None: their number was fixed beforehand. Such a rule stops where ``S`` is small by
    chance, so that the usual test raises up to 8 % false alarms. With the degrees of freedom of the first look,
    ``first_look - 1``, instead of ``s - 1`` it keeps to 5 %, as does Stein's test, whose variance is that of the first
    look, too ("A two-sample test for a linear hypothesis whose power is independent of the variance", Ann. Math.
    Statist. 16, 1945).
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
        return _own_users(change, first_look)
    by_user, by_seed = change.mean(0), change.mean(1)
    parts = Parts(seeds * float(by_user.var(ddof=1)), n - 1, size=change.size)
    if seeds > 1:
        rest = change - by_user - by_seed[:, None] + mean
        of_rest = float((rest**2).sum()) / ((n - 1) * (seeds - 1))
        of_seeds = n * float(by_seed.var(ddof=1))
        critical = min(seeds, first_look or seeds) - 1
        parts = Parts(parts.users, n - 1, of_seeds, seeds - 1, critical, of_rest, change.size)
    return _test(mean, parts, by_user, seeds)


def _own_users(change: np.ndarray, first_look: int | None) -> PairedTest:
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
    critical = min(seeds, first_look or seeds) - 1
    parts = Parts(of_users, max(n - seeds, 1), of_seeds, seeds - 1, critical, crossed=False)
    return _test(float(by_seed.mean()), parts, np.nanmean(change, axis=0), seeds)


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


def _test(mean: float, parts: Parts, by_user: np.ndarray, seeds: int) -> PairedTest:
    """Test a mean of this variance against 0."""
    error, shares = math.sqrt(parts.variance), parts.shares
    margin = error * _critical(LEVEL, shares)
    spread = float(by_user.std(ddof=1)) if np.ptp(by_user) else 0.0
    p, effect = _chance(abs(mean) / error, shares), mean / spread if spread else float("nan")
    return PairedTest(mean, mean - margin, mean + margin, p, len(by_user), seeds, effect, parts)


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
    return sum(share * _t(p, dof) for dof, share in shares if share)


def _t(p: float, dof: int) -> float:
    """Return the two-sided critical value of Student's t; 0 where there are no degrees of freedom."""
    return -float(special.stdtrit(dof, p / 2)) if dof else 0.0


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
