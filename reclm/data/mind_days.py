"""Which two days of a click log train and test."""

from datetime import date, timedelta

import numpy as np

from reclm.errors import ReclmError

DAY, HOUR = 86_400, 3_600
EPOCH = date(1970, 1, 1)


def two_days(seconds: np.ndarray, train_day: date | None, test_day: date | None) -> tuple[int, int]:
    """The days, counted from 1970, to train and to test on.

    One day given decides the other, as they are consecutive. With none given they are the last two consecutive
    *whole* days. The log cuts days off only where it begins and ends: its first day is whole if it has a click in its
    first hour, its last day if it has one in its last hour, and the days between are whole.

    Args:
        seconds: ``(n,)`` times of all clicks, since 1970.

    Raises:
        ReclmError: if a chosen day has no clicks, the days are not in order, or there are no two whole days; the
            message names the days there are.
    """
    days, clicks = np.unique(seconds // DAY, return_counts=True)
    if train_day is None and test_day is None:
        return _last_whole_days(seconds, days, clicks)
    train, test = (None if day is None else (day - EPOCH).days for day in (train_day, test_day))
    if train is None:
        assert test is not None
        train = test - 1
    elif test is None:
        test = train + 1
    for name, day in (("train_day", train), ("test_day", test)):
        if day not in days:
            raise ReclmError(f"{name} {iso(day)} has no clicks; days with clicks: {_listed(days, clicks)}")
    if train >= test:
        raise ReclmError(f"train_day {iso(train)} must come before test_day {iso(test)}")
    return train, test


def iso(day: int) -> str:
    """A day counted from 1970 as ``"2019-11-14"``."""
    return str(EPOCH + timedelta(days=int(day)))


def _last_whole_days(seconds: np.ndarray, days: np.ndarray, clicks: np.ndarray) -> tuple[int, int]:
    whole = np.ones(len(days), bool)
    whole[0] &= seconds.min() - days[0] * DAY < HOUR
    whole[-1] &= (days[-1] + 1) * DAY - seconds.max() <= HOUR
    follows = np.flatnonzero(whole[1:] & whole[:-1] & (np.diff(days) == 1))
    if not len(follows):
        raise ReclmError(
            "no two consecutive whole days (a log's first day is whole with a click in its first hour, its last day "
            "with one in its last hour); choose them with --set train_day=YYYY-MM-DD --set test_day=YYYY-MM-DD, "
            f"days with clicks: {_listed(days, clicks)}"
        )
    return int(days[follows[-1]]), int(days[follows[-1] + 1])


def _listed(days: np.ndarray, clicks: np.ndarray) -> str:
    """``2019-11-14 (123 clicks), …``, the last twenty."""
    text = [f"{iso(day)} ({count:,} clicks)" for day, count in zip(days[-20:], clicks[-20:], strict=True)]
    return ", ".join((["…"] if len(days) > 20 else []) + text)
