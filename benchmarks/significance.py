"""Is a difference more than noise?"""

from dataclasses import dataclass

import numpy as np
from scipy import stats


@dataclass(frozen=True)
class PairedTest:
    """A paired t-test over users (two-sided).

    Attributes:
        difference: mean of ``after - before``.
        low, high: its 95 % interval.
        p: probability of so large a difference by chance; 1 where nothing differs at all.
        n: users compared.
    """

    difference: float
    low: float
    high: float
    p: float
    n: int


def paired_t(before: np.ndarray, after: np.ndarray) -> PairedTest:
    """Compare two ``(n,)`` arrays of per-user values of the same users in the same order.

    Raises:
        ValueError: if the shapes differ.
    """
    if before.shape != after.shape:
        raise ValueError(f"paired values of different shape: {before.shape} and {after.shape}")
    change = after.astype(np.float64) - before.astype(np.float64)
    n = len(change)
    if n < 2 or np.ptp(change) == 0:
        mean = float(change.mean()) if n else float("nan")
        # no spread: the test is undefined; equal pairs are no evidence, a constant shift of two or more is
        return PairedTest(mean, mean, mean, 0.0 if n >= 2 and mean != 0 else 1.0, n)
    test = stats.ttest_1samp(change, 0.0)
    interval = test.confidence_interval(0.95)
    p = float(test.pvalue)  # pyright: ignore[reportAttributeAccessIssue]
    return PairedTest(float(change.mean()), float(interval.low), float(interval.high), p, n)
