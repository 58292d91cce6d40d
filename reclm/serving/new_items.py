"""Items that came after training, read from a file."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from reclm.data.columns import strings
from reclm.data.dataset import Dataset, ReadReport
from reclm.data.delimited import TextFile, read_all
from reclm.data.idmap import IdMap
from reclm.data.reader import MalformedLines
from reclm.errors import ReclmError, unknown
from reclm.text.items import item_texts

ID, PROFILE = "item_id", "profile"
DELIMITERS = {".csv": ",", ".tsv": "\t"}
LINES = (".jsonl", ".ndjson")
PARQUET = (".parquet", ".pq")


@dataclass(frozen=True, eq=False)
class NewItems:
    """Items that the model was not trained on.

    Attributes:
        ids: as the file gives them.
        fields: their text, the columns of the data set's ``item_text``.
        profiles: a text an item, empty where it has none; None if nobody has one.
    """

    ids: IdMap
    fields: pa.Table
    profiles: list[str] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def texts(self, template: str) -> list[str]:
        """One text an item, as the model reads it.

        Raises:
            ReclmError: for an item without text.
        """
        texts = item_texts(self.fields, template)
        for id, text in zip(self.ids.ids(), texts, strict=True):
            if not text:
                raise ReclmError(
                    f"new item {id!r} has no text, and nothing else is known of it; fill in its fields"
                )
        return texts


def read_new_items(path: Path, dataset: Dataset) -> NewItems:
    """New items from CSV or TSV (with a header line), Parquet or JSON lines.

    Columns: ``item_id``, the text fields of the data set, and ``profile`` where items have one. Others are passed over.

    Raises:
        ReclmError: if the file is missing, empty, malformed or lacks a column, or an item is in the data set already.
    """
    fields = dataset.item_text.column_names
    table = _read(path)
    for name in (ID, *fields):
        if name not in table.column_names:
            raise ReclmError(
                f"{path} has no column {name!r}; new items of {dataset.name!r} need {', '.join([ID, *fields])} "
                f"(empty where nothing is known), found: {', '.join(table.column_names)}"
            )
    if not table.num_rows:
        raise ReclmError(f"{path} holds no item")
    columns = {name: _filled(table[name]) for name in table.column_names if name in {ID, PROFILE, *fields}}
    ids = IdMap(columns[ID], "item")
    for id, row in zip(ids.ids(), dataset.items.find(ids.array), strict=True):
        if not id.strip():
            raise ReclmError(f"{path}: an item has no {ID}")
        if row >= 0:
            raise ReclmError(f"{path}: item {id!r} is in data set {dataset.name!r} already; leave it out")
    has_profiles = PROFILE in columns and PROFILE not in fields and any(columns[PROFILE].to_pylist())
    return NewItems(
        ids,
        pa.table({name: columns[name] for name in fields}),
        columns[PROFILE].to_pylist() if has_profiles else None,
    )


def _filled(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return strings(column).fill_null("")


def _read(path: Path) -> pa.Table:
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
        except pa.ArrowInvalid as error:
            raise ReclmError(f"{path} is no Parquet file: {' '.join(str(error).split())}") from error
    raise unknown(f"kind of table {path}: ending", path.suffix, [*DELIMITERS, *PARQUET, *LINES])


def _json_lines(path: Path) -> pa.Table:
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
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
