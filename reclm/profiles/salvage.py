"""Read what is readable of a damaged table of profiles, and say what is not."""

import math
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from reclm.files import parse_object
from reclm.llm.chat import encodable

if TYPE_CHECKING:
    from lancedb.table import Table

LANCE_ERRORS = (Exception,)
"""What LanceDB raises for files that are damaged or gone: many classes, a panic of its Rust code among them."""
HINT = "latest_version_hint.json"
"""What LanceDB notes the number of the latest version in, once that is written."""
_COUNTS = 2**31
_LATEST = 253_402_300_799_000_000
"""Microseconds to the end of year 9999."""


@contextmanager
def writing(where: object) -> Iterator[None]:
    """Turn what LanceDB raises where a disk is full or may not be written into the OSError that it is."""
    try:
        yield
    except LANCE_ERRORS as error:
        if number := re.search(r"\(os error (\d+)\)", str(error)):
            raise OSError(int(number[1]), os.strerror(int(number[1])), str(where)) from error
        raise


def typed(value: Any, kind: pa.DataType) -> Any:
    """Return a value as a column of this type takes it; None for what it cannot take, 0 for an impossible number."""
    if pa.types.is_string(kind):
        if isinstance(value, bytes):
            value = value.decode(errors="replace")
        return encodable(value) if isinstance(value, str) else None
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if pa.types.is_timestamp(kind):
        return int(value) if number and 0 <= value <= _LATEST else None
    if not number or not 0 <= value < _COUNTS:
        return None if value is None else 0
    return float(value) if pa.types.is_floating(kind) else int(value)


def column(values: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    """Return a column as one of this type; values that it cannot take are null or 0."""
    if values.type == kind:
        return values
    with suppress(pa.ArrowException):
        if pa.types.is_string(kind) == (
            pa.types.is_string(values.type) or pa.types.is_large_string(values.type)
        ):
            return values.cast(kind)
    return pa.chunked_array([pa.array([typed(value, kind) for value in values.to_pylist()], kind)])


def read_rows(table: "Table", columns: list[str], schema: pa.Schema) -> tuple[pa.Table, int]:
    """Return the rows of a table, and the number of those that cannot be read; missing columns are null."""
    names = [name for name in columns if name in table.schema.names]
    rows, lost = _readable(table, names, 0, table.count_rows())
    rows = pa.concat_tables([pa.schema([table.schema.field(name) for name in names]).empty_table(), *rows])
    fields = [schema.field(name) for name in columns]
    arrays = [
        column(rows[field.name], field.type) if field.name in names else pa.nulls(len(rows), field.type)
        for field in fields
    ]
    return pa.table(arrays, schema=pa.schema(fields)), lost


def _readable(table: "Table", names: list[str], start: int, stop: int) -> tuple[list[pa.Table], int]:
    """Return the readable rows from ``start`` to ``stop``, found by halving, and the number of the others."""
    if start == stop:
        return [], 0
    try:
        return [table.search().select(names).offset(start).limit(stop - start).to_arrow()], 0
    except LANCE_ERRORS:
        if stop - start <= 1:
            return [], 1
    middle = (start + stop) // 2
    (first, lost), (second, more) = (
        _readable(table, names, start, middle),
        _readable(table, names, middle, stop),
    )
    return first + second, lost + more


def last_version(folder: Path, name: str) -> int:
    """Return the number of the latest version that LanceDB noted beside the versions of a table; 0 where it did not."""
    with suppress(OSError, ValueError):
        hint = parse_object((folder / f"{name}.lance" / "_versions" / HINT).read_text(encoding="utf-8"))
        version = hint.get("version")
        return version if isinstance(version, int) else 0
    return 0


@contextmanager
def earlier_versions(folder: Path, name: str) -> Iterator[Iterator["Table"]]:
    """Yield the states of a table before its latest one, newest first, read from a copy of its descriptions."""
    import lancedb

    source = folder / f"{name}.lance"
    with tempfile.TemporaryDirectory() as place:
        copy = Path(place) / f"{name}.lance"
        shutil.copytree(source, copy, ignore=shutil.ignore_patterns("data"))
        (copy / "data").symlink_to((source / "data").resolve(), target_is_directory=True)
        (copy / "_versions" / HINT).unlink(missing_ok=True)

        def states() -> Iterator["Table"]:
            # numbered downwards: the newest comes first
            for manifest in sorted((copy / "_versions").glob("*.manifest"))[:-1]:
                manifest.unlink()
                with suppress(*LANCE_ERRORS):
                    table = lancedb.connect(place).open_table(name)
                    if table.schema.names:
                        yield table

        yield states()


def present(rows: pa.Table) -> pa.Array:
    """Return ``(n,)``: whether a row is one of a profile: it has a kind, an id and a text that is not blank."""
    blank = pc.equal(pc.utf8_length(pc.utf8_trim_whitespace(rows["text"])), 0)
    valid = pc.and_(pc.is_valid(rows["kind"]), pc.is_valid(rows["id"]))
    return pc.fill_null(pc.and_(valid, pc.invert(blank)), False)
