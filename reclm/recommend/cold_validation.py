"""Validation on new items: some items that a training leaves out choose the epoch that ranks zero-shot."""

from dataclasses import dataclass

import numpy as np

from reclm.data.dataset import Dataset, Interactions
from reclm.recommend.evaluate import Task

NEW = "valid, new items"
"""Name of the validation on new items, in histories and results."""
LEAST = 20
"""Fewer new items choose by luck: then the epoch that is best on validation ranks zero-shot, too."""


@dataclass(frozen=True, eq=False)
class ColdValidation:
    """New items to validate on.

    Attributes:
        protocols: names of the protocols whose candidates are all new.
        train: the training interactions that are left; the data set's own where none had to be left out.
        task: the ranking of the new items alone.
    """

    protocols: tuple[str, ...]
    train: Interactions
    task: Task


def cold_validation(dataset: Dataset, share: float) -> ColdValidation | None:
    """Return the validation on new items, ``share`` of the items that are trained on; None where there is none.

    They are the items of the validation part that training does not have, if these are as many (in a split by time,
    say); else training items at random, drawn by the data set's fingerprint, with all their interactions in training
    and validation. Users who have no other training interactions are not evaluated. None for a share of 0, without a
    protocol that ranks new items alone, and of less than :data:`LEAST` items.
    """
    train, pool = dataset.train, np.unique(dataset.train.item_idx)
    protocols = tuple(
        protocol.name
        for protocol in dataset.protocols
        if len(protocol.candidates) and not np.isin(protocol.candidates, pool).any()
    )
    number = round(share * len(pool))
    if not protocols or dataset.sessions is not None or number < LEAST:
        return None
    items, known = np.setdiff1d(dataset.valid.item_idx, pool), dataset.valid
    if len(items) < number:
        generator = np.random.default_rng(int(dataset.fingerprint, 16))
        items = np.sort(generator.choice(pool, number, replace=False))
        train = train.take(~np.isin(train.item_idx, items))
        known = dataset.joined(["train", "valid"])
    users, n_items = len(dataset.users), len(dataset.items)
    trained = np.bincount(train.user_idx, minlength=users).astype(bool)
    known = known.take(np.isin(known.item_idx, items) & trained[known.user_idx])
    task = Task.of(known, train, items, users, n_items)
    return ColdValidation(protocols, train, task) if len(task.users) else None
