"""Rankings by profile texts, before and after an edit, with an encoder whose vectors are known."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch

from reclm import plugins
from reclm.data.dataset import Dataset, Interactions, ProfileKind, Protocol
from reclm.data.id_map import IdMap
from reclm.errors import BadInput, NotFound, ReclmError
from reclm.profiles.matrix import ProfileMatrix
from reclm.profiles.profiles import Profiles, TextProfiles
from reclm.profiles.write import stored_profiles, user_profile, write_profiles
from reclm.recommend.base import Inputs
from reclm.recommend.fit import fit
from reclm.recommend.recommender import Recommender
from reclm.recommend.steering import Steered, Steering, item_categories, measure_steering
from reclm.testing import checkerboard, features, profiles

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


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The workspace."""
    monkeypatch.setenv("RECLM_HOME", str(tmp_path))
    return tmp_path


def by_text(dataset: Dataset, texts: dict[str, str], encoder: Any = None) -> Recommender:
    """A ranking of a data set's items by the texts of some users."""
    return fit("similarity", dataset, TextProfiles(dataset, texts, encoder or Genres()), progress=False)  # pyright: ignore[reportArgumentType]


def test_scores_are_cosines_and_what_was_touched_is_left_out() -> None:
    model = by_text(EVEN, {"u0": "comedy", "u1": "horror and drama"})
    near = [1 / (1 + (0.1 * k) ** 2) ** 0.5 for k in range(4)]
    frame = model.recommend("u0", k=12)
    assert {"i0", "i1", "i4"}.isdisjoint(frame["item"])
    scores = dict(zip(frame["item"], frame["score"], strict=True))
    assert (scores["i2"], scores["i3"]) == pytest.approx((near[2], near[3]))
    assert scores["i8"] == pytest.approx(0, abs=2e-6)
    both = [one / 2**0.5 for one in near]
    scores = dict(model.recommend("u1", k=12)[["item", "score"]].to_numpy())
    assert [scores[f"i{row}"] for row in range(8, 12)] == pytest.approx(both, abs=2e-6)


def test_items_without_text_come_last() -> None:
    text = pa.table({"title": ["", *"bcdefghijkl"], "genre": ["", *["Comedy"] * 11]})
    frame = by_text(replace(EVEN, item_text=text), {"u3": "comedy"}).recommend("u3", k=12)
    assert frame["item"].tolist()[-1] == "i0"
    assert frame["score"].tolist()[:-1] == pytest.approx([1.0] * 11, abs=0.01)
    for nothing in (pa.table({"title": [""] * 12}), EVEN.item_text.select([])):
        with pytest.raises(NotFound):
            by_text(replace(EVEN, item_text=nothing), {"u3": "comedy"})


def test_an_edit_moves_items_by_places_worked_by_hand() -> None:
    found = by_text(EVEN, {"u0": "comedy"}).steer("u0", "comedy, horror, horror", 4)
    # as it is: comedies i2, i3, then all that score 0 in a random order
    assert [(one.item_id, one.rank, one.other_rank) for one in found.before[:2]] == [
        ("i2", 1, 5),
        ("i3", 2, 6),
    ]
    # edited: the four horror films 2/√5, then the comedies 1/√5, then dramas
    assert [(one.item_id, one.rank) for one in found.after] == [("i8", 1), ("i9", 2), ("i10", 3), ("i11", 4)]
    assert all(one.rose == one.other_rank - one.rank and one.other_rank > 2 for one in found.after)
    assert [one.score for one in found.after] == pytest.approx(
        [2 / 5**0.5 / (1 + k * k / 100) ** 0.5 for k in range(4)], abs=2e-6
    )
    assert [one.title for one in found.after] == ["h", "xh", "xxh", "xxxh"]
    table = found.table()
    assert table.loc[table["item"] == "i2", ["before", "after", "rose"]].to_numpy().tolist() == [[1, 5, -4]]


def test_lists_are_no_longer_than_what_is_left() -> None:
    data = films("cdh", [(0, 0), (0, 1), (1, 0), (1, 1), (1, 2)])
    model = by_text(data, {"u0": "comedy", "u1": "comedy"})
    found = model.steer("u0", "drama", 10)
    assert [one.item_id for one in found.before] == [one.item_id for one in found.after] == ["i2"]
    with pytest.raises(BadInput, match="touched every item"):
        model.steer("u1", "drama", 10)


def test_the_stored_profile_is_taken_else_one_is_written_and_not_stored() -> None:
    now = user_profile(EVEN, "u0", "keywords")
    assert (now.store, now.writer) == (None, "keywords")
    assert "comedy" in now.text.lower()
    profiles = write_profiles(EVEN, "keywords", kinds=("user",), limit=1, progress=False, encoder=Genres())  # pyright: ignore[reportArgumentType]
    (described,) = profiles.rows("user")["id"].to_pylist()
    stored = user_profile(EVEN, described, "keywords")
    assert (stored.text, stored.store) == (profiles.get(described).text, profiles.folder)
    other = "u0" if described == "u1" else "u1"
    assert user_profile(EVEN, other, "keywords").store is None
    with pytest.raises(NotFound) as error:
        user_profile(EVEN, "u3", "keywords")
    assert error.value.value == "u3"


def steered(edit: str | None, user: str = "u0", encoder: Any = None) -> Steered:
    return by_text(EVEN, {"u0": "Comedy."}, encoder).steer(user, edit, 3)


def test_steer_shows_history_profile_and_both_lists() -> None:
    found = steered("  Horror, horror, comedy \n")
    assert (found.profile, found.edited) == ("Comedy.", "Horror, horror, comedy")
    assert found.touched == 2
    assert sorted(found.history) == ["c", "d"]
    assert [one.item_id for one in found.after] == ["i8", "i9", "i10"]
    assert {one.item_id for one in found.left} == {one.item_id for one in found.before} - {"i8", "i9", "i10"}
    assert not found.cut
    alone = steered(None)
    assert (alone.edited, alone.after, alone.left) == (None, [], [])
    assert alone.before[0].other_rank == 1


def test_a_profile_beyond_the_encoders_window_is_said() -> None:
    short = Genres()
    short.window = 60
    assert not steered("x" * 60, encoder=short).cut
    assert steered("x" * 61, encoder=short).cut


@pytest.mark.parametrize(
    ("user", "edit", "error", "value"),
    [
        ("u9", "Horror.", NotFound, "u9"),
        ("u0", " Comedy.\n", BadInput, " Comedy.\n"),
        ("u0", " ", BadInput, " "),
    ],
)
def test_steer_says_what_is_wrong(user: str, edit: str, error: type[ReclmError], value: str) -> None:
    with pytest.raises(error) as raised:
        steered(edit, user)
    assert raised.value.value == value


@pytest.mark.parametrize("name", ["biasmf", "lightgcn", "ncf"])
def test_a_trained_model_is_steered_as_if_it_had_been_given_that_profile(name: str) -> None:
    data = checkerboard()
    given = profiles(data)
    inputs = Inputs(
        len(data.users), len(data.items), data.train, features(data), given["user"], given["item"]
    )
    cls = plugins.get("backbone", name)
    model = cls(cls.Config(dim=4), inputs, torch.Generator().manual_seed(0)).eval()
    vector = given["user"].vectors[3]
    users, items = model.representations({5: vector})
    moved = ProfileMatrix(given["user"].vectors.copy(), given["user"].present)
    moved.vectors[5] = vector
    other = cls(
        cls.Config(dim=4), replace(inputs, user_profiles=moved), torch.Generator().manual_seed(0)
    ).eval()
    torch.testing.assert_close((users, items), other.representations())
    plain = cls(cls.Config(dim=4), replace(inputs, user_profiles=None), torch.Generator().manual_seed(0))
    with pytest.raises(BadInput):
        plain.representations({5: vector})


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


def stored(dataset: Dataset, texts: dict[str, str], encoder: Any = None) -> Profiles:
    """Profiles in a store of the workspace."""
    frame = pd.DataFrame({"id": list(texts), "text": list(texts.values())})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Profiles.from_frames(dataset, frame, encoder=encoder or Genres())  # pyright: ignore[reportArgumentType]


def measured(
    dataset: Dataset, texts: dict[str, str] = PROFILES, encoder: Any = None, **options: Any
) -> Steering:
    return measure_steering(dataset, stored(dataset, texts, encoder), progress=False, **options)


def test_the_measure_of_three_users_worked_by_hand() -> None:
    """The share of horror films among two: as it is, with "Loves Horror.", with "Dislikes Horror."

    u0: comedies 0; a comedy and a horror film alike ½; comedies 0. u1: 1; 1; none, what it says is -1 horror, 0. u2: ½;
    two horror films to one comedy 1; comedies alone 0.
    """
    found = measured(ONE, k=2)
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


def test_the_sentences_are_the_callers() -> None:
    found = measured(ONE, k=2, loves=" {category} {category}!", dislikes=" {no}")
    assert found.loves.sentence == " {category} {category}!"
    # u0: horror twice, comedy once: 1; u1: 1; u2: 1
    assert found.loves.change == pytest.approx((1 + 0 + 1 / 2) / 3)
    assert (found.dislikes.change, found.dislikes.right) == (0, 0)


def test_the_draw_is_the_seeds_alone_and_no_larger_than_asked() -> None:
    texts = stored(EVEN, {"u0": "Comedy.", "u1": "Drama.", "u2": "Drama, horror."})

    def draw(**options: Any) -> Steering:
        return measure_steering(EVEN, texts, k=2, progress=False, **options)

    first = draw(users=2, seed=3)
    np.random.seed(0)  # noqa: NPY002 - the global state must not matter
    assert draw(users=2, seed=3) == first
    assert (first.users, first.described, first.categories) == (2, 3, 3)
    assert len({draw(users=2, seed=seed).share for seed in range(9)}) > 1
    one = draw(users=1)
    assert (one.loves.low, one.loves.high) == (None, None)
    assert draw(users=2).table()["appended"].tolist() == ["Loves {category}.", "Dislikes {category}."]


def test_a_sentence_beyond_the_window_is_counted() -> None:
    encoder = Genres()
    encoder.window = len("Comedy. Dislikes Horror.")
    # six edited profiles: those of u2 are longer, and so is none of the others
    assert measured(ONE, k=2, encoder=encoder).cut == pytest.approx(2 / 6)


def test_the_share_is_of_what_is_left_where_that_is_less_than_the_list() -> None:
    data = films("ccccccc" + "d" + "hhhh", [(0, row) for row in range(9)])
    assert measured(data, {"u0": "Comedy."}, k=4).share == 1  # i9, i10 and i11 are left, all horror


def test_the_measure_says_what_is_missing() -> None:
    with pytest.raises(NotFound) as error:
        measure_steering(ONE, TextsOfNobody(Path()), progress=False)
    assert error.value.remedy == "reclm profile --dataset films --kind user"
    with pytest.raises(NotFound) as error:
        measured(ONE, k=5)
    assert error.value.value == 5
    with pytest.raises(NotFound) as error:
        stored_profiles(ONE, "keywords")
    assert error.value.remedy == "reclm profile --dataset films --profiler keywords --kind user"


class TextsOfNobody(Profiles):
    def texts(self, kind: ProfileKind = "user") -> pd.DataFrame:
        return pd.DataFrame({"id": ["nobody", "u1"], "text": ["Drama.", ""]})


def test_stored_profiles_are_measured() -> None:
    write_profiles(EVEN, "keywords", kinds=("user",), progress=False, encoder=Genres())  # pyright: ignore[reportArgumentType]
    texts = replace(stored_profiles(EVEN, "keywords"), _encoder=Genres())  # pyright: ignore[reportArgumentType]
    found = measure_steering(EVEN, texts, k=2, progress=False)
    assert (found.users, found.total) == (3, 4)  # u3 has no history


def test_fault_11_an_item_without_text_ranks_last_in_every_way() -> None:
    """Below the items that the profile speaks against, and it can still be ranked."""
    text = pa.table({"title": ["", *"bcdefghijkl"], "genre": ["", *["Horror"] * 11]})
    model = by_text(replace(EVEN, item_text=text), {"u3": "comedy"})
    steered = model.steer("u3", "horror", 12)
    for frame in (steered.before, steered.after):
        assert frame[-1].item_id == "i0"
        assert np.isfinite([item.score for item in frame]).all()
    assert model.recommend("u3", k=12)["item"].tolist()[-1] == "i0"
