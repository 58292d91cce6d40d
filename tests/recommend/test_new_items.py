"""New items from files of four kinds."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from reclm.errors import BadInput, ReclmError
from reclm.recommend.serve import NewItems

from .conftest import DATA

ROWS = [
    {"item_id": "007", "title": 'even, "calm"', "price": "3"},
    {"item_id": "n2", "title": "odd", "price": ""},
]


def written(path: Path, rows: list[dict[str, str]]) -> Path:
    """``rows`` as the ending says."""
    if path.suffix == ".jsonl":
        path.write_text("\n".join(json.dumps(row) for row in rows) + "\n\n")
    elif path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        delimiter = "," if path.suffix == ".csv" else "\t"
        quoted = [['"' + value.replace('"', '""') + '"' for value in row.values()] for row in rows]
        path.write_text("\n".join(delimiter.join(line) for line in [rows[0].keys(), *quoted]) + "\n")
    return path


@pytest.mark.parametrize("ending", ["csv", "tsv", "parquet", "jsonl"])
def test_every_kind_of_file_reads_alike(tmp_path: Path, ending: str) -> None:
    found = NewItems.read(written(tmp_path / f"new.{ending}", ROWS), DATA)
    assert found.ids.ids() == ["007", "n2"]
    assert found.fields.to_pydict() == {"title": ['even, "calm"', "odd"]}
    assert found.profiles is None
    with_profile = [
        {**row, "profile": text} for row, text in zip(ROWS, ["for calm evenings", ""], strict=True)
    ]
    found = NewItems.read(written(tmp_path / f"told.{ending}", with_profile), DATA)
    assert found.profiles == ["for calm evenings", ""]


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        (
            "a.csv",
            "item_id,name\n1,x\n",
            "title",
        ),
        ("a.csv", "item_id,title\ni3,x\n", "i3"),
        ("a.csv", "item_id,title\nn,x\nn,y\n", "'n'"),
        ("a.csv", "item_id,title\n,x\n", "item_id"),
        ("a.csv", "item_id,title\nn,x,y,z\n", "a.csv:2"),
        ("a.csv", "item_id,title\n", "a.csv"),
        ("a.jsonl", '{"item_id": 1, "title": "x"}\n[1]\n', "a.jsonl:2"),
        ("a.jsonl", "{\n", "a.jsonl:1"),
        ("a.parquet", "x", "a.parquet"),
        ("a.txt", "x", ".parquet"),
        ("a.csv", "", "empty"),
    ],
)
def test_a_wrong_file_is_told_in_one_line(tmp_path: Path, name: str, text: str, words: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ReclmError, match=words) as error:
        NewItems.read(tmp_path / name, DATA)
    assert "\n" not in str(error.value)


def test_an_item_without_text_is_told(tmp_path: Path) -> None:
    found = NewItems.read(written(tmp_path / "a.jsonl", [{"item_id": "n1", "title": ""}]), DATA)
    with pytest.raises(BadInput, match="'n1' has no text"):
        found.texts("")
