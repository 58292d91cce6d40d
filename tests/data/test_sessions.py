"""Sessions, against values worked by hand and against a plain loop over users."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from reclm.data.dataset import Dataset, Interactions, Protocol
from reclm.data.id_map import IdMap
from reclm.data.sessions import SessionOptions, Sessions, next_item
from reclm.data.storage import load_folder
from reclm.errors import BadInput, Damaged

NO_FILTER = {
    "min_user": 1,
    "min_item": 1,
    "max_item_tokens": None,
    "max_history_tokens": None,
    "need_text": False,
}


def words(texts: Sequence[str]) -> list[int]:
    return [len(text.split()) for text in texts]


def make_dataset(
    rows: list[tuple[int, int, int]],
    items: int,
    texts: list[str] | None = None,
    parts: list[int] | None = None,
) -> Dataset:
    """A data set of (user, item, time); ``parts`` says which go to train (0), valid (1) and test (2)."""
    user, item, time = np.array(rows, np.int64).reshape(-1, 3).T
    review = pa.array([f"{u} on {i}" for u, i, _ in rows], pa.string())
    log = Interactions(user, item, time, (user + item).astype(np.float32), review)
    part = np.zeros(len(rows), int) if parts is None else np.array(parts)
    return Dataset(
        "made",
        IdMap(range(user.max() + 1), "user"),
        IdMap(range(items), "item"),
        *(log.take(part == which) for which in range(3)),
        item_text=pa.table({"title": texts or [f"film {item}" for item in range(items)]}),
        protocols=(Protocol("full-shot", np.arange(items)),),
    )


def make_sessions(*arguments: Any, **counters: Any) -> Sessions:
    sessions = next_item(*arguments, **counters).sessions
    assert sessions is not None
    return sessions


def options(**changed: object) -> SessionOptions:
    return SessionOptions.build({**NO_FILTER, **changed})


ROWS = [
    # user 0 did 0, 1, 2, 3, 4, 5 in this order; user 1 has one item too few; user 2 comes back to 3 later
    *[(0, item, 100 + item) for item in (5, 3, 4, 0, 2, 1)],
    *[(1, item, item) for item in range(4)],
    (2, 3, 1), (2, 2, 2), (2, 3, 3), (2, 1, 4), (2, 0, 5), (2, 5, 6),
]  # fmt: skip


def test_first_items_by_hand():
    sessions = make_sessions(make_dataset(ROWS, 6), options(valid=0, test=0))
    assert sessions.users.tolist() == [0, 2]
    assert sessions.history.tolist() == [[0, 1, 2, 3], [3, 2, 1, 0]]
    assert sessions.future.tolist() == [[4], [5]]
    assert sessions.items.tolist() == [0, 1, 2, 3, 4, 5]
    assert sessions.rating.tolist() == [[0, 1, 2, 3], [5, 4, 3, 2]]
    assert sessions.reviews(1) == ["2 on 3", "2 on 2", "2 on 1", "2 on 0"]
    assert sessions.rows("train").tolist() == [0, 1]
    assert sessions.dropped == {"repeated interaction": 1, "user with too few items for a session": 1}


def test_last_items_and_short_histories_by_hand():
    sessions = make_sessions(
        make_dataset(ROWS, 6), options(take="newest", history=3, future=2, min_history=2, valid=0, test=0)
    )
    assert sessions.users.tolist() == [0, 1, 2]
    assert sessions.history.tolist() == [[1, 2, 3], [0, 1, -1], [3, 2, 1]]
    assert sessions.future.tolist() == [[4, 5], [2, 3], [0, 5]]
    assert sessions.reviews(1) == ["1 on 0", "1 on 1"]
    assert np.isnan(sessions.rating[1, 2])


def test_of_a_view_there_is_the_training_part_only():
    dataset = make_dataset(ROWS[:6], 6, parts=[2, 0, 1, 0, 0, 0])
    assert make_sessions(dataset, options(valid=0, test=0)).future.tolist() == [[4]]
    sessions = make_sessions(dataset.view(), options(history=3, valid=0, test=0))
    assert (sessions.history.tolist(), sessions.future.tolist()) == ([[0, 1, 2]], [[3]])
    assert sessions.fingerprint == dataset.fingerprint


def test_items_without_text_or_with_too_long_a_one_are_left_out():
    texts = ["one", "", "one two three", "one", "one two", " "]
    dataset = make_dataset([(0, item, item) for item in range(6)], 6, texts)
    limits = {"need_text": True, "max_item_tokens": 2, "history": 2, "valid": 0, "test": 0}
    sessions = make_sessions(dataset, options(**limits), encoder_tokens=words)
    assert (sessions.history.tolist(), sessions.future.tolist()) == ([[0, 3]], [[4]])
    assert sessions.items.tolist() == [0, 3, 4]
    assert sessions.dropped == {
        "interaction with an item without text": 2,
        "interaction with an item of more than 2 tokens": 1,
    }


def test_long_histories_take_their_users_and_then_items_below_the_minimum_along():
    # reviews have 3 words each, titles 2, but item 4's title 9: 4 × 5 = 20 and 3 × 5 + 12 = 27
    texts = [f"film {item}" for item in range(4)] + ["word " * 9, "film 5"]
    rows = [(user, item, item) for user in (0, 1) for item in (0, 1, 2, 3, 5)]
    rows += [(2, item, item) for item in (0, 1, 2, 4, 5)]
    rows += [(3, item, item) for item in (0, 1, 2, 3, 4)]  # item 4 comes last: not in the history
    limits = {"max_history_tokens": 20, "min_item": 2, "min_user": 5, "valid": 0, "test": 0}
    counted: list[str] = []

    def count(texts: Sequence[str]) -> list[int]:
        counted.extend(texts)
        return words(texts)

    sessions = make_sessions(make_dataset(rows, 6, texts), options(**limits), model_tokens=count)
    # user 2's history is too long; then item 4 has user 3 only, who so has four items left
    assert sessions.users.tolist() == [0, 1]
    assert sessions.items.tolist() == [0, 1, 2, 3, 5]
    assert sessions.dropped == {
        "user with a history of more than 20 tokens": 1,
        "interaction of a user or item with too few": 5,
    }
    assert len(counted) == len(set(counted))  # each text once


def test_users_are_split_by_the_seed():
    dataset = make_dataset([(user, item, item) for user in range(100) for item in range(5)], 5)
    sessions, again, other = (make_sessions(dataset, options(seed=seed)) for seed in (0, 0, 1))
    assert {name: len(sessions.rows(name)) for name in ("train", "valid", "test")} == {
        "train": 84, "valid": 8, "test": 8,
    }  # fmt: skip
    assert (sessions.split == again.split).all()
    assert (sessions.split != other.split).any()
    few = make_sessions(make_dataset([*ROWS[:10], (1, 4, 9), *ROWS[10:]], 6), options())
    assert sorted(few.split.tolist()) == [0, 1, 2]


log = st.lists(st.tuples(st.integers(0, 7), st.integers(0, 9), st.integers(0, 6)), min_size=1, max_size=80)


@settings(deadline=None)
@given(
    log,
    st.integers(1, 4),
    st.integers(1, 2),
    st.integers(1, 3),
    st.sampled_from(["oldest", "newest"]),
    st.data(),
)
def test_sessions_are_those_of_a_plain_loop(rows, history, future, least, take, data):
    parts = data.draw(st.lists(st.integers(0, 2), min_size=len(rows), max_size=len(rows)))
    parts[0] = 0
    dataset = make_dataset(rows, 10, parts=parts)
    min_history = data.draw(st.integers(1, history))
    chosen = options(
        history=history, future=future, take=take, min_user=least, min_item=least, min_history=min_history
    )
    together = [row for which in range(3) for row, part in zip(rows, parts, strict=True) if part == which]
    expected, items = plain_loop(together, history, future, min_history, least, take)
    if len(expected) < 3:  # one each to validate and test on leaves none to train on
        with pytest.raises(BadInput, match="sessions"):
            make_sessions(dataset, chosen)
        return
    sessions = make_sessions(dataset, chosen)
    assert sessions.items.tolist() == sorted(items)
    found = zip(sessions.users.tolist(), sessions.history.tolist(), sessions.future.tolist(), strict=True)
    assert {user: ([one for one in past if one >= 0], then) for user, past, then in found} == expected
    first_time = {}
    for user, item, time in together:
        first_time[user, item] = min(time, first_time.get((user, item), math.inf))
    for row, user in enumerate(sessions.users.tolist()):
        past = sessions.history[row][sessions.history[row] >= 0].tolist()
        times = [first_time[user, item] for item in [*past, *sessions.future[row].tolist()]]
        assert times == sorted(times)
        assert not set(past) & set(sessions.future[row].tolist())
        assert sessions.reviews(row) == [f"{user} on {item}" for item in past]
        assert sessions.rating[row][: len(past)].tolist() == [user + item for item in past]
    assert len(np.unique(sessions.users)) == len(sessions)
    rows_by_split = [sessions.rows(name) for name in ("train", "valid", "test")]
    assert sorted(np.concatenate(rows_by_split).tolist()) == list(range(len(sessions)))


def plain_loop(
    rows: list[tuple[int, int, int]], history: int, future: int, min_history: int, least: int, take: str
) -> tuple[dict[int, tuple[list[int], list[int]]], set[int]]:
    """History and future of each user, and the items that the filters leave."""
    done: dict[int, list[int]] = {}
    for user, item, _ in sorted(rows, key=lambda row: (row[0], row[2])):
        if item not in done.setdefault(user, []):
            done[user].append(item)
    while True:
        users_of = {item: sum(item in items for items in done.values()) for item in range(10)}
        kept = {user: [item for item in items if users_of[item] >= least] for user, items in done.items()}
        kept = {user: items for user, items in kept.items() if len(items) >= least}
        if kept == done:
            break
        done = kept
    sessions = {}
    for user, items in done.items():
        if len(items) >= min_history + future:
            shown = items[: history + future] if take == "oldest" else items[-history - future :]
            sessions[user] = (shown[:-future], shown[-future:])
    return sessions, {item for items in done.values() for item in items}


def test_without_timestamps_the_seed_orders():
    one = make_dataset([(0, item, 0) for item in range(30)], 30)
    bare = Interactions(one.train.user_idx, one.train.item_idx)
    dataset = Dataset(
        "bare",
        one.users,
        one.items,
        bare,
        Interactions.empty(),
        bare.take(np.arange(0)),
        one.item_text,
        one.protocols,
    )
    sessions, again, other = (
        make_sessions(dataset, options(seed=seed, valid=0, test=0)) for seed in (0, 0, 1)
    )
    assert sessions.history.tolist() == again.history.tolist() != other.history.tolist()
    assert (sessions.rating, sessions.review, sessions.reviews(0)) == (None, None, [])


def test_what_leaves_no_session_is_one_line():
    dataset = make_dataset(ROWS, 6)
    for changed, message in (
        ({"history": 9}, r"'made' has no sessions; .*left out: .*'user with too few items for a session': 3"),
        ({"min_item": 4}, "has no sessions"),
        ({"take": "newest", "history": 5, "valid": 0.4, "test": 0.4}, "1 sessions, none is left to train on"),
    ):
        with pytest.raises(BadInput, match=message) as caught:
            make_sessions(dataset, options(**changed))
        assert "\n" not in str(caught.value)
    with pytest.raises(BadInput, match="min_history 5 is more than history 4"):
        options(min_history=5)
    with pytest.raises(BadInput, match="leave nothing to train on"):
        options(valid=0.5, test=0.5)
    with pytest.raises(BadInput, match="max_history_tokens"):
        make_sessions(dataset, SessionOptions(max_item_tokens=None))


def pairs(part: Interactions) -> list[tuple[int, int]]:
    return list(zip(part.user_idx.tolist(), part.item_idx.tolist(), strict=True))


def test_next_item_is_a_protocol_whose_held_out_futures_no_profiler_sees():
    rows = [(user, (user + item) % 7, item) for user in range(10) for item in range(5)]
    source = make_dataset(rows, 7, parts=[item % 3 for _, item, _ in rows])
    dataset = next_item(source, options(history=3, future=2, valid=0.2, test=0.3))
    sessions, view = dataset.sessions, dataset.view()
    for row, user in enumerate(sessions.users.tolist()):
        history = [(user, item) for item in sessions.history[row].tolist()]
        future = [(user, item) for item in sessions.future[row].tolist()]
        split = ("train", "valid", "test")[sessions.split[row]]
        assert [pair for pair in pairs(dataset.train) if pair[0] == user] == history + future * (
            split == "train"
        )
        assert all(pair in pairs(dataset.split(split)) for pair in future)
        seen = view.sessions.future[row].tolist()
        assert seen == (sessions.future[row].tolist() if split == "train" else [-1, -1])
    assert [len(sessions.rows(split)) for split in ("train", "valid", "test")] == [5, 2, 3]
    assert (len(dataset.valid), len(dataset.test)) == (4, 6)
    protocol = dataset.protocol("next-item")
    assert (protocol.candidates.tolist(), protocol.mask) == (list(range(7)), ("train",))
    assert dataset.train.review is not None
    assert dataset.users is source.users
    assert (
        dataset.fingerprint
        != next_item(source, options(history=4, future=1, valid=0.2, test=0.3)).fingerprint
    )


def test_a_next_item_data_set_is_saved_and_loaded(tmp_path):
    dataset = next_item(make_dataset(ROWS, 6), options(history=3, min_history=2, valid=0, test=0.5))
    dataset.save(tmp_path / "saved")
    loaded = load_folder(tmp_path / "saved")
    assert loaded.fingerprint == dataset.fingerprint
    for name in ("users", "history", "future", "split", "items", "rating"):
        assert np.array_equal(
            getattr(loaded.sessions, name), getattr(dataset.sessions, name), equal_nan=name == "rating"
        )
    assert loaded.sessions.reviews(0) == dataset.sessions.reviews(0)
    assert loaded.sessions.options == dataset.sessions.options
    assert loaded.sessions.dropped == dataset.sessions.dropped
    head = (tmp_path / "saved" / "dataset.yaml").read_text()
    odd = {"dropped": {"x": "many"}, "options": [], "fingerprint": 1}
    for values in ({name: value} for name, value in odd.items()):
        about = yaml.safe_load(head)
        about["sessions"] |= values
        (tmp_path / "saved" / "dataset.yaml").write_text(yaml.safe_dump(about))
        with pytest.raises(Damaged) as caught:
            load_folder(tmp_path / "saved")
        assert caught.value.where == tmp_path / "saved" / "dataset.yaml"
    (tmp_path / "saved" / "dataset.yaml").write_text(head)
    next_item(make_dataset(ROWS, 6), options(valid=0)).save(tmp_path / "other")
    (tmp_path / "other" / "sessions.parquet").rename(tmp_path / "saved" / "sessions.parquet")
    with pytest.raises(Damaged, match="was changed after it was prepared"):
        load_folder(tmp_path / "saved")
    (tmp_path / "saved" / "sessions.parquet").write_text("x")
    with pytest.raises(Damaged, match="damaged data set"):
        load_folder(tmp_path / "saved")
