"""JSON lines, plain or gzipped, read as numbered lines and parsed by DuckDB; what it refuses, by :mod:`json`."""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from reclm.data.readers.base import MalformedLines
from reclm.data.readers.lines import LINES, Rows, TextFile, numbered_rows

NUMBER = "('-', '0', '1', '2', '3', '4', '5', '6', '7', '8', '9')"
"""The first letters of numbers."""


@dataclass
class JsonLines:
    """A file with one JSON object a line, of which some fields are wanted.

    DuckDB parses the lines. Those that it cannot parse, and those in which a wanted field has another type than in
    ``schema``, are read by :mod:`json`, which takes a field for what it can: numbers for text and text for numbers,
    one text for a list of one, all else for null.

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

    def rows(self) -> Iterator[Rows]:
        """Yield the rows of the file, some thousand at a time; empty lines are passed over.

        Raises:
            Damaged: if the file cannot be read.
            BadInput: at the first malformed line, if reading is strict.
        """
        paths = [f'$."{name}"' for name in self.schema.names]
        for rows in numbered_rows(self.file, self._query(), {"paths": paths}):
            fits = rows["fits"].to_numpy()
            good = Rows(rows.file, rows.table.select(self.schema.names).cast(self.schema), rows.lines)
            yield good if fits.all() and not rows.rejects else self._completed(good.keep(fits), rows, fits)

    def _query(self) -> str:
        values, fits = [], ["left(ltrim(line), 1) = '{'", "parts IS NOT NULL"]
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
        columns = ", ".join(
            f'{value} AS "{name}"' for value, name in zip(values, self.schema.names, strict=True)
        )
        # a line that cannot be parsed makes TRY null, and so is one that does not fit
        return f"""SELECT fits, {columns}, CASE WHEN NOT fits THEN line END AS raw FROM (
            SELECT line, parts, coalesce({" AND ".join(fits)}, false) AS fits
            FROM (SELECT line, TRY(json_extract(line, $paths)) AS parts FROM {LINES}))"""

    def _completed(self, good: Rows, rows: Rows, fits: np.ndarray) -> Rows:
        """Return the good rows and those of the other lines, in the order of the file."""
        rest, objects, lines, rejects = rows.keep(~fits), [], [], []
        for line, number in zip(rest["raw"].to_pylist(), rest.lines.tolist(), strict=True):
            if line is None or not line.strip():
                continue
            try:
                value = json.loads(line)
                reason = f"a JSON {type(value).__name__}, not an object"
            except (ValueError, RecursionError) as error:
                value, reason = None, f"no JSON: {error}"
            if isinstance(value, dict):
                objects.append(value)
                lines.append(number)
            else:
                rejects.append((number, line, reason))
        rows.report(rejects, self.malformed)
        strict = [field for field in self.schema if field.name not in self.mixed]
        self.odd += sum(
            any(_is_odd(field.type, value.get(field.name)) for field in strict) for value in objects
        )
        arrays = [
            pa.array([_as(field.type, value.get(field.name)) for value in objects], field.type)
            for field in self.schema
        ]
        numbers = np.concatenate([good.lines, np.array(lines, np.int64)])
        order = np.argsort(numbers)
        table = pa.concat_tables([good.table, pa.table(arrays, schema=self.schema)])
        return Rows(good.file, table.take(pa.array(order)), numbers[order])


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
