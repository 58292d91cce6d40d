"""Records of delimited text, JSON lines and Parquet, read by DuckDB in a dialect that is fixed or asked for."""

import codecs
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from reclm.data.dataset import ReadReport
from reclm.data.readers.base import MalformedLines
from reclm.data.readers.columns import check_names
from reclm.data.readers.lines import LINES, Rows, database, numbered_rows, one_line, quoted_rows
from reclm.data.readers.text_file import TextFile, check_text
from reclm.errors import BadInput, unknown
from reclm.files import parse_object

DELIMITERS = {".csv": ",", ".tsv": "\t"}
LINES_OF_JSON = (".jsonl", ".ndjson")
PARQUET = (".parquet", ".pq")
NUMBER = tuple("-0123456789")  # the first letters of numbers
COMMA_TOO_MANY = r",[ \t\r\n]*[}\]]"


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
    """Yield the rows of a delimited text file, some at a time, every column as strings.

    ``columns`` names all fields of a line, ``include`` the wanted ones (all, by default). With ``quoting``, fields may
    stand in double quotes and then hold delimiters and line breaks. Lines with too many or too few fields and lines
    that are not UTF-8 are reported to ``malformed``; empty lines are passed over.
    """
    wanted = list(include or columns)
    places = [columns.index(name) for name in wanted]
    if quoting and file.survey.quotes:
        yield quoted_rows(file, len(columns), places, delimiter, header, malformed).columns(wanted)
        return
    fields = ", ".join(f"fields[{place + 1}] AS c{place}" for place in places)
    query = f"""SELECT {fields}, len(fields) AS width, CASE WHEN len(fields) <> $width THEN line END AS raw
        FROM (SELECT line, string_split(line, $delimiter) AS fields FROM {LINES})"""
    for block in numbered_rows(file, query, {"delimiter": delimiter, "width": len(columns)}):
        rows = block.keep(block.lines > int(header))
        width = pc.fill_null(rows["width"], 0).to_numpy()
        odd = (width != len(columns)) & (width > 0)
        rejects = [
            (int(rows.lines[row]), rows["raw"][row].as_py(), f"{width[row]} fields, not {len(columns)}")
            for row in np.flatnonzero(odd).tolist()
        ]
        block.report(rejects, malformed)
        good = rows.keep(width == len(columns)).columns(wanted)
        yield good.keep(_filled(good.table)) if len(columns) > 1 else good


def header(file: TextFile, delimiter: str, option: str = "") -> list[str]:
    """Return the column names in the first line; BadInput where another delimiter parts them.

    ``option`` is how the delimiter is chosen; without it the file must be converted.
    """
    names = [name.strip() for name in file.header(delimiter, quoting=True)]
    if any("\0" in name for name in names):
        message = f"{file.label} is not {file.encoding} (its first line holds NULs); convert it to utf-8"
        first = next(file.blocks(), b"")[:2]
        remedy = f"--set encoding=utf-16-{'be' if first.startswith(bytes(1)) else 'le'}" if option else ""
        raise BadInput(message + f", or say {remedy}" * bool(remedy), where=file.label, remedy=remedy)
    others = (
        [other for other in (",", ";", "\t", "|") if other != delimiter and other in names[0]]
        if names
        else []
    )
    if len(names) == 1 and others:
        message = f"the first line of {file.label} is parted by {others[0]!r}, not by {delimiter!r}"
        remedy = f"{option}{others[0]!r}" if option else "convert the file"
        raise BadInput(f"{message}; {remedy}", value=others[0], where=file.label, remedy=remedy)
    if len(names) == 1 and "::" in names[0]:
        message = f"the first line of {file.label} is parted by '::', and one character must part values"
        raise BadInput(
            f"{message}; convert the file", value="::", where=file.label, remedy="convert the file"
        )
    return names


def _filled(table: pa.Table) -> np.ndarray:
    filled = np.zeros(table.num_rows, bool)
    for column in table.columns:
        if filled.all():
            break
        filled |= pc.greater(pc.binary_length(column), 0).to_numpy()
    return filled


def _parsed(line: str) -> dict[str, Any] | str:
    """Return the JSON object in a line, or the reason why there is none."""
    try:
        return parse_object(line)
    except ValueError as error:
        return str(error)


def read_all(file: TextFile, columns: Sequence[str], malformed: MalformedLines, **options: Any) -> Rows:
    """Return all rows of :func:`read_rows`, whose options these are, at once."""
    parts = list(read_rows(file, columns, malformed, **options))
    schema = pa.schema([(name, pa.string()) for name in options.get("include") or columns])
    return Rows(
        file.label,
        pa.concat_tables([schema.empty_table(), *(part.table for part in parts)]),
        np.concatenate([np.empty(0, np.int64), *(part.lines for part in parts)]),
    )


def read_parquet(path: Path, columns: Sequence[str] | None = None, rows: int | None = None) -> pa.Table:
    """Return columns and the first rows of a Parquet file (all, by default)."""
    file = TextFile.on_disk(path)
    names = ", ".join('"' + name.replace('"', '""') + '"' for name in dict.fromkeys(columns or ())) or "*"
    query = f"SELECT {names} FROM read_parquet($path) LIMIT $rows"
    with database(file) as connection:
        try:
            with file.open() as stream:
                check_text(stream.read(99).replace(b"PAR1", b""), str(path))
            with file.open() as stream:  # of two columns with one name DuckDB renames the second
                second = pq.ParquetFile(stream)
                check_names(second.schema_arrow.names, str(path))
                if rows is None:  # of a page that lacks values DuckDB makes up the rest
                    for _ in second.iter_batches(columns=columns):
                        pass
            return connection.sql(query, params={"path": file.literal, "rows": rows}).to_arrow_table()
        except BadInput:
            raise
        except (duckdb.Error, pa.ArrowException, RuntimeError, ValueError, OSError) as error:
            raise BadInput(f"{path} is no Parquet file: {one_line(error)}", where=str(path)) from error


@dataclass
class JsonLines:
    """A file with one JSON object a line, of which some fields are wanted.

    DuckDB parses the lines. Those that it cannot parse, and those in which a wanted field has another type than in
    ``schema``, are read by :mod:`json`, which takes a field for what it can: numbers for text and text for numbers,
    one text for a list of one, all else for null.

    ``schema`` has strings, float64 or lists of strings; what a line lacks is null. ``odd`` counts the lines read in
    which a field had another type; ``mixed`` are string fields that are often bare numbers, which do not count.
    ``ids`` are string fields that are null where they hold half a surrogate pair, which is replaced in other texts: two
    ids could become one.
    """

    file: TextFile
    schema: pa.Schema
    malformed: MalformedLines
    mixed: Sequence[str] = ()
    ids: Sequence[str] = ()
    odd: int = 0

    def rows(self) -> Iterator[Rows]:
        """Yield the rows of the file, some thousand at a time; empty lines are passed over."""
        paths = [f'$."{name}"' for name in self.schema.names]
        for rows in numbered_rows(self.file, self._query(), {"paths": paths}):
            fits = rows["fits"].to_numpy()
            good = Rows(rows.file, rows.table.select(self.schema.names).cast(self.schema), rows.lines)
            yield good if fits.all() and not rows.rejects else self._completed(good.keep(fits), rows, fits)

    def _query(self) -> str:
        # of two values with one name DuckDB would take the first; a comma after the last value is none of JSON, and
        # where a text holds one before a bracket, json reads the line
        values, fits = (
            [],
            [
                "left(ltrim(line), 1) = '{'",
                "parts IS NOT NULL",
                "list_unique(names) = len(names)",
                f"NOT regexp_matches(line, '{COMMA_TOO_MANY}')",
            ],
        )
        for place, field in enumerate(self.schema, start=1):
            part = f"parts[{place}]"
            first, value = f"left({part}, 1)", f"({part} ->> '$')"
            empty = f"{part} IS NULL OR {part} = 'null'"
            if pa.types.is_list(field.type):
                types = f"list_filter(json_type({part}, '$[*]'), lambda x: x NOT IN ('VARCHAR', 'NULL'))"
                fits.append(f"({empty} OR ({first} = '[' AND len({types}) = 0))")
                values.append(f"CASE WHEN {first} = '[' THEN json_extract_string({part}, '$[*]') END")
            elif pa.types.is_floating(field.type):
                fits.append(f"({empty} OR {first} IN {NUMBER})")
                values.append(f"TRY_CAST({value} AS DOUBLE)")
            else:
                number = f" OR {first} IN {NUMBER}" if field.name in self.mixed else ""
                fits.append(f"({empty} OR {first} = '\"'{number})")
                values.append(value)
        pairs = zip(values, self.schema.names, strict=True)
        columns = ", ".join(f'{value} AS "{name}"' for value, name in pairs)
        # a line that cannot be parsed makes TRY null, and so is one that does not fit
        return f"""SELECT fits, {columns}, CASE WHEN NOT fits THEN line END AS raw FROM (
            SELECT line, parts, coalesce({" AND ".join(fits)}, false) AS fits FROM (
            SELECT line, TRY(json_extract(line, $paths)) AS parts, TRY(json_keys(line)) AS names FROM {LINES}))"""

    def _completed(self, good: Rows, rows: Rows, fits: np.ndarray) -> Rows:
        """Return the good rows and those of the other lines, in the order of the file."""
        rest, objects, lines, rejects = rows.keep(~fits), [], [], []
        for line, number in zip(rest["raw"].to_pylist(), rest.lines.tolist(), strict=True):
            if line is None or not line.strip():
                continue
            if isinstance(value := _parsed(line), str):
                rejects.append((number, line, value))
            else:
                objects.append(value)
                lines.append(number)
        rows.report(rejects, self.malformed)
        strict = [field for field in self.schema if field.name not in self.mixed]
        self.odd += sum(
            any(_is_odd(field.type, value.get(field.name)) for field in strict) for value in objects
        )
        values = {
            field.name: [_as(field.type, row.get(field.name), field.name in self.ids) for row in objects]
            for field in self.schema
        }
        numbers = np.concatenate([good.lines, np.array(lines, np.int64)])
        order = np.argsort(numbers)
        table = pa.concat_tables([good.table, pa.table(values, schema=self.schema)])
        return Rows(good.file, table.take(pa.array(order)), numbers[order])


def _is_odd(kind: pa.DataType, value: Any) -> bool:
    if pa.types.is_list(kind) and value is not None:
        return not isinstance(value, list) or any(_is_odd(kind.value_type, member) for member in value)
    return value is not None and type(value) not in ((int, float) if pa.types.is_floating(kind) else (str,))


def _as(kind: pa.DataType, value: Any, exact: bool = False) -> Any:
    """Return ``value`` as ``kind``, null where nobody can tell what is meant, or an ``exact`` text is no Unicode."""
    if pa.types.is_list(kind):
        values = [value] if isinstance(value, str) else value
        return [_as(kind.value_type, member) for member in values] if isinstance(values, list) else None
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    if pa.types.is_floating(kind):
        try:
            number = float(value)
        except (ValueError, OverflowError):
            return None
        return number if math.isfinite(number) else None
    text = _encodable(str(value))
    return None if exact and text != str(value) else text


def _encodable(text: str) -> str:
    """Return a text without halves of surrogate pairs, which JSON can write and UTF-8 cannot."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def read_records(path: Path) -> pa.Table:
    """Return the table in a small CSV or TSV file (with a header line), Parquet file or file of JSON lines.

    Text may be gzipped (``.csv.gz``). Columns of CSV, TSV and JSON lines are strings; lists in JSON are joined by
    commas.
    """
    ending = Path(path.name.removesuffix(".gz")).suffix
    if ending in DELIMITERS:
        file, delimiter = TextFile.on_disk(path), DELIMITERS[ending]
        names = header(file, delimiter)
        check_names(names, str(path))
        malformed = MalformedLines(ReadReport(), strict=True)
        return read_all(file, names, malformed, delimiter=delimiter, header=True, quoting=True).table
    if ending in LINES_OF_JSON:
        return _json_records(path)
    if ending in PARQUET:
        return read_parquet(path)
    raise unknown(f"kind of table {path}: ending", ending, [*DELIMITERS, *PARQUET, *LINES_OF_JSON])


def _json_records(path: Path) -> pa.Table:
    records: list[dict[str, Any]] = []
    text = b"".join(TextFile.on_disk(path).blocks()).removeprefix(codecs.BOM_UTF8)
    for number, line in enumerate(text.split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            record = _parsed(line.decode())
        except UnicodeDecodeError:
            record = "not UTF-8"
        if isinstance(record, str):
            raise BadInput(f"{path}:{number}: {record}", where=str(path))
        records.append(record)
    names = list(dict.fromkeys(name for record in records for name in record))
    columns = [pa.array([_text(record.get(name)) for record in records], pa.string()) for name in names]
    names = list(map(_encodable, names))
    check_names(names, str(path))
    return pa.table(columns, names=names)


def _text(value: Any) -> str | None:
    if isinstance(value, list):
        return _encodable(", ".join(map(str, value)))
    return value if value is None else _encodable(str(value))
