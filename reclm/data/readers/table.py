"""Interactions and items that a user brings as Parquet, CSV or TSV tables."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import BeforeValidator

from reclm.config import Config as BaseConfig
from reclm.data.dataset import Dataset, ReadReport
from reclm.data.id_map import IdMap
from reclm.data.item_text import item_texts
from reclm.data.readers.base import MalformedLines, Reader, existing
from reclm.data.readers.columns import (
    LogColumns,
    TimeUnit,
    find_column,
    find_optional,
    id_map,
    read_log,
    strings,
    text_of,
    without_text,
)
from reclm.data.readers.delimited import Rows, TextFile, read_all
from reclm.data.splits import SplitOptions, from_log
from reclm.errors import ReclmError, unknown

DELIMITERS = {".csv": ",", ".tsv": "\t"}
PARQUET = (".parquet", ".pq")
KNOWN = (*DELIMITERS, *PARQUET)


def _names(value: object) -> object:
    """``"title, genre"`` as a list of names."""
    return [name.strip() for name in value.split(",")] if isinstance(value, str) else value


class Table(Reader):
    """Any interactions as a table with a column of users and one of items; a second table describes the items.

    CSV and TSV files have a header line, and double quotes round values that hold delimiters. Times are numbers or ISO
    timestamps (UTC where they name no zone). Splits as in :class:`~reclm.data.splits.SplitOptions`.
    """

    name = "table"
    summary = "your own Parquet, CSV or TSV: interactions, and items with text"
    source = "a .parquet, .csv or .tsv file of interactions, or a folder with interactions.* and items.*"

    class Config(SplitOptions):
        """Options of the reader."""

        user_column: str = "user_id"
        """Column of user ids."""
        item_column: str = "item_id"
        """Column of item ids."""
        time_column: str = "timestamp"
        """Column of times; without it the split is random."""
        time_unit: TimeUnit = "s"
        """Unit of times that are numbers: since 1970, in s, ms or us."""
        rating_column: str = "rating"
        """Column of ratings, if there is one."""
        review_column: str = "review"
        """Column of review texts, if there is one."""
        items: Path | None = None
        """The table of items. Default: items.* beside the interactions, if it is there."""
        item_id_column: str = "item_id"
        """Column of item ids in the table of items."""
        text_columns: Annotated[tuple[str, ...], BeforeValidator(_names)] = ()
        """Columns of item text, most telling first. Default: all columns but the id that hold strings."""
        text_template: str = ""
        """How they make one text, e.g. "{title}[. {genre}]". Default: all, joined by ". "."""

    def read(self, source: Path | None, config: BaseConfig, *, strict: bool = False) -> Dataset:
        """See :class:`Reader`."""
        assert isinstance(config, self.Config)
        path = _beside(existing(source, self), "interactions")
        if path is None:
            raise ReclmError(
                f"no interactions.parquet, .csv or .tsv in {source}; --source must be {self.source}"
            )
        malformed = MalformedLines(ReadReport(), strict)
        columns = _log_columns(path, config)
        log = read_log(_read(path, columns.names(), malformed), columns, malformed, config.time_unit)
        users, items = id_map("user", log.user), id_map("item", log.item)
        text = _item_text(items, config.items or _beside(path.parent, "items"), config, malformed)
        item_texts(
            text.slice(0, 0), config.text_template
        )  # a wrong template is refused before anything is saved
        return from_log(
            self.name,
            users,
            items,
            log.numbered(users, items),
            text,
            config,
            malformed.report,
            config.text_template,
        )


def _beside(place: Path, name: str) -> Path | None:
    """``place`` if it is a file, else the table called ``name`` in that folder."""
    if place.is_file():
        return place
    return next((path for ending in KNOWN if (path := place / f"{name}{ending}").is_file()), None)


def _log_columns(path: Path, config: Table.Config) -> LogColumns:
    names, asked = _column_names(path), config.model_fields_set

    def optional(option: str) -> str | None:
        return find_optional(str(path), getattr(config, option), names, option in asked)

    return LogColumns(
        find_column(str(path), config.user_column, names),
        find_column(str(path), config.item_column, names),
        optional("time_column"),
        optional("rating_column"),
        optional("review_column"),
    )


def _item_text(items: IdMap, path: Path | None, config: Table.Config, malformed: MalformedLines) -> pa.Table:
    if path is None:
        if config.text_columns:
            raise ReclmError("text_columns are columns of the table of items; name it with --set items=PATH")
        return without_text(items)
    names = _column_names(path)
    find_column(str(path), config.item_id_column, names)
    for name in config.text_columns:
        find_column(str(path), name, names)
    fields = list(config.text_columns) or [
        name for name in _string_columns(path) if name != config.item_id_column
    ]
    table = _read(path, [config.item_id_column, *fields], malformed).table
    described = strings(table[config.item_id_column]).unique()
    unknown_ = pc.invert(pc.is_in(described, value_set=items.array))
    malformed.report.drop("described item without interactions", pc.sum(unknown_).as_py() or 0)
    return text_of(items, table, config.item_id_column, fields)


def _column_names(path: Path) -> list[str]:
    """The columns of a table.

    Raises:
        ReclmError: if the file is missing, empty or of an unknown kind, or a name occurs twice.
    """
    if path.suffix in PARQUET:
        names = _parquet(path).schema_arrow.names
    elif path.suffix in DELIMITERS:
        file = TextFile.on_disk(path)
        names = file.first_row(DELIMITERS[path.suffix], quoting=True)
    else:
        raise unknown(f"kind of table {path}: ending", path.suffix, KNOWN)
    if len(set(names)) < len(names):
        raise ReclmError(f"{path}: two columns have the same name: {', '.join(names)}")
    return names


def _string_columns(path: Path) -> list[str]:
    if path.suffix in DELIMITERS:
        return _column_names(path)
    schema = _parquet(path).schema_arrow
    return [
        field.name
        for field in schema
        if pa.types.is_string(field.type) or pa.types.is_large_string(field.type)
    ]


def _parquet(path: Path) -> pq.ParquetFile:
    TextFile.on_disk(path)
    try:
        return pq.ParquetFile(path)
    except pa.ArrowInvalid as error:
        raise ReclmError(f"{path} is no Parquet file: {error}") from error


def _read(path: Path, columns: Sequence[str], malformed: MalformedLines) -> Rows:
    if path.suffix in PARQUET:
        table = _parquet(path).read(columns=list(dict.fromkeys(columns)))
        return Rows(str(path), table, np.arange(1, table.num_rows + 1))
    return read_all(
        TextFile.on_disk(path),
        _column_names(path),
        malformed,
        delimiter=DELIMITERS[path.suffix],
        header=True,
        quoting=True,
        include=list(dict.fromkeys(columns)),
    )
