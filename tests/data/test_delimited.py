"""Delimited text and its malformed lines."""

import io
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reclm.data.dataset import ReadReport
from reclm.data.readers import delimited
from reclm.data.readers.base import SHOWN, MalformedLines
from reclm.data.readers.delimited import TextFile, read_all
from reclm.errors import ReclmError

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
        f"{path}:5: 6\\t\ufffd\\t7 (not UTF-8)",
    ]


def test_strict_stops_at_the_first(tmp_path):
    path = tmp_path / "x.tsv"
    path.write_text("1\t2\t3\n4\t5\t6\x1b[31m\t7\n8\n")
    with pytest.raises(ReclmError) as caught:
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


@pytest.mark.parametrize("block", [128, 1 << 24])
@given(
    lines=st.lists(line, min_size=1, max_size=40),
    ending=st.sampled_from([b"\n", b"\r\n"]),
    last=st.booleans(),
)
def test_reads_as_a_plain_loop_does(tmp_path_factory, block, lines, ending, last):
    lines = [b"x\ty\tz", *lines]  # Arrow refuses a block of blank lines only
    path = tmp_path_factory.mktemp("lines") / "x.tsv"
    path.write_bytes(ending.join(lines) + (ending if last else b""))
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
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(delimited, "BLOCK", block)
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
    with pytest.raises(ReclmError, match=r"no such file: .*x\.tsv"):
        TextFile.on_disk(tmp_path / "x.tsv")
    (tmp_path / "x.tsv").touch()
    with pytest.raises(ReclmError, match=r"x\.tsv is empty"):
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
        with pytest.raises(ReclmError, match=r"x\.zip/empty\.tsv is empty"):
            TextFile.in_zip(archive, "empty.tsv")


@given(st.binary(max_size=200), st.integers(13, 100))
def test_bytes_that_are_not_utf8_are_marked_whatever_the_blocks(raw, size):
    stream, text = delimited.MarkedStream(io.BytesIO(raw)), b""
    while part := stream.read(size):
        assert len(part) <= size  # Arrow has room for no more
        text += part
    try:
        expected = raw.decode()
    except UnicodeDecodeError:
        assert stream.marked
        expected = raw.decode(errors="reclm.mark")
    assert text.decode() == expected
