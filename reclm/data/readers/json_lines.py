"""JSON lines, plain or gzipped, read in blocks as columns that remember their line numbers."""

import gzip
import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

import numpy as np
import pyarrow as pa
import pyarrow.json

from reclm.data.readers.base import MalformedLines
from reclm.data.readers.delimited import DAMAGE, Rows, TextFile, opened
from reclm.errors import ReclmError

BLOCK = 1 << 22
"""Bytes parsed at a time; more where a single line is longer."""

LONGEST = 1 << 26
"""Bytes of the longest line that is read."""

FEW = 16
"""Lines, at most, that Python's parser takes together when Arrow's refuses one of them."""


@dataclass
class JsonLines:
    """A file with one JSON object a line, of which some fields are wanted.

    Arrow parses whole blocks. Where it refuses a block, the block is halved until the few lines it stumbles over are
    left; those are read by :mod:`json`, which takes a field of another type for what it can: numbers for text and
    text for numbers, one text for a list of one, all else for null.

    Attributes:
        file: the file; gzipped if its label ends in ``.gz``.
        schema: the wanted fields: strings, float64 or lists of strings. What a line lacks is null.
        malformed: receives the lines that are no JSON object, or not UTF-8.
        mixed: string fields that are often bare numbers instead.
        odd: lines read so far in which a field had another type than in ``schema`` (``mixed`` ones apart).
    """

    file: TextFile
    schema: pa.Schema
    malformed: MalformedLines
    mixed: Sequence[str] = ()
    odd: int = 0

    def __post_init__(self) -> None:
        # inside a JSON string the quotes would be escaped, so this finds keys only
        names = "|".join(map(re.escape, self.mixed)) or "(?!)"
        number = rb"(-?\d[\d.eE+-]*)(?=\s*[,}])"
        self._bare_number = re.compile(rb'("(?:%s)"\s*:\s*)' % names.encode() + number)

    def rows(self) -> Iterator[Rows]:
        """The rows of the file, a block at a time; empty lines are passed over.

        A file that takes a while shows a progress bar on stderr.

        Raises:
            ReclmError: for a damaged file or one without lines, or at the first malformed line if reading is strict.
        """
        first = 1
        with opened(self.file) as stream:
            try:
                for block in self._blocks(stream):
                    yield self._parsed(block, first)
                    first += block.count(b"\n")
            except (*DAMAGE, EOFError) as error:
                raise ReclmError(f"{self.file.label} is damaged: {error}") from error

    def _blocks(self, stream: BinaryIO) -> Iterator[bytes]:
        """Whole lines, about ``BLOCK`` bytes at a time, each with its newline."""
        if self.file.label.endswith(".gz"):
            stream = cast(BinaryIO, gzip.GzipFile(fileobj=stream))
        rest, first = b"", True
        while piece := stream.read(BLOCK):
            if first:
                piece, first = piece.removeprefix(b"\xef\xbb\xbf"), False
            cut = piece.rfind(b"\n") + 1
            if cut:
                yield rest + piece[:cut]
                rest = piece[cut:]
            else:
                rest += piece
            if len(rest) > LONGEST:
                raise ReclmError(
                    f"{self.file.label} has a line of more than {LONGEST >> 20} MiB; "
                    "a file of JSON lines is wanted, one object a line"
                )
        if rest:
            yield rest + b"\n"

    def _parsed(self, block: bytes, first: int) -> Rows:
        """The rows of a block whose first line has the number ``first``."""
        block = block.replace(b"\r\n", b"\n")
        count = block.count(b"\n")
        # no object goes over several lines if each begins and ends with a brace
        if block[:1] == b"{" and block[-2:] == b"}\n" and block.count(b"}\n{") == count - 1:
            table = self._by_arrow(block, count)
            if table is not None:
                return Rows(self.file.label, table, np.arange(first, first + count))
        lines = [line.strip() for line in block.split(b"\n")]
        numbers = [number for number, line in enumerate(lines) if line]
        parts = list(self._halved([lines[number] for number in numbers], np.array(numbers, np.int64) + first))
        return Rows(
            self.file.label,
            pa.concat_tables([self.schema.empty_table(), *(table for table, _ in parts)]),
            np.concatenate([np.empty(0, np.int64), *(where for _, where in parts)]),
        )

    def _by_arrow(self, block: bytes, count: int) -> pa.Table | None:
        """The ``count`` lines of ``block`` as a table, or None if Arrow cannot read all of them."""
        if self.mixed:
            block = self._bare_number.sub(rb'\1"\2"', block)
        try:
            block.decode()  # Arrow does not look whether it is UTF-8
            table = pa.json.read_json(
                pa.BufferReader(block),
                pa.json.ReadOptions(use_threads=False, block_size=len(block) + 1),
                pa.json.ParseOptions(explicit_schema=self.schema, unexpected_field_behavior="ignore"),
            )
        except (pa.ArrowInvalid, UnicodeDecodeError):
            return None
        return table if table.num_rows == count else None  # a line may hold two objects

    def _halved(self, lines: list[bytes], numbers: np.ndarray) -> Iterator[tuple[pa.Table, np.ndarray]]:
        """Tables of the good lines with their line numbers, in order."""
        if all(line[:1] == b"{" and line[-1:] == b"}" for line in lines):
            table = self._by_arrow(b"\n".join([*lines, b""]), len(lines)) if lines else None
            if table is not None:
                yield table, numbers
                return
        if len(lines) <= FEW:
            yield self._one_by_one(lines, numbers)
            return
        half = len(lines) // 2
        yield from self._halved(lines[:half], numbers[:half])
        yield from self._halved(lines[half:], numbers[half:])

    def _one_by_one(self, lines: list[bytes], numbers: np.ndarray) -> tuple[pa.Table, np.ndarray]:
        objects: list[dict[str, Any]] = []
        good: list[int] = []
        for line, number in zip(lines, numbers.tolist(), strict=True):
            try:
                one = json.loads(line.decode())
                why = f"a JSON {type(one).__name__}, not an object"
            except UnicodeDecodeError:
                one, why = None, "not UTF-8"
            except (ValueError, RecursionError) as error:
                one, why = None, f"no JSON: {error}"
            if isinstance(one, dict):
                objects.append(one)
                good.append(number)
            else:
                self.malformed.add(self.file.label, number, line.decode(errors="replace"), why)
        strict = [field for field in self.schema if field.name not in self.mixed]
        self.odd += sum(any(_is_odd(field.type, one.get(field.name)) for field in strict) for one in objects)
        columns = [[_as(field.type, one.get(field.name)) for one in objects] for field in self.schema]
        arrays = [pa.array(values, kind) for values, kind in zip(columns, self.schema.types, strict=True)]
        return pa.table(arrays, schema=self.schema), np.array(good, np.int64)


def _is_odd(kind: pa.DataType, value: Any) -> bool:
    if value is None:
        return False
    if pa.types.is_list(kind):
        return not isinstance(value, list) or any(_is_odd(kind.value_type, one) for one in value)
    if pa.types.is_floating(kind):
        return isinstance(value, bool) or not isinstance(value, int | float)
    return not isinstance(value, str)


def _as(kind: pa.DataType, value: Any) -> Any:
    """``value`` as ``kind``, null where there is no telling what is meant."""
    if pa.types.is_list(kind):
        values = [value] if isinstance(value, str) else value
        return [_as(kind.value_type, one) for one in values] if isinstance(values, list) else None
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    if pa.types.is_floating(kind):
        try:
            number = float(value)
        except (ValueError, OverflowError):
            return None
        return number if math.isfinite(number) else None
    # halves of surrogate pairs, which JSON can write and UTF-8 cannot
    return str(value).encode("utf-16", "surrogatepass").decode("utf-16", "replace")
