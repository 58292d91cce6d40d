"""Interactions and items that a user brings: Parquet, CSV and TSV tables, and frames in memory."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from reclm.config import Config as BaseConfig
from reclm.data import splits
from reclm.data.dataset import SPLITS, Dataset, Interactions, Protocol, ReadReport
from reclm.data.id_map import IdMap
from reclm.data.item_text import item_texts, template_fields
from reclm.data.readers.base import MalformedLines, Names, Reader, existing
from reclm.data.readers.columns import (
    LogColumns,
    check_names,
    find_column,
    id_map,
    ids_of,
    interactions_of,
    read_log,
    report_no_text,
    strings,
    text_fields,
    text_of,
    to_arrow,
    without_numbers,
)
from reclm.data.readers.lines import Rows
from reclm.data.readers.records import DELIMITERS, PARQUET, header, read_parquet, read_rows
from reclm.data.readers.text_file import TextFile
from reclm.data.readers.times import TimeUnit
from reclm.data.sessions import SessionOptions, next_item
from reclm.data.splits import SplitOptions
from reclm.errors import BadInput, unknown

KNOWN = (*DELIMITERS, *PARQUET)
DEFAULT_TIME, DEFAULT_LABEL = "timestamp", "label"


class FrameOptions(SplitOptions):
    """Options of ``split="per-user"`` and ``"time"``."""

    time_unit: TimeUnit = "s"
    """Unit of times that are numbers: since 1970, in s, ms, us or ns; ``date`` where 20170714 is a day."""


class Table(Reader):
    """Any interactions as a table with a column of users and one of items; a second table describes the items.

    CSV and TSV files have a header line, and double quotes round values that hold delimiters. Times are numbers or ISO
    timestamps (UTC where they name no zone). Splits as in :class:`~reclm.data.splits.SplitOptions`.
    """

    name = "table"
    summary = "your own Parquet, CSV or TSV: interactions, and items with text"
    source = "a .parquet, .csv or .tsv file of interactions, or a folder with interactions.* and items.*"
    remote = True

    class Config(FrameOptions):
        user_column: str = "user_id"
        """Column of user ids."""
        item_column: str = "item_id"
        """Column of item ids."""
        time_column: str | None = DEFAULT_TIME
        """Column of times; without it, or with null, the split is random."""
        rating_column: str = "rating"
        """Column of ratings, if there is one."""
        review_column: str = "review"
        """Column of review texts, if there is one."""
        label_column: str | None = DEFAULT_LABEL
        """Column of 0 and 1, if there is one; interactions labelled 0 are left out. null takes all for positives."""
        items: Path | None = None
        """The table of items. Default: items.* beside the interactions, if it is there."""
        item_id_column: str = "item_id"
        """Column of item ids in the table of items."""
        text_columns: Annotated[tuple[str, ...], Names] = ()
        """Columns of item text, most telling first. Default: all columns but the id that hold strings, not numbers
        alone."""
        delimiter: Annotated[str, Field(max_length=1)] = ""
        """Separator of the values of a line. Default: a comma in .csv, a tab in .tsv."""
        encoding: str = "utf-8"
        """Encoding of CSV and TSV files: utf-8, utf-16, latin-1, …"""
        text_template: str = ""
        """Template that makes one text of these columns, e.g. "{title}[. {genre}]". Default: all, joined by ". "."""

    def read(self, source: Path | None, config: BaseConfig, *, strict: bool = False) -> Dataset:
        assert isinstance(config, self.Config)
        path = _beside(existing(source, self), "interactions")
        if path is None:
            message = f"no interactions.parquet, .csv or .tsv in {source}; --source must be {self.source}"
            raise BadInput(message)
        malformed = MalformedLines(ReadReport(), strict)
        file = TableFile(path, config.delimiter, config.encoding)
        columns = LogColumns.of(str(path), list(file.columns), config, "column")
        log = read_log(file.blocks(columns.names(), malformed), columns, malformed, config.time_unit)
        users, items = id_map("user", log["user"]), id_map("item", log["item"])
        text = _item_text(items, config.items or _beside(path.parent, "items"), config, malformed)
        # a wrong template is refused before anything is saved
        item_texts(text.slice(0, 0), config.text_template)
        log = interactions_of(log, users, items)  # the ids are no longer needed
        options = (config, malformed.report, config.text_template)
        return splits.from_log(self.name, users, items, log, text, *options)


def _beside(place: Path, name: str) -> Path | None:
    """Return ``place`` if it is a file, else the table called ``name`` in that folder; NotFound for another kind."""
    if place.is_file():
        return place
    names = [f"{name}{ending}{packed}" for ending in KNOWN for packed in ("", ".gz")]
    table = next((path for name in names if (path := place / name).is_file()), None)
    others = sorted(place.glob(f"{name}.*"), key=str)
    if table is None and others:
        raise unknown(f"kind of table {others[0]}: ending", PurePosixPath(others[0].name).suffix, KNOWN)
    return table


def _item_text(items: IdMap, path: Path | None, config: Table.Config, malformed: MalformedLines) -> pa.Table:
    if path is None:
        if config.text_columns:
            raise BadInput("text_columns are columns of the table of items; name it with --set items=PATH")
        return text_of(items)
    file = TableFile(path, config.delimiter, config.encoding)
    id_column = config.item_id_column
    for name, option in {
        id_column: "item_id_column",
        **dict.fromkeys(config.text_columns, "text_columns"),
    }.items():
        find_column(str(path), name, list(file.columns), f"--set {option}=")
    texts = [name for name, is_text in file.columns.items() if is_text and name != id_column]
    asked = [name for name in template_fields(config.text_template) if name in file.columns]
    fields = [*(config.text_columns or dict.fromkeys([*texts, *asked]))]
    blocks = [rows.table for rows in file.blocks([id_column, *fields], malformed)]
    table = pa.concat_tables(blocks) if blocks else pa.table({name: [] for name in (id_column, *fields)})
    if not config.text_columns:
        fields = [name for name in fields if name in asked or name in without_numbers(table, [name])]
    strangers = items.find(ids_of(table[id_column]).unique()) < 0
    malformed.report.drop("described item without interactions", int(strangers.sum()))
    report_no_text(file.schema, [id_column, *fields], malformed.report)
    return text_of(items, table, id_column, fields, malformed.report)


@dataclass(frozen=True)
class TableFile:
    """A table in a file: CSV or TSV, also gzipped, with a header line; or Parquet."""

    path: Path
    delimiter: str = ""
    encoding: str = "utf-8"

    @cached_property
    def ending(self) -> str:
        """The ending of the name, without ``.gz``."""
        ending = PurePosixPath(self.path.name.removesuffix(".gz")).suffix.lower()
        if ending not in KNOWN:
            raise unknown(f"kind of table {self.path}: ending", ending, KNOWN)
        return ending

    @cached_property
    def file(self) -> TextFile:
        return TextFile.on_disk(self.path, self.encoding)

    @property
    def _separator(self) -> str:
        return self.delimiter or DELIMITERS[self.ending]

    @cached_property
    def schema(self) -> pa.Schema:
        """The columns and their types: strings, all of them, in a text file."""
        if self.ending in PARQUET:
            schema = read_parquet(self.path, rows=0).schema
        else:
            names = header(self.file, self._separator, "--set delimiter=")
            schema = pa.schema([(name, pa.string()) for name in names])
        check_names(schema.names, str(self.path))
        return schema

    @cached_property
    def columns(self) -> dict[str, bool]:
        """The columns, and whether they hold strings."""
        texts = text_fields(self.schema)
        return {name: name in texts for name in self.schema.names}

    def blocks(self, columns: Sequence[str], malformed: MalformedLines) -> Iterator[Rows]:
        """Yield some of the columns, some rows at a time."""
        columns = list(dict.fromkeys(columns))
        if self.ending in PARQUET:
            table = read_parquet(self.path, columns)
            yield Rows(str(self.path), table, np.arange(1, table.num_rows + 1))
            return
        options = {"delimiter": self._separator, "header": True, "quoting": True, "include": columns}
        yield from read_rows(self.file, list(self.columns), malformed, **options)


def from_frames(
    interactions: Any,
    items: Any,
    columns: LogColumns,
    text: Sequence[str] | str | None,
    split: str,
    name: str,
    options: dict[str, Any],
) -> Dataset:
    """See :meth:`reclm.Dataset.from_frames`."""
    if split not in (known := ("per-user", "time", "given", "sessions")):
        raise unknown("split", split, known)
    table = to_arrow(interactions, "interactions")
    if columns.time == DEFAULT_TIME and columns.time not in table.column_names:
        columns = replace(columns, time=None)
        columns.check("time", "interactions", table.column_names, "time=", "None")
    if columns.label == DEFAULT_LABEL and columns.label not in table.column_names:
        columns = replace(columns, label=None)
        columns.check("label", "interactions", table.column_names, "label=", "None")
    roles: dict[str, Any] = vars(columns)
    for role, column in roles.items():
        if column is not None or role in ("user", "item"):
            wanted: Any = column
            find_column("interactions", wanted, table.column_names, f"{role}=")
    malformed = MalformedLines(ReadReport())
    rows = Rows("interactions", table, np.arange(1, len(table) + 1))
    unit = FrameOptions.build({"time_unit": options.pop("time_unit", "s")}, "option").time_unit
    part = np.empty(0, np.int8)
    if split == "given":
        rows, part = _given(rows, options.pop("split_column", "split"), malformed)
    log = read_log([rows], columns, malformed, unit, "time_unit=")
    report = malformed.report
    if not len(log):
        first = f"the first: {report.malformed[0]}" if report.malformed else "it is empty"
        raise BadInput(f"interactions holds no usable rows; {first}", where="interactions")
    users, ids = id_map("user", log["user"]), id_map("item", log["item"])
    numbered = interactions_of(log, users, ids)
    item_text, template = _frame_text(items, columns.item, text, ids, report)
    if split == "given":
        if options:
            raise unknown("option of split='given'", next(iter(options)), ["split_column", "time_unit"])
        part = part[log["line"].to_numpy() - 1]
        parts = [numbered.take(part == which) for which in range(len(SPLITS))]
        return splits.from_given(name, users, ids, parts, item_text, report, template)
    if split in ("per-user", "time"):
        config = FrameOptions.build({**options, "split": split}, "option")
        return splits.from_log(name, users, ids, numbered, item_text, config, report, template)
    counters = {key: options.pop(key) for key in ("encoder_tokens", "model_tokens") if key in options}
    config = SessionOptions.build({"max_item_tokens": None, "max_history_tokens": None} | options, "option")
    everything, none = (Protocol("full-shot", np.arange(len(ids))),), Interactions.empty()
    source = Dataset(name, users, ids, numbered, none, none, item_text, everything, template, report)
    dataset = next_item(source, config, **counters)
    for reason, count in report.dropped.items():
        dataset.report.drop(reason, count)
    return replace(dataset, name=name)


def _given(rows: Rows, column: str, malformed: MalformedLines) -> tuple[Rows, np.ndarray]:
    """Return the rows whose split is named, and ``(n,)`` which of :data:`SPLITS` each row of the frame is in."""
    find_column("interactions", column, rows.table.column_names, "split_column=")
    wanted = strings(rows[column]).combine_chunks()
    part = pc.fill_null(pc.index_in(wanted, value_set=pa.array(SPLITS)), -1).to_numpy()
    return rows.reject(part < 0, f"{column} is not train, valid or test", malformed), part


def _frame_text(
    items: Any, item: str, text: Sequence[str] | str | None, ids: IdMap, report: ReadReport
) -> tuple[pa.Table, str]:
    """Return the text fields of the items, and the template that ``text`` may be."""
    if items is None:
        if text:
            raise BadInput(f"text = {text!r} needs a frame of items", value=text, where="text")
        return text_of(ids), ""
    table = to_arrow(items, "items")
    find_column("items", item, table.column_names, "item=")
    template = text if isinstance(text, str) and "{" in text else ""
    names = [text] if isinstance(text, str) and text else text
    fields = template_fields(template) if template else names or text_fields(table.schema, item)
    for field in fields:
        find_column("items", field, table.column_names, "text=")
    report_no_text(table.schema, [item, *fields], report)
    return text_of(ids, table, item, fields, report), template
