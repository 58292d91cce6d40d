"""Stores and profiles are found from what a user says, or the message helps."""

from pathlib import Path

import pytest

from reclm.errors import ReclmError
from reclm.folders import Workspace
from reclm.profiles.find import find_profiles, find_store, stores
from reclm.profiles.profile import Profile
from reclm.profiles.store import ProfileStore


@pytest.fixture
def home(tmp_path: Path) -> Path:
    workspace = Workspace.at(tmp_path)
    for dataset, writer in (("toy", "keywords"), ("toy", "item-text"), ("films", "a"), ("films", "b")):
        with ProfileStore.open(workspace.store(dataset, writer), "f00d", writer, dataset) as store:
            store.add([Profile("user", id, "likes noir", "h", "m") for id in ("anne", "ben")])
    ProfileStore.open(workspace.store("toy", "keywords"), "f00d", "keywords", "toy", fresh=True).add(
        [Profile("user", "anna", "likes jazz", "h", "m"), Profile("item", "anna", "a song", "h", "m")]
    )
    return tmp_path


def test_stores_of_people_only(home: Path) -> None:
    found = [(info.dataset, info.writer) for _, info in stores(Workspace.at(home))]
    assert found == [("films", "a"), ("films", "b"), ("toy", "keywords")]
    assert stores(Workspace.at(home / "nowhere")) == []


def test_the_only_store_of_a_data_set_is_meant(home: Path) -> None:
    assert find_store(home, "toy") == home / "profiles" / "toy" / "keywords"
    with pytest.raises(
        ReclmError, match=r"several wrote profiles for 'films'; .*--store: .*films/a, .*films/b"
    ):
        find_store(home, "films")
    with pytest.raises(ReclmError, match=r"no profiles for data set 'mind' .*reclm profile --dataset mind"):
        find_store(home, "mind")
    with pytest.raises(ReclmError, match="no profile store at /nowhere"):
        find_store(home, "toy", store=Path("/nowhere"))


def test_a_profile_is_found_in_either_kind(home: Path) -> None:
    folder = find_store(home, "toy")
    assert [one.kind for one in find_profiles(folder, "anna")] == ["user", "item"]
    assert [one.text for one in find_profiles(folder, "anna", ["item"])] == ["a song"]
    with pytest.raises(ReclmError, match=r"no profile of user or item 'ana' in .*; did you mean 'anna'"):
        find_profiles(folder, "ana")
