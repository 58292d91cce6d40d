"""Oracles of the readers of data: the csv and json modules, pyarrow and a few lines of Python read the files again.

A reader must keep or count each record, must keep what another reader sees, values as well as ids, and may leave out as
malformed only records that were changed.
"""

import csv
import gzip
import io
import json
import math
import re
import zipfile
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from reclm.data.dataset import SPLITS, Dataset

USERS, ITEMS = 12, 9
HEADER = ("user_id", "item_id", "rating", "timestamp")
LOG = [
    (f"u{n % USERS}", f"i{(n * 5 + n // 7) % ITEMS}", 1 + n % 5, 1_600_000_000 + 100 * n) for n in range(80)
]
SOUND = {tuple(map(str, row)) for row in LOG}
TITLES = {f"i{n}": f"The film, number {n} ({1990 + n})" for n in range(ITEMS)}
NOT_INTERACTIONS = ("described item", "user without", "item without", "item row", "further")
NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")


class Record(NamedTuple):
    """An interaction as another reader sees it: texts or values; None where there is no such column."""

    user: Any
    item: Any
    rating: Any = None
    time: Any = None
    review: str | None = None

    @property
    def sound(self) -> bool:
        return tuple(map(str, self[:4])) in SOUND


def interactions(dataset: Dataset) -> tuple[int, int]:
    """Return how many interactions were kept, and how many lines and interactions were left out."""
    kept = sum(len(dataset.split(split)) for split in SPLITS)
    left_out = dataset.report.dropped.items()
    return kept, sum(count for why, count in left_out if not why.startswith(NOT_INTERACTIONS))


def same_id(value: Any, strip: bool = True) -> str:
    """Return an id as a table means it: whole numbers without their point, and without blanks round it."""
    head, point, tail = (text := str(value).strip() if strip else str(value)).partition(".")
    return head if point and head.lstrip("-").isdigit() and not tail.strip("0") else text


def kept_records(dataset: Dataset) -> Iterable[tuple[str, Record]]:
    """Yield the split and the values of each interaction of a data set."""
    for split in SPLITS:
        part = dataset.split(split)
        none = [None] * len(part)
        columns = (
            dataset.users.ids(part.user_idx),
            dataset.items.ids(part.item_idx),
            none if part.rating is None else part.rating.tolist(),
            none if part.timestamp is None else part.timestamp.tolist(),
            none if part.review is None else part.review.to_pylist(),
        )
        yield from ((split, Record(*row)) for row in zip(*columns, strict=True))


def compare_log(
    dataset: Dataset, records: Iterable[Record], unit: int = 1, changed: int | None = None
) -> None:
    """Assert that each interaction is one of ``records``, whose times have ``unit`` parts a second.

    No more than ``changed`` lines are malformed; None where it is not known which of them were changed.
    """
    known: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        known.setdefault((same_id(record.user), same_id(record.item)), []).append(record)
    for _, kept in kept_records(dataset):
        same = known.get((same_id(kept.user), same_id(kept.item)), [])
        assert same, f"a pair that no other reader sees: {kept}"
        fits = [one for one in same if _same_values(kept, one, unit)]
        assert fits, f"{kept} has other values than {same[:3]}"
    malformed = dataset.report.dropped.get("malformed line", 0)
    if changed is not None:
        first = dataset.report.malformed[:1]
        assert malformed <= changed, f"{malformed} malformed lines where {changed} were changed: {first}"


def _same_values(kept: Record, other: Record, unit: int) -> bool:
    rating = kept.rating is None or (
        math.isfinite(kept.rating) and np.float32(number(other.rating)) == np.float32(kept.rating)
    )
    review = kept.review is None or other.review is None or kept.review == other.review
    return rating and review and (kept.time is None or kept.time in times(other.time, unit))


def number(value: Any) -> float:
    """Return a number, or one written as a text; not a number for anything else."""
    if isinstance(value, str):
        return float(value.strip()) if NUMBER.fullmatch(value.strip()) else float("nan")
    return float(value) if isinstance(value, int | float) else float("nan")


def times(value: Any, unit: int = 1) -> list[int]:
    """Return the seconds since 1970 that a value may mean: one, or none where it is no time."""
    if isinstance(value, str) and not NUMBER.fullmatch(value.strip()):
        text = re.sub(r" ?(UTC|GMT)$", "Z", value.strip())
        try:
            value = datetime.fromisoformat(re.sub(r"(\.\d{6})\d+", r"\1", text))
        except ValueError:
            return []
    if isinstance(value, datetime):
        value = value if value.tzinfo else value.replace(tzinfo=UTC)
        return [(value - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(seconds=1)]
    if isinstance(value, date):
        return [(value - date(1970, 1, 1)).days * 86_400]
    found = number(value)
    return [math.floor(found / unit)] if math.isfinite(found) else []


def text_lines(data: bytes, errors: str = "strict", returns: bool = True) -> list[str | None]:
    """Return the lines of a text that are not blank; None for one that is not UTF-8.

    Without ``returns`` a carriage return ends no line.
    """
    lines: list[str | None] = []
    data = data.removeprefix(b"\xef\xbb\xbf")
    for line in (data.replace(b"\r\n", b"\n").replace(b"\r", b"\n") if returns else data).split(b"\n"):
        try:
            lines += [line.decode(errors=errors)] if line else []
        except UnicodeDecodeError:
            lines.append(None)
    return lines


def csv_rows(data: bytes, delimiter: str = ",", quoting: bool = True) -> list[list[str]]:
    """Return the rows, the header first, that the csv module reads, without those that hold nothing."""
    text = (
        data.removeprefix(b"\xef\xbb\xbf")
        .decode("utf-8", "surrogateescape")
        .replace("\r\n", "\n")
        .replace("\r", "\n")
    )
    quotes = csv.QUOTE_MINIMAL if quoting and '"' in text else csv.QUOTE_NONE
    csv.field_size_limit(1 << 30)
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, quoting=quotes, strict=True)
    return [row for row in rows if any(row)]


def names_of(head: Sequence[str]) -> list[str]:
    """Return the names of the columns in a header: blanks round a name are no part of it."""
    return [name.strip() for name in head]


def utf8(row: Sequence[str]) -> bool:
    """Return whether the bytes of a row of :func:`csv_rows` are UTF-8, and whether UTF-8 can hold some texts."""
    return not re.search("[\ud800-\udfff]", "".join(row))


def delimited(name: str, delimiter: str, quoting: bool = True) -> Callable[[Path, Dataset, Any], None]:
    """Return an oracle that counts records, and reads their values, with the csv module."""

    def judge(folder: Path, dataset: Dataset, sound: Any) -> None:
        data = (folder / name).read_bytes()
        data = gzip.decompress(data) if name.endswith(".gz") else data
        kept, left_out = interactions(dataset)
        try:
            head, *body = csv_rows(data, delimiter, quoting)
        except csv.Error:
            assert left_out, "the csv module refuses a record, and none was left out"
            return
        assert kept + left_out == len(body), f"{kept} kept + {left_out} left out of {len(body)} records"
        names = names_of(head) if quoting else [field.rpartition(":")[0] for field in head]
        places = [names.index(column) if column in names else None for column in HEADER]
        rows = [row for row in body if len(row) == len(head) and utf8(row)]
        records = [Record(*(None if at is None else row[at] for at in places)) for row in rows]
        changed = len(body) - sum(record.sound for record in records)
        compare_log(dataset, records, changed=changed if None not in places else None)

    return judge


def item_table(name: str, delimiter: str, typed: bool = False) -> Callable[[Path, Dataset, Any], None]:
    """Return an oracle for the text of items: that of the first row of the csv module with the same id."""

    def judge(folder: Path, dataset: Dataset, sound: Any) -> None:
        assert sum(interactions(dataset)) >= len(LOG), "interactions are lost"
        columns = dataset.item_text.column_names
        if not (folder / name).is_file():
            assert not columns, f"text of items from nowhere: {columns}"
            return
        malformed = dataset.report.dropped.get("malformed line", 0)
        try:
            head, *rows = csv_rows((folder / name).read_bytes(), delimiter, not typed)
        except csv.Error:
            assert malformed, "the csv module refuses a record, and none was left out"
            return
        names = [field.rpartition(":")[0] for field in head] if typed else names_of(head)
        odd = sum(len(row) != len(head) or not utf8(row) for row in rows)
        assert odd <= malformed, f"{malformed} malformed lines of {odd} with too few or too many fields"
        place, described = names.index("item_id"), {}
        for row in rows:
            if len(row) == len(head) and utf8(row):
                described.setdefault(same_id(row[place], strip=False), row)
        compare_texts(dataset, {id: dict(zip(names, row, strict=True)) for id, row in described.items()})

    return judge


def compare_texts(dataset: Dataset, described: dict[str, dict[str, Any]]) -> None:
    """Assert that the text fields of each item are those of its description, where they hold no HTML."""
    for column in dataset.item_text.column_names:
        for id, value in zip(dataset.items.ids(), dataset.item_text[column].to_pylist(), strict=True):
            text = described.get(same_id(id, strip=False), {}).get(column) or ""
            if isinstance(text, str) and not re.search("[<&]", text):
                assert value == text, f"{column} of {id!r} is {value!r:.80}, another reader sees {text!r:.80}"


def parquet_log(folder: Path, dataset: Dataset, sound: Any) -> None:
    """The interactions are those that pyarrow reads."""
    file = pq.ParquetFile(folder / "interactions.parquet")
    names = file.schema_arrow.names
    assert len(set(names)) == len(names), "two columns have the same name"
    # a column that nobody asks for may be damaged: pyarrow reads the others as well
    table = file.read([name for name in names if name in HEADER])
    kept, left_out = interactions(dataset)
    assert kept + left_out == len(table), f"{kept} kept + {left_out} left out of {len(table)} rows"
    none = [None] * len(table)
    known = {name: _values(table[name]) if name in table.column_names else none for name in HEADER}
    known |= {name: table[name].cast(pa.string()).to_pylist() for name in HEADER[:2]}
    records = [Record(*row) for row in zip(*known.values(), strict=True)]
    compare_log(dataset, records, changed=sum(not record.sound for record in records))


def _values(column: pa.ChunkedArray) -> list[Any]:
    if pa.types.is_timestamp(column.type):  # Python's have no nanoseconds
        column = column.cast(pa.timestamp("us", column.type.tz), safe=False)
    if pa.types.is_binary(column.type):  # an id in bytes is one in UTF-8
        return [None if value is None else value.decode("utf-8", "replace") for value in column.to_pylist()]
    return column.to_pylist()


def adjacency(folder: Path, dataset: Dataset, sound: Any) -> None:
    """The pairs of each split are exactly those of the lines that hold whole numbers alone."""
    expected: dict[tuple[str, str], str] = {}
    malformed = repeated = 0
    users: set[str] = set()
    for split in SPLITS:
        path = folder / f"{split}.txt"
        for line in text_lines(path.read_bytes()) if path.is_file() else []:
            words = [b"x"] if line is None else line.encode().split()
            if not all(re.fullmatch(rb"\d{1,18}", word) for word in words):
                malformed += 1
                continue
            ids = [word.decode() for word in words]
            users.update(ids[:1])
            for item in ids[1:]:
                repeated += (ids[0], item) in expected
                expected.setdefault((ids[0], item), split)
    kept = {(one.user, one.item): split for split, one in kept_records(dataset)}
    assert kept == expected, f"other pairs than the lines hold: {[*(kept.items() ^ expected.items())][:3]}"
    assert {*dataset.users.ids()} == users, f"other users: {sorted({*dataset.users.ids()} ^ users)[:3]}"
    dropped = {"malformed line": malformed, "repeated interaction": repeated}
    assert dataset.report.dropped == {why: count for why, count in dropped.items() if count}


def mind(folder: Path, dataset: Dataset, sound: Any) -> None:
    """Every click is kept or counted as left out, and the texts are those of news.tsv."""
    clicks: set[tuple[str, str, int]] = set()
    count = malformed = 0
    news: dict[str, dict[str, str]] = {}
    with zipfile.ZipFile(folder / "mind.zip") as archive:
        members = [(name.rpartition("/")[2], archive.read(name)) for name in archive.namelist()]
    for data in (data for name, data in members if name == "behaviors.tsv"):
        for line in text_lines(data):
            found = _clicks(line)
            malformed += found is None
            count += len(found or ())
            clicks.update(found or ())
    for data in (data for name, data in members if name == "news.tsv"):
        lines = text_lines(data)
        width = len((lines[0] or "").split("\t"))
        width = width if 4 < width <= 8 else 8
        for line in lines:
            fields = [] if line is None else line.split("\t")
            if len(fields) == width and any(fields):
                names = ("category", "subcategory", "title", "abstract")
                news.setdefault(fields[0], dict(zip(names, fields[1:5], strict=True)))
            else:
                malformed += len(fields) != width
    dropped = dataset.report.dropped
    assert dropped.get("malformed line", 0) == malformed, f"{dropped}, but {malformed} lines are malformed"
    left_out = sum(number for why, number in dropped.items() if why.startswith(("click", "test click")))
    kept = [one for _, one in kept_records(dataset)]
    assert len(kept) + left_out == count, f"{len(kept)} kept + {left_out} left out of {count} clicks"
    strange = {(one.user, one.item, one.time) for one in kept} - clicks
    assert not strange, f"clicks that no other reader sees: {sorted(strange)[:3]}"
    compare_texts(dataset, news)


def _clicks(line: str | None) -> list[tuple[str, str, int]] | None:
    """Return the clicks in a line of behaviors.tsv; None if it is malformed."""
    fields = [] if line is None else line.split("\t")
    if len(fields) != 5:
        return None
    if not any(fields):
        return []
    try:
        time = datetime.strptime(fields[2], "%m/%d/%Y %I:%M:%S %p").replace(tzinfo=UTC)
    except ValueError:
        return None
    tokens = [token.decode() for token in fields[4].encode().split()]
    labelled = [token for token in tokens if token.endswith(("-0", "-1"))]
    wrong = labelled and (len(labelled) < len(tokens) or any(len(token) < 3 for token in labelled))
    if not fields[1] or wrong:
        return None
    return [(fields[1], token[:-2], int(time.timestamp())) for token in labelled if token.endswith("-1")]


def objects(data: bytes, errors: str = "strict", returns: bool = True) -> list[dict[str, Any] | None]:
    """Return the JSON object in each line that is not blank, as the json module reads it; None for a line without."""
    values: list[dict[str, Any] | None] = []
    for line in (line for line in text_lines(data, errors, returns) if line is None or line.strip()):
        try:
            value = json.loads(line or "", object_pairs_hook=_no_doubles)
        except (ValueError, RecursionError):
            value = None
        values.append(value if isinstance(value, dict) else None)
    return values


def _no_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(values := dict(pairs)) < len(pairs):
        raise ValueError("two values with one name")
    return values


def _plain(value: Any) -> str | None:
    """Return a text that no cleaning changes, None for any other value."""
    plain = isinstance(value, str) and value.isprintable() and not re.search(r"[<&]|\s\s", value)
    return value.strip() if plain and len(value) < 900 and value.strip() else None


def amazon(folder: Path, dataset: Dataset, sound: Any) -> None:
    """Every review is kept or counted as left out, and has the values that the json module reads."""
    lines = objects((folder / "Films.jsonl").read_bytes())
    kept, left_out = interactions(dataset)
    assert kept + left_out == len(lines), f"{kept} kept + {left_out} left out of {len(lines)} lines"
    records, changed = [], 0
    for value in lines:
        row = value or {}
        parent = row.get("parent_asin")
        item = parent if not isinstance(parent, str | int | float) or str(parent).strip() else None
        item = (
            item if utf8([str(item)]) else None
        )  # half a surrogate pair is no id: U+FFFD would make one of two
        values = (row.get("user_id"), row.get("asin") if item is None else item, row.get("rating"))
        text = row.get("text")
        text = str(text) if type(text) in (int, float) else text if isinstance(text, str) else ""
        review = _plain(text if text.strip() else row.get("title"))
        records.append(Record(*values, row.get("timestamp"), review))
        changed += not _sound_review(row)
    compare_log(dataset, records, unit=1000, changed=changed)


def _sound_review(row: dict[str, Any]) -> bool:
    rating, time = row.get("rating"), row.get("timestamp")
    numbers = type(rating) is float and type(time) is int
    ids = (str(row.get("user_id")), str(row.get("parent_asin")))
    return numbers and (*ids, f"{rating:g}", str(time // 1000)) in SOUND


def amazon_items(folder: Path, dataset: Dataset, sound: Any) -> None:
    """All reviews are kept, and titles are those of the first line with the same id that the json module reads."""
    assert sum(len(dataset.split(split)) for split in SPLITS) == len([*kept_records(sound)]), (
        "reviews are lost"
    )
    lines = objects((folder / "meta_Films.jsonl").read_bytes())
    malformed = dataset.report.dropped.get("malformed line", 0)
    ids = [(value or {}).get("parent_asin") for value in lines]
    bad = sum(type(id) not in (str, int, float) or id == "" or not utf8([str(id)]) for id in ids)
    assert malformed <= bad, f"{malformed} malformed lines, {bad} without an object or an id"
    titles: dict[str, Any] = {}
    for value in filter(None, lines):
        if isinstance(id := value.get("parent_asin"), str | int | float):
            titles.setdefault(str(id), value.get("title"))
    for id, title in zip(dataset.items.ids(), dataset.item_text["title"].to_pylist(), strict=True):
        if (wanted := _plain(titles.get(id))) is not None:
            assert title == wanted, (
                f"the title of {id!r} is {title!r:.80}, the json module reads {wanted!r:.80}"
            )
