"""Ways to divide interactions."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reclm.data import splits
from reclm.data.splits import TEST, TRAIN, VALID


def seeded(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_place_from_newest_counts_newer_interactions_and_later_rows_break_ties():
    user = np.array([0, 1, 0, 0, 1])
    time = np.array([30, 5, 10, 30, 4])
    # user 0: row 3 (30, later row), row 0 (30), row 2 (10); user 1: row 1 (5), row 4 (4)
    assert splits.place_from_newest(user, time, seeded()).tolist() == [1, 0, 2, 0, 1]


def test_temporal_split_takes_floors_of_ten_and_leaves_the_oldest_to_train():
    user, time = np.zeros(30, int), np.arange(30)
    part = splits.per_user_temporal(user, time, 0.1, 0.1, seeded())
    # 0.1 · 30 = 3 each, although 30 * 0.1 is 3.0000000000000004 and 0.1 * 29 is 2.9
    assert part.tolist() == [TRAIN] * 24 + [VALID] * 3 + [TEST] * 3
    assert splits.per_user_temporal(user[:29], time[:29], 0.1, 0.1, seeded()).tolist() == (
        [TRAIN] * 25 + [VALID] * 2 + [TEST] * 2
    )


@pytest.mark.parametrize(
    ("count", "expected"),
    [(1, [TRAIN]), (2, [TRAIN, TEST]), (3, [TRAIN, VALID, TEST]), (4, [TRAIN, TRAIN, VALID, TEST])],
)
def test_short_histories_keep_one_to_train_then_one_to_test(count, expected):
    part = splits.per_user_temporal(np.zeros(count, int), np.arange(count), 0.1, 0.1, seeded())
    assert part.tolist() == expected


def test_a_fraction_of_zero_takes_nothing():
    part = splits.per_user_temporal(np.zeros(10, int), np.arange(10), 0, 0.1, seeded())
    assert part.tolist() == [TRAIN] * 9 + [TEST]


def test_without_timestamps_the_seed_decides():
    user = np.repeat(np.arange(20), 10)
    first = splits.per_user_temporal(user, None, 0.1, 0.1, seeded(1))
    np.random.seed(7)  # noqa: NPY002 the global state has no say
    assert (first == splits.per_user_temporal(user, None, 0.1, 0.1, seeded(1))).all()
    assert (first != splits.per_user_temporal(user, None, 0.1, 0.1, seeded(2))).any()
    assert np.bincount(user[first == TEST]).tolist() == [1] * 20


def test_hold_out_takes_the_newest_of_users_who_can_spare_one():
    user = np.array([0, 0, 0, 1, 1, 2])
    time = np.array([3, 9, 5, 8, 7, 1])
    # round(.34 · 6) = 2: the newest of users 0 (row 1) and 1 (row 3); user 2 has one only
    assert np.flatnonzero(splits.hold_out_validation(user, time, 0.34, seeded())).tolist() == [1, 3]
    # round(.5 · 6) = 3: then the second newest of user 0
    assert np.flatnonzero(splits.hold_out_validation(user, time, 0.5, seeded())).tolist() == [1, 2, 3]
    # more than there is to spare: each user keeps the oldest
    assert np.flatnonzero(~splits.hold_out_validation(user, time, 0.9, seeded())).tolist() == [0, 4, 5]
    assert not splits.hold_out_validation(user, time, 0, seeded()).any()


@given(
    st.lists(st.integers(0, 9), min_size=1, max_size=60),
    st.floats(0, 0.99),
    st.booleans(),
    st.integers(0, 5),
)
def test_hold_out_never_takes_all_of_a_user(users, fraction, timed, seed):
    user = np.array(users)
    time = np.arange(len(user))[::-1] if timed else None
    mask = splits.hold_out_validation(user, time, fraction, seeded(seed))
    spare = len(user) - len(np.unique(user))
    assert mask.sum() == min(spare, round(fraction * len(user)))
    assert set(user[~mask]) == set(users)


def test_hold_out_items_is_a_seeded_tenth():
    held = splits.hold_out_items(50, 0.1, seeded(3))
    assert len(set(held)) == 5
    assert (np.diff(held) > 0).all()
    assert held.tolist() == splits.hold_out_items(50, 0.1, seeded(3)).tolist()
    assert len(splits.hold_out_items(3, 0.1, seeded())) == 1
    assert len(splits.hold_out_items(3, 0, seeded())) == 0


def test_core_repeats_until_both_bounds_hold():
    # item 2 has one user and goes; that leaves user 1 with one item, who goes too; that leaves item 1 with one user
    user = np.array([0, 0, 1, 1, 2, 2])
    item = np.array([0, 1, 1, 2, 0, 3])
    assert splits.core(user, item, 1, 2).tolist() == [True, True, True, False, True, False]
    assert splits.core(user, item, 2, 2).tolist() == [False] * 6
    assert splits.core(user, item, 2, 1).all()


def test_first_of_pairs_keeps_the_earliest():
    user, item = np.array([1, 1, 0, 1]), np.array([4, 4, 4, 4])
    assert splits.first_of_pairs(user, item, np.array([9, 3, 5, 7])).tolist() == [False, True, True, False]
    assert splits.first_of_pairs(user, item, None).tolist() == [True, False, True, False]


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 2)), max_size=30), st.booleans()
)
def test_the_earliest_of_each_pair_is_marked(rows, timed):
    user, item, time = np.array(rows, np.int64).reshape(-1, 3).T
    expected = np.zeros(len(rows), bool)
    for pair in {(u, i) for u, i, _ in rows}:
        of_pair = [row for row, (u, i, _) in enumerate(rows) if (u, i) == pair]
        expected[min(of_pair, key=lambda row: rows[row][2] if timed else 0)] = True
    assert (splits.first_of_pairs(user, item, time if timed else None) == expected).all()
