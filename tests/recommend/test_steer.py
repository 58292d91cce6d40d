"""Rankings by profile texts, before and after an edit, with an encoder whose vectors are known."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from reclm.data.dataset import Dataset, Interactions, Protocol
from reclm.data.id_map import IdMap
from reclm.errors import ReclmError
from reclm.folders import Workspace
from reclm.profiles.ensure import ProfilerChoice, ensure_profiles
from reclm.recommend.steering import (
    TextRanking,
    item_categories,
    rank_both,
    steer,
    steering,
    stored_steering,
    user_profile,
)

GENRES = ("comedy", "drama", "horror")


class Genres:
    """An axis a genre: 1 for each time it is named, 3 less where it is disliked; and 0.1 for each x."""

    name = source = "genres"
    dim = 4
    window = 10**6

    def __init__(self) -> None:
        self.calls: list[int] = []

    def encode(
        self, texts: Sequence[str], batch_size: int = 32, progress: Callable[[int], None] | None = None
    ) -> np.ndarray:
        self.calls.append(len(texts))
        rows = []
        for text in map(str.lower, texts):
            rows.append([text.count(one) - 3 * text.count(f"dislikes {one}") for one in GENRES])
            rows[-1].append(0.1 * text.count("x"))
        return np.array(rows, np.float32)

    def truncated(self, texts: Sequence[str]) -> float:
        return float(np.mean([len(text) > self.window for text in texts]))


def films(genres: str, touched: Sequence[tuple[int, int]], valid: Sequence[tuple[int, int]] = ()) -> Dataset:
    """A film a letter of ``genres``; the k-th of a genre has k x in its title, from 0."""
    names = {one[0]: one.capitalize() for one in GENRES}
    titles = [f"{'x' * genres[:at].count(one)}{one}" for at, one in enumerate(genres)]
    train, held = (Interactions(*np.array(part or np.empty((0, 2), np.int64)).T) for part in (touched, valid))
    return Dataset(
        "films",
        IdMap(["u0", "u1", "u2", "u3"], "user"),
        IdMap([f"i{row}" for row in range(len(genres))], "item"),
        train,
        held,
        Interactions.empty(),
        pa.table({"title": titles, "genre": [names[one] for one in genres]}),
        (Protocol("full-shot", np.arange(len(genres))),),
    )


# i0 … i3 comedies, i4 … i7 dramas, i8 … i11 horror films
EVEN = films("ccccddddhhhh", [(0, 0), (0, 4), (1, 5), (2, 5)], [(0, 1)])
# one drama, i7, and more than half of all are comedies: horror alone has two films and is not most
ONE = films("ccccccc" + "d" + "hhhh", [(0, 7), (1, 7), (2, 7), (3, 7)])


@pytest.fixture
def workspace(tmp_path: Any) -> Workspace:
    return Workspace(tmp_path)


Rank = Callable[..., TextRanking]


@pytest.fixture
def rank(workspace: Workspace) -> Rank:
    """A ranking of a data set's items."""
    return lambda dataset: TextRanking(dataset, Genres(), workspace, progress=False)  # pyright: ignore[reportArgumentType]


def test_scores_are_cosines_and_what_was_touched_is_masked(rank: Rank) -> None:
    scores = rank(EVEN).scores(["comedy", "horror and drama"], np.array([0, 1])).numpy()
    near = [1 / (1 + (0.1 * k) ** 2) ** 0.5 for k in range(4)]
    none = -np.inf
    assert scores[0] == pytest.approx([none, none, near[2], near[3], none, *[0] * 7])
    both = [one / 2**0.5 for one in near]
    assert scores[1] == pytest.approx([0, 0, 0, 0, both[0], none, *both[2:], *both], abs=1e-6)


def test_items_without_text_are_not_ranked(rank: Rank) -> None:
    text = pa.table({"title": ["", *"bcdefghijkl"], "genre": ["", *["Comedy"] * 11]})
    scores = rank(replace(EVEN, item_text=text)).scores(["comedy"], np.array([3]))
    assert scores[0, 0] == -np.inf
    assert scores[0, 1:].tolist() == pytest.approx([1.0] * 11, abs=0.01)
    with pytest.raises(ReclmError, match="has no item with a text to rank by"):
        rank(replace(EVEN, item_text=pa.table({"title": [""] * 12})))
    with pytest.raises(ReclmError, match="has no item text to rank by"):
        rank(replace(EVEN, item_text=EVEN.item_text.select([])))


def test_an_edit_moves_items_by_places_worked_by_hand(rank: Rank) -> None:
    before, after = rank_both(rank(EVEN), 0, "comedy", "comedy, horror, horror", 3)
    # as it is: comedies i2, i3, then all that score 0 in the order of rows: i5, i6, i7, i8 …
    assert [(one.item_id, one.rank, one.other_rank) for one in before] == [
        ("i2", 1, 5),
        ("i3", 2, 6),
        ("i5", 3, 7),
    ]
    # edited: the four horror films 2/√5, then the comedies 1/√5, then dramas
    assert [(one.item_id, one.rank, one.other_rank, one.rose) for one in after] == [
        ("i8", 1, 6, 5),
        ("i9", 2, 7, 5),
        ("i10", 3, 8, 5),
    ]
    assert [one.score for one in after] == pytest.approx(
        [2 / 5**0.5 / (1 + k * k / 100) ** 0.5 for k in range(3)]
    )
    assert [one.title for one in after] == ["h", "xh", "xxh"]


def test_lists_are_no_longer_than_what_is_left(rank: Rank) -> None:
    data = films("cdh", [(0, 0), (0, 1), (1, 0), (1, 1), (1, 2)])
    before, after = rank_both(rank(data), 0, "comedy", "drama", 10)
    assert [one.item_id for one in before] == [one.item_id for one in after] == ["i2"]
    with pytest.raises(ReclmError, match="touched every item"):
        rank_both(rank(data), 1, "comedy", "drama", 10)


KEYWORDS = ProfilerChoice("keywords")


def test_the_stored_profile_is_taken_else_one_is_written_and_not_stored(workspace: Workspace) -> None:
    view = EVEN.view()
    now = user_profile(view, workspace, KEYWORDS, "u0")
    assert (now.store, now.writer) == (None, "keywords")
    assert "comedy" in now.text.lower()
    store, _ = ensure_profiles(view, workspace, KEYWORDS, ("user",), limit=1, progress=False)
    with store:
        (profile,) = (one for one in [store.get("user", "u0")] if one)
        store.add([replace(profile, text="told otherwise")])
    stored = user_profile(view, workspace, KEYWORDS, "u0")
    assert (stored.text, stored.store) == ("told otherwise", store.folder)
    assert user_profile(view, workspace, KEYWORDS, "u1").store is None
    with pytest.raises(ReclmError, match="has nothing to say of user 'u3'"):
        user_profile(view, workspace, KEYWORDS, "u3")


def steered(workspace: Workspace, **options: Any) -> Any:
    found = {"user": "u0", "profiler": KEYWORDS, "topk": 3, "progress": False} | options
    return steer(EVEN, workspace, found.pop("encoder", Genres()), **found)


def test_steer_shows_history_profile_and_both_lists(workspace: Workspace) -> None:
    found = steered(workspace, edit=lambda profile: "  Horror, horror, comedy \n")
    assert found.edited == "Horror, horror, comedy"
    assert found.touched == 2
    assert sorted(found.history) == ["c", "d"]
    assert [one.item_id for one in found.after] == ["i8", "i9", "i10"]
    assert [one.item_id for one in found.left] == [one.item_id for one in found.before]
    assert not found.cut
    alone = steered(workspace)
    assert (alone.edited, alone.after, alone.left) == (None, [], [])
    assert alone.before[0].other_rank == 1


def test_a_profile_beyond_the_encoders_window_is_said(workspace: Workspace) -> None:
    short = Genres()
    short.window = 60
    assert not steered(workspace, encoder=short, edit=lambda profile: "x" * 60).cut
    assert steered(workspace, encoder=short, edit=lambda profile: "x" * 61).cut


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"user": "u9"}, "unknown user 'u9' among the 4 users"),
        ({"edit": lambda profile: f" {profile}\n"}, "the edited profile is the same"),
        ({"edit": lambda profile: " "}, "the edited profile is empty"),
        ({"profiler": ProfilerChoice("keyword")}, "did you mean 'keywords'"),
    ],
)
def test_steer_says_what_is_wrong(workspace: Workspace, options: dict[str, Any], says: str) -> None:
    with pytest.raises(ReclmError, match=says):
        steered(workspace, **options)


def test_categories_are_the_values_of_fields_that_hold_topics() -> None:
    fields = pa.table(
        {
            "title": ["a", "b", "c", "d", "e", "f", "g"],
            "genre": ["war, spy", " spy|war", "war;spy", None, "spy", "war", ""],
            "kind": ["sci_fi", "sci_fi", "", "spy", "sci_fi", "spy", "spy"],
        }
    )
    names, keys = item_categories(fields)
    pairs = {(int(key // 3), names[key % 3]) for key in keys}
    assert sorted(names) == ["sci fi", "spy", "war"]
    assert pairs == {
        *((row, "war") for row in (0, 1, 2, 5)),
        *((row, "spy") for row in (0, 1, 2, 3, 4, 5, 6)),
        *((row, "sci fi") for row in (0, 1, 4)),
    }
    assert len(keys) == len(pairs)


PROFILES = {"u0": "Comedy.", "u1": "Horror.", "u2": "Comedy, horror.", "nobody": "Drama.", "u3": " "}


def test_the_measure_of_three_users_worked_by_hand(rank: Rank) -> None:
    """The share of horror films among two: as it is, with "Loves Horror.", with "Dislikes Horror."

    u0: comedies 0; a comedy and a horror film alike ½; comedies 0. u1: 1; 1; none, what it says is -1 horror, 0. u2: ½;
    two horror films to one comedy 1; comedies alone 0.
    """
    ranking = rank(ONE)
    encoder: Any = ranking.encoder
    encoder.calls.clear()
    found = steering(ranking, PROFILES, topk=2, progress=False)
    assert encoder.calls == [9]
    assert (found.users, found.described, found.total, found.categories) == (3, 3, 4, 1)
    assert found.share == pytest.approx((0 + 1 + 1 / 2) / 3)
    t = 4.302653  # of Student's distribution with 2 degrees of freedom, two-sided 95 %
    loves = found.loves
    assert loves.change == pytest.approx((1 / 2 + 0 + 1 / 2) / 3)
    half = t * (1 / 12) ** 0.5 / 3**0.5  # variance ((1/6)² + (1/3)² + (1/6)²) / 2
    assert (loves.low, loves.high) == pytest.approx((1 / 3 - half, 1 / 3 + half), abs=1e-6)
    assert (loves.right, loves.possible) == (pytest.approx(2 / 3), 2)
    dislikes = found.dislikes
    assert dislikes.change == pytest.approx((0 - 1 - 1 / 2) / 3)
    half = t * (1 / 4) ** 0.5 / 3**0.5
    assert (dislikes.low, dislikes.high) == pytest.approx((-1 / 2 - half, -1 / 2 + half), abs=1e-6)
    assert (dislikes.right, dislikes.possible) == (pytest.approx(2 / 3), 2)
    assert found.cut == 0


def test_the_sentences_are_the_callers(rank: Rank) -> None:
    found = steering(
        rank(ONE), PROFILES, topk=2, loves=" {category} {category}!", dislikes=" {no}", progress=False
    )
    assert found.loves.sentence == " {category} {category}!"
    # u0: horror twice, comedy once: 1; u1: 1; u2: 1
    assert found.loves.change == pytest.approx((1 + 0 + 1 / 2) / 3)
    assert (found.dislikes.change, found.dislikes.right) == (0, 0)


def test_the_draw_is_the_seeds_alone_and_no_larger_than_asked(rank: Rank) -> None:
    ranking = rank(EVEN)
    profiles = {"u0": "Comedy.", "u1": "Drama.", "u2": "Drama, horror."}
    first = steering(ranking, profiles, users=2, topk=2, seed=3, progress=False)
    np.random.seed(0)  # noqa: NPY002 - the global state must not matter
    turned = dict(reversed(profiles.items()))
    assert steering(ranking, turned, users=2, topk=2, seed=3, progress=False) == first
    assert (first.users, first.described, first.categories) == (2, 3, 3)
    found = {
        steering(ranking, profiles, users=2, topk=2, seed=seed, progress=False).share for seed in range(9)
    }
    assert len(found) > 1
    one = steering(ranking, profiles, users=1, topk=2, progress=False)
    assert (one.loves.low, one.loves.high) == (None, None)


def test_a_sentence_beyond_the_window_is_counted(rank: Rank) -> None:
    ranking = rank(ONE)
    encoder: Any = ranking.encoder
    encoder.window = len("Comedy. Dislikes Horror.")
    # six edited profiles: those of u2 are longer, and so is none of the others
    assert steering(ranking, PROFILES, topk=2, progress=False).cut == pytest.approx(2 / 6)


def test_the_share_is_of_what_is_left_where_that_is_less_than_the_list(rank: Rank) -> None:
    data = films("ccccccc" + "d" + "hhhh", [(0, row) for row in range(9)])
    found = steering(rank(data), {"u0": "Comedy."}, topk=4, progress=False)
    assert found.share == 1  # i9, i10 and i11 are left, all horror


def test_the_measure_says_what_is_missing(rank: Rank, workspace: Workspace) -> None:
    with pytest.raises(ReclmError, match="no user of data set 'films' has a stored profile"):
        steering(rank(ONE), {"nobody": "Drama.", "u1": ""}, progress=False)
    with pytest.raises(ReclmError, match="no category that at least 5 and at most half"):
        steering(rank(ONE), PROFILES, topk=5, progress=False)
    with pytest.raises(ReclmError, match="reclm profile --dataset films --profiler keywords --kind user"):
        stored_steering(ONE, workspace, Genres(), KEYWORDS, progress=False)  # pyright: ignore[reportArgumentType]


def test_stored_profiles_are_measured(rank: Rank, workspace: Workspace) -> None:
    store, _ = ensure_profiles(EVEN.view(), workspace, KEYWORDS, ("user",), progress=False)
    found = stored_steering(EVEN, workspace, Genres(), KEYWORDS, topk=2, progress=False)  # pyright: ignore[reportArgumentType]
    assert (found.users, found.total) == (3, 4)  # u3 has no history
    assert found == steering(rank(EVEN), store.texts("user"), topk=2, progress=False)
