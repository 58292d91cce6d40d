"""Units of times that are numbers: which one they are likely to be in, and the seconds since 1970 that they mean."""

from typing import Literal, get_args

import numpy as np

from reclm.errors import BadInput

TimeUnit = Literal["s", "ms", "us", "ns", "date"]
PER_SECOND: dict[TimeUnit, int] = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
OLDEST, NEWEST = 631_152_000, 4_102_444_800  # 1990 and 2100, in s


def since_1970(values: np.ndarray, unit: TimeUnit) -> tuple[np.ndarray, np.ndarray]:
    """Return times ``(n,)`` int64 in seconds since 1970 and a mask ``(n,)`` of those that are none (they become 0).

    The unit ``date`` stands for days in UTC, written as numbers.

    >>> since_1970(np.array([19700102.0, 20170230.0]), "date")
    (array([86400,     0]), array([False,  True]))
    """
    if unit != "date":
        bad = np.abs(values) > NEWEST * PER_SECOND[unit]
        return np.where(bad, 0, np.floor(values / PER_SECOND[unit])).astype(np.int64), bad
    number = np.where(np.abs(values) < 1e8, values, 0).astype(np.int64)
    month, day = number // 100 % 100, number % 100
    months = (number // 10_000 - 1970) * 12 + month - 1
    first, next_first = (
        count.astype("datetime64[M]").astype("datetime64[D]").astype(np.int64)
        for count in (months, months + 1)
    )
    bad = (number != values) | (number < 10_000) | (month < 1) | (month > 12)
    bad |= (day < 1) | (day > next_first - first)
    return np.where(bad, 0, (first + day - 1) * 86_400), bad


def likely_unit(times: np.ndarray) -> TimeUnit | None:
    """Return the unit in which nearly all times, numbers, lie between 1990 and 2100; None where there is none.

    >>> likely_unit(np.array([1.5e12, 1.6e12])), likely_unit(np.array([20170714.0])), likely_unit(np.arange(5.0))
    ('ms', 'date', None)
    """

    def fits(unit: TimeUnit) -> bool:
        seconds, bad = since_1970(times, unit)
        return bool(np.mean(~bad & (seconds >= OLDEST) & (seconds <= NEWEST)) >= 0.95)

    return next((unit for unit in get_args(TimeUnit) if fits(unit)), None) if len(times) else None


def check_unit(times: np.ndarray, unit: TimeUnit, column: str, file: str, option: str) -> None:
    """Raise BadInput where a sample of the times of a column is likely to be of another unit than ``unit``."""
    likely = likely_unit(times)
    if likely is None or likely == unit:
        return
    usual, remedy = float(np.quantile(times, 0.5, method="nearest")), f"{option}{likely}"

    def read_as(unit: TimeUnit) -> str:
        (second,), (bad,) = since_1970(np.array([usual]), unit)
        name = "as a number like 20170714" if unit == "date" else f"in {unit} since 1970"
        return f"{'no date' if bad else np.datetime64(int(second), 's')} {name}"

    message = f"{file}: {column} {usual:.0f} is {read_as(unit)}, and {read_as(likely)}"
    raise BadInput(f"{message}; name the unit: {remedy}", value=int(usual), where=file, remedy=remedy)
