"""New items to validate on: left out of training, the same for every seed, none where they would choose by luck."""

from dataclasses import replace

import numpy as np
import pytest

from reclm.data.dataset import Dataset, Interactions
from reclm.recommend.cold_validation import LEAST, cold_validation
from reclm.testing import checkerboard

DATA = checkerboard(users=24, items=240, cold=24)


def pairs_of(part: Interactions) -> set[tuple[int, int]]:
    return set(zip(part.user_idx.tolist(), part.item_idx.tolist(), strict=True))


def test_a_share_of_the_training_items_leaves_the_training_whole():
    cold = cold_validation(DATA, 0.1)
    assert cold is not None
    items = cold.task.candidates.numpy()
    assert cold.protocols == ("zero-shot",)
    assert len(items) == round(0.1 * len(np.unique(DATA.train.item_idx))) >= LEAST
    assert np.isin(items, DATA.train.item_idx).all()
    assert not np.isin(cold.train.item_idx, items).any()
    assert pairs_of(cold.train) == {pair for pair in pairs_of(DATA.train) if pair[1] not in items}
    # all their interactions in training and validation are to be found, none of the test part
    users, places = cold.task.truth.nonzero()
    found = set(zip(cold.task.users.numpy()[users].tolist(), items[places].tolist(), strict=True))
    assert found == {pair for part in (DATA.train, DATA.valid) for pair in pairs_of(part) if pair[1] in items}
    assert cold.task.mask.nnz == 0


def test_the_data_set_draws_them():
    first, again, other = (cold_validation(data, 0.1) for data in (DATA, DATA, checkerboard(24, 240, 24, 1)))
    assert first is not None
    assert again is not None
    assert other is not None
    assert first.task.candidates.tolist() == again.task.candidates.tolist() != other.task.candidates.tolist()


def test_new_items_of_the_validation_part_are_taken_as_they_are():
    late = np.unique(DATA.valid.item_idx)[:LEAST]
    data = replace(DATA, train=DATA.train.take(~np.isin(DATA.train.item_idx, late)))
    cold = cold_validation(data, 0.1)
    assert cold is not None
    assert cold.train is data.train
    assert set(late) <= set(cold.task.candidates.tolist())
    assert not np.isin(cold.task.candidates.numpy(), data.train.item_idx).any()


@pytest.mark.parametrize(
    ("data", "share"),
    [
        (DATA, 0.0),
        (checkerboard(), 0.1),  # two new items would choose by luck
        (replace(DATA, protocols=DATA.protocols[:1]), 0.1),
    ],
)
def test_nothing_is_left_out(data: Dataset, share: float):
    assert cold_validation(data, share) is None


def test_a_user_who_has_nothing_else_is_not_evaluated():
    place = np.arange(len(DATA.train)) - np.searchsorted(DATA.train.user_idx, DATA.train.user_idx)
    few = replace(DATA, train=DATA.train.take(place % 20 < 2))  # a few interactions a user
    cold = cold_validation(few, 0.9)
    assert cold is not None
    left = np.isin(np.arange(24), cold.train.user_idx)
    assert 0 < left.sum() < 24
    assert np.flatnonzero(left).tolist() == cold.task.users.tolist()
