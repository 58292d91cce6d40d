"""Data sets made of frames: pandas, polars, Arrow, DuckDB."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from reclm.data import splits
from reclm.data.dataset import SPLITS, Dataset, Interactions, Protocol, ReadReport
from reclm.data.id_map import IdMap
from reclm.data.item_text import template_fields
from reclm.data.readers.base import MalformedLines
from reclm.data.readers.columns import (
    LogColumns,
    TimeUnit,
    find_column,
    id_map,
    read_log,
    strings,
    text_fields,
    text_of,
    without_text,
)
from reclm.data.readers.lines import Rows
from reclm.data.sessions import SessionOptions, next_item
from reclm.errors import BadInput, unknown

DEFAULT_TIME = "timestamp"


class FrameOptions(splits.SplitOptions):
    """Options of ``split="per-user"``."""

    time_unit: TimeUnit = "s"
    """Unit of times that are numbers: since 1970, in s, ms or us."""


def from_frames(
    interactions: Any,
    items: Any,
    *,
    user: str,
    item: str,
    time: str | None,
    rating: str | None,
    text: Sequence[str] | str | None,
    split: str,
    name: str,
    **options: Any,
) -> Dataset:
    """See :meth:`reclm.Dataset.from_frames`."""
    if split not in ("per-user", "given", "sessions"):
        raise unknown("split", split, ["per-user", "given", "sessions"])
    table = to_arrow(interactions, "interactions")
    names = table.column_names
    if time == DEFAULT_TIME and time not in names:
        time = None
    columns = LogColumns(
        *(find_column("interactions", column, names) for column in (user, item)),
        *(column and find_column("interactions", column, names) for column in (time, rating)),
    )
    malformed = MalformedLines(ReadReport())
    rows = Rows("interactions", table, np.arange(1, len(table) + 1))
    unit = FrameOptions.build({"time_unit": options.pop("time_unit", "s")}, "option").time_unit
    part = np.empty(0, np.int8)
    if split == "given":
        rows, part = _given(rows, options.pop("split_column", "split"), malformed)
    log = read_log([rows], columns, malformed, unit)
    if not len(log.user):
        raise BadInput(f"interactions holds no usable rows; {_first(malformed)}", where="interactions")
    users, ids = id_map("user", log.user), id_map("item", log.item)
    numbered = log.numbered(users, ids)
    item_text, template = _item_text(items, item, text, ids)
    if split == "given":
        _no_more(options)
        part = part[log.lines - 1]
        parts = [numbered.take(part == which) for which in range(len(SPLITS))]
        return splits.from_given(name, users, ids, parts, item_text, malformed.report, template)
    if split == "per-user":
        config = FrameOptions.build(options, "option")
        return splits.from_log(name, users, ids, numbered, item_text, config, malformed.report, template)
    counters = {key: options.pop(key) for key in ("encoder_tokens", "model_tokens") if key in options}
    config = SessionOptions.build({"max_item_tokens": None, "max_history_tokens": None} | options, "option")
    everything = (Protocol("full-shot", np.arange(len(ids))),)
    none = Interactions.empty()
    source = Dataset(
        name, users, ids, numbered, none, none, item_text, everything, template, malformed.report
    )
    dataset = next_item(source, config, **counters)
    for reason, count in malformed.report.dropped.items():
        dataset.report.drop(reason, count)
    return replace(dataset, name=name)


def to_arrow(frame: Any, what: str) -> pa.Table:
    """Return a frame of pandas, polars, Arrow or DuckDB as an Arrow table.

    Raises:
        BadInput: if ``frame`` is no frame, or two columns have one name; ``what`` names it in the message.
    """
    import narwhals as nw

    try:
        wrapped = nw.from_native(frame)
        eager = wrapped.collect("pyarrow") if isinstance(wrapped, nw.LazyFrame) else wrapped
        table = eager.to_arrow()
    except (TypeError, ValueError, pa.ArrowException) as error:
        reason = " ".join(str(error).split())[:200]
        raise BadInput(
            f"{what}: {type(frame).__name__} cannot be read as a frame of pandas, polars, Arrow or DuckDB: {reason}",
            where=what,
        ) from error
    if len(set(table.column_names)) < len(table.column_names):
        raise BadInput(f"{what}: two columns have the same name: {', '.join(table.column_names)}", where=what)
    return table


def _given(rows: Rows, column: str, malformed: MalformedLines) -> tuple[Rows, np.ndarray]:
    """Return the rows whose split is named, and ``(n,)`` which of :data:`SPLITS` each row of the frame is in."""
    find_column("interactions", column, rows.table.column_names)
    wanted = strings(rows[column]).combine_chunks()
    part = pc.fill_null(pc.index_in(wanted, value_set=pa.array(SPLITS)), -1).to_numpy()
    return rows.reject(part < 0, f"{column} is not train, valid or test", malformed), part


def _item_text(items: Any, item: str, text: Sequence[str] | str | None, ids: IdMap) -> tuple[pa.Table, str]:
    if items is None:
        if text:
            raise BadInput(f"text = {text!r} needs a frame of items", value=text, where="text")
        return without_text(ids), ""
    table = to_arrow(items, "items")
    find_column("items", item, table.column_names)
    template = text if isinstance(text, str) and "{" in text else ""
    if not text:
        fields = text_fields(table, item)
    elif isinstance(text, str):
        fields = template_fields(text) if template else [text]
    else:
        fields = list(text)
    for field in fields:
        find_column("items", field, table.column_names)
    return text_of(ids, table, item, fields), template


def _first(malformed: MalformedLines) -> str:
    lines = malformed.report.malformed
    return f"the first: {lines[0]}" if lines else "it is empty"


def _no_more(options: dict[str, Any]) -> None:
    if options:
        raise unknown("option of split='given'", next(iter(options)), ["split_column", "time_unit"])
