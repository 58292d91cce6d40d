"""Profiles become vectors once, in the data set's order."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reclm.data.id_map import IdMap
from reclm.profiles.matrix import profile_matrix
from reclm.profiles.profile import Profile
from reclm.profiles.profiles import Profiles
from reclm.profiles.store import ProfileStore

ANNE = Profile("user", "anne", "aab", "h1", "m")
IDS = IdMap(["zoe", "ben", "cleo", "anne"], "user")


@pytest.fixture
def store(tmp_path: Path) -> ProfileStore:
    store = ProfileStore.open(tmp_path / "store", "f00d", "history", "toy")
    store.add([ANNE, replace(ANNE, id="ben", text="ccc"), replace(ANNE, id="cleo")])
    store.add([replace(ANNE, id="not in this data set"), replace(ANNE, kind="item", id="ben", text="b")])
    store.close()
    return store


def test_rows_follow_the_id_map(store: ProfileStore, encoder: Any) -> None:
    profiles = profile_matrix(store, encoder, "user", IDS, progress=False)
    assert profiles.vectors.dtype == np.float32
    assert profiles.vectors.tolist() == [[0, 0, 0], [0, 0, 3], [2, 1, 0], [2, 1, 0]]
    assert profiles.present.tolist() == [False, True, True, True]
    assert profile_matrix(store, encoder, "item", IDS, progress=False).vectors.tolist()[1] == [0, 1, 0]


def test_equal_texts_are_encoded_once(store: ProfileStore, encoder: Any) -> None:
    profile_matrix(store, encoder, "user", IDS, progress=False)
    assert sorted(encoder.encoded) == ["aab", "ccc"]


def test_only_changed_and_new_texts_are_encoded_again(store: ProfileStore, encoder: Any) -> None:
    profile_matrix(store, encoder, "user", IDS, progress=False)
    encoder.encoded.clear()
    store.add([replace(ANNE, text="bb"), replace(ANNE, id="ben", text="aab"), replace(ANNE, id="zoe")])
    store.close()
    profiles = profile_matrix(store, encoder, "user", IDS, progress=False)
    assert encoder.encoded == ["bb"]
    assert profiles.vectors.tolist() == [[2, 1, 0], [2, 1, 0], [2, 1, 0], [0, 2, 0]]
    assert profiles.present.all()


def test_chunks_that_were_stored_survive_an_interruption(
    store: ProfileStore, encoder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reclm.profiles.matrix.CHUNK", 1)
    whole = encoder.encode

    def interrupted(texts: list[str], **options: Any) -> np.ndarray:
        if encoder.encoded:
            raise KeyboardInterrupt
        return whole(texts, **options)

    encoder.encode = interrupted
    with pytest.raises(KeyboardInterrupt):
        profile_matrix(store, encoder, "user", IDS, progress=False)
    first = list(encoder.encoded)
    encoder.encode = whole
    profile_matrix(store, encoder, "user", IDS, progress=False)
    assert len(first) == 1
    assert sorted(encoder.encoded) == ["aab", "ccc"]


def test_encoders_do_not_mix(store: ProfileStore, encoder: Any) -> None:
    profile_matrix(store, encoder, "user", IDS, progress=False)
    other = type(encoder)()
    other.name = "letters-abc"  # the same, once made a folder name
    profile_matrix(store, other, "user", IDS, progress=False)
    assert sorted(other.encoded) == ["aab", "ccc"]


def test_no_profiles_give_zeros(tmp_path: Path, encoder: Any) -> None:
    store = ProfileStore.open(tmp_path / "empty", "f00d", "history", "toy")
    profiles = profile_matrix(store, encoder, "user", IDS, progress=False)
    assert profiles.vectors.tolist() == [[0, 0, 0]] * 4
    assert not profiles.present.any()


def test_search_ranks_by_cosine(store: ProfileStore, encoder: Any) -> None:
    store.add([replace(ANNE, id="dora", text="aaaabb"), replace(ANNE, id="eve", text="ab")])
    store.close()
    hits = Profiles.open(store.folder, encoder=encoder).search("a", "user", 5)
    # cosine with (1, 0, 0): (2, 1, 0) and (4, 2, 0) 2/√5, (1, 1, 0) 1/√2, (0, 0, 3) 0
    scores = dict(zip(hits["id"], hits["similarity"], strict=True))
    assert scores["anne"] == pytest.approx(2 / 5**0.5, abs=1e-6)
    assert scores["dora"] == pytest.approx(2 / 5**0.5, abs=1e-6)
    assert scores["eve"] == pytest.approx(1 / 2**0.5, abs=1e-6)
    assert hits["similarity"].round(4).tolist() == [0.8944] * 4 + [0.7071]
    assert hits["text"].tolist()[-1] == "ab"
    assert Profiles.open(store.folder, encoder=encoder).search("b", "item")["id"].tolist() == ["ben"]
