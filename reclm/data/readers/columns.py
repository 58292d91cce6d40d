"""Columns of raw rows turned into ids, times, numbers and text."""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import narwhals as nw
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from reclm.config import Config
from reclm.data.dataset import Interactions, ReadReport
from reclm.data.id_map import IdMap, id_strings, unreadable, whole_numbers
from reclm.data.item_text import has_text
from reclm.data.readers.base import MalformedLines
from reclm.data.readers.lines import Rows
from reclm.data.readers.markup import readable
from reclm.data.readers.times import TimeUnit, check_unit, since_1970
from reclm.errors import BadInput, one_line, unknown

Column = pa.ChunkedArray
LARGEST = float(np.finfo(np.float32).max)
SAMPLE = 256  # times of each block that are looked at to tell their unit
TIME_WORDS = {"time", "timestamp", "ts", "date", "datetime", "dt", "unixtime", "unixreviewtime", "created"}
"""Words that a column of times has in its name."""
LABEL_NAMES = {
    "label",
    "labels",
    "target",
    "click",
    "clicked",
    "is_click",
    "is_clicked",
    "like",
    "liked",
    "is_like",
}
LABEL_NAMES |= {"positive", "is_positive"}


@dataclass(frozen=True)
class LogColumns:
    """Names of the columns of a log; None where there is no such column."""

    user: str
    item: str
    time: str | None = None
    rating: str | None = None
    review: str | None = None
    label: str | None = None

    @classmethod
    def of(cls, file: str, names: Sequence[str], config: Config, ending: str) -> Self:
        """Return the columns of ``file`` that the options ``user_ENDING``, ``item_ENDING``, … name.

        BadInput if there is no column of times, and one that seems to be called otherwise.
        """

        def find(role: str) -> Any:
            option = f"{role}_{ending}"
            name, needed = getattr(config, option, None), {f"user_{ending}", f"item_{ending}"}
            if name is None or (name not in names and option not in needed | config.model_fields_set):
                return None
            return find_column(file, name, names, f"--set {option}=")

        columns = cls(*map(find, ("user", "item", "time", "rating", "review", "label")))
        for role in {"time", "label"} - {name.removesuffix(f"_{ending}") for name in config.model_fields_set}:
            columns.check(role, file, names, f"--set {role}_{ending}=", "null")
        return columns

    def check(self, role: str, file: str, names: Sequence[str], option: str, none: str) -> None:
        """Raise BadInput where no column of ``role`` is known, and another of ``names`` seems to be one."""
        if getattr(self, role) is not None:
            return
        seems = _names_a_time if role == "time" else lambda name: name.lower() in LABEL_NAMES
        others = [name for name in names if name not in self.names() and seems(name)]
        what = {
            "time": ("the time of the interactions", "split them in random order"),
            "label": ("labels, 0 where an interaction is no positive,", "take all for positives"),
        }[role]
        if others:
            message = f"{file} has a column {others[0]!r}: take it for {what[0]} with {option}{others[0]}"
            message += f", or {what[1]} with {option}{none}"
            raise BadInput(message, value=others[0], where=file, remedy=f"{option}{others[0]}")

    def names(self) -> list[str]:
        """Return the columns that are there."""
        return [name for name in vars(self).values() if name]


def _names_a_time(name: str) -> bool:
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()
    return words.replace("_", "") in TIME_WORDS or not TIME_WORDS.isdisjoint(re.split(r"[\W_]+", words))


def read_log(
    blocks: Iterable[Rows],
    columns: LogColumns,
    malformed: MalformedLines,
    unit: TimeUnit = "s",
    unit_option: str = "--set time_unit=",
) -> pa.Table:
    """Return ``user``, ``item``, ``line`` and, as far as known, ``timestamp``, ``rating``, ``review`` of all blocks.

    Rows without ids, or whose time or rating is not one, are malformed. BadInput where times are of another ``unit``.
    """
    parts, samples, file = [], [np.empty(0)], ""
    for rows in blocks:
        parts.append(_log_of(rows, columns, malformed, unit))
        if columns.time:
            samples.append(_numbers_among(rows[columns.time].slice(0, SAMPLE)))
        file = rows.file
    check_unit(np.concatenate(samples), unit, columns.time or "", file, unit_option)
    return pa.concat_tables(parts)


def _numbers_among(column: Column) -> np.ndarray:
    """Return the numbers of a column; none of a type of dates."""
    if pa.types.is_temporal(column.type):
        return np.empty(0)
    values, bad = numbers(column)
    return values[~bad]


def _log_of(rows: Rows, columns: LogColumns, malformed: MalformedLines, unit: TimeUnit) -> pa.Table:
    def read(convert: Callable[..., Any], name: str, *options: Any) -> Any:
        try:
            return convert(rows[name], *options)
        except BadInput as error:
            raise BadInput(f"{rows.file}: {name}: {error}", value=error.value, where=name) from error

    user, item = read(ids_of, columns.user), read(ids_of, columns.item)
    log: dict[str, Any] = {"user": user, "item": item, "line": rows.lines}
    wrong = {
        f"no {name}": pc.fill_null(pc.equal(pc.binary_length(ids), 0), True).to_numpy()
        for name, ids in ((columns.user, user), (columns.item, item))
    }
    if columns.time:
        log["timestamp"], bad = read(seconds, columns.time, unit)
        number = "like 20170714" if unit == "date" else f"of {unit} since 1970, before 2100"
        wrong[f"{columns.time} is neither an ISO timestamp nor a number {number} (time_unit)"] = bad
    if columns.rating:
        rating, bad = read(numbers, columns.rating)
        wrong[f"{columns.rating} is no number"] = bad | (np.abs(rating) > LARGEST)
        log["rating"] = np.clip(rating, -LARGEST, LARGEST).astype(np.float32)
    if columns.review:
        log["review"] = pc.fill_null(read(strings, columns.review), "")
    negative = np.zeros(len(rows), bool)
    if columns.label:
        label, wrong[f"{columns.label} is neither 0 nor 1"] = read(labels, columns.label)
        negative = label <= 0
    good = rows.good(wrong, malformed)
    malformed.report.drop(f"{columns.label} is 0", int((good & negative).sum()))
    # a filtered column is a copy: a column of a block would hold on to the whole block
    return pa.table(log).filter(pa.array(good & ~negative))


def interactions_of(log: pa.Table, users: IdMap, items: IdMap) -> Interactions:
    """Return the interactions of a log by rows of the id maps, which must hold all ids."""
    idx = {"user_idx": users.idx(log["user"]), "item_idx": items.idx(log["item"])}
    return Interactions.from_table(pa.table(idx | {name: log[name] for name in log.column_names}))


def to_arrow(frame: Any, what: str) -> pa.Table:
    """Return a frame of pandas, polars, Arrow or DuckDB as an Arrow table."""
    try:
        wrapped = nw.from_native(frame)
        eager = wrapped.collect("pyarrow") if isinstance(wrapped, nw.LazyFrame) else wrapped
        table = eager.to_arrow()
    except (TypeError, ValueError, pa.ArrowException) as error:
        kind, reason = type(frame).__name__, " ".join(str(error).split())[:200]
        message = f"{what}: {kind} cannot be read as a frame of pandas, polars, Arrow or DuckDB: {reason}"
        raise BadInput(message, where=what) from error
    check_names(table.column_names, what)
    return table


def id_map(what: str, *columns: Column) -> IdMap:
    """Return the distinct ids of all columns, in order of appearance."""
    chunks = [whole_numbers(chunk) for column in columns for chunk in column.chunks]
    return IdMap(pc.unique(pa.chunked_array(chunks, pa.string())), what)


def numbered(parts: Sequence[pa.DictionaryArray], what: str) -> tuple[IdMap, np.ndarray]:
    """Return the distinct ids of dictionary-encoded parts, and the row ``(n,)`` of each value."""
    column = pa.chunked_array(parts).unify_dictionaries().combine_chunks()
    return IdMap(column.dictionary, what), column.indices.to_numpy()


def text_of(
    items: IdMap,
    table: pa.Table | None = None,
    id_column: str = "",
    fields: Sequence[str] = (),
    report: ReadReport | None = None,
) -> pa.Table:
    """Return columns ``fields`` for ``items``, in their order: strings, empty where ``table`` has no row or null.

    Of several rows with the same id the first counts, and the ``report`` counts the others. Where nothing is known of
    the items there are no columns.
    """
    if table is None or not fields:
        return pa.table({"item_id": items.array}).select([])
    ids = ids_of(table[id_column]).combine_chunks()
    row = pc.index_in(items.array, value_set=ids)
    if report is not None:
        used = ids.filter(pc.is_in(ids, value_set=items.array))
        report.drop("repeated description of an item", len(used) - pc.count_distinct(used).as_py())
    if len(items) and row.null_count == len(items):
        first, described = items.array[0].as_py(), ids[0].as_py() if len(ids) else None
        message = (
            f"none of the {len(items):,} items of the interactions is described: their ids are like {first!r}"
        )
        none = f", and there are no descriptions{'' if report is None else report.first_malformed()}"
        message += f", those of the descriptions like {described!r}" if len(ids) else none
        raise BadInput(f"{message}; mend the ids, or leave the items out", value=described, where=id_column)
    return pa.table({name: readable(pc.fill_null(strings(table[name]).take(row), "")) for name in fields})


def text_fields(schema: pa.Schema, id_column: str = "") -> list[str]:
    """Return the columns that hold strings, without the ids."""
    return [field.name for field in schema if field.name != id_column and _holds_strings(field.type)]


def report_no_text(schema: pa.Schema, used: Sequence[str], report: ReadReport) -> None:
    """Count the columns of items that no text is made of though they are no numbers, times or yes and no: structs, …"""
    for name, kind in zip(schema.names, schema.types, strict=True):
        binary = pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)
        other = binary or pa.types.is_fixed_size_binary(kind) or pa.types.is_nested(kind)
        if other and name not in used:
            report.drop(f"column of items that is no text: {name} ({one_line(str(kind))[:60]})")


def _holds_strings(kind: pa.DataType) -> bool:
    while pa.types.is_dictionary(kind) or pa.types.is_list(kind) or pa.types.is_large_list(kind):
        kind = kind.value_type
    return _is_string(kind)


def _is_string(value: pa.DataType) -> bool:
    return pa.types.is_string(value) or pa.types.is_large_string(value) or pa.types.is_string_view(value)


def strings(column: Column) -> Column:
    """Return values as strings: numbers as in ids (:func:`~reclm.data.id_map.id_strings`), lists joined by ``", "``."""
    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        return joined(_cast(column, pa.list_(pa.string())), ", ")
    return pa.chunked_array([id_strings(chunk) for chunk in column.chunks], pa.string())


def ids_of(column: Column) -> Column:
    """Return ids as strings; whole numbers have no decimal point, also where they are text: ``104.0`` is ``104``.

    BadInput for a column of lists or of mappings: nothing says which of their values is the id.
    """
    if pa.types.is_nested(column.type):
        message = f"ids must be texts or numbers, not {column.type}; name another column"
        raise BadInput(message, value=str(column.type))
    return pa.chunked_array([whole_numbers(chunk) for chunk in strings(column).chunks], pa.string())


def without_numbers(table: pa.Table, fields: Sequence[str]) -> list[str]:
    """Return the ``fields`` of strings that hold more than numbers; empty ones and lists stay."""

    def says(column: Column) -> bool:
        filled = column.filter(has_text(column)) if _is_string(column.type) else column
        return filled is column or not len(filled) or cast_or_null(filled, pa.float64()).null_count > 0

    return [name for name in fields if says(table[name])]


def labels(column: Column) -> tuple[np.ndarray, np.ndarray]:
    """Return labels ``(n,)``, 0 or less where an interaction is none, and a mask of those that are no number."""
    if pa.types.is_boolean(column.type):
        column = column.cast(pa.int8())
    elif _is_string(column.type):
        truth = pc.index_in(pc.utf8_lower(column), value_set=pa.array(["false", "true"]))
        column = pc.coalesce(truth.cast(pa.string()), column)
    return numbers(column)


def joined(lists: Column, between: str) -> Column:
    """Join each list to one text, blank and null members left out; null becomes empty.

    >>> joined(pa.chunked_array([[["a", None, " ", "b"], [], None]]), ", ").to_pylist()
    ['a, b', '', '']
    """
    array = lists.combine_chunks()
    values, parents = pc.list_flatten(array), pc.list_parent_indices(array).to_numpy()
    values = pc.utf8_trim_whitespace(pc.fill_null(values, ""))
    filled = pc.not_equal(values, "")
    count = np.bincount(parents[filled.to_numpy(zero_copy_only=False)], minlength=len(array))
    offsets = np.concatenate([[0], np.cumsum(count)]).astype(np.int32)
    texts = pa.ListArray.from_arrays(offsets, values.filter(filled))
    return pa.chunked_array([pc.binary_join(texts, between)])


def _cast(column: Column | pa.Array, to: pa.DataType) -> Column:
    try:
        return pc.cast(column, to)
    except pa.ArrowNotImplementedError as error:
        raise unreadable(column.type, to) from error


def numbers(column: Column) -> tuple[np.ndarray, np.ndarray]:
    """Return values ``(n,)`` float64 and a mask ``(n,)`` of those that are no finite number (they become 0)."""
    if pa.types.is_integer(column.type):  # beyond 2⁵³ the nearest float will do
        column = column.cast(pa.float64(), safe=False)
    values = cast_or_null(column, pa.float64()).to_numpy().astype(np.float64)
    bad = ~np.isfinite(values)
    return np.where(bad, 0.0, values), bad


def seconds(column: Column, unit: TimeUnit = "s") -> tuple[np.ndarray, np.ndarray]:
    """Return times ``(n,)`` int64 in seconds since 1970 and a mask ``(n,)`` of those that are none (they become 0).

    They are numbers in ``unit``, ISO timestamps (UTC, unless they name a zone), or of a date or timestamp type. Where
    numbers and ISO timestamps stand in one column, those that are fewer are none: ``2024`` among days is no second.
    """
    kind = column.type
    if pa.types.is_boolean(kind) or pa.types.is_duration(kind) or pa.types.is_time(kind):
        raise unreadable(kind, "times since 1970")
    if _holds_strings(kind):
        column = pc.replace_substring_regex(strings(column), r" ?(UTC|GMT)$", "Z")
        dated = pc.fill_null(pc.match_substring_regex(column, r"^\d{4}-\d\d-\d\d"), False)
        digits = pc.match_substring_regex(column, r"^\s*[-+]?\.?\d[\d.eE+-]*\s*$")
        if (count := pc.sum(dated).as_py()) and 2 * count >= pc.sum(pc.or_kleene(dated, digits)).as_py():
            column = pc.replace_substring_regex(column, r"(\.\d{6})\d+", r"\1")
            zoned = pc.match_substring_regex(column, r"^.{10}.*(Z|[+-]\d\d(:?\d\d)?)$")
            utc = cast_or_null(pc.if_else(zoned, column, None), pa.timestamp("us", "UTC"))
            plain = cast_or_null(pc.if_else(zoned, None, column), pa.timestamp("us"))
            column = pc.coalesce(utc.cast(pa.timestamp("us")), plain)
    if pa.types.is_date(column.type) or pa.types.is_timestamp(column.type):
        # anything finer than a microsecond is cut off
        column = column.cast(pa.timestamp("us", getattr(column.type, "tz", None)), safe=False)
        bad = column.is_null().to_numpy()
        return pc.fill_null(column.cast(pa.int64()), 0).to_numpy() // 1_000_000, bad
    values, bad = numbers(column)
    times, wrong = since_1970(values, unit)
    return np.where(bad, 0, times), bad | wrong


def cast_or_null(column: Column, to: pa.DataType) -> Column:
    """Convert a column; values that cannot be converted become null."""
    if pa.types.is_dictionary(column.type):
        column = pa.chunked_array(
            [chunk.dictionary_decode() for chunk in column.chunks], column.type.value_type
        )

    def convert(part: pa.Array) -> list[pa.Array]:
        try:
            return [_cast(part, to)]
        except pa.ArrowInvalid:
            if len(part) == 1:
                return [pa.nulls(1, to)]
            half = len(part) // 2
            return convert(part.slice(0, half)) + convert(part.slice(half))

    return pa.chunked_array([piece for chunk in column.chunks for piece in convert(chunk)], to)


def check_names(names: Sequence[str], file: str) -> None:
    """Refuse a table in which two columns have the same name."""
    if len(set(names)) < len(names):
        raise BadInput(f"{file}: two columns have the same name: {', '.join(names)}", where=file)


def find_column(file: str, name: str, names: Sequence[str], option: str = "") -> str:
    """Return ``name``, which must be a column of ``file``; ``option`` is how another one is named."""
    if name not in names:
        raise unknown(f"column of {file}", name, names, option)
    return name
