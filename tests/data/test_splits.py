"""Ways to divide interactions."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reclm.benchmarks.leaks import check_time
from reclm.data import splits
from reclm.data.dataset import Dataset, Interactions, ReadReport
from reclm.data.id_map import IdMap
from reclm.data.splits import TEST, TRAIN, VALID
from reclm.data.storage import load_folder
from reclm.errors import BadInput


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


def test_at_moments_no_training_is_later_than_validation_nor_this_than_the_test():
    time = np.array([5, 1, 9, 3, 7, 0, 8, 2, 6, 4])
    # the newest 2 of 10 (8 and 9) test, the 3 before (5, 6, 7) validate
    expected = [VALID, TRAIN, TEST, TRAIN, VALID, TRAIN, TEST, TRAIN, VALID, TRAIN]
    assert splits.at_moments(time, 0.3, 0.2).tolist() == expected
    assert splits.at_moments(time, 0, 0.2).tolist() == [TRAIN if part == VALID else part for part in expected]
    assert (splits.at_moments(time, 0, 0) == TRAIN).all()
    # of equal times all are in the later part
    assert splits.at_moments(np.array([1, 2, 2, 2, 3]), 0.4, 0.2).tolist() == [TRAIN, *[VALID] * 3, TEST]


def log_of(rows: list[tuple[int, int, int]], **options: object) -> Dataset:
    user, item, time = np.array(rows, np.int64).T
    users, items = (
        IdMap(map(str, range(ids.max() + 1)), kind) for ids, kind in ((user, "user"), (item, "item"))
    )
    config = splits.SplitOptions.build(options, where="test")
    times = None if options.get("valid") == 0 else time
    text = pa.table({"title": [f"item {n}" for n in range(len(items))]})
    return splits.from_log("log", users, items, Interactions(user, item, times), text, config, ReadReport())


def test_a_split_by_time_ranks_new_items_zero_shot_and_leaves_out_users_without_training():
    rows = [(user, (user + step) % 5, 10 * step + user) for step in range(4) for user in range(4)]
    rows += [(0, 5, 90), (1, 5, 91), (4, 5, 92), (2, 0, 93)]  # item 5 and user 4 come in the test
    data = log_of(rows, split="time", test=0.2, valid=0.2)
    assert data.by_time
    assert check_time(data)
    assert data.train.timestamp.max() < data.valid.timestamp.min() < data.test.timestamp.min()  # pyright: ignore[reportOptionalMemberAccess]
    assert {p.name: data.items.ids(p.candidates) for p in data.protocols} == {
        "full-shot": ["0", "1", "2", "3", "4", "5"],
        "zero-shot": ["5"],
    }
    assert data.users.ids() == ["0", "1", "2", "3"]
    assert data.report.dropped["of a user without training interactions"] == 1
    assert data.report.dropped["user without interactions left"] == 1


def test_an_item_that_only_users_without_training_saw_before_the_test_is_not_new():
    rows = [(0, 0, 0), (1, 1, 1), (0, 2, 2), (1, 2, 3), (2, 3, 4), (0, 3, 5), (1, 4, 6)]
    data = log_of(rows, split="time", test=0.3, valid=0.15)
    assert data.items.ids(data.protocol("zero-shot").candidates) == ["4"]


def test_a_split_by_time_needs_times_and_holds_out_no_items_of_its_own():
    with pytest.raises(BadInput) as error:
        log_of([(0, 0, 0), (0, 1, 1)], split="time", valid=0)
    assert (error.value.value, error.value.where) == ("time", "log")
    with pytest.raises(BadInput):
        splits.SplitOptions.build({"split": "time", "held_out_items": 0.2}, where="test")


def test_a_data_set_split_by_time_is_saved_and_one_of_the_same_parts_without_is_another(tmp_path):
    data = log_of([(user, step, step) for user in range(3) for step in range(9)], split="time")
    data.save(tmp_path / "saved")
    assert load_folder(tmp_path / "saved").by_time
    assert replace(data, by_time=False).fingerprint != data.fingerprint
