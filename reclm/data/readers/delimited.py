"""Delimited text, read in blocks as string columns that remember their line numbers."""

import codecs
import csv
import io
import json
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Self, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
from rich.console import Console
from rich.progress import wrap_file

from reclm.data.dataset import ReadReport
from reclm.data.readers.base import SHOWN, MalformedLines
from reclm.errors import ReclmError, unknown

BLOCK = 1 << 24
"""Bytes parsed at a time, at most; no line may be longer than 7/8 of it."""

DAMAGE = (OSError, zipfile.BadZipFile, zlib.error)

MARK = "\ufdd0"
"""Stands for a byte that is not UTF-8, while a file is read. No text holds it: Unicode set it aside for such uses."""

codecs.register_error("reclm.mark", lambda error: (MARK, getattr(error, "end", 0)))


@dataclass(frozen=True)
class TextFile:
    """A file on disk or inside a zip archive.

    Attributes:
        label: what messages call it, e.g. ``"MINDsmall_train.zip/behaviors.tsv"``.
        opener: opens it for reading bytes.
        size: its uncompressed bytes.
    """

    label: str
    opener: Callable[[], BinaryIO]
    size: int

    @classmethod
    def on_disk(cls, path: Path) -> Self:
        """The file at ``path``.

        Raises:
            ReclmError: if there is no such file, or it is empty.
        """
        if not path.is_file():
            raise ReclmError(f"no such file: {path}")
        return cls(str(path), lambda: path.open("rb"), path.stat().st_size)._filled()

    @classmethod
    def in_zip(cls, archive: zipfile.ZipFile, member: str) -> Self:
        """The ``member`` of an open archive.

        Raises:
            ReclmError: if it is empty.
        """
        label = f"{archive.filename}/{member}"
        return cls(
            label, lambda: cast(BinaryIO, archive.open(member)), archive.getinfo(member).file_size
        )._filled()

    def _filled(self) -> Self:
        if not self.size:
            raise ReclmError(f"{self.label} is empty")
        return self

    def open(self) -> BinaryIO:
        """The file, open for reading bytes.

        Raises:
            ReclmError: if it may not be read, or is encrypted.
        """
        try:
            return self.opener()
        except (OSError, RuntimeError) as error:  # zipfile's word for a password is RuntimeError
            raise ReclmError(f"cannot open {self.label}: {error}") from error

    def first_row(self, delimiter: str, quoting: bool = False) -> list[str]:
        """The fields of the first line: of a file with a header, its column names."""
        try:
            with self.open() as stream:
                line = stream.readline(BLOCK).decode("utf-8-sig", errors="replace").rstrip("\r\n")
        except DAMAGE as error:
            raise ReclmError(f"{self.label} is damaged: {error}") from error
        return next(csv.reader([line], delimiter=delimiter)) if quoting else line.split(delimiter)


@dataclass(frozen=True)
class Rows:
    """Some rows of a file, and where they stood.

    Attributes:
        file: what messages call the file.
        table: ``n`` rows.
        lines: ``(n,)`` int64 line numbers, from 1.
    """

    file: str
    table: pa.Table
    lines: np.ndarray

    def __len__(self) -> int:
        return self.table.num_rows

    def __getitem__(self, column: str) -> pa.ChunkedArray:
        return self.table.column(column)

    def keep(self, mask: np.ndarray) -> "Rows":
        """The rows where ``mask`` is true."""
        return self if mask.all() else Rows(self.file, self.table.filter(pa.array(mask)), self.lines[mask])

    def reject(self, bad: np.ndarray, why: str, malformed: MalformedLines) -> "Rows":
        """The rows that are not ``bad``; the bad ones are reported as malformed.

        Raises:
            ReclmError: for the first bad row, if reading is strict.
        """
        where = np.flatnonzero(bad)
        for row in where[:SHOWN]:
            text = "\t".join(str(column[int(row)]) for column in self.table.columns).replace(MARK, "\ufffd")
            malformed.add(self.file, int(self.lines[row]), text, why)
        malformed.count(max(0, len(where) - SHOWN))
        return self.keep(~bad)


def read_rows(
    file: TextFile,
    columns: Sequence[str],
    malformed: MalformedLines,
    *,
    delimiter: str = "\t",
    header: bool = False,
    quoting: bool = False,
    include: Sequence[str] | None = None,
) -> Iterator[Rows]:
    """The rows of a delimited text file, a block at a time, every column as strings.

    Lines with too many or too few fields and lines that are not UTF-8 are reported to ``malformed``; empty lines
    are passed over. A file that takes a while shows a progress bar on stderr.

    Args:
        columns: the names of all fields of a line.
        header: the first line holds names, not values.
        quoting: fields may stand in double quotes and then hold delimiters and line breaks.
        include: the columns wanted (all, by default).

    Raises:
        ReclmError: for a file that is no such text, or at the first malformed line if reading is strict.
    """
    skipped: list[int] = []
    unreported: list[pa.csv.InvalidRow] = []

    def skip(row: pa.csv.InvalidRow) -> str:
        skipped.append(row.number)
        unreported.append(row)
        return "skip"

    def report_skipped() -> None:
        for row in unreported:
            why = f"{row.actual_columns} fields, not {row.expected_columns}"
            malformed.add(file.label, row.number, row.text.replace(MARK, "\ufffd"), why)
        unreported.clear()

    wanted = list(include or columns)
    parse = pa.csv.ParseOptions(
        delimiter=delimiter,
        quote_char='"' if quoting else False,
        newlines_in_values=quoting,
        ignore_empty_lines=False,  # they would upset the line numbers
        invalid_row_handler=skip,
    )
    convert = pa.csv.ConvertOptions(
        check_utf8=False,  # it is, once marked
        column_types={name: pa.string() for name in columns},
        strings_can_be_null=False,
        quoted_strings_can_be_null=False,
        include_columns=wanted,
    )
    # one thread, because only then does the parser know line numbers
    read = pa.csv.ReadOptions(
        use_threads=False, block_size=BLOCK, column_names=list(columns), skip_rows=int(header)
    )
    done = 0
    with opened(file) as stream:
        try:
            text = MarkedStream(stream)
            for batch in pa.csv.open_csv(text, read, parse, convert):
                report_skipped()
                lines = _line_numbers(done, batch.num_rows, skipped, header)
                done += batch.num_rows
                rows = Rows(file.label, pa.Table.from_batches([batch]), lines)
                if text.marked:
                    rows = rows.reject(_marked(batch), "not UTF-8", malformed)
                yield rows.keep(~_blank(rows.table))
        except DAMAGE as error:
            raise ReclmError(f"{file.label} is damaged: {error}") from error
        except pa.ArrowInvalid as error:
            what = str(error).splitlines()[0]
            if "Empty CSV" not in what or not header:
                raise ReclmError(f"{file.label} cannot be read as delimited text: {what}") from error
    report_skipped()


def read_all(
    file: TextFile,
    columns: Sequence[str],
    malformed: MalformedLines,
    *,
    delimiter: str = "\t",
    header: bool = False,
    quoting: bool = False,
    include: Sequence[str] | None = None,
) -> Rows:
    """All rows of :func:`read_rows` at once."""
    wanted = list(include or columns)
    blocks = read_rows(
        file, columns, malformed, delimiter=delimiter, header=header, quoting=quoting, include=wanted
    )
    parts = list(blocks)
    schema = pa.schema([(name, pa.string()) for name in wanted])
    return Rows(
        file.label,
        pa.concat_tables([schema.empty_table(), *(part.table for part in parts)]),
        np.concatenate([np.empty(0, np.int64), *(part.lines for part in parts)]),
    )


def opened(file: TextFile) -> AbstractContextManager[BinaryIO]:
    """The open file; what is read of it moves a progress bar, if stderr is a terminal."""
    console = Console(stderr=True)
    quiet = not console.is_terminal
    return wrap_file(
        file.open(), file.size, description=file.label, console=console, transient=True, disable=quiet
    )


def _line_numbers(done: int, count: int, skipped: list[int], header: bool) -> np.ndarray:
    """Line numbers of ``count`` good rows after ``done`` earlier ones, given the skipped lines so far."""
    first = 1 + int(header)
    good_before = np.array(skipped, np.int64) - first - np.arange(len(skipped))
    rows = np.arange(done, done + count)
    return first + rows + np.searchsorted(good_before, rows, side="right")


class MarkedStream(io.RawIOBase):
    """A stream with every byte that is not UTF-8 replaced by ``MARK``, so that a line is lost and not the file.

    It is made to be read in blocks: of 13 bytes or more.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self.stream = stream
        self.decoder = codecs.getincrementaldecoder("utf-8")("reclm.mark")
        self.marked = False

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1, /) -> bytes:
        # one bad byte becomes three, and up to three may be pending: the answer must not exceed the size
        parts, left = [], size
        while left > max(12, size // 8):
            raw = self.stream.read(left // 3 - 3)
            parts.append(self._decode(raw, final=not raw))
            left -= len(parts[-1])
            if not raw:
                break
        return b"".join(parts)

    def _decode(self, raw: bytes, final: bool = False) -> bytes:
        text = self.decoder.decode(raw, final)
        self.marked = self.marked or MARK in text
        return text.encode()


def _marked(batch: pa.RecordBatch) -> np.ndarray:
    bad = np.zeros(batch.num_rows, bool)
    for column in batch.columns:
        bad |= pc.match_substring(column, MARK).to_numpy(zero_copy_only=False)
    return bad


def _blank(table: pa.Table) -> np.ndarray:
    empty = np.ones(table.num_rows, bool)
    for column in table.columns:
        if not empty.any():
            break
        empty &= pc.equal(pc.binary_length(column), 0).to_numpy()
    return empty


DELIMITERS = {".csv": ",", ".tsv": "\t"}
LINES = (".jsonl", ".ndjson")
PARQUET = (".parquet", ".pq")


def read_records(path: Path) -> pa.Table:
    """The table in a small CSV or TSV file (with a header line), Parquet file or file of JSON lines.

    Columns of CSV, TSV and JSON lines are strings; lists in JSON are joined by commas.

    Raises:
        ReclmError: if the file is missing or empty, a line is malformed, or the ending says none of these.
    """
    file = TextFile.on_disk(path)
    if path.suffix in DELIMITERS:
        delimiter = DELIMITERS[path.suffix]
        names = file.first_row(delimiter, quoting=True)
        malformed = MalformedLines(ReadReport(), strict=True)
        return read_all(file, names, malformed, delimiter=delimiter, header=True, quoting=True).table
    if path.suffix in LINES:
        return _json_lines(path)
    if path.suffix in PARQUET:
        try:
            return pq.read_table(path)
        except (OSError, pa.ArrowException) as error:
            raise ReclmError(f"{path} is no Parquet file: {' '.join(str(error).split())}") from error
    raise unknown(f"kind of table {path}: ending", path.suffix, [*DELIMITERS, *PARQUET, *LINES])


def _json_lines(path: Path) -> pa.Table:
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise ReclmError(f"{path}:{number}: no JSON: {error}") from error
        if not isinstance(row, dict):
            raise ReclmError(f"{path}:{number}: a JSON object is wanted, found {type(row).__name__}")
        rows.append(row)
    names: Sequence[str] = list(dict.fromkeys(name for row in rows for name in row))
    return pa.table({name: pa.array([_string(row.get(name)) for row in rows], pa.string()) for name in names})


def _string(value: Any) -> str | None:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return value if value is None else str(value)
