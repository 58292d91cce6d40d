"""Tables that a user brings."""

import gzip
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reclm.data.catalog import load_dataset, prepare_dataset
from reclm.data.dataset import Dataset, Interactions
from reclm.data.readers.columns import cast_or_null, seconds
from reclm.data.readers.table import Table
from reclm.data.readers.text_file import TextFile
from reclm.errors import BadInput, NotFound, ReclmError
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


def test_repeated_descriptions_of_an_item_are_counted(tmp_path):
    source = make_folder(tmp_path / "x")
    first = read(source)
    (source / "items.csv").write_text(ITEMS + "b,3,Another,1990\na,4,Ay,\na,4,Bee,\n")
    again = read(source)
    assert again.item_text.equals(first.item_text)
    assert again.report.dropped == {"repeated description of an item": 3}


@pytest.mark.parametrize(
    ("options", "remedy"),
    [
        ({"user_column": "usr_id"}, "--set user_column=user_id"),
        ({"rating_column": "stars"}, "--set rating_column=NAME"),
        ({"item_id_column": "sku"}, "--set item_id_column=NAME"),
        ({"text_columns": ("titel",)}, "--set text_columns=title"),
    ],
)
def test_an_unknown_column_is_an_error_that_names_its_option(tmp_path, options, remedy):
    with pytest.raises(NotFound) as error:
        read(make_folder(tmp_path / "x"), **options)
    assert (
        error.value.value == next(iter(options.values())) or (error.value.value,) == options["text_columns"]
    )
    assert error.value.remedy == remedy


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
    assert (dataset.item_text.column_names, dataset.item_text.num_rows) == ([], dataset.n_items)
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


def test_a_parquet_page_that_lacks_values_is_refused(tmp_path):
    """DuckDB would take the item ids behind its end for user ids."""
    path = tmp_path / "log.parquet"
    log = {"user_id": list("aabb"), "item_id": [f"i{n}" for n in range(4)]}
    pq.write_table(pa.table(log), path, compression="none")
    about = pq.read_metadata(path).row_group(0).column(0)
    data, place = bytearray(path.read_bytes()), about.data_page_offset + 8
    assert data[place] == 2 * len(log["user_id"])  # the number of values in the header of the page, in zigzag
    data[place] //= 2
    path.write_bytes(data)
    with pytest.raises(BadInput) as caught:
        read(path, time_column=None)
    assert caught.value.where == str(path)


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
        (["1970-01-01 00:00:07 UTC", "1970-01-01 00:00:05", None], "s", [7, 5, None]),
        (["12", "1970-01-02", "13"], "s", [12, None, 13]),
        (["1970", "1970-01-02", "1970-01-02"], "s", [None, 86_400, 86_400]),
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
    with pytest.raises(BadInput) as error:
        read(tmp_path)
    assert error.value.value == "struct<a: int64>"


def test_a_rating_that_float32_cannot_hold_is_no_number(tmp_path):
    log = {"user_id": ["u"] * 3, "item_id": ["a", "b", "c"], "rating": ["5", "1e308", "4"]}
    pq.write_table(pa.table(log), tmp_path / "log.parquet")
    dataset = read(tmp_path / "log.parquet", valid=0, test=0, held_out_items=0)
    assert sorted(dataset.train.rating.tolist()) == [4, 5]
    assert dataset.report.dropped["malformed line"] == 1


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


TITLES = [f"Film {number}" for number in range(5)]


def clicks(times: Iterable[Any] = range(20), **columns: list) -> pa.Table:
    """Return a log of 4 users and 5 items."""
    log = {"user_id": [row % 4 for row in range(20)], "item_id": [row // 4 for row in range(20)]}
    return pa.table({**log, "timestamp": [*times], **columns})


def as_csv(
    folder: Path, log: pa.Table, items: pa.Table | None = None, name: str = "interactions.csv"
) -> Path:
    folder.mkdir(exist_ok=True)
    pacsv.write_csv(log, folder / name, pacsv.WriteOptions(quoting_style="none"))
    if items is not None:
        pacsv.write_csv(items, folder / "items.csv")
    return folder


def test_fault_1_clicks_alone_are_items_without_text(tmp_path):
    dataset = read(as_csv(tmp_path / "x", clicks()))
    assert (dataset.item_text.num_columns, dataset.has_item_text, dataset.view().has_item_text) == (
        0,
        False,
        False,
    )
    assert dataset.report.counts["items without any text"] == dataset.n_items == 5
    blank = read(as_csv(tmp_path / "y", clicks(), pa.table({"item_id": range(5), "title": [" "] * 5})))
    assert (blank.item_text.column_names, blank.has_item_text) == (["title"], False)


@pytest.mark.parametrize("split", [{}, {"min_item": 2, "held_out_items": 0.3}])
def test_fault_1_items_without_text_keep_their_number(tmp_path, split):
    dataset = read(as_csv(tmp_path / "x", clicks()), **split)
    assert dataset.item_text.num_rows == dataset.n_items
    dataset.save(tmp_path / "saved")
    assert load_dataset(tmp_path / "saved").item_text.num_rows == dataset.n_items


@pytest.mark.parametrize("log_ids", [["0.0", "1.0", "2.00", "3.0", "4"], ["0", "1", "2", "3", "4"]])
@pytest.mark.parametrize("item_ids", [["0.0", "1.0", "2.0", "3", "4.0"], ["0", "1", "2", "3", "4"]])
def test_fault_4_whole_numbers_meet_in_text_too(tmp_path, log_ids, item_ids):
    log = clicks().set_column(1, "item_id", [[log_ids[row // 4] for row in range(20)]])
    dataset = read(as_csv(tmp_path / "x", log, pa.table({"item_id": item_ids, "title": TITLES})))
    assert dataset.items.ids() == ["0", "1", "2", "3", "4"]
    assert dataset.item_text["title"].to_pylist() == TITLES
    assert dataset.items.idx(["3.0", 3.0, 3, "3"]).tolist() == [3] * 4


def test_fault_4_no_item_described_is_an_error(tmp_path):
    strangers = pa.table({"item_id": [f"m{number}" for number in range(5)], "title": TITLES})
    with pytest.raises(BadInput) as caught:
        read(as_csv(tmp_path / "x", clicks(), strangers))
    assert (caught.value.value, caught.value.where) == ("m0", "item_id")
    with pytest.raises(BadInput) as caught:
        Dataset.from_frames(clicks(), strangers)
    assert caught.value.value == "m0"


def test_fault_4_a_part_of_the_items_may_be_described(tmp_path):
    some = pa.table({"item_id": [4], "title": ["Film 4"]})
    dataset = read(as_csv(tmp_path / "x", clicks(), some))
    assert dataset.item_text["title"].to_pylist() == ["", "", "", "", "Film 4"]
    assert dataset.report.counts["items without any text"] == 4


@pytest.mark.parametrize(
    "kind", [pa.dictionary(pa.int32(), pa.string()), pa.large_string(), pa.list_(pa.string())]
)
def test_fault_5_every_type_of_strings_is_text(tmp_path, kind):
    genre = pa.array([["a"], ["b"], ["a"], ["b"], ["a"]] if pa.types.is_list(kind) else list("ababa"))
    genre = genre.dictionary_encode() if pa.types.is_dictionary(kind) else genre.cast(kind)
    codes = pa.array([1, 2, 1, 2, 1]).dictionary_encode()
    items = pa.table({"item_id": range(5), "title": TITLES, "genre": genre, "code": codes, "year": range(5)})
    pq.write_table(clicks(), tmp_path / "interactions.parquet")
    pq.write_table(items, tmp_path / "items.parquet")
    for dataset in (read(tmp_path), Dataset.from_frames(clicks(), items)):
        assert dataset.item_text.column_names == ["title", "genre"]
        assert dataset.item_text["genre"].to_pylist() == list("ababa")


def test_fault_5_columns_that_are_no_text_are_named(tmp_path):
    more = {
        "cover": pa.array([b"\xff\xd8"] * 5),
        "facts": pa.array([{"pages": 3}] * 5),
        "vector": pa.array([[0.5, 1.0]] * 5),
        "year": pa.array(range(5)),
    }
    pq.write_table(clicks(), tmp_path / "interactions.parquet")
    pq.write_table(pa.table({"item_id": range(5), "title": TITLES, **more}), tmp_path / "items.parquet")
    items = pq.read_table(tmp_path / "items.parquet")
    for dataset in (read(tmp_path), Dataset.from_frames(clicks(), items)):
        reasons = [reason for reason in dataset.report.dropped if reason.startswith("column ")]
        named = [reason.split(": ")[1].split()[0] for reason in reasons]
        assert (dataset.item_text.column_names, named) == (["title"], ["cover", "facts", "vector"])
    assert "facts" in str(read(tmp_path).summary())


def test_fault_5_numbers_in_csv_are_no_text_unless_asked_for(tmp_path):
    items = {"": range(5), "item_id": range(5), "title": TITLES, "year": [1990, None, 1992, 1993, 1994]}
    source = as_csv(tmp_path / "x", clicks(), pa.table(items | {"price": [0.5, 1e-3, -2.0, 4.0, 1e9]}))
    assert read(source).item_text.column_names == ["title"]
    assert read(source, text_columns="title,year").item_text.column_names == ["title", "year"]
    dated = read(source, text_template="{title}[ ({year})]")
    assert item_texts(dated.item_text, dated.text_template)[:2] == ["Film 0 (1990)", "Film 1"]
    items["title"] = ["300", "1984", "2012", "21", "Heat"]
    assert read(as_csv(tmp_path / "x", clicks(), pa.table(items))).item_text.column_names == ["title"]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("wide", ["", "x" * 140_000])
@pytest.mark.parametrize("packed", [False, True])
def test_fault_24_line_ends_wide_headers_and_gzip(tmp_path, end, wide, packed):
    columns = {wide: [1] * 20} if wide else {}
    source = as_csv(tmp_path / "x", clicks(**columns)) / "interactions.csv"
    text = source.read_bytes().replace(b"\n", end.encode())
    source = source.with_name("log.csv.gz" if packed else "log.csv")
    source.write_bytes(gzip.compress(text) if packed else text)
    dataset = read(source)
    assert len(dataset.train) + len(dataset.valid) + len(dataset.test) == 20
    assert dataset.report.dropped == {}


def test_fault_24_quoted_names_in_a_header(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text('"user_id","item_id","the ""time"", in s"\r1,2,3\r1,3,4\r')
    assert TextFile.on_disk(path).first_row(",", quoting=True) == ["user_id", "item_id", 'the "time", in s']
    assert read(path, time_column='the "time", in s').train.timestamp.tolist() == [3]


@pytest.mark.parametrize("delimiter", [";", "\t", "|"])
def test_fault_24_another_delimiter_is_named(tmp_path, delimiter):
    source = as_csv(tmp_path / "x", clicks()) / "interactions.csv"
    source.write_text(source.read_text().replace(",", delimiter))
    with pytest.raises(BadInput) as caught:
        read(source)
    assert (caught.value.value, caught.value.remedy) == (delimiter, f"--set delimiter={delimiter!r}")
    assert len(read(source, delimiter=delimiter).train) == 12


@pytest.mark.parametrize(
    ("encoding", "remedy"), [(name, name) for name in ("utf-16", "utf-16-le", "utf-16-be", "utf-32")]
)
def test_fault_24_another_encoding_is_named(tmp_path, encoding, remedy):
    source = as_csv(tmp_path / "x", clicks()) / "interactions.csv"
    source.write_bytes(source.read_text().encode(encoding))
    with pytest.raises(BadInput) as caught:
        read(source)
    assert caught.value.remedy.endswith(f"encoding={remedy}")
    assert len(read(source, encoding=encoding).train) == 12


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12\n", "Git LFS"),
        (b"\n<!DOCTYPE html>\n<html></html>", "HTML"),
        (gzip.compress(b"user_id,item_id\n1,2\n"), "gzipped"),
        (b"PK\x03\x04\x14\0", "zip"),
        (b"PAR1\0", "Parquet"),
    ],
)
@pytest.mark.parametrize("name", ["interactions.csv", "items.csv", "interactions.parquet"])
def test_fault_24_a_file_of_another_kind_is_named(tmp_path, content, what, name):
    source = make_folder(tmp_path / "x")
    if name.endswith("parquet"):
        (source / "interactions.csv").unlink()
    (source / name).write_bytes(content)
    with pytest.raises(BadInput) as error:
        read(source)
    assert error.value.where == str(source / name)
    if not (name.endswith("parquet") and what == "Parquet"):
        assert what in error.value.value
        assert error.value.remedy


def test_fault_24_names_in_a_header_have_no_blanks_round_them(tmp_path):
    source = make_folder(tmp_path / "x")
    plain = read(source)
    (source / "interactions.csv").write_text(LOG.replace(",item_id,timestamp", ", item_id ,\ttimestamp", 1))
    assert read(source).fingerprint == plain.fingerprint


@pytest.mark.parametrize("name", ["items.jsonl", "items.xlsx", "interactions.json.gz"])
def test_a_table_of_another_kind_beside_is_not_passed_over(tmp_path, name):
    source = make_folder(tmp_path / "x")
    (source / f"{name.partition('.')[0]}.csv").rename(source / name)
    with pytest.raises(NotFound) as error:
        read(source)
    assert error.value.value == Path(name).suffix


@pytest.mark.parametrize("name", ["clicked", "Label", "is_like", "target"])
def test_fault_3_a_column_that_seems_a_label_is_asked_for(tmp_path, name):
    log = clicks(**{name: [row % 2 for row in range(20)]})
    source = as_csv(tmp_path / "x", log)
    for reader, none in (
        (lambda **more: read(source, **more), "--set label_column=null"),
        (lambda **more: Dataset.from_frames(log, held_out_items=0, **more), "label=None"),
    ):
        with pytest.raises(BadInput) as error:
            reader()
        assert error.value.value == name
        assert none in str(error.value)
    assert read(source, label_column=name).report.dropped["label is 0".replace("label", name)] == 10
    assert read(source, label_column=None).report.dropped == {}
    assert Dataset.from_frames(log, label=None).report.dropped == {}


def test_a_header_in_another_encoding_is_no_malformed_line(tmp_path):
    source = as_csv(tmp_path / "x", clicks()) / "interactions.csv"
    source.write_bytes(
        source.read_bytes().replace(b"timestamp", b"timestamp,\xe9t\xe9").replace(b"\n", b",\n")
    )
    with pytest.raises(BadInput) as caught:
        read(source)
    assert (caught.value.where, caught.value.value) == (str(source), "utf-8")


@pytest.mark.parametrize("form", ["%m/%d/%Y %H:%M", "%d.%m.%Y", "%Y"])
def test_fault_25_the_reason_is_told_where_all_lines_are_malformed(tmp_path, form):
    when = [datetime(2024, 1, 1 + row, tzinfo=UTC) for row in range(20)]
    when = [time.strftime(form) if form != "%Y" else "soon" for time in when]
    source = as_csv(tmp_path / "x", clicks(when))
    with pytest.raises(BadInput, match=r"interactions\.csv:2: .*timestamp is neither .*time_unit") as caught:
        read(source)
    assert caught.value.value["malformed line"] == 20


UNITS = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}


@pytest.mark.parametrize("given", UNITS)
@pytest.mark.parametrize("unit", UNITS)
def test_fault_25_times_of_another_unit_are_no_times(tmp_path, unit, given):
    """Read in silence, milliseconds would be of the year 50,000, and seconds all of one week of 1970."""
    first = datetime(2024, 1, 1, tzinfo=UTC).timestamp()
    times = [int(first + 3600 * row) * UNITS[given] for row in range(20)]
    source = as_csv(tmp_path / "x", clicks([str(time) for time in times]))
    frame = pa.table(clicks([0] * 20)).set_column(2, "timestamp", pa.array(times, pa.int64()))
    readers = (lambda: read(source, time_unit=unit), lambda: Dataset.from_frames(frame, time_unit=unit))
    for reader, option in zip(readers, ("--set time_unit=", "time_unit="), strict=True):
        if unit == given:
            assert reader().train.timestamp.min() == first
            continue
        with pytest.raises(BadInput) as error:
            reader()
        assert error.value.remedy == option + given


def test_fault_25_dates_written_as_numbers_are_no_seconds(tmp_path):
    """Read as seconds, all of them would be of one day of August 1970."""
    days = [20170714 + 100 * (row % 5) + row % 7 for row in range(20)]
    source = as_csv(tmp_path / "x", clicks([str(day) for day in days]))
    frame = pa.table(clicks([0] * 20)).set_column(2, "timestamp", pa.array(days, pa.int32()))
    for make, option in ((read, "--set time_unit="), (Dataset.from_frames, "time_unit=")):
        for unit in UNITS:
            with pytest.raises(BadInput) as error:
                make(source if make is read else frame, time_unit=unit)  # pyright: ignore[reportArgumentType]
            assert (error.value.remedy, error.value.value in days) == (f"{option}date", True)
        dataset = make(source if make is read else frame, time_unit="date")  # pyright: ignore[reportArgumentType]
        assert dataset.train.timestamp.min() == datetime(2017, 7, 14, tzinfo=UTC).timestamp()
    source = as_csv(tmp_path / "y", clicks(["1700000000"] * 20))
    with pytest.raises(BadInput) as error:
        read(source, time_unit="date")
    assert error.value.remedy == "--set time_unit=s"
    source = as_csv(tmp_path / "z", clicks(["20170714"] * 18 + ["20170230", "20171301"]))
    assert read(source, time_unit="date").report.dropped == {"malformed line": 2}


def test_times_that_count_from_any_beginning_are_read(tmp_path):
    source = as_csv(tmp_path / "x", clicks([str(10 * row) for row in range(20)]))
    for unit in UNITS:
        assert read(source, time_unit=unit).report.dropped == {}
    source = as_csv(tmp_path / "y", clicks([str(1_700_000_000 + row) for row in range(19)] + [str(10**15)]))
    assert read(source).report.dropped == {"malformed line": 1}


@pytest.mark.parametrize(
    "form", ["%Y-%m-%d %H:%M:%S UTC", "%Y-%m-%dT%H:%M:%S.123456789", "%Y-%m-%d %H:%M:%SGMT"]
)
def test_fault_25_times_with_a_named_zone_or_nanoseconds(form):
    when = datetime(2024, 1, 2, 3, 4, 5, tzinfo=UTC)
    values, bad = seconds(pa.chunked_array([["soon", when.strftime(form), ""]]))
    assert values[1] == when.timestamp()
    assert bad.tolist() == [True, False, True]


def test_fault_25_nanoseconds_since_1970(tmp_path):
    source = as_csv(tmp_path / "x", clicks([10**18 + row * 10**9 for row in range(20)]))
    assert read(source, time_unit="ns").train.timestamp.min() == 10**9


@pytest.mark.parametrize(
    "name", ["time", "Date", "created_at", "unixReviewTime", "rating_time", "orderDate", "last watch dt"]
)
def test_fault_25_a_column_of_times_called_otherwise_is_asked_for(tmp_path, name):
    log = clicks().rename_columns(["user_id", "item_id", name])
    source = as_csv(tmp_path / "x", log)
    with pytest.raises(BadInput) as caught:
        read(source)
    assert (caught.value.value, caught.value.remedy) == (name, f"--set time_column={name}")
    assert read(source, time_column=name).train.timestamp is not None
    random = read(source, time_column=None)
    assert random.report.counts["interactions without a time, split in random order"] == 20
    with pytest.raises(BadInput) as caught:
        Dataset.from_frames(log)
    assert caught.value.remedy == f"time={name}"
    assert Dataset.from_frames(log, time=None).train.timestamp is None


def quoted_log(tmp_path: Path, *odd: tuple[int, str]) -> Path:
    """Return a CSV of 1,000 records, whose ``odd`` ones end in another value than ``ok``."""
    ends = dict(odd)
    rows = [f"{row % 40},{row % 61},{row},{ends.get(row, 'ok')}" for row in range(1, 1001)]
    path = tmp_path / "log.csv"
    path.write_text("\n".join(["user_id,item_id,timestamp,review", *rows, ""]))
    return path


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize(
    "odd",
    [
        [(10, '"ok')],
        [(10, '"ok'), (500, 'ok"')],  # a quote that is closed 490 records later
        [(10, '"ok'), (500, 'o"k')],
        [(10, 'ok"x"'), (20, '"ok')],
        [(990, '"ok')],
    ],
)
def test_fault_31_an_unclosed_quote_is_no_end_of_the_file(tmp_path, odd, strict):
    with pytest.raises(BadInput) as caught:
        read(quoted_log(tmp_path, *odd), strict=strict)
    assert caught.value.where.endswith("log.csv")
    assert isinstance(caught.value.value, int)


def test_fault_31_values_of_several_lines_are_read(tmp_path):
    text = "\n".join(["a", "two, of them", "", "and, so, on, as", "prose does"])
    dataset = read(quoted_log(tmp_path, (10, f'"{text}"')))
    kept = sum(len(dataset.split(name)) for name in ("train", "valid", "test"))
    assert kept + sum(dataset.report.dropped.values()) == 1000
    assert text in {*dataset.train.review.to_pylist(), *dataset.test.review.to_pylist()}


def test_fault_31_an_unclosed_quote_in_the_items(tmp_path):
    source = as_csv(tmp_path / "x", clicks())
    (source / "items.csv").write_text('item_id,title\n0,Ay\n1,"Bee\n2,Cee\n3,Dee\n')
    with pytest.raises(BadInput) as caught:
        read(source)
    assert caught.value.value == 3


def test_fault_36_damaged_parquet_and_binary_ids(tmp_path):
    path = tmp_path / "log.parquet"
    pq.write_table(clicks(), path)
    whole = path.read_bytes()
    for place in range(0, len(whole), 37):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        with suppress(ReclmError):
            read(path)
    ids = pa.array([b"\xff%d" % (row // 4) for row in range(20)], pa.binary())
    pq.write_table(clicks().set_column(1, "item_id", ids), path)
    with pytest.raises(BadInput) as caught:
        read(path)
    assert caught.value.value == "binary"


@pytest.mark.parametrize(
    "labels", [[0, 1], [0.0, 1.0], [-1, 1], [False, True], ["0", "1"], ["false", "True"]]
)
def test_fault_3_interactions_labelled_0_are_no_positives(tmp_path, labels):
    log = clicks(label=[labels[row % 3 == 0] for row in range(20)])
    pq.write_table(log, tmp_path / "log.parquet")
    for dataset in (
        read(tmp_path / "log.parquet", test=0, valid=0),
        Dataset.from_frames(log, test=0, valid=0),
    ):
        assert dataset.report.dropped["label is 0"] == 13
        kept = sum(len(dataset.split(name)) for name in ("train", "valid", "test"))
        assert kept == 7
    assert len(read(tmp_path / "log.parquet", label_column=None, test=0, valid=0).train) == 20
    assert len(Dataset.from_frames(log, label=None, test=0, valid=0, held_out_items=0).train) == 20


@pytest.mark.parametrize("packed", [False, True])
def test_fault_36_a_nul_byte_ends_no_line_in_silence(tmp_path, packed):
    text = b"user_id,item_id\r\nu1,i1\r\nu1,i2\0x\r\nu2,i1\r\n"
    path = tmp_path / ("interactions.csv.gz" if packed else "interactions.csv")
    path.write_bytes(gzip.compress(text) if packed else text)
    with pytest.raises(BadInput) as error:
        prepare_dataset("table", path, name=tmp_path / "out", time_column=None)
    assert error.value.value == 3


@pytest.mark.parametrize("values", [[["a", "b"]] * 3, [{"a": 1}] * 3])
def test_fault_36_lists_and_mappings_are_no_ids(values):
    with pytest.raises(BadInput):
        Dataset.from_frames(pa.table({"user_id": values, "item_id": ["i1", "i2", "i3"]}), time=None)


@pytest.mark.parametrize(
    ("role", "values"),
    [
        ("timestamp", pa.array([True] * 20)),
        ("timestamp", pa.array(range(20), pa.duration("s"))),
        ("timestamp", pa.array(range(20), pa.time32("s"))),
        ("timestamp", pa.array([[1]] * 20)),
        ("rating", pa.array([{"a": 1}] * 20)),
        ("label", pa.array([[0]] * 20)),
        ("user_id", pa.array([b"\xff"] * 20)),
        ("item_id", pa.array([["a"]] * 20)),
    ],
)
def test_fault_36_a_column_of_a_type_that_is_not_read_is_named(role, values):
    log = clicks()
    log = log.drop_columns([role] if role in log.column_names else []).append_column(role, values)
    with pytest.raises(BadInput) as caught:
        Dataset.from_frames(log, rating="rating" if role == "rating" else None)
    assert caught.value.where == role


def test_fault_36_two_columns_of_one_name_in_parquet_are_refused(tmp_path):
    users, items = pa.array(["u1", "u2"]), pa.array(["i1", "i2"])
    table = pa.Table.from_arrays([users, items, items], ["user_id", "item_id", "user_id"])
    pq.write_table(table, tmp_path / "interactions.parquet")
    with pytest.raises(BadInput) as error:
        prepare_dataset("table", tmp_path, name=tmp_path / "out", time_column=None)
    assert error.value.where == str(tmp_path / "interactions.parquet")


def test_fault_29_html_does_not_go_into_texts(tmp_path):
    texts = ["<p>Tom &amp; <b>J</b>erry</p>", "&nbsp;R&B", "a<b and b>c", "x &#8212; <br/>y", "<3 <Heat>"]
    items = pa.table({"item_id": range(5), "title": texts})
    pq.write_table(clicks(), tmp_path / "interactions.parquet")
    pq.write_table(items, tmp_path / "items.parquet")
    for dataset in (read(tmp_path), Dataset.from_frames(clicks(), items)):
        assert dataset.item_text["title"].to_pylist() == [
            "Tom & Jerry",
            "R&B",
            "a<b and b>c",
            "x — y",
            "<3 <Heat>",
        ]
