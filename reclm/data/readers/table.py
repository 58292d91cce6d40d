"""Interactions and items that a user brings as Parquet, CSV or TSV tables."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BeforeValidator, Field

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
    text_fields,
    text_of,
    without_text,
)
from reclm.data.readers.delimited import DELIMITERS, PARQUET, read_parquet, read_rows
from reclm.data.readers.lines import Rows, TextFile
from reclm.data.splits import SplitOptions, from_log
from reclm.errors import BadInput, unknown

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
    remote = True

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
        delimiter: Annotated[str, Field(max_length=1)] = ""
        """What parts the values of a line. Default: a comma in .csv, a tabulator in .tsv."""
        encoding: str = "utf-8"
        """Encoding of CSV and TSV files: utf-8, utf-16, latin-1, …"""
        text_template: str = ""
        """How they make one text, e.g. "{title}[. {genre}]". Default: all, joined by ". "."""

    def read(self, source: Path | None, config: BaseConfig, *, strict: bool = False) -> Dataset:
        """See :class:`Reader`."""
        assert isinstance(config, self.Config)
        path = _beside(existing(source, self), "interactions")
        if path is None:
            raise BadInput(
                f"no interactions.parquet, .csv or .tsv in {source}; --source must be {self.source}"
            )
        malformed = MalformedLines(ReadReport(), strict)
        file = _table(path, config)
        columns = _log_columns(file, config)
        log = read_log(file.blocks(columns.names(), malformed), columns, malformed, config.time_unit)
        users, items = id_map("user", log.user), id_map("item", log.item)
        text = _item_text(items, config.items or _beside(path.parent, "items"), config, malformed)
        # a wrong template is refused before anything is saved
        item_texts(text.slice(0, 0), config.text_template)
        log = log.numbered(users, items)  # the ids are no longer needed
        return from_log(self.name, users, items, log, text, config, malformed.report, config.text_template)


def _beside(place: Path, name: str) -> Path | None:
    """``place`` if it is a file, else the table called ``name`` in that folder."""
    if place.is_file():
        return place
    names = [f"{name}{ending}{packed}" for ending in KNOWN for packed in ("", ".gz")]
    return next((path for name in names if (path := place / name).is_file()), None)


def _table(path: Path, config: Table.Config) -> "TableFile":
    return TableFile(path, config.delimiter, config.encoding)


def _log_columns(file: "TableFile", config: Table.Config) -> LogColumns:
    label, names, asked = str(file.path), list(file.columns), config.model_fields_set

    def optional(option: str) -> str | None:
        return find_optional(label, getattr(config, option), names, option in asked)

    return LogColumns(
        find_column(label, config.user_column, names),
        find_column(label, config.item_column, names),
        optional("time_column"),
        optional("rating_column"),
        optional("review_column"),
    )


def _item_text(items: IdMap, path: Path | None, config: Table.Config, malformed: MalformedLines) -> pa.Table:
    if path is None:
        if config.text_columns:
            raise BadInput("text_columns are columns of the table of items; name it with --set items=PATH")
        return without_text(items)
    file = _table(path, config)
    for name in (config.item_id_column, *config.text_columns):
        find_column(str(path), name, list(file.columns))
    fields = list(config.text_columns) or [
        name for name, text in file.columns.items() if text and name != config.item_id_column
    ]
    blocks = [rows.table for rows in file.blocks([config.item_id_column, *fields], malformed)]
    table = (
        pa.concat_tables(blocks)
        if blocks
        else pa.table({name: [] for name in (config.item_id_column, *fields)})
    )
    described = strings(table[config.item_id_column]).unique()
    unknown_ = pc.invert(pc.is_in(described, value_set=items.array))
    malformed.report.drop("described item without interactions", pc.sum(unknown_).as_py() or 0)
    return text_of(items, table, config.item_id_column, fields)


@dataclass(frozen=True)
class TableFile:
    """A table in a file: CSV or TSV, also gzipped, with a header line; or Parquet.

    Args:
        delimiter: of values; by default a comma, or a tabulator in .tsv.
        encoding: of the text.
    """

    path: Path
    delimiter: str = ""
    encoding: str = "utf-8"

    @property
    def parquet(self) -> bool:
        """Whether the name says so.

        Raises:
            NotFound: if the name has another ending than those of tables.
        """
        if _ending(self.path) not in KNOWN:
            raise unknown(f"kind of table {self.path}: ending", _ending(self.path), KNOWN)
        return _ending(self.path) in PARQUET

    @cached_property
    def file(self) -> TextFile:
        """The file, which is there and not empty."""
        return TextFile.on_disk(self.path, self.encoding)

    @property
    def _separator(self) -> str:
        return self.delimiter or DELIMITERS[_ending(self.path)]

    @cached_property
    def columns(self) -> dict[str, bool]:
        """The columns, and whether they hold strings: all of them do in a text file.

        Raises:
            BadInput: if the file is empty or damaged, or a name occurs twice.
        """
        if self.parquet:
            schema = read_parquet(self.path, rows=0).schema
            names = schema.names
            texts = set(text_fields(schema.empty_table(), ""))
        else:
            names = self.file.first_row(self._separator, quoting=True)
            texts = set(names)
        if len(set(names)) < len(names):
            raise BadInput(
                f"{self.path}: two columns have the same name: {', '.join(names)}", where=str(self.path)
            )
        return {name: name in texts for name in names}

    def blocks(self, columns: Sequence[str], malformed: MalformedLines) -> Iterator[Rows]:
        """Yield some of the columns, some rows at a time."""
        columns = list(dict.fromkeys(columns))
        if self.parquet:
            table = read_parquet(self.path, columns)
            yield Rows(str(self.path), table, np.arange(1, table.num_rows + 1))
            return
        options = {"delimiter": self._separator, "header": True, "quoting": True, "include": columns}
        yield from read_rows(self.file, list(self.columns), malformed, **options)


def _ending(path: Path) -> str:
    name = path.name.removesuffix(".gz")
    return path.with_name(name).suffix if name else ""
