"""Data sets by name, and what they hold."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import yaml

from reclm.data.catalog import list_datasets, load_dataset, prepare_dataset, prepared
from reclm.data.dataset import Dataset, Interactions, Protocol
from reclm.data.id_map import IdMap
from reclm.data.summary import summarise
from reclm.errors import BadInput, NotFound
from reclm.folders import current, workspace

LOG = "user_id,item_id\n" + "".join(f"u{u},i{i}\n" for u in range(4) for i in range(5))


@pytest.fixture
def source(tmp_path) -> Path:
    path = tmp_path / "log.csv"
    path.write_text(LOG)
    return path


def test_prepared_data_is_found_by_name_and_by_folder(source, tmp_path):
    dataset = prepare_dataset("table", source, name="mine", seed=1)
    assert dataset.folder == current().root / "datasets" / "mine"
    loaded = load_dataset("mine")
    assert (loaded.name, loaded.fingerprint, loaded.folder) == ("mine", dataset.fingerprint, dataset.folder)
    assert list(prepared()) == ["mine"]
    elsewhere = prepare_dataset("table", str(source), name=tmp_path / "out", seed=1)
    for folder in (elsewhere.folder, str(elsewhere.folder)):
        assert load_dataset(folder).fingerprint == dataset.fingerprint  # pyright: ignore[reportArgumentType]
        assert load_dataset(folder).name == "table"  # pyright: ignore[reportArgumentType]
    assert list(prepared()) == ["mine"]


def test_embedded_data_is_prepared_on_the_spot_once(monkeypatch):
    pytest.importorskip("recbole", reason="ml-100k lies in RecBole's wheel", exc_type=ImportError)
    dataset = load_dataset("ml-100k")
    assert list(prepared()) == ["ml-100k"]
    monkeypatch.setattr("reclm.data.readers.recbole.Ml100k.read", None)  # it must not be read again
    assert load_dataset("ml-100k").fingerprint == dataset.fingerprint


def test_the_noun_is_the_readers_or_ones_own(source, monkeypatch):
    assert prepare_dataset("table", source, name="mine", seed=1).noun == ""
    assert (
        prepare_dataset("table", source, name="mine", seed=1, noun="songs").noun == "songs"
    )  # the same data
    assert load_dataset("mine").noun == "songs"
    monkeypatch.setattr("reclm.data.readers.table.Table.noun", "films")
    assert prepare_dataset("table", source, name="mine", seed=1).noun == "films"


def test_another_data_set_is_replaced_on_request_only(source):
    first = prepare_dataset("table", source, name="mine", seed=1)
    assert prepare_dataset("table", source, name="mine", seed=1).fingerprint == first.fingerprint
    with pytest.raises(BadInput) as error:
        prepare_dataset("table", source, name="mine", seed=2)
    assert error.value.where == first.folder
    assert load_dataset("mine").fingerprint == first.fingerprint
    prepare_dataset("table", source, name="mine", seed=2, replace=True)
    assert load_dataset("mine").fingerprint != first.fingerprint


def test_names_that_lead_nowhere_say_what_to_do(source):
    prepare_dataset("table", source, name="books")
    for name, remedy in (
        ("mind", "reclm data prepare mind --source PATH"),
        ("adjacenzy", "adjacency"),
        ("boks", "books"),
        (source, f"reclm data prepare NAME --source {source}"),
    ):
        with pytest.raises(NotFound) as error:
            load_dataset(name)
        assert (error.value.value, error.value.remedy) == (str(name), remedy)


def test_a_name_that_is_no_folders_is_refused_and_finds_nothing(source):
    prepare_dataset("table", source, name="shop-a")
    for name in ("shop a", "日本", "../shop-a", ".x"):
        with pytest.raises(BadInput) as refused:
            prepare_dataset("table", source, name=name)
        assert refused.value.value == name
        assert "\n" not in str(refused.value)
    with pytest.raises(NotFound) as error:
        load_dataset("shop a")
    assert error.value.remedy == "shop-a"


def test_prepare_needs_a_known_reader_known_options_and_a_source(source):
    for reader, path, options, field, value in (
        ("tabel", source, {}, "remedy", "table"),
        ("table", source, {"user_colum": "u"}, "remedy", "user_column"),
        ("mind", None, {}, "where", "source"),
    ):
        with pytest.raises((BadInput, NotFound)) as error:
            prepare_dataset(reader, path, **options)  # pyright: ignore[reportArgumentType]
        assert getattr(error.value, field) == value
    for options, key in (
        ({"valid": 1.5}, "valid"),
        ({"valid": 0.5, "test": 0.5}, "leave nothing to train on"),
    ):
        with pytest.raises(BadInput, match=key):
            prepare_dataset("table", source, **options)  # pyright: ignore[reportArgumentType]
    assert not current().root.exists()


def test_the_list_names_readers_with_their_options_and_prepared_data_sets(source):
    prepare_dataset("table", source, name="books", seed=3)
    prepare_dataset("table", source, name="broken").folder.joinpath("dataset.yaml").write_text("name: x")
    rows = list_datasets().set_index(["kind", "name"])
    books = rows.loc[("prepared", "books")]
    assert (books.users, books["items"], books.options["seed"], books.source) == (4, 5, 3, str(source))
    assert rows.loc[("prepared", "broken")].summary.startswith("damaged")
    assert rows.loc[("reader", "table")].options["user_column"] == "user_id"
    assert ("embedded", "ml-100k") in rows.index


def test_data_sets_show_what_they_hold(source):
    dataset = prepare_dataset("table", source, name="mine")
    assert repr(dataset).startswith("Dataset 'mine': 4 users × 5 items; train ")
    assert (dataset.n_users, dataset.n_items) == (4, 5)
    assert "full-shot" in str(dataset.summary())
    odd = dataset_of_text("<script>\x1b")
    assert "<script>" not in odd._repr_html_()
    assert "\x1b" not in odd._repr_html_() + str(odd.summary())


def dataset_of_text(text: str) -> Dataset:
    part = Interactions(np.array([0]), np.array([0]))
    none = Interactions.empty()
    return Dataset(
        "x", IdMap("a", "user"), IdMap("b", "item"), part, none, none, pa.table({"title": [text]}),
        (Protocol("full-shot", np.array([0])),),
    )  # fmt: skip


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
    tables = {title: rows[1:] for title, rows in summary.tables.items()}
    assert tables["splits"] == [("train", 3, 2, 3), ("valid", 1, 1, 1), ("test", 4, 3, 3)]
    assert tables["protocols"] == [("all", 2, 2, 2, 3), ("train only", 2, 2, 2, 2)]
    assert "density 88.8889%" in summary.title
    assert tables["item text"] == [("title", "66.7%"), ("year", "33.3%")]
    assert tables["items as a model reads them"] == [("x", "X"), ("y", ""), ("z", "Z")]


def test_fault_17_a_data_set_is_not_written_over_without_a_word(source, tmp_path):
    prepare_dataset("table", source, name="shop", held_out_items=0)
    other = tmp_path / "other.csv"
    other.write_text(source.read_text() if source.is_file() else (source / "interactions.csv").read_text())
    before = load_dataset("shop").fingerprint
    changed: list[dict[str, Any]] = [{"source": other}, {"source": source, "seed": 7}]
    for changes in changed:
        with pytest.raises(BadInput) as error:
            prepare_dataset("table", name="shop", **{"held_out_items": 0, **changes})
        assert error.value.remedy == "--replace"
        assert load_dataset("shop").fingerprint == before
    prepare_dataset("table", other, name="shop", replace=True, held_out_items=0)
    prepare_dataset("table", other, name="shop", held_out_items=0)  # the same again


def test_fault_17_a_source_of_the_same_name_in_another_folder_is_another_one(source, tmp_path, monkeypatch):
    monkeypatch.chdir(source.parent)
    before = prepare_dataset("table", source.name, name="shop", held_out_items=0).fingerprint
    prepare_dataset("table", source, name="shop", held_out_items=0)  # the same file
    other = tmp_path / "elsewhere" / source.name
    other.parent.mkdir()
    other.write_text(LOG.replace("u", "v"))
    monkeypatch.chdir(other.parent)
    with pytest.raises(BadInput) as error:
        prepare_dataset("table", source.name, name="shop", held_out_items=0)
    assert error.value.remedy == "--replace"
    assert load_dataset("shop").fingerprint == before


def test_fault_17_nor_does_one_that_is_named_by_its_folder(source):
    with pytest.raises(BadInput) as error:
        prepare_dataset("table", source, name=current().dataset("ml-100k"))
    assert (error.value.value, error.value.remedy) == ("ml-100k", "--replace")


def test_fault_19_a_data_set_that_may_not_be_read_hides_no_other(source, monkeypatch):
    prepare_dataset("table", source, name="mine", held_out_items=0)
    prepare_dataset("table", source, name="theirs", held_out_items=0)
    stat = Path.stat

    def refused(path: Path, **options: Any) -> Any:
        if path.parent == current().dataset("theirs"):
            raise PermissionError(13, "Permission denied", str(path))
        return stat(path, **options)

    monkeypatch.setattr(Path, "stat", refused)
    with pytest.raises(BadInput) as error:
        load_dataset("theirs")
    assert error.value.where == current().dataset("theirs")
    assert {"mine", "theirs"} <= {*list_datasets()["name"]}


def test_no_reader_and_no_file_name_are_refused(source):
    with pytest.raises(BadInput) as error:
        prepare_dataset("reclm.backbones.bprmf:BPRMF", source)
    assert error.value.value == "reclm.backbones.bprmf:BPRMF"
    with pytest.raises(NotFound):
        load_dataset("x" * 300)


def test_fault_17_no_data_set_stands_before_an_embedded_one(source):
    with pytest.raises(BadInput) as error:
        prepare_dataset("table", source, name="ml-100k")
    assert (error.value.value, error.value.remedy) == ("ml-100k", "--replace")
    assert prepare_dataset("table", source, name="ml-100k", replace=True).name == "ml-100k"
    assert prepare_dataset("table", source, name="amazon").name == "amazon"  # it comes with no data


def test_fault_17_a_workspace_that_was_moved_with_its_raw_data_prepares_them_again(tmp_path):
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    (old / "log.csv").write_text("user_id,item_id\n" + "".join(f"u{n % 4},i{n // 4}\n" for n in range(20)))
    workspace(old / "home")
    first = prepare_dataset("table", old / "log.csv", name="mine", held_out_items=0)
    shutil.copytree(old, new)
    workspace(new / "home")
    assert (
        prepare_dataset("table", new / "log.csv", name="mine", held_out_items=0).fingerprint
        == first.fingerprint
    )
    with pytest.raises(BadInput):
        prepare_dataset("table", shutil.copy(new / "log.csv", tmp_path), name="mine", held_out_items=0)


@pytest.mark.parametrize("report", [{"kept": {}}, {}, None])
def test_fault_35_a_data_set_without_its_counts_is_not_damaged(source, report):
    whole = prepare_dataset("table", source, name="mine", held_out_items=0)
    path = current().dataset("mine") / "dataset.yaml"
    head = yaml.safe_load(path.read_text())
    head = {**head, "report": report} if report is not None else {k: head[k] for k in head if k != "report"}
    path.write_text(yaml.safe_dump(head))
    assert load_dataset("mine").fingerprint == whole.fingerprint
    listed = list_datasets().set_index("name").loc["mine"]
    assert (listed["fingerprint"], listed["summary"]) == (whole.fingerprint, "table: full-shot")
    assert pd.isna(listed["users"])
