"""Splits and protocols: make a data set of interactions."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Literal

import numpy as np
import pyarrow as pa
from numpy.random import Generator
from pydantic import Field, model_validator

from reclm.config import Config
from reclm.data.dataset import SPLITS, Dataset, Interactions, Protocol, ReadReport
from reclm.data.id_map import IdMap
from reclm.data.item_text import has_text, take_rows
from reclm.errors import BadInput

TRAIN, VALID, TEST = 0, 1, 2
Fraction = Annotated[float, Field(ge=0, lt=1)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]


def place_from_newest(user_idx: np.ndarray, timestamp: np.ndarray | None, generator: Generator) -> np.ndarray:
    """Count ``(n,)`` the user's newer interactions: of equal times the later rows; without times, in random order."""
    age = generator.permutation(len(user_idx)) if timestamp is None else timestamp
    order = np.lexsort((age, user_idx))
    count = np.bincount(user_idx)
    end = np.cumsum(count)[user_idx[order]]
    place = np.empty(len(user_idx), np.int64)
    place[order] = end - 1 - np.arange(len(user_idx))
    return place


def per_user_temporal(
    user_idx: np.ndarray, timestamp: np.ndarray | None, valid: float, test: float, generator: Generator
) -> np.ndarray:
    """Return the part ``(n,)`` int8 of each interaction: a user's newest test, those before validate, the rest train.

    A user of ``n`` gives ``max(1, ⌊n · test⌋)`` to test and ``max(1, ⌊n · valid⌋)`` to validation (none where the
    fraction is 0), test first, as long as one is left to train on. Without timestamps the order is random.
    """
    place = place_from_newest(user_idx, timestamp, generator)
    count = np.bincount(user_idx)

    def share(fraction: float, available: np.ndarray) -> np.ndarray:
        if fraction == 0:
            return np.zeros_like(count)
        # the tolerance lets 0.1 of 30 be 3, not 2
        wanted = np.maximum(1, np.floor(count * fraction + 1e-9).astype(np.int64))
        return np.minimum(wanted, np.maximum(available, 0))

    tested = share(test, count - 1)
    validated = share(valid, count - 1 - tested)
    part = np.full(len(user_idx), TRAIN, np.int8)
    part[place < (tested + validated)[user_idx]] = VALID
    part[place < tested[user_idx]] = TEST
    return part


def at_moments(timestamp: np.ndarray, valid: float, test: float) -> np.ndarray:
    """Return the part ``(n,)`` int8 of each interaction: all from one moment on test, from an earlier one validate.

    The moments leave the newest ``test`` and, before these, the newest ``valid`` of all interactions; of equal times
    all are in the later part, so that training lies wholly before validation, and validation before the test.
    """
    ascending = np.sort(timestamp)
    part = np.full(len(timestamp), TRAIN, np.int8)
    for which, fraction, newest in ((VALID, valid, valid + test), (TEST, test, test)):
        if fraction and len(timestamp):
            # the tolerance lets 0.1 of 30 be 3, not 2
            moment = ascending[-max(1, int(newest * len(timestamp) + 1e-9))]
            part[timestamp >= moment] = which
    return part


def hold_out_validation(
    user_idx: np.ndarray, timestamp: np.ndarray | None, fraction: float, generator: Generator
) -> np.ndarray:
    """Mark ``(n,)`` the training interactions to set aside for validation, so that no user loses all of them.

    ``round(fraction · n)`` are taken (fewer where users have too few to spare): the newest one (a random one without
    timestamps) of randomly chosen users with two or more, then, if that was not enough, their second newest, and so on.
    """
    place = place_from_newest(user_idx, timestamp, generator)
    count = np.bincount(user_idx)
    turn = generator.permutation(len(count))
    spare = np.flatnonzero(place < count[user_idx] - 1)
    chosen = spare[np.lexsort((turn[user_idx[spare]], place[spare]))][: round(fraction * len(user_idx))]
    mask = np.zeros(len(user_idx), bool)
    mask[chosen] = True
    return mask


def hold_out_items(items: int, fraction: float, generator: Generator) -> np.ndarray:
    """Draw ``round(fraction · items)`` random item_idx, sorted; at least one if ``fraction`` is above 0."""
    number = min(items, max(1, round(fraction * items))) if fraction else 0
    return np.sort(generator.choice(items, number, replace=False))


def core(user_idx: np.ndarray, item_idx: np.ndarray, min_user: int, min_item: int) -> np.ndarray:
    """Mark ``(n,)`` the largest part in which each user has ``min_user`` interactions and each item ``min_item``."""
    keep = np.ones(len(user_idx), bool)
    while keep.any():
        weak = np.bincount(user_idx, keep)[user_idx] < min_user
        weak |= np.bincount(item_idx, keep)[item_idx] < min_item
        if not (weak & keep).any():
            break
        keep &= ~weak
    return keep


def first_of_pairs(user_idx: np.ndarray, item_idx: np.ndarray, timestamp: np.ndarray | None) -> np.ndarray:
    """Mark the earliest interaction of each (user, item) pair: ``(n,)`` bool. Without timestamps, the first row."""
    mask = np.ones(len(user_idx), bool)
    pair = pairs(user_idx, item_idx, int(item_idx.max(initial=0)) + 1)
    order = np.argsort(pair, kind="stable")
    same = np.diff(pair[order]) == 0
    if not same.any():
        return mask
    # few pairs occur twice: only these are put in order of time
    rows = order[np.append(same, False) | np.append(False, same)]
    if timestamp is not None:
        rows = rows[np.lexsort((timestamp[rows], pair[rows]))]
    mask[rows] = np.append(True, np.diff(pair[rows]) != 0)
    return mask


def pairs(user_idx: np.ndarray, item_idx: np.ndarray, items: int) -> np.ndarray:
    """Return each (user, item) pair as one int64."""
    return user_idx.astype(np.int64) * items + item_idx


class SplitOptions(Config):
    """Options of filtering and splitting a log."""

    split: Literal["per-user", "time"] = "per-user"
    """``per-user``: each user's newest interactions are held out, and whole items for zero-shot. ``time``: all that
    happened from one moment on is the test, from an earlier one on validation, so that training knows no future; items
    first seen in the test are ranked zero-shot."""
    valid: Fraction = 0.1
    """Fraction of each user's interactions (with ``time``: of all) that chooses the model: just before the test."""
    test: Fraction = 0.1
    """Fraction of each user's interactions (with ``time``: of all) to test on: the newest."""
    held_out_items: Fraction = 0.1
    """Fraction of the items that training never sees; all their interactions are tested on, zero-shot. Not with
    ``time``: there the new items are held out."""
    min_rating: float = 0.0
    """Interactions rated lower are left out. All others count as positives, whatever their rating."""
    min_user: Annotated[int, Field(ge=1)] = 1
    """Users with fewer interactions are left out (repeated with ``min_item`` until both hold)."""
    min_item: Annotated[int, Field(ge=1)] = 1
    """Items with fewer interactions are left out."""
    seed: Seed = 0
    """Chooses the held-out items and, without timestamps, the order of a user's interactions."""

    @model_validator(mode="after")
    def _leave_some_to_train_on(self) -> "SplitOptions":
        check_fractions(self.valid, self.test)
        if self.split == "time" and self.held_out_items and "held_out_items" in self.model_fields_set:
            raise ValueError(
                "split=time holds out the items that are new in the test: leave held_out_items out"
            )
        return self


def check_fractions(valid: float, test: float) -> None:
    """Raise ValueError where nothing would be left to train on."""
    if valid + test >= 1:
        raise ValueError(f"valid {valid} and test {test} leave nothing to train on")


def rows_to_keep(log: Interactions, options: SplitOptions, report: ReadReport) -> np.ndarray:
    """Return the ascending rows ``(m,)`` that are rated high enough, repeat no other and are in the core."""
    rows = np.arange(len(log))

    def keep(mask: np.ndarray, why: str) -> None:
        nonlocal rows
        report.drop(why, len(rows) - int(mask.sum()))
        rows = rows[mask]

    if log.rating is not None:
        keep(log.rating >= options.min_rating, f"rated below {options.min_rating:g}")
    log = Interactions(log.user_idx, log.item_idx, log.timestamp)  # texts need not be copied
    part = log if len(rows) == len(log) else log.take(rows)
    keep(first_of_pairs(part.user_idx, part.item_idx, part.timestamp), "repeated interaction")
    part = part if len(rows) == len(part) else log.take(rows)
    in_core = core(part.user_idx, part.item_idx, options.min_user, options.min_item)
    keep(in_core, "of a user or item with too few interactions")
    return rows


def from_log(
    name: str,
    users: IdMap,
    items: IdMap,
    log: Interactions,
    item_text: pa.Table,
    options: SplitOptions,
    report: ReadReport,
    text_template: str = "",
) -> Dataset:
    """Filter and split a log.

    Protocols: ``full-shot`` ranks the items that are not held out, or with ``split=time`` all; ``zero-shot``, if there
    are any, those that are held out, or first seen in the test. Users left without training interactions, and users
    and items without any, are dropped. ``item_text`` has a row an item; ``report`` receives what is dropped and kept.
    BadInput where a split by time has no times.
    """
    rows = rows_to_keep(log, options, report)
    log = log if len(rows) == len(log) else log.take(rows)
    by_time = options.split == "time"
    if by_time:
        part, held_out = _split_by_time(name, log, len(items), options)
    else:
        part, held_out = _split_by_user(log, len(items), options, report)
    trained = np.bincount(log.user_idx[part == TRAIN], minlength=len(users)).astype(bool)[log.user_idx]
    part = part[trained]
    report.drop("of a user without training interactions", int((~trained).sum()))
    log = log if trained.all() else log.take(trained)
    if not (part == TRAIN).any():
        message = f"data set {name!r}: no interactions are left to train on; dropped: {report.dropped}"
        raise BadInput(message + report.first_malformed(), value=report.dropped, where=name)
    user_rows, user_idx = ranked(log.user_idx, len(users))
    item_rows, item_idx = ranked(log.item_idx, len(items))
    report.drop("user without interactions left", len(users) - len(user_rows))
    report.drop("item without interactions left", len(items) - len(item_rows))
    users, items = users.take(user_rows), items.take(item_rows)
    item_text = take_rows(item_text, pa.array(item_rows))
    log = replace(log, user_idx=user_idx, item_idx=item_idx)
    cold = held_out[item_rows]
    parts = (log.take(part == TRAIN), log.take(part == VALID), log.take(part == TEST))
    protocols = protocols_of(
        np.arange(len(items)) if by_time else np.flatnonzero(~cold), np.flatnonzero(cold)
    )
    more = (text_template, report)
    return finished(Dataset(name, users, items, *parts, item_text, protocols, *more, by_time=by_time))


def _split_by_user(
    log: Interactions, items: int, options: SplitOptions, report: ReadReport
) -> tuple[np.ndarray, np.ndarray]:
    """Return the part ``(n,)`` of each interaction, and which items ``(items,)`` bool are held out."""
    generator = np.random.default_rng(options.seed)
    used = np.flatnonzero(np.bincount(log.item_idx, minlength=items))
    if log.timestamp is None:
        report.count("interactions without a time, split in random order", len(log))
    held_out = np.zeros(items, bool)
    held_out[used[hold_out_items(len(used), options.held_out_items, generator)]] = True
    part = np.full(len(log), TEST, np.int8)
    warm = ~held_out[log.item_idx]
    timestamp = None if log.timestamp is None else log.timestamp[warm]
    part[warm] = per_user_temporal(log.user_idx[warm], timestamp, options.valid, options.test, generator)
    return part, held_out


def _split_by_time(
    name: str, log: Interactions, items: int, options: SplitOptions
) -> tuple[np.ndarray, np.ndarray]:
    """Return the part ``(n,)`` of each interaction, and which items ``(items,)`` bool are first seen in the test."""
    if log.timestamp is None:
        message = (
            f"data set {name!r} has no times, which split=time needs; name their column, or split=per-user"
        )
        raise BadInput(message, value="time", where=name, remedy="split=per-user")
    part = at_moments(log.timestamp, options.valid, options.test)
    return part, ~np.bincount(log.item_idx[part != TEST], minlength=items).astype(bool)


def ranked(idx: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the distinct numbers of ``idx`` ``(n,)``, below ``count`` and ascending, and each one's place ``(n,)``."""
    occurs = np.bincount(idx, minlength=count).astype(bool)
    return np.flatnonzero(occurs), (np.cumsum(occurs) - 1)[idx]


def protocols_of(candidates: np.ndarray, cold: np.ndarray) -> tuple[Protocol, ...]:
    """Return ``full-shot``, which ranks ``candidates``, and ``zero-shot``, which ranks cold items, if there are any."""
    return (Protocol("full-shot", candidates), *([Protocol("zero-shot", cold)] if len(cold) else []))


def from_given(
    name: str,
    users: IdMap,
    items: IdMap,
    parts: Sequence[Interactions],
    item_text: pa.Table,
    report: ReadReport,
    text_template: str = "",
) -> Dataset:
    """Return a data set whose interactions come split into train, valid and test.

    Protocols: ``full-shot`` ranks all items; ``zero-shot`` those in neither train nor valid, if any is tested on.
    """
    train, valid, test = parts
    everything = np.arange(len(items))
    cold = np.setdiff1d(everything, np.union1d(train.item_idx, valid.item_idx))
    protocols = protocols_of(everything, cold if np.isin(cold, test.item_idx).any() else cold[:0])
    split = (train, valid, test)
    return finished(Dataset(name, users, items, *split, item_text, protocols, text_template, report))


def finished(dataset: Dataset) -> Dataset:
    """Note the counts of a data set in its report, and return it."""
    counts = dataset.report.counts
    counts["users"], counts["items"] = len(dataset.users), len(dataset.items)
    for split in SPLITS:
        counts[f"{split} interactions"] = len(dataset.split(split))
    filled = np.zeros(len(dataset.items), bool)
    for column in dataset.item_text.columns:
        filled |= has_text(column).to_numpy(zero_copy_only=False)
    if not filled.all():
        counts["items without any text"] = int((~filled).sum())
    return dataset
