"""Prepared data sets on disk."""

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from reclm.data.dataset import Dataset, Interactions, Protocol, ReadReport
from reclm.data.id_map import IdMap
from reclm.data.storage import is_dataset, load_folder, save
from reclm.errors import BadInput, Damaged


def make(name: str = "tiny", review: str = "fine") -> Dataset:
    train = Interactions(
        np.array([0, 0, 1]),
        np.array([0, 1, 2]),
        np.array([3, 4, 5]),
        np.array([1, 2.5, 0.1], np.float32),
        pa.array([review, "", "so, so"]),
    )
    return Dataset(
        name,
        IdMap(["u1", "u2"], "user"),
        IdMap(["i1", "i2", "i3"], "item"),
        train,
        Interactions.empty(),
        Interactions(np.array([1]), np.array([1])),
        pa.table({"title": ["One", "", "[red]3[/]"], "candidate": ["a", "b", "c"]}),
        (Protocol("full-shot", np.array([0, 1, 2])), Protocol("zero-shot", np.array([1]), ("train",))),
        "{title}",
        ReadReport({"users": 2}, {"malformed line": 1}, ["x:1: é"]),
    )


def test_the_noun_is_saved_and_is_no_part_of_the_fingerprint(tmp_path):
    films = replace(make(), noun="films")
    save(films, tmp_path / "tiny")
    assert load_folder(tmp_path / "tiny").noun == films.view().noun == "films"
    assert films.fingerprint == make().fingerprint
    save(make(), tmp_path / "tiny")  # as before there were nouns
    assert "noun" not in (tmp_path / "tiny" / "dataset.yaml").read_text()
    assert load_folder(tmp_path / "tiny").view().noun == ""


@pytest.mark.parametrize(
    "noun", ["films; Mood: dark", "films:", "a\nb", " films", "{films}", "<s>", "f" * 50]
)
def test_a_noun_is_a_few_words(noun, tmp_path):
    with pytest.raises(BadInput) as error:
        replace(make(), noun=noun)
    assert (error.value.value, error.value.where) == (noun, "noun")
    save(make(), tmp_path / "tiny")
    head = yaml.safe_load((tmp_path / "tiny" / "dataset.yaml").read_text())
    (tmp_path / "tiny" / "dataset.yaml").write_text(yaml.safe_dump(head | {"noun": noun}))
    with pytest.raises(Damaged):
        load_folder(tmp_path / "tiny")


def test_what_is_saved_is_loaded(tmp_path):
    dataset = make()
    save(dataset, tmp_path / "tiny")
    loaded = load_folder(tmp_path / "tiny")
    assert loaded.fingerprint == dataset.fingerprint
    for one in ("user_idx", "item_idx", "timestamp", "rating"):
        assert np.array_equal(getattr(loaded.train, one), getattr(dataset.train, one))
    assert loaded.train.review.to_pylist() == ["fine", "", "so, so"]
    assert loaded.test.timestamp is None
    assert len(loaded.valid) == 0
    assert (loaded.name, loaded.text_template, loaded.report) == ("tiny", "{title}", dataset.report)
    assert loaded.item_text.equals(dataset.item_text)
    assert [(one.name, one.candidates.tolist(), one.mask) for one in loaded.protocols] == [
        ("full-shot", [0, 1, 2], ("train", "valid")),
        ("zero-shot", [1], ("train",)),
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]  # no scratch folder is left


def test_a_data_set_is_replaced_anything_else_is_not(tmp_path):
    save(make(), tmp_path / "tiny")
    save(make(review="poor"), tmp_path / "tiny")
    assert load_folder(tmp_path / "tiny").fingerprint == make(review="poor").fingerprint
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("irreplaceable")
    with pytest.raises(BadInput, match=r"mine holds something else"):
        save(make(), tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "irreplaceable"


def test_a_failed_write_keeps_the_old_data_set(tmp_path, monkeypatch):
    save(make(), tmp_path / "tiny")

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq, "write_table", full)
    with pytest.raises(BadInput, match=r"cannot write .*tiny: No space left on device"):
        save(make(review="poor"), tmp_path / "tiny")
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]
    assert load_folder(tmp_path / "tiny").fingerprint == make().fingerprint


def test_a_run_killed_while_writing_leaves_no_half_data_set(tmp_path):
    code = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        f"sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "import reclm.data.storage as disk, test_disk\n"
        "def killed(*_, **__): os.kill(os.getpid(), signal.SIGKILL)\n"
        "disk.yaml.safe_dump = killed\n"  # every table is written, dataset.yaml is not
        f"disk.save(test_disk.make(), Path({str(tmp_path / 'tiny')!r}))\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], check=False, env=os.environ)
    assert ended.returncode == -signal.SIGKILL
    assert not (tmp_path / "tiny").exists()
    save(make(), tmp_path / "tiny")
    assert is_dataset(tmp_path / "tiny")


def edit_interaction(folder: Path) -> None:
    table = pq.read_table(folder / "train.parquet").to_pydict()
    table["item_idx"][0] = 2
    pq.write_table(pa.table(table), folder / "train.parquet")


def edit_candidates(folder: Path) -> None:
    table = pq.read_table(folder / "items.parquet").to_pydict()
    table["candidate:zero-shot"][2] = True
    pq.write_table(pa.table(table), folder / "items.parquet")


@pytest.mark.parametrize("edit", [edit_interaction, edit_candidates])
def test_edited_files_are_noticed(tmp_path, edit):
    save(make(), tmp_path / "tiny")
    edit(tmp_path / "tiny")
    with pytest.raises(Damaged, match=r"tiny was changed after it was prepared"):
        load_folder(tmp_path / "tiny")


def remove_split(folder: Path) -> None:
    (folder / "valid.parquet").unlink()


def cut_items(folder: Path) -> None:
    (folder / "items.parquet").write_bytes((folder / "items.parquet").read_bytes()[:50])


def forget_protocols(folder: Path) -> None:
    head = yaml.safe_load((folder / "dataset.yaml").read_text())
    del head["protocols"]
    (folder / "dataset.yaml").write_text(yaml.safe_dump(head))


def other_types(folder: Path) -> None:
    head = yaml.safe_load((folder / "dataset.yaml").read_text())
    (folder / "dataset.yaml").write_text(yaml.safe_dump(head | {"text_template": ["x"]}))


def numbers_for_text(folder: Path) -> None:
    items = pq.read_table(folder / "items.parquet")
    column = next(name for name in items.column_names if name.startswith("text:"))
    numbers = pa.array(range(len(items)))
    table = items.set_column(items.column_names.index(column), column, numbers)
    pq.write_table(table, folder / "items.parquet")


def from_the_future(folder: Path) -> None:
    text = (folder / "dataset.yaml").read_text()
    (folder / "dataset.yaml").write_text(text.replace("format: 1", "format: 2"))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (remove_split, r"damaged data set: .*valid\.parquet"),
        (cut_items, "damaged data set"),
        (forget_protocols, "lacks protocols"),
        (other_types, r"dataset\.yaml is damaged: text_template"),
        (numbers_for_text, "damaged data set"),
        (from_the_future, "has format 2, this version of reclm reads 1"),
    ],
)
def test_damage_is_one_clear_line(tmp_path, damage, message):
    save(make(), tmp_path / "tiny")
    damage(tmp_path / "tiny")
    with pytest.raises(Damaged, match=message) as caught:
        load_folder(tmp_path / "tiny")
    assert "\n" not in str(caught.value)


def test_a_data_set_written_by_0_1_opens():
    dataset = load_folder(Path(__file__).parent / "written_by_0_1")
    assert (dataset.name, dataset.n_users, dataset.n_items) == ("old", 6, 5)
    assert dataset.fingerprint == "e2d713d31bf87d3f"
    assert dataset.train.review is not None
    assert [protocol.name for protocol in dataset.protocols] == ["full-shot", "zero-shot"]
