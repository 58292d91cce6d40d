"""Delimited text and its malformed lines."""

import csv
import gzip
import io
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reclm.data.dataset import ReadReport
from reclm.data.readers.base import SHOWN, MalformedLines
from reclm.data.readers.records import read_all, read_records
from reclm.data.readers.text_file import LONGEST, TextFile
from reclm.errors import BadInput, Damaged, NotFound, ReclmError

COLUMNS = ["a", "b", "c"]


def read(path: Path, strict: bool = False, **options):
    report = ReadReport()
    rows = read_all(TextFile.on_disk(path), COLUMNS, MalformedLines(report, strict), **options)
    return rows, report


def test_malformed_lines_are_counted_and_quoted_with_their_numbers(tmp_path):
    path = tmp_path / "x.tsv"
    path.write_bytes(b'a\tb\tc\n1\t"2\t3\r\n\n4\t5\n6\t\xff\t7\n8\t9\t\n')
    rows, report = read(path, header=True)
    assert rows.table.to_pydict() == {"a": ["1", "8"], "b": ['"2', "9"], "c": ["3", ""]}
    assert rows.lines.tolist() == [2, 6]
    assert report.dropped == {"malformed line": 2}
    assert report.malformed == [
        f"{path}:4: 4\\t5 (2 fields, not 3)",
        f"{path}:5: 6\\t?\\t7 (not UTF-8)",
    ]


def test_strict_stops_at_the_first(tmp_path):
    path = tmp_path / "x.tsv"
    path.write_text("1\t2\t3\n4\t5\t6\x1b[31m\t7\n8\n")
    with pytest.raises(BadInput) as caught:
        read(path, strict=True)
    assert f"{path}:2: 4\\t5\\t6\\x1b[31m\\t7 (4 fields, not 3)" in str(caught.value)
    assert "\x1b" not in str(caught.value)
    assert "--strict" in str(caught.value)


def test_only_the_first_few_are_quoted(tmp_path):
    path = tmp_path / "x.tsv"
    path.write_text("1\t2\t3\n" + "bad\n" * 100)
    rows, report = read(path)
    assert len(rows) == 1
    assert report.dropped == {"malformed line": 100}
    assert len(report.malformed) == SHOWN


def test_reject_reports_the_lines_of_bad_values(tmp_path):
    path = tmp_path / "x.tsv"
    path.write_text("1\t2\t3\nshort\n4\t5\t6\n7\t8\t9\n")
    report = ReadReport()
    malformed = MalformedLines(report)
    rows = read_all(TextFile.on_disk(path), COLUMNS, malformed)
    kept = rows.reject(rows["a"].to_numpy() == "4", "four", malformed)
    assert kept["a"].to_pylist() == ["1", "7"]
    assert kept.lines.tolist() == [1, 4]
    assert report.malformed[-1] == f"{path}:3: 4\\t5\\t6 (four)"
    assert report.dropped == {"malformed line": 2}


field = st.lists(st.sampled_from([b"a", b"7", b'"', b" ", "é".encode(), b"\xff"]), max_size=3).map(b"".join)
line = st.lists(field, max_size=5).map(b"\t".join)


ends = st.sampled_from([b"\n", b"\r\n", b"\r"])


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(line, ends), min_size=1, max_size=40), st.one_of(st.none(), ends), st.booleans())
def test_reads_as_a_plain_loop_does(tmp_path_factory, lines, ending, last):
    lines, ends = zip(*[(b"x\ty\tz", b"\n"), *lines], strict=True)
    # an empty line after a carriage return would make one line end of the two
    ends = [ending or (b"\n" if end == b"\r" else end) for end in ends]
    path = tmp_path_factory.mktemp("lines") / "x.tsv"
    raw = b"".join(line + end for line, end in zip(lines, ends, strict=True))
    path.write_bytes(raw if last else raw.removesuffix(ends[-1]))
    good, bad = [], 0
    for number, text in enumerate(lines, 1):
        try:
            fields = text.decode().split("\t")
        except UnicodeDecodeError:
            bad += 1
            continue
        if len(fields) == 3 and any(fields):
            good.append((number, *fields))
        elif any(fields) or len(fields) not in (1, 3):
            bad += 1
    rows, report = read(path)
    columns = [rows.table[name].to_pylist() for name in COLUMNS]
    assert list(zip(rows.lines.tolist(), *columns, strict=True)) == good
    assert report.dropped.get("malformed line", 0) == bad


def test_quoted_fields_may_hold_delimiters_and_line_breaks(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text('a,b,c\n1,"two, ""2""\nlines",3\n4,5\n')
    rows, report = read(path, header=True, quoting=True, delimiter=",", include=["b"])
    assert rows.table.to_pydict() == {"b": ['two, "2"\nlines']}
    assert report.dropped == {"malformed line": 1}


def test_a_header_alone_gives_no_rows(tmp_path):
    path = tmp_path / "x.tsv"
    path.write_text("a\tb\tc\n")
    assert len(read(path, header=True)[0]) == 0


def test_missing_and_empty_files(tmp_path):
    with pytest.raises(NotFound, match=r"x\.tsv"):
        TextFile.on_disk(tmp_path / "x.tsv")
    (tmp_path / "x.tsv").touch()
    with pytest.raises(BadInput, match=r"x\.tsv is empty"):
        TextFile.on_disk(tmp_path / "x.tsv")


def test_a_file_in_a_zip_reads_alike(tmp_path):
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("in/x.tsv", "1\t2\t3\n4\n")
        archive.writestr("empty.tsv", "")
    with zipfile.ZipFile(path) as archive:
        report = ReadReport()
        file = TextFile.in_zip(archive, "in/x.tsv")
        assert len(read_all(file, COLUMNS, MalformedLines(report))) == 1
        assert report.malformed == [f"{path}/in/x.tsv:2: 4 (1 fields, not 3)"]
        with pytest.raises(BadInput, match=r"x\.zip/empty\.tsv is empty"):
            TextFile.in_zip(archive, "empty.tsv")


value = st.one_of(
    st.sampled_from(["1", "", "é", "q,x", 'a "b" c', "line\nbreak", "\n\n", '5"', '"']),
    st.text('ab,\n\r" ', max_size=4),
)


@settings(deadline=None, max_examples=80)
@given(
    st.lists(
        st.one_of(
            st.lists(value, min_size=3, max_size=3), st.sampled_from([None, ["a"], ["1", "2", "3", "4"]])
        ),
        max_size=20,
    ),
    st.sampled_from(["\n", "\r\n"]),
)
def test_quoted_records_have_the_lines_that_python_gives_them(tmp_path_factory, records, ending):
    path = tmp_path_factory.mktemp("quoted") / "x.csv"
    text = io.StringIO()
    writer = csv.writer(text, lineterminator=ending)
    for record in [["a", "b", 'c"'], *records]:
        text.write(ending) if record is None else writer.writerow(record)
    path.write_text(text.getvalue(), encoding="utf-8", newline="")
    # line ends within values are read as line feeds
    plain = io.StringIO(text.getvalue().replace("\r\n", "\n").replace("\r", "\n"))
    expected, bad, reader, line = [], 0, csv.reader(plain), 1
    for number, record in enumerate(reader):
        if number and len(record) == 3 and any(record):
            expected.append((line, *record))
        elif number and record and len(record) != 3:
            bad += 1
        line = reader.line_num + 1
    rows, report = read(path, header=True, quoting=True, delimiter=",")
    columns = [[text.replace("\r\n", "\n") for text in rows.table[name].to_pylist()] for name in COLUMNS]
    assert list(zip(rows.lines.tolist(), *columns, strict=True)) == expected
    assert report.dropped.get("malformed line", 0) == bad


@pytest.mark.parametrize("records", [3, 400_000])
@pytest.mark.parametrize("closed_by_chance", [False, True])
def test_a_quote_that_is_not_closed_is_an_error_wherever_it_stands(tmp_path, records, closed_by_chance):
    path = tmp_path / "x.csv"
    lines = ["a,b,c", "1,2,3", '4,"5,6', *["7,8,9"] * records]
    if closed_by_chance:
        lines.append('7,"8",9')
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(BadInput) as error:
        read(path, header=True, quoting=True, delimiter=",")
    assert (error.value.where, error.value.value) == (str(path), 3)


def test_a_line_longer_than_the_limit_is_an_error(tmp_path):
    path = tmp_path / "x.tsv"
    path.write_bytes(b"1\t2\t3\n" + b"x" * (5 * LONGEST) + b"\n4\t5\t6\n")
    with pytest.raises(BadInput) as error:
        read(path)
    assert error.value.where == str(path)
    path.write_bytes(b"1\t2\t3\n" + b"x" * (LONGEST - 10) + b"\t2\t3\n4\t5\t6\n")
    assert read(path)[0].lines.tolist() == [1, 2, 3]


def test_encodings_are_asked_for(tmp_path):
    path = tmp_path / "x.tsv"
    for encoding, byte_order in (("utf-16", True), ("latin-1", False), ("utf-8-sig", False)):
        path.write_bytes("1\té\t3\r\n4\t5\t6\n".encode(encoding))
        rows = read_all(TextFile.on_disk(path, encoding), COLUMNS, MalformedLines(ReadReport(), strict=True))
        assert rows.table.to_pydict() == {"a": ["1", "4"], "b": ["é", "5"], "c": ["3", "6"]}
        if byte_order:
            with pytest.raises(BadInput) as error:
                read(path)
            assert error.value.remedy.endswith("--set encoding=utf-16")
    with pytest.raises(BadInput) as error:
        TextFile.on_disk(path, "utf-99")
    assert error.value.value == "utf-99"
    path.write_bytes(b"\xff\xfe1")
    with pytest.raises(BadInput):
        read_all(TextFile.on_disk(path, "utf-16"), COLUMNS, MalformedLines(ReadReport()))


def test_names_that_look_like_patterns_name_one_file(tmp_path):
    (tmp_path / "x1.tsv").write_text("no\tno\tno\n")
    for name in ("x[1].tsv", "x*.tsv", "x?.tsv", "it's é.tsv", "[x].tsv"):
        (tmp_path / name).write_text("1\t2\t3\n")
        assert read(tmp_path / name)[0].table.to_pylist() == [{"a": "1", "b": "2", "c": "3"}]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_a_value_with_a_line_break_is_the_same_whatever_ends_the_lines(tmp_path, end):
    path = tmp_path / "x.csv"
    path.write_bytes('a,b,c\n1,"two\nlines",3\n4,5,6\n'.replace("\n", end).encode())
    rows, report = read(path, header=True, quoting=True, delimiter=",")
    assert rows["b"].to_pylist() == ["two\nlines", "5"]
    assert rows.lines.tolist() == [2, 4]
    assert report.dropped == {}


@pytest.mark.parametrize("quoted", ["7", '"7"'])
@pytest.mark.parametrize("odd", ["1,2,3,", ",1,2,", "1,2", "1,2,3,,"])
def test_an_empty_field_too_many_is_a_fault_beside_quotes_as_well(tmp_path, quoted, odd):
    path = tmp_path / "x.csv"
    path.write_text(f"a,b,c\n{quoted},8,\n\n{odd}\n,,\n9,,\n")
    rows, report = read(path, header=True, quoting=True, delimiter=",")
    assert rows.table.to_pylist() == [{"a": "7", "b": "8", "c": ""}, {"a": "9", "b": "", "c": ""}]
    assert report.malformed == [f"{path}:4: {odd} ({odd.count(',') + 1} fields, not 3)"]


def test_a_column_alone_may_have_blank_and_odd_lines(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text('a\n"1"\n\n2,\n\n3\n')
    report = ReadReport()
    options = {"header": True, "quoting": True, "delimiter": ","}
    rows = read_all(TextFile.on_disk(path), ["a"], MalformedLines(report), **options)
    assert (rows["a"].to_pylist(), rows.lines.tolist()) == (["1", "3"], [2, 6])
    assert report.malformed == [f"{path}:4: 2, (2 fields, not 1)"]


@pytest.mark.parametrize(
    ("name", "text"), [("x.csv", "a,b,b \n1,2,3\n"), ("x.jsonl", '{"\\ud83d": 1, "\\udc00": 2}')]
)
def test_small_tables_with_two_columns_of_one_name_are_refused(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    with pytest.raises(BadInput) as caught:
        read_records(tmp_path / name)
    assert caught.value.where == str(tmp_path / name)


def test_gzipped_text_reads_alike(tmp_path):
    path = tmp_path / "x.csv.gz"
    path.write_bytes(gzip.compress(b'a,b,c\n1,"2",3\n4\n'))
    rows, report = read(path, header=True, quoting=True, delimiter=",")
    assert rows.table.to_pylist() == [{"a": "1", "b": "2", "c": "3"}]
    assert report.malformed == [f"{path}:3: 4 (1 fields, not 3)"]
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(Damaged):
        read(path, header=True)


def test_small_tables_of_each_kind(tmp_path):
    (tmp_path / "x.jsonl").write_text('{"a": 1, "b": ["x", "y"]}\n\n{"a": null}\n')
    assert read_records(tmp_path / "x.jsonl").to_pylist() == [{"a": "1", "b": "x, y"}, {"a": None, "b": None}]
    (tmp_path / "x.jsonl").write_bytes(b'\xef\xbb\xbf{"a": "\\ud83d", "\\udc00": ["\\ud83d"]}\n')
    assert read_records(tmp_path / "x.jsonl").to_pylist() == [{"a": "\ufffd", "\ufffd": "\ufffd"}]
    for line in (b'{"a": "\xff"}', b'{"a": 1, "a": 2}'):
        (tmp_path / "x.jsonl").write_bytes(line)
        with pytest.raises(BadInput) as caught:
            read_records(tmp_path / "x.jsonl")
        assert caught.value.where == str(tmp_path / "x.jsonl")
    (tmp_path / "x.csv").write_text('a,b\n1,"x, y"\n')
    assert read_records(tmp_path / "x.csv").to_pylist() == [{"a": "1", "b": "x, y"}]
    (tmp_path / "y.parquet").write_text("no")
    for name in ("y.parquet", "z.csv", "x.doc"):
        with pytest.raises(ReclmError) as error:
            read_records(tmp_path / name)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["x.csv.gz", "x.tsv.gz", "x.jsonl.gz", "x.ndjson.gz"])
def test_fault_24_small_tables_may_be_gzipped(tmp_path, name):
    rows = {"csv": "id,text\r1,a\r", "tsv": "id\ttext\n1\ta\n"}.get(
        name.split(".")[1], '{"id": 1, "text": "a"}\n'
    )
    (tmp_path / name).write_bytes(gzip.compress(rows.encode()))
    assert read_records(tmp_path / name).to_pylist() == [{"id": "1", "text": "a"}]


def test_fault_24_another_delimiter_of_a_small_table_is_named(tmp_path):
    (tmp_path / "x.csv").write_text("id;text\n1;a\n")
    with pytest.raises(BadInput) as caught:
        read_records(tmp_path / "x.csv")
    assert caught.value.value == ";"
