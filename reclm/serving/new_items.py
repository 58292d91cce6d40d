"""Items that came after training, read from a file."""

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from reclm.data.columns import strings
from reclm.data.dataset import Dataset
from reclm.data.idmap import IdMap
from reclm.data.records import read_records
from reclm.errors import ReclmError
from reclm.text.items import item_texts

ID, PROFILE = "item_id", "profile"


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
    table = read_records(path)
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
