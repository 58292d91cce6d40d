"""Records that a user brings in a file of their own, as one table: for small files, read at once."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from reclm.data.dataset import ReadReport
from reclm.data.delimited import TextFile, read_all
from reclm.data.reader import MalformedLines
from reclm.errors import ReclmError, unknown

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
