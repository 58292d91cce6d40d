"""Tables of LanceDB: opened, made and written to."""

from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from reclm.errors import Damaged
from reclm.profiles.salvage import LANCE_ERRORS, writing

if TYPE_CHECKING:
    from lancedb import DBConnection
    from lancedb.table import Table


def connect(folder: Path | str) -> "DBConnection":
    """Connect to LanceDB in ``folder``."""
    import lancedb

    return lancedb.connect(folder, read_consistency_interval=timedelta(0))


def open_table(db: "DBConnection", name: str) -> "Table | None":
    """Return the table called ``name``, None where there is none, or nothing but the folder that a kill left."""
    if name not in db.list_tables(limit=1000).tables:
        return None
    try:
        return db.open_table(name)
    except LANCE_ERRORS as error:
        if "was not found" in str(error):
            return None
        raise Damaged(f"table {name} of {db.uri} is damaged: {error}", where=db.uri) from error


def new_table(db: "DBConnection", name: str, schema: pa.Schema) -> "Table":
    """Make a table, where there is none yet."""
    with writing(f"{db.uri}/{name}"):
        return db.create_table(name, schema=schema, exist_ok=True)


def upsert(table: "Table", rows: pa.Table) -> None:
    """Insert rows, in the place of those with the same (kind, id)."""
    merge = table.merge_insert(["kind", "id"]).when_matched_update_all().when_not_matched_insert_all()
    with writing(table.name):
        merge.execute(rows)


def compact(table: "Table") -> None:
    """Merge the files of many small writes; versions that readers may still use stay for some minutes."""
    with writing(table.name):
        table.optimize(cleanup_older_than=timedelta(minutes=5))
