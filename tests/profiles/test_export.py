"""Exports hold every profile, in files that others read."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from safetensors.numpy import load_file

from reclm import files
from reclm.errors import BadInput, NotFound
from reclm.profiles.profile import Profile
from reclm.profiles.profiles import Profiles
from reclm.profiles.store import ProfileStore


@pytest.fixture
def store(tmp_path: Path) -> ProfileStore:
    with ProfileStore.open(tmp_path / "store", "f00d", "history", "toy") as store:
        store.add([Profile("user", "u2", "ccc", "h2", "m"), Profile("user", "u1", "aab", "h1", "m")])
        store.add([Profile("item", "i1", "b", "h3", "m")])
    return store


def test_parquet_holds_the_texts(store: ProfileStore, tmp_path: Path) -> None:
    files = Profiles.open(store.folder).export(tmp_path / "out")
    assert [file.name for file in files] == ["user.parquet", "item.parquet", "manifest.json"]
    users = pq.read_table(tmp_path / "out" / "user.parquet")
    assert users.column("id").to_pylist() == ["u1", "u2"]
    assert users.column("text").to_pylist() == ["aab", "ccc"]


def test_npy_rows_follow_the_ids(store: ProfileStore, tmp_path: Path, encoder: Any) -> None:
    Profiles.open(store.folder, kinds=["user"], encoder=encoder).export(tmp_path, "npy")
    assert np.load(tmp_path / "user.npy").tolist() == [[2, 1, 0], [0, 0, 3]]
    assert json.loads((tmp_path / "user.ids.json").read_text()) == ["u1", "u2"]
    assert not (tmp_path / "item.npy").exists()
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert (manifest["fingerprint"], manifest["encoder"]) == ("f00d", "letters/abc")
    assert manifest["profiles"] == {"user": 2}


def test_safetensors_holds_a_tensor_a_kind(store: ProfileStore, tmp_path: Path, encoder: Any) -> None:
    Profiles.open(store.folder, encoder=encoder).export(tmp_path, "safetensors")
    tensors = load_file(tmp_path / "profiles.safetensors")
    assert tensors["user"].tolist() == [[2, 1, 0], [0, 0, 3]]
    assert tensors["item"].tolist() == [[0, 1, 0]]


def test_recbole_files_are_atomic_files(store: ProfileStore, tmp_path: Path, encoder: Any) -> None:
    Profiles.open(store.folder, encoder=encoder).export(tmp_path, "recbole")
    assert (tmp_path / "toy.useremb").read_text() == ("uid:token\tuser_emb:float_seq\nu1\t2 1 0\nu2\t0 0 3\n")
    assert (tmp_path / "toy.itememb").read_text() == "iid:token\titem_emb:float_seq\ni1\t0 1 0\n"
    settings = yaml.safe_load((tmp_path / "recbole.yaml").read_text())
    assert settings == {
        "additional_feat_suffix": ["useremb", "itememb"],
        "load_col": {
            "inter": ["user_id", "item_id"],
            "useremb": ["uid", "user_emb"],
            "itememb": ["iid", "item_emb"],
        },
        "preload_weight": {"uid": "user_emb", "iid": "item_emb"},
        "alias_of_user_id": ["uid"],
        "alias_of_item_id": ["iid"],
    }


def test_recbole_files_cannot_carry_every_id(store: ProfileStore, tmp_path: Path, encoder: Any) -> None:
    store.add([Profile("user", "a\tb", "a", "h", "m")])
    with pytest.raises(BadInput) as error:
        Profiles.open(store.folder, encoder=encoder).export(tmp_path, "recbole")
    assert error.value.value == "a\tb"


def test_an_empty_store_and_an_unknown_format_are_refused(tmp_path: Path, store: ProfileStore) -> None:
    empty = ProfileStore.open(tmp_path / "empty", "f00d", "w")
    with pytest.raises(NotFound) as error:
        Profiles.open(empty.folder).export(tmp_path)
    assert error.value.where == empty.folder
    with pytest.raises(NotFound) as error:
        Profiles.open(store.folder).export(tmp_path, "parkuet")
    assert error.value.remedy == "parquet"


def test_an_edited_profile_is_exported_as_it_reads_now(
    store: ProfileStore, tmp_path: Path, encoder: Any
) -> None:
    profiles = Profiles.open(store.folder, encoder=encoder).edit("u2", "abc")
    profiles.export(tmp_path)
    users = pq.read_table(tmp_path / "user.parquet").select(["id", "text", "model"]).to_pylist()
    assert users == [
        {"id": "u1", "text": "aab", "model": "m"},
        {"id": "u2", "text": "abc", "model": "edited"},
    ]
    profiles.export(tmp_path, "npy")
    assert np.load(tmp_path / "user.npy").tolist() == [[2, 1, 0], [1, 1, 1]]


@pytest.mark.parametrize("beside", [False, True])
def test_fault_33_a_killed_export_leaves_the_old_one_or_no_manifest(
    store: ProfileStore, tmp_path: Path, encoder: Any, monkeypatch: pytest.MonkeyPatch, beside: bool
) -> None:
    """Never the old manifest, or old ids, beside new vectors."""
    profiles, out = Profiles.open(store.folder, kinds=["user"], encoder=encoder), tmp_path / "out"
    profiles.export(out, "npy")
    if beside:
        (out / "mine.txt").touch()
    store.add([Profile("user", f"v{n}", "abc", f"g{n}", "m") for n in range(5)])
    store.close()
    rename, moved = Path.rename, []

    def dies(self: Path, target: Path) -> Path:
        moved.append(target)
        if len(moved) == 2:
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", dies)
    monkeypatch.setattr(files, "swap", lambda *_: False)
    with suppress(KeyboardInterrupt):
        Profiles.open(store.folder, kinds=["user"], encoder=encoder).export(out, "npy")
    assert len(moved) >= 2
    monkeypatch.undo()
    if (out / "manifest.json").exists():
        count = json.loads((out / "manifest.json").read_text())["profiles"]["user"]
        assert len(json.loads((out / "user.ids.json").read_text())) == len(np.load(out / "user.npy")) == count
    else:
        assert beside
    written = Profiles.open(store.folder, kinds=["user"], encoder=encoder).export(out, "npy")
    assert len(np.load(out / "user.npy")) == len(json.loads((out / "user.ids.json").read_text())) == 7
    assert {path.name for path in out.iterdir()} == {*(path.name for path in written), *["mine.txt"] * beside}


def test_fault_33_an_export_of_fewer_kinds_leaves_no_file_of_the_earlier(
    store: ProfileStore, tmp_path: Path, encoder: Any
) -> None:
    parts: list[tuple[Any, int]] = [(None, 4), (["user"], 2)]
    for kinds, expected in parts:
        Profiles.open(store.folder, kinds=kinds, encoder=encoder).export(tmp_path / "out", "npy")
        assert len(list((tmp_path / "out").iterdir())) == expected + 1
