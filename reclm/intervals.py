"""Means with their 95 % intervals, and how numbers are written: the one place that formats them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A mean over ``n`` and its 95 % interval; None where ``n`` is too small for one."""

    mean: float
    low: float | None
    high: float | None
    n: int


def share(hits: Sequence[bool] | np.ndarray) -> Estimate | None:
    """Return the share of True among ``(n,)`` with Wilson's interval; None of an empty array.

    ``(p + z²/2n ± z √(p(1-p)/n + z²/4n²)) / (1 + z²/n)``, z = 1.96: it stays within 0 and 1, also at their edges.
    """
    values = np.asarray(hits, bool)
    if not len(values):
        return None
    interval = stats.binomtest(int(values.sum()), len(values)).proportion_ci(CONFIDENCE, method="wilson")
    return Estimate(float(values.mean()), float(interval.low), float(interval.high), len(values))


def mean(values: Sequence[float] | np.ndarray) -> Estimate | None:
    """Return the mean of ``(n,)`` numbers with Student's interval ``± t s / √n``; None of an empty array."""
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
    """Return how far the second half of a series is above its first, the mean over S series; None for halves of one.

    Student's interval ``± t s √(Σ (1/a + 1/b)) / S`` for halves of a and b values, s² their pooled variance with
    n - 2 S degrees of freedom.
    """
    halves = [np.array_split(np.asarray(values, np.float64)[len(values) % 2 :], 2) for values in series]
    if not halves or min(len(first) for first, _ in halves) < 2:
        return None
    values = sum(len(first) + len(second) for first, second in halves)
    free = values - 2 * len(halves)
    squares = sum(float(np.square(half - half.mean()).sum()) for both in halves for half in both)
    weights = sum(1 / len(first) + 1 / len(second) for first, second in halves)
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, free)) * (squares / free * weights) ** 0.5 / len(halves)
    average = float(np.mean([second.mean() - first.mean() for first, second in halves]))
    return Estimate(average, average - half, average + half, values)


NONE = "–"
"""Shown where there is no number."""
MINUS = "\N{MINUS SIGN}"


def number(value: float | None, digits: int = 4, sign: bool = False) -> str:
    """Write a metric's value without its leading zero; with fewer digits where it is large.

    >>> number(0.0232), number(-0.0157), number(12.3456), number(0.5, 2, sign=True)
    ('.0232', '−.0157', '12.35', '+.50')
    """
    if value is None or not math.isfinite(value):
        return NONE
    size = abs(value)
    text = f"{size:,.{digits if size < 10 else min(digits, 2)}f}"
    return _sign(value, text, sign) + (text[1:] if text.startswith("0.") else text)


def percent(value: float | None, sign: bool = True) -> str:
    """Write a share, or a relative change.

    >>> percent(0.034), percent(-0.005), percent(2.5), percent(0.0), percent(0.982, sign=False)
    ('+3.4 %', '−0.5 %', '+250 %', '0.0 %', '98.2 %')
    """
    if value is None or not math.isfinite(value):
        return NONE
    size = f"{abs(value) * 100:,.{1 if abs(value) <= 1 else 0}f}"
    return _sign(value, size, sign) + size + " %"


def p_value(p: float) -> str:
    """Write a p-value; that of no test (nan) is a dash.

    >>> p_value(0.012), p_value(0.00002), p_value(float("nan"))
    ('.012', '< .001', '–')
    """
    if math.isnan(p):
        return NONE
    return "< .001" if p < 0.001 else f"{p:.3f}".removeprefix("0")


def between(low: str, high: str) -> str:
    """Write an interval of two written numbers: ``+.0010 to +.0030``; a dash where there is none."""
    return NONE if NONE in (low, high) else f"{low} to {high}"


def duration(seconds: float | None) -> str:
    """Write a duration.

    >>> duration(0), duration(0.04), duration(1.7), duration(40), duration(720), duration(11_160)
    ('0 s', '.04 s', '1.7 s', '40 s', '12 min', '3.1 h')
    """
    if seconds is None or not math.isfinite(seconds):
        return NONE
    if seconds < 120:
        digits = (0 < seconds < 10) + (0 < seconds < 1)
        return f"{number(seconds, digits)} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"


def _sign(value: float, size: str, plus: bool) -> str:
    """Return the sign of a written number; none where it rounds to zero."""
    if not any(digit in "123456789" for digit in size):
        return ""
    return MINUS if value < 0 else "+" * plus
