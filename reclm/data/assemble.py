"""From interactions to a finished data set: the two ways to evaluate that readers share.

A *log* has no split yet: :func:`from_log` makes a temporal split per user and holds out whole items. Two *snapshots*
(of consecutive days or years) come split into training and test: :func:`from_snapshots` adds the protocols.
"""

from typing import Annotated

import numpy as np
import pyarrow as pa
from pydantic import Field, model_validator

from reclm.config import Config
from reclm.data import splits
from reclm.data.dataset import Dataset, Interactions, Protocol, ReadReport
from reclm.data.idmap import IdMap
from reclm.errors import ReclmError

Fraction = Annotated[float, Field(ge=0, lt=1)]
Seed = Annotated[int, Field(ge=0)]


class SplitOptions(Config):
    """How a log is filtered and split."""

    valid: Fraction = 0.1
    """Fraction of each user's interactions that chooses the model: those just before the test part."""
    test: Fraction = 0.1
    """Fraction of each user's interactions to test on: the newest."""
    held_out_items: Fraction = 0.1
    """Fraction of the items that training never sees; all their interactions are tested on, zero-shot."""
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
        if self.valid + self.test >= 1:
            raise ValueError(f"valid {self.valid} and test {self.test} leave nothing to train on")
        return self


def rows_to_keep(log: Interactions, options: SplitOptions, report: ReadReport) -> np.ndarray:
    """Rows ``(m,)`` of ``log``, ascending, that are rated high enough, repeat no other and are in the core.

    Args:
        report: receives what is dropped.
    """
    rows = np.arange(len(log))

    def keep(mask: np.ndarray, why: str) -> None:
        nonlocal rows
        report.drop(why, len(rows) - int(mask.sum()))
        rows = rows[mask]

    if log.rating is not None:
        keep(log.rating >= options.min_rating, f"rated below {options.min_rating:g}")
    time = None if log.timestamp is None else log.timestamp[rows]
    keep(splits.first_of_pairs(log.user_idx[rows], log.item_idx[rows], time), "repeated interaction")
    keep(
        splits.core(log.user_idx[rows], log.item_idx[rows], options.min_user, options.min_item),
        "of a user or item with too few interactions",
    )
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

    Protocols: ``full-shot`` ranks the items that are not held out; ``zero-shot``, if items are held out, those that
    are. Users left without training interactions, and users and items without any, are dropped.

    Args:
        item_text: a row of text an item, in the order of ``items``.
        report: receives what is dropped and kept.

    Raises:
        ReclmError: if nothing is left to train on.
    """

    rows = rows_to_keep(log, options, report)
    log = log if len(rows) == len(log) else log.take(rows)
    generator = np.random.default_rng(options.seed)
    used = np.unique(log.item_idx)
    held_out = used[splits.hold_out_items(len(used), options.held_out_items, generator)]
    part = np.full(len(log), splits.TEST, np.int8)
    warm = ~np.isin(log.item_idx, held_out)
    timestamp = None if log.timestamp is None else log.timestamp[warm]
    part[warm] = splits.per_user_temporal(
        log.user_idx[warm], timestamp, options.valid, options.test, generator
    )
    trained = np.isin(log.user_idx, log.user_idx[part == splits.TRAIN])
    part = part[trained]
    report.drop("of a user without training interactions", int((~trained).sum()))
    log = log.take(trained)
    if not (part == splits.TRAIN).any():
        raise ReclmError(
            f"data set {name!r}: no interactions are left to train on; dropped: {report.dropped}"
        )

    users, items, log, item_text, item_rows = _compact(users, items, log, item_text, report)
    candidates = np.flatnonzero(~np.isin(item_rows, held_out))
    protocols = [Protocol("full-shot", candidates)]
    if len(candidates) < len(items):
        cold = np.setdiff1d(np.arange(len(items)), candidates)
        protocols.append(Protocol("zero-shot", cold))
    train, valid, test = (log.take(part == which) for which in (splits.TRAIN, splits.VALID, splits.TEST))
    return finished(
        Dataset(name, users, items, train, valid, test, item_text, tuple(protocols), text_template, report)
    )


def _compact(
    users: IdMap, items: IdMap, log: Interactions, item_text: pa.Table, report: ReadReport
) -> tuple[IdMap, IdMap, Interactions, pa.Table, np.ndarray]:
    """Only users and items that occur in the log, in their order; the last of the five is the items' old rows."""
    user_rows, user_idx = np.unique(log.user_idx, return_inverse=True)
    item_rows, item_idx = np.unique(log.item_idx, return_inverse=True)
    report.drop("user without interactions left", len(users) - len(user_rows))
    report.drop("item without interactions left", len(items) - len(item_rows))
    return (
        IdMap(users.array.take(pa.array(user_rows)), "user"),
        IdMap(items.array.take(pa.array(item_rows)), "item"),
        Interactions(user_idx, item_idx, log.timestamp, log.rating, log.review),
        item_text.take(pa.array(item_rows)),
        item_rows,
    )


def from_snapshots(
    name: str,
    users: IdMap,
    items: IdMap,
    train: Interactions,
    test: Interactions,
    candidates: np.ndarray,
    item_text: pa.Table,
    valid: float,
    seed: int,
    report: ReadReport,
    text_template: str,
) -> Dataset:
    """A first snapshot to train on and the next to test on.

    Protocols: ``full-shot`` ranks all items of the test snapshot, ``zero-shot`` those of them that the training
    snapshot does not hold (if there are any).

    Args:
        candidates: ``(c,)`` item_idx of the test snapshot, those included whose every test interaction repeats a
            training one and so is not in ``test``.
        valid: fraction of ``train`` set aside for validation, from users who have two or more interactions.
        seed: chooses them.
    """
    cold = np.setdiff1d(candidates, train.item_idx)
    protocols = [Protocol("full-shot", np.sort(candidates))]
    if len(cold):
        protocols.append(Protocol("zero-shot", cold))
    aside = splits.hold_out_validation(train.user_idx, train.timestamp, valid, np.random.default_rng(seed))
    return finished(
        Dataset(
            name,
            users,
            items,
            train.take(~aside),
            train.take(aside),
            test,
            item_text,
            tuple(protocols),
            text_template,
            report,
        )
    )


def of_busiest(
    count: int,
    users: IdMap,
    items: IdMap,
    train: Interactions,
    test: Interactions,
    candidates: np.ndarray,
    item_text: pa.Table,
    report: ReadReport,
) -> tuple[IdMap, IdMap, Interactions, Interactions, np.ndarray, pa.Table]:
    """The ``count`` users with most training interactions (of equally busy ones the first), and the items they touch.

    Returns:
        ``users``, ``items``, ``train``, ``test``, ``candidates`` and ``item_text`` of the slice.
    """
    clicks = np.bincount(train.user_idx, minlength=len(users))
    kept = np.sort(np.argsort(-clicks, kind="stable")[:count])
    parts = [one.take(np.isin(one.user_idx, kept)) for one in (train, test)]
    item_rows = np.unique(np.concatenate([one.item_idx for one in parts]))
    report.drop("user beyond the busiest", len(users) - len(kept))
    report.drop("item that none of the busiest users touches", len(items) - len(item_rows))
    train, test = (
        Interactions(
            np.searchsorted(kept, one.user_idx),
            np.searchsorted(item_rows, one.item_idx),
            one.timestamp,
            one.rating,
            one.review,
        )
        for one in parts
    )
    return (
        IdMap(users.array.take(pa.array(kept)), "user"),
        IdMap(items.array.take(pa.array(item_rows)), "item"),
        train,
        test,
        np.searchsorted(item_rows, np.intersect1d(candidates, item_rows)),
        item_text.take(pa.array(item_rows)),
    )


def finished(dataset: Dataset) -> Dataset:
    """The same data set, what it holds noted in its report."""
    kept = dataset.report.kept
    kept["users"], kept["items"] = len(dataset.users), len(dataset.items)
    for split in ("train", "valid", "test"):
        kept[f"{split} interactions"] = len(dataset.split(split))
    bare = np.ones(len(dataset.items), bool)
    for column in dataset.item_text.columns:
        bare &= np.array([not (text or "").strip() for text in column.to_pylist()])
    if bare.any():
        kept["items without any text"] = int(bare.sum())
    return dataset
