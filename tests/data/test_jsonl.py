"""JSON lines and what can be wrong with them."""

import gzip
import json
import math
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reclm.data.dataset import ReadReport
from reclm.data.readers.base import MalformedLines
from reclm.data.readers.records import JsonLines
from reclm.data.readers.text_file import TextFile
from reclm.errors import BadInput, Damaged

SCHEMA = pa.schema(
    [("a", pa.string()), ("n", pa.float64()), ("l", pa.list_(pa.string())), ("p", pa.string())]
)


def read(path: Path, strict: bool = False):
    """Line numbers and rows, the report, and how many lines were odd."""
    report = ReadReport()
    lines = JsonLines(TextFile.on_disk(path), SCHEMA, MalformedLines(report, strict), mixed=("p",))
    blocks = list(lines.rows())
    rows = [row for block in blocks for row in block.table.to_pylist()]
    return (
        list(zip([n for block in blocks for n in block.lines.tolist()], rows, strict=True)),
        report,
        lines.odd,
    )


def row(a=None, n=None, l=None, p=None):  # noqa: E741
    return {"a": a, "n": n, "l": l, "p": p}


def test_fields_are_taken_for_what_they_can_be(tmp_path):
    path = tmp_path / "x.jsonl"
    lines = [
        '{"a": "x", "n": 1, "l": ["y", null], "p": 12.99, "other": {"p": 3, "a": [1]}}',
        '{"a": 7, "n": "2.5", "l": "z", "p": "from 3"}',
        '{"a": ["x"], "n": true, "l": [1, {}], "p": null}',
        '{"a": "\\ud83d\\ude00 \\ud800 \\"p\\": 5", "n": "five"}',
        "{}",
    ]
    path.write_text("\n".join(lines))
    rows, report, odd = read(path)
    assert rows == [
        (1, row("x", 1.0, ["y", None], "12.99")),
        (2, row("7", 2.5, ["z"], "from 3")),
        (3, row(None, None, ["1", None], None)),
        (4, row('😀 \ufffd "p": 5')),
        (5, row()),
    ]
    assert odd == 3
    assert report.dropped == {}


@pytest.mark.parametrize("line", ['{"a": "x", }', '{"a": "x", "l": ["y",]}', '{"a": "x", "o": {"q": 1,\t}}'])
def test_a_comma_after_the_last_value_is_no_json(tmp_path, line):
    path = tmp_path / "x.jsonl"
    path.write_text(f'{line}\n{{"a": "a text,]"}}\n')
    rows, report, odd = read(path)
    assert rows == [(2, row("a text,]"))]
    assert odd == 0
    assert report.dropped == {"malformed line": 1}


def test_malformed_lines_are_counted_and_quoted_with_their_numbers(tmp_path):
    path = tmp_path / "x.jsonl"
    good = b'{"a": "x"}'
    path.write_bytes(
        b"\n".join(
            [
                good,
                b"",
                b"{broken",
                good,
                b'{"a": "\xff"}',
                b"[1]",
                good + good,
                good + b"\r",
                b'{"a":',
                b'"x"}',
            ]
        )
    )
    rows, report, _ = read(path)
    assert [number for number, _ in rows] == [1, 4, 8]
    assert report.dropped == {"malformed line": 6}
    whys = [line.split("x.jsonl:")[1] for line in report.malformed]
    assert [why.split(":")[0] for why in whys] == ["3", "5", "6", "7", "9"]
    assert "not UTF-8" in whys[1]
    assert "a JSON list, not an object" in whys[2]
    with pytest.raises(BadInput, match=r"x\.jsonl:3: \{broken \(no JSON: .*--strict"):
        read(path, strict=True)


def test_an_object_with_two_values_of_one_name_is_malformed(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text('{"a": "x"}\n{"a": "y", "z": 1, "a": "w"}\n{"a": "y", "z": 1, "z": 2}\n')
    rows, report, _ = read(path)
    assert [number for number, _ in rows] == [1]
    assert report.dropped == {"malformed line": 2}


@pytest.mark.parametrize("deep", ["[" * 5000 + "]" * 5000, "9" * 5000])
def test_what_one_parser_cannot_hold_costs_its_line_at_most(tmp_path, deep):
    path = tmp_path / "x.jsonl"
    path.write_text('{"a": "x"}\n{"a": ' + deep + '}\n{"a": "y"}\n')
    rows, report, _ = read(path)
    assert [number for number, _ in rows if number != 2] == [1, 3]
    assert report.dropped == {"malformed line": 1}


def test_gzipped_reads_alike_and_damage_is_one_line(tmp_path):
    raw = "".join(json.dumps({"a": str(i), "p": i}) + "\n" for i in range(1000)).encode()
    plain, packed = tmp_path / "x.jsonl", tmp_path / "x.jsonl.gz"
    plain.write_bytes(raw)
    packed.write_bytes(gzip.compress(raw))
    assert read(packed)[0] == read(plain)[0]
    packed.write_bytes(gzip.compress(raw)[:-50])
    with pytest.raises(Damaged, match=r"x\.jsonl\.gz"):
        read(packed)
    packed.write_bytes(raw)
    with pytest.raises(Damaged, match="Not a gzipped file"):
        read(packed)


text = st.text('a"\\{}é\ud800\n', max_size=3)
values = [st.none(), st.booleans(), st.integers(-5, 5), st.floats(width=16), text, st.lists(text, max_size=2)]
value = st.one_of(*values, st.dictionaries(st.sampled_from("anlp"), st.integers(), max_size=1))
good = st.dictionaries(st.sampled_from(["a", "n", "l", "p", "z"]), value).map(
    lambda one: json.dumps(one).encode()
)
bad = st.sampled_from(
    [b"", b"{", b"}", b'{"a": "x"}{"n": 1}', b"[]", b'{"a": "\xff"}', b"  ", b'{"a": "x"', b"null"]
)
lines = st.lists(st.one_of(good, good, bad), max_size=60)


@settings(deadline=None)
@given(lines, st.sampled_from([b"\n", b"\r\n"]), st.booleans())
def test_reads_as_a_plain_loop_does(tmp_path_factory, lines, ending, last):
    path = tmp_path_factory.mktemp("lines") / "x.jsonl"
    path.write_bytes(b'{"a": "first"}\n' + ending.join(lines) + (ending if last else b""))
    expected, malformed = [1], 0
    for number, line in enumerate(lines, 2):
        try:
            one = json.loads(line.decode())
        except ValueError:
            one = None
        if isinstance(one, dict):
            expected.append(number)
        elif line.strip():
            malformed += 1
    rows, report, _ = read(path)
    assert [number for number, _ in rows] == expected
    assert report.dropped.get("malformed line", 0) == malformed
    for number, found in rows[1:]:
        one = json.loads(lines[number - 2])
        if type(one.get("n")) in (int, float) and math.isfinite(one["n"]):
            assert found["n"] == one["n"]
        if isinstance(one.get("a"), str):
            assert found["a"] == one["a"].replace("\ud800", "\ufffd")
