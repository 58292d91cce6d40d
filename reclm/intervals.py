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
