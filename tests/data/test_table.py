"""Tables that a user brings."""

from datetime import UTC, date, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reclm.data.dataset import Dataset, Interactions
from reclm.data.readers.columns import cast_or_null, seconds
from reclm.data.readers.table import Table
from reclm.errors import BadInput, ReclmError
from reclm.text.item_text import item_texts

LOG = '''\
user_id,item_id,timestamp,rating,review
7,a,2024-01-01,5,"good, ""really"""
7,b,2024-01-03T10:00:00,4,
7,c,2024-01-02 23:59:59.5,3,so so
8,a,2024-02-01,2,x
8,c,2024-01-01,1,y
'''
ITEMS = 'item_id,price,title,year\nb,3,"Bee, the",2001\na,4,Ay,\n'


def read(source: Path, strict: bool = False, **options: object) -> Dataset:
    options = {"held_out_items": 0, **options}
    return Table().read(source, Table.Config.build(options), strict=strict)


def triples(dataset: Dataset, split: str) -> list[tuple[str, str]]:
    part: Interactions = getattr(dataset, split)
    return list(zip(dataset.users.ids(part.user_idx), dataset.items.ids(part.item_idx), strict=True))


def make_folder(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "interactions.csv").write_text(LOG)
    (folder / "items.csv").write_text(ITEMS)
    return folder


def test_a_folder_of_csv_by_hand(tmp_path):
    source = make_folder(tmp_path / "x")
    dataset = read(source, text_columns="title, year", text_template="{title}[ ({year})]")
    # 7, oldest first: a, c, b; 8: c, a
    assert triples(dataset, "train") == [("7", "a"), ("8", "c")]
    assert triples(dataset, "valid") == [("7", "c")]
    assert triples(dataset, "test") == [("7", "b"), ("8", "a")]
    newest = datetime(2024, 1, 3, 10, tzinfo=UTC)
    assert dataset.test.timestamp[0] == newest.timestamp()
    assert dataset.train.rating.tolist() == [5, 1]
    assert dataset.train.review.to_pylist() == ['good, "really"', "y"]
    assert item_texts(dataset.item_text, dataset.text_template) == ["Ay", "Bee, the (2001)", ""]
    assert dataset.report.counts["items without any text"] == 1


def test_described_items_that_nobody_touched_are_counted(tmp_path):
    source = make_folder(tmp_path / "x")
    (source / "items.csv").write_text(ITEMS + "z,1,Zed,\nz,1,Zed,\n")
    assert read(source).report.dropped == {"described item without interactions": 1}


def test_parquet_with_other_names_reads_alike(tmp_path):
    by_hand = read(make_folder(tmp_path / "x"), text_columns="title")
    times = ["2024-01-01T00:00:00", "2024-01-03T10:00:00", "2024-01-02T23:59:59", "2024-02-01T00:00:00"]
    when = [datetime.fromisoformat(time) for time in [*times, times[0]]]
    log = {
        "uid": pa.array([7.0, 7, 7, 8, 8]),  # as pandas has integers with a gap
        "iid": ["a", "b", "c", "a", "c"],
        "when": pa.array(when, pa.timestamp("ms")),
        "stars": pa.array([5, 4, 3, 2, 1], pa.int8()),
        "said": ['good, "really"', None, "so so", "x", "y"],
    }
    pq.write_table(pa.table(log), tmp_path / "log.parquet")
    pq.write_table(
        pa.table({"id": ["b", "a"], "price": [3, 4], "title": ["Bee, the", "Ay"]}),
        tmp_path / "things.parquet",
    )
    names = {
        "user_column": "uid",
        "item_column": "iid",
        "time_column": "when",
        "rating_column": "stars",
        "review_column": "said",
        "items": tmp_path / "things.parquet",
        "item_id_column": "id",
    }
    assert read(tmp_path / "log.parquet", **names).fingerprint == by_hand.fingerprint


def test_columns_that_are_not_there_may_be_left_out(tmp_path):
    path = tmp_path / "log.tsv"
    path.write_text("user_id\titem_id\nu\ta\nu\tb\n")
    dataset = read(path)
    assert dataset.train.timestamp is None
    assert dataset.item_text.column_names == ["title"]
    assert (len(dataset.train), len(dataset.test)) == (1, 1)


def test_rows_that_cannot_be_used_are_reported(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text(LOG + "9,a,soon,5,\n,a,2024-01-01,5,\n9,a,2024-13-01,5,\n9,a\n9,,2024-01-01,5,\n")
    dataset = read(path)
    assert dataset.report.dropped["malformed line"] == 5
    assert sorted(line.split("log.csv:")[1][:2] for line in dataset.report.malformed) == [
        "10", "11", "7:", "8:", "9:",
    ]  # fmt: skip
    with pytest.raises(BadInput, match=r"log\.csv:\d+: .*--strict"):
        read(path, strict=True)


def test_nulls_in_parquet_are_malformed_rows(tmp_path):
    log = {"user_id": ["u", None, "u"], "item_id": ["a", "b", "c"], "timestamp": [1, 2, None]}
    pq.write_table(pa.table(log), tmp_path / "log.parquet")
    with pytest.raises(BadInput, match=r"log\.parquet:2: .*no user_id"):
        read(tmp_path / "log.parquet", strict=True)
    dataset = read(tmp_path / "log.parquet")
    assert (len(dataset.train), dataset.report.dropped["malformed line"]) == (1, 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"user_column": "user"},
            r"unknown column of .*interactions\.csv 'user'; did you mean 'user_id'.*rating",
        ),
        ({"time_column": "time"}, r"'time'.*known: item_id, rating, review, timestamp, user_id"),
        ({"item_id_column": "id"}, r"unknown column of .*items\.csv 'id'"),
        ({"text_columns": ["titel"]}, "'titel'; did you mean 'title'"),
        ({"text_template": "{titel}"}, "unknown item text field 'titel'; did you mean 'title'"),
        ({"seed": -1}, "table option|greater than or equal to 0"),
        ({"items": "nothing.csv"}, r"no such file: nothing\.csv"),
    ],
)
def test_a_wrong_column_name_offers_the_nearest(tmp_path, options, message):
    with pytest.raises(ReclmError, match=message):
        read(make_folder(tmp_path / "x"), **options)


def test_sources_that_are_no_tables(tmp_path):
    (tmp_path / "a.csv").touch()
    (tmp_path / "b.parquet").write_text("no")
    (tmp_path / "c.json").write_text("{}")
    (tmp_path / "d.csv").write_text("user_id,user_id\n1,2\n")
    for name, message in (
        ("a.csv", r"a\.csv is empty"),
        ("b.parquet", "is no Parquet file"),
        ("c.json", r"ending '\.json'.*known: \.csv"),
        ("d.csv", "two columns have the same name"),
        ("none.csv", "no such file or folder"),
        (".", r"no interactions\.parquet"),
    ):
        with pytest.raises(ReclmError, match=message) as caught:
            read(tmp_path / name)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("column", "unit", "expected"),
    [
        (["12", "13.9", "", "x", "1e30", "inf"], "s", [12, 13, None, None, None, None]),
        (["1500", "-1"], "ms", [1, -1]),
        ([1_500_000, 2], "us", [1, 0]),
        (["1970-01-02", "1970-01-01T00:01", "x"], "s", [86_400, 60, None]),
        (["1970-01-01T01:00:00+01:00", "1970-01-01T00:00:05Z"], "s", [0, 5]),
        ([date(1970, 1, 3), None], "s", [172_800, None]),
    ],
)
def test_times(column, unit, expected):
    values, bad = seconds(pa.chunked_array([column]), unit)
    assert [None if wrong else value for value, wrong in zip(values.tolist(), bad, strict=True)] == expected


@given(st.lists(st.sampled_from(["1", "2.5", "x", "", "-3", "1e3"]), max_size=40))
def test_cast_or_null_loses_just_the_values_that_are_none(values):
    def number(text: str) -> float | None:
        try:
            return float(text)
        except ValueError:
            return None

    column = pa.chunked_array([values], pa.string())
    assert cast_or_null(column, pa.float64()).to_pylist() == [number(text) for text in values]


def test_lists_become_text_and_records_are_refused(tmp_path):
    log = pa.table({"user_id": ["u", "u"], "item_id": ["a", "b"]})
    pq.write_table(log, tmp_path / "interactions.parquet")
    tags = pa.array([["x", "y"], []], pa.list_(pa.string()))
    pq.write_table(pa.table({"item_id": ["a", "b"], "tags": tags}), tmp_path / "items.parquet")
    assert read(tmp_path, text_columns="tags").item_text["tags"].to_pylist() == ["x, y", ""]
    records = pa.table({"user_id": [{"a": 1}], "item_id": ["a"]})
    pq.write_table(records, tmp_path / "interactions.parquet")
    with pytest.raises(BadInput, match="a column of type struct<a: int64> cannot be read as string"):
        read(tmp_path)


def test_large_integers_stay_themselves_as_ids(tmp_path):
    log = {"user_id": np.array([2**62, 2**62]), "item_id": ["a", "b"]}
    pq.write_table(pa.table(log), tmp_path / "log.parquet")
    assert read(tmp_path / "log.parquet").users.ids() == [str(2**62)]


def test_lists_with_gaps_and_times_finer_than_a_microsecond(tmp_path):
    times = pa.array([1_700_000_000_123_456_789, 1_700_000_100_000_000_001], pa.timestamp("ns"))
    log = pa.table({"user_id": ["u", "u"], "item_id": ["a", "b"], "timestamp": times})
    pq.write_table(log, tmp_path / "interactions.parquet")
    tags = pa.table({"item_id": ["a", "b"], "genres": pa.array([["x", None, "y"], None])})
    pq.write_table(tags, tmp_path / "items.parquet")
    dataset = read(tmp_path, text_columns="genres", valid=0, test=0, held_out_items=0)
    assert item_texts(dataset.item_text, dataset.text_template) == ["x, y", ""]
    assert dataset.train.timestamp.tolist() == [1_700_000_000, 1_700_000_100]
    column = pa.chunked_array([["2024-01-03T10:00:00.1234567Z", "2024-01-03T10:00:00.123456789Z"]])
    found, bad = seconds(column)
    assert (found.tolist(), bad.tolist()) == ([1_704_276_000] * 2, [False] * 2)
