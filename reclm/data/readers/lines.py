"""Text files as numbered lines, read by DuckDB so that each line is accounted for.

In silence, DuckDB passes over a line that is longer than its buffer, counts lines of mixed line ends wrongly, and loses
what follows an unclosed quote. So each file is surveyed first, and what DuckDB read is compared with the survey.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from rich.console import Console

from reclm.console import printable, progress_bar
from reclm.data.readers.base import SHOWN, MalformedLines
from reclm.data.readers.text_file import LONGEST, TextFile
from reclm.errors import BadInput, Damaged

BATCH = 1 << 23  # bytes of text, about, that are handed on at a time
UNQUOTED = "a quote that does not end where the value does"
Reject = tuple[int, str, str]  # number and text of a line, and the reason why it cannot be used

# DuckDB: a file as a table of one column, `line`, null where it is blank; a line that is not UTF-8 is rejected.
OPTIONS = f"auto_detect=false, store_rejects=true, max_line_size={LONGEST + 2}, buffer_size={2 * LONGEST}"
LINES = f"""read_csv($path, delim='', quote='', escape='', header=false, strict_mode=false, {OPTIONS},
    compression=$compression, columns={{'line': 'VARCHAR'}})"""
SETTINGS = {
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
    "allow_community_extensions": False,
    "enable_external_file_cache": False,  # a file is read once or twice
    "allocator_flush_threshold": "16MB",  # returns memory to the system early
}


@contextmanager
def database(file: TextFile) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open a database in memory that can read ``file``, and neither installs nor loads extensions."""
    with duckdb.connect(":memory:", config=dict(SETTINGS)) as connection:
        connection.execute("SET TimeZone = 'UTC'")
        with suppress(duckdb.InvalidInputException):  # a notebook without ipywidgets has no bar to switch off
            connection.execute("SET enable_progress_bar = false")  # it would be written to stdout
        if file.register:
            file.register(connection)
        yield connection


def one_line(error: Exception) -> str:
    """Return the first paragraph of an error's message."""
    return " ".join(str(error).split("\n\n")[0].split())[:300]


@dataclass(frozen=True)
class Rows:
    """Some rows of a file, the lines they stood in (``(n,)`` int64, from 1), and those among them not readable."""

    file: str
    table: pa.Table
    lines: np.ndarray
    rejects: Sequence[Reject] = ()

    def __len__(self) -> int:
        return self.table.num_rows

    def __getitem__(self, column: str) -> pa.ChunkedArray:
        return self.table.column(column)

    def columns(self, names: Sequence[str]) -> "Rows":
        """Return the first columns of the rows, by these names."""
        return Rows(self.file, self.table.select(range(len(names))).rename_columns(list(names)), self.lines)

    def keep(self, mask: np.ndarray) -> "Rows":
        """Return the rows where ``mask`` ``(n,)`` is True."""
        return self if mask.all() else Rows(self.file, self.table.filter(pa.array(mask)), self.lines[mask])

    def reject(self, bad: np.ndarray, why: str, malformed: MalformedLines) -> "Rows":
        """Return the rows that are not ``bad`` ``(n,)`` bool; the bad ones are reported as malformed."""
        where = np.flatnonzero(bad)
        for row in where[:SHOWN]:
            text = "\t".join(str(column[int(row)]) for column in self.table.columns)
            malformed.add(self.file, int(self.lines[row]), text, why)
        malformed.report.drop("malformed line", max(0, len(where) - SHOWN))
        return self.keep(~bad)

    def good(self, wrong: Mapping[str, np.ndarray], malformed: MalformedLines) -> np.ndarray:
        """Return a mask ``(n,)`` of the rows without a fault; others are reported as malformed, each for its first."""
        good = np.ones(len(self), bool)
        for why, bad in wrong.items():
            self.reject(bad & good, why, malformed)
            good &= ~bad
        return good

    def report(self, rejects: Sequence[Reject], malformed: MalformedLines) -> None:
        """Report lines as malformed, those that could not be read among them, in the order of the file."""
        for reject in sorted([*self.rejects, *rejects]):
            malformed.add(self.file, *reject)


def rejected(connection: duckdb.DuckDBPyConnection) -> list[Reject]:
    """Return the lines that the scans so far have rejected, ascending, each once."""
    rows = connection.execute(
        "SELECT line, first(csv_line), first(error_type), list(error_message) FROM reject_errors GROUP BY line "
        "ORDER BY line"
    ).fetchall()
    return [(line, text.strip("\r\n"), _reason(kind, messages)) for line, text, kind, messages in rows]


def _reason(kind: str, messages: Sequence[str]) -> str:
    if kind in ("MISSING COLUMNS", "TOO MANY COLUMNS"):
        # there is a message for each column that lacks, or is too many
        counts = re.findall(r"Columns: (\d+) Found: (\d+)", " ".join(messages))
        fields = (min if kind == "MISSING COLUMNS" else max)(int(number) for _, number in counts)
        return f"{fields} fields, not {counts[0][0]}"
    if kind == "INVALID ENCODING":
        return "not UTF-8"
    return UNQUOTED if kind == "UNQUOTED VALUE" else f"{kind.lower()}: {messages[0]}"


def numbered_rows(file: TextFile, query: str, parameters: Mapping[str, Any] | None = None) -> Iterator[Rows]:
    """Yield the rows of a query of :data:`LINES`, a row a line, blank ones among them, some thousand at a time.

    Lines that are not UTF-8 are ``rejects`` of the rows. A file that takes a while shows a progress bar on stderr.
    """
    survey = file.survey
    rows = int(np.clip(BATCH * survey.lines // file.size, 1 << 11, 1 << 14))
    show = file.size > LONGEST and Console(stderr=True).is_terminal
    with (
        file.readable() as source,
        database(file) as connection,
        progress_bar(f"reading {file.label}", survey.lines, show) as advance,
    ):
        try:
            bad = [] if survey.utf8 else _not_utf8(connection, source)
            places, done = np.array([line for line, _, _ in bad], np.int64), 0
            reader = connection.sql(query, params={**source, **(parameters or {})}).to_arrow_reader(rows)
            for batch in reader:
                # line numbers of the good lines, given the bad ones
                order = np.arange(done, done + batch.num_rows)
                lines = 1 + order + np.searchsorted(places - 1 - np.arange(len(places)), order, side="right")
                among = sum(line < lines[-1] for line, _, _ in bad) if len(lines) else 0
                yield Rows(file.label, pa.Table.from_batches([batch]), lines, bad[:among])
                bad, done = bad[among:], done + batch.num_rows
                advance(batch.num_rows)
            if bad:
                yield Rows(file.label, reader.schema.empty_table(), places[:0], bad)
        except (duckdb.Error, pa.ArrowException) as error:
            raise Damaged(f"{file.label} cannot be read: {one_line(error)}", where=file.label) from error
    if done + len(places) != survey.lines:
        message = f"{file.label}: {done + len(places):,} of {survey.lines:,} lines could be read"
        raise Damaged(message, where=file.label)


def _not_utf8(connection: duckdb.DuckDBPyConnection, source: Mapping[str, str]) -> list[Reject]:
    connection.execute(f"SELECT count(line) FROM {LINES}", dict(source)).fetchall()
    bad = rejected(connection)
    connection.execute("DROP TABLE reject_errors; DROP TABLE reject_scans")
    return bad


def quoted_rows(
    file: TextFile, width: int, places: Sequence[int], delimiter: str, header: bool, malformed: MalformedLines
) -> Rows:
    """Return the rows of a file with quoted values, with their line numbers, which DuckDB does not give.

    Line breaks in a value are line feeds, whatever they are in the file. No value is null: for DuckDB, a null too many
    at the end of a line is no fault, and no text has the NUL that stands for it here.
    """
    names = [f"c{place}" for place in range(width)]
    breaks = " + ".join(
        f"CASE WHEN contains({name}, chr(10)) THEN len({name}) - len(replace({name}, chr(10), '')) ELSE 0 END"
        for name in names
    )
    values = ", ".join(f"replace(c{place}, chr(13) || chr(10), chr(10)) AS c{place}" for place in places)
    query = f"""SELECT {values}, {breaks} AS breaks, concat({", ".join(names)}) = '' AS blank,
        coalesce({", ".join(f"CASE WHEN contains({name}, chr(10)) THEN {name} END" for name in names)}) AS long
        FROM read_csv($path, delim=$delimiter, quote='"', escape='"', header=$header, {OPTIONS},
        nullstr=chr(0), compression=$compression, columns={{{", ".join(f"'{name}': 'VARCHAR'" for name in names)}}})"""
    with file.readable() as source, database(file) as connection:
        options = {**source, "delimiter": delimiter, "header": header}
        try:
            table = connection.sql(query, params=options).to_arrow_table()
            bad = rejected(connection)
        except (duckdb.Error, pa.ArrowException) as error:
            message = f"{file.label} cannot be read as delimited text: {one_line(error)}"
            raise BadInput(message, where=file.label) from error
    head = sum(name.count("\n") for name in file.first_row(delimiter, quoting=True)) + 1 if header else 0
    lines, bad = _laid_along(file, table["breaks"].to_numpy(), bad, head)
    for row in pc.indices_nonzero(table["long"].is_valid()).to_pylist():
        if _holds_records(value := table["long"][row].as_py(), width, delimiter):
            raise _unclosed(file, int(lines[row]), value)
    for reject in bad:
        malformed.add(file.label, *reject)
    rows = Rows(file.label, table.drop_columns(["breaks", "blank", "long"]), lines)
    return rows.keep(~table["blank"].to_numpy())


def _holds_records(value: str, width: int, delimiter: str) -> bool:
    """Tell whether the lines within a quoted value seem to be records, since a quote was left open before them."""
    inner = [line.count(delimiter) == width - 1 for line in value.split("\n")[1:-1]]
    return len(inner) >= (3 if width > 2 else 10) and sum(inner) >= 0.9 * len(inner)


def _laid_along(
    file: TextFile, breaks: np.ndarray, bad: list[Reject], head: int
) -> tuple[np.ndarray, list[Reject]]:
    """Return the line numbers of the rows, and the rejects with theirs, after ``head`` lines of header.

    ``breaks`` ``(n,)`` counts the line breaks within the values of each row. The rejects come by number of the record:
    blank lines and the header count, line breaks within values do not.
    """
    total, ends = file.survey.lines, np.cumsum(1 + breaks)
    if not bad and head + (ends[-1] if len(ends) else 0) == total:  # no blank lines
        return head + ends - breaks, bad
    inner = {number: text.count("\n") for number, text, _ in bad}
    for number, text, reason in bad:
        if reason == UNQUOTED and inner[number]:
            raise _unclosed(file, number, text)
    blank = np.zeros(total + 1, bool)
    blank[0] = True
    for rows in numbered_rows(file, f"SELECT line IS NULL AS blank FROM {LINES}"):
        blank[rows.lines] = rows["blank"].to_numpy()
    if not breaks.any() and not any(inner.values()) and head < 2:
        blank[[*inner, *range(1, head + 1)]] = True
        lines = np.flatnonzero(~blank)
        if len(lines) == len(breaks):
            return lines, bad
    lines, places = np.empty(len(breaks), np.int64), {}
    line, number, row = 1 + head, 1 + min(head, 1), 0
    sizes, empty = breaks.tolist(), blank.tolist()
    while line <= total:
        if empty[line] and number not in inner:
            line += 1
        elif number in inner:
            places[number] = line
            line += 1 + inner[number]
        elif row < len(sizes):
            lines[row] = line
            line += 1 + sizes[row]
            row += 1
        else:
            break
        number += 1
    if line != total + 1 or row != len(sizes) or len(places) != len(bad):
        first = next((reject for reject in bad if reject[2] == UNQUOTED), None)
        raise _unclosed(file, *(first[:2] if first else (line, "")))
    return lines, [(places[number], text, reason) for number, text, reason in bad]


def _unclosed(file: TextFile, line: int, text: str) -> BadInput:
    what = "a quoted value does not end where it should, so that records cannot be told apart from here on: "
    what += f"{printable(text.partition(chr(10))[0], 80)}; close the quote, or double one that belongs to the text"
    return BadInput(f"{file.label}:{line}: {what}", value=line, where=file.label)
