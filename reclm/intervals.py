"""Means with their 95 % intervals."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A mean over ``n`` and its 95 % interval, which is unknown (None) where there is nothing to tell it from."""

    mean: float
    low: float | None
    high: float | None
    n: int


def share(hits: Sequence[bool] | np.ndarray) -> Estimate | None:
    """The share of True among ``(n,)`` with Wilson's interval; None of nothing.

    ``(p + z²/2n ± z √(p(1-p)/n + z²/4n²)) / (1 + z²/n)``, z = 1.96: it stays within 0 and 1, also at their edges.
    """
    values = np.asarray(hits, bool)
    if not len(values):
        return None
    found = stats.binomtest(int(values.sum()), len(values)).proportion_ci(CONFIDENCE, method="wilson")
    return Estimate(float(values.mean()), float(found.low), float(found.high), len(values))


def mean(values: Sequence[float] | np.ndarray) -> Estimate | None:
    """The mean of ``(n,)`` numbers with Student's interval ``± t s / √n``; None of nothing."""
    numbers = np.asarray(values, np.float64)
    if not len(numbers):
        return None
    average = float(numbers.mean())
    if len(numbers) < 2:
        return Estimate(average, None, None, 1)
    t = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(numbers) - 1))
    half = t * float(numbers.std(ddof=1)) / len(numbers) ** 0.5
    return Estimate(average, average - half, average + half, len(numbers))


def rise(series: Sequence[Sequence[float] | np.ndarray]) -> Estimate | None:
    """How far the second half of a series is above its first, mean over S series; None where a half has one value.

    Student's interval ``± t s √(Σ (1/a + 1/b)) / S`` for halves of a and b values, s² their pooled variance with
    n - 2 S degrees of freedom: the noise is that within the halves.
    """
    halves = [np.array_split(np.asarray(one, np.float64)[len(one) % 2 :], 2) for one in series]
    if not halves or min(len(first) for first, _ in halves) < 2:
        return None
    values = sum(len(first) + len(second) for first, second in halves)
    free = values - 2 * len(halves)
    squares = sum(float(np.square(one - one.mean()).sum()) for both in halves for one in both)
    weights = sum(1 / len(first) + 1 / len(second) for first, second in halves)
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, free)) * (squares / free * weights) ** 0.5 / len(halves)
    average = float(np.mean([second.mean() - first.mean() for first, second in halves]))
    return Estimate(average, average - half, average + half, values)
