"""Amazon Reviews 2023, as the McAuley lab publishes it: a file of reviews and a file of metadata a category.

Paper: Bridging Language and Items for Retrieval and Recommendation, https://arxiv.org/abs/2403.03952;
files and fields: https://amazon-reviews-2023.github.io.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from reclm.config import Config as BaseConfig
from reclm.data.dataset import Dataset, Interactions, ReadReport
from reclm.data.id_map import IdMap
from reclm.data.item_text import item_texts
from reclm.data.readers.base import MalformedLines, Reader, existing
from reclm.data.readers.columns import Column, joined, numbers, plain, shortened, text_of
from reclm.data.readers.json_lines import JsonLines
from reclm.data.readers.lines import Rows, TextFile
from reclm.data.splits import SplitOptions, from_log, rows_to_keep
from reclm.errors import BadInput, NotFound, unknown

ITEM_FIELDS = ("title", "categories", "features", "description", "average_rating", "price")
TEMPLATE = "{title}[. {categories}][. {features}][. {description}]"
METADATA = pa.schema(
    [
        ("parent_asin", pa.string()),
        ("title", pa.string()),
        ("main_category", pa.string()),
        ("categories", pa.list_(pa.string())),
        ("features", pa.list_(pa.string())),
        ("description", pa.list_(pa.string())),
        ("average_rating", pa.float64()),
        ("price", pa.string()),
    ]
)
REVIEW = pa.schema([("title", pa.string()), ("text", pa.string())])


@dataclass
class ItemTexts:
    """The text fields of some items, gathered from a file of metadata.

    Args:
        wanted: their ids; lines of other items are passed over.
        longest: characters of features and of the description, at most; None for all.
    """

    wanted: pa.Array
    longest: int | None
    parts: list[pa.Table] = field(default_factory=list)

    def read(self, file: TextFile, malformed: MalformedLines) -> None:
        """Take the wanted lines of ``file``, and note in the report what they lack.

        Raises:
            BadInput: for a damaged file, or if it describes none of the items.
        """
        lines = JsonLines(file, METADATA, malformed, mixed=("price",))
        for rows in lines.rows():
            nameless = pc.equal(pc.fill_null(rows["parent_asin"], ""), "").to_numpy()
            rows.reject(nameless, "no parent_asin", malformed)
            described = rows.keep(pc.is_in(rows["parent_asin"], value_set=self.wanted).to_numpy())
            if len(described):
                self._add(described.table, malformed.report)
        if lines.odd:
            malformed.report.kept["lines of metadata with a field of another type"] = lines.odd
        count = pc.count_distinct(self.table()["parent_asin"]).as_py() if self.parts else 0
        if not count:
            raise BadInput(
                f"{file.label} describes none of the {len(self.wanted)} items reviewed often enough"
            )
        malformed.report.drop("further line of metadata of the same item", len(self.table()) - count)
        _note(malformed.report, "items without metadata", len(self.wanted) - count)

    def table(self) -> pa.Table:
        """``parent_asin`` and :data:`ITEM_FIELDS`, strings; an item that has several lines has several rows."""
        return pa.concat_tables(self.parts)

    def _add(self, raw: pa.Table, report: ReadReport) -> None:
        categories = joined(raw["categories"], ", ")
        columns = {
            "title": raw["title"],
            "categories": pc.if_else(pc.equal(categories, ""), raw["main_category"], categories),
            "features": joined(raw["features"], "; "),
            "description": joined(raw["description"], " "),
        }
        marked = np.zeros(raw.num_rows, bool)
        for name, column in columns.items():
            columns[name], found = plain(column)
            marked |= found
        cut = np.zeros(raw.num_rows, bool)
        for name in ("features", "description"):
            columns[name], long = shortened(columns[name], self.longest)
            cut |= long
        price = prices(raw["price"])
        rating = pc.fill_null(raw["average_rating"].cast(pa.string()), "")
        self.parts.append(
            pa.table({"parent_asin": raw["parent_asin"], **columns, "average_rating": rating, "price": price})
        )
        without_number = pc.and_(pc.equal(price, ""), pc.is_valid(raw["price"]))
        _note(report, "items with HTML in their text", int(marked.sum()))
        _note(report, "items whose text was shortened", int(cut.sum()))
        _note(report, "items without description", pc.sum(pc.equal(columns["description"], "")).as_py())
        _note(report, "items without price", pc.sum(pc.is_null(raw["price"])).as_py())
        _note(report, "items whose price is no number", pc.sum(without_number).as_py())


def review_texts(file: TextFile, lines: np.ndarray, longest: int | None, report: ReadReport) -> pa.Array:
    """The reviews in ``lines`` of ``file``: ``(n,)`` strings, in the order of ``lines``.

    Args:
        lines: ``(n,)`` distinct line numbers, one at least.
        longest: characters of a review, at most; None for all.
        report: receives how many held HTML, were shortened or are empty.
    """
    wanted = np.sort(lines)
    texts: list[pa.Array] = []
    where: list[np.ndarray] = []
    # what is malformed was reported when the interactions were read
    for block in JsonLines(file, REVIEW, MalformedLines(ReadReport())).rows():
        place = np.searchsorted(wanted, block.lines).clip(max=len(wanted) - 1)
        rows = block.keep(wanted[place] == block.lines)
        title, text = (pc.fill_null(rows[name], "") for name in ("title", "text"))
        blank = pc.equal(pc.utf8_trim_whitespace(text), "")
        column, marked = plain(pc.if_else(blank, title, text))
        column, cut = shortened(column, longest)
        _note(report, "reviews with HTML", int(marked.sum()))
        _note(report, "reviews that were shortened", int(cut.sum()))
        _note(report, "reviews without text", int(pc.sum(pc.equal(column, "")).as_py() or 0))
        texts += column.chunks
        where.append(rows.lines)
    # more than 2 GiB of text are no Arrow string array, but a large one
    everything = pa.chunked_array([text.cast(pa.large_string()) for text in texts], pa.large_string())
    found = np.concatenate(where)
    place = np.searchsorted(found, lines).clip(max=len(found) - 1)
    # a line that is JSON to one of the two parsers only may be missing
    rows = pa.array(place, mask=found[place] != lines)
    return pc.fill_null(everything.combine_chunks().take(rows), "")


def prices(column: Column) -> Column:
    """The first number in each price, to two decimals; empty where there is none.

    >>> prices(pa.chunked_array([["12.99", "from $1,299.5", "1,2,3", "9" * 400, "—", None]])).to_pylist()
    ['12.99', '1299.5', '1', '', '', '']
    """
    pattern = r"(?P<number>(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?)"
    number = pc.struct_field(pc.extract_regex(column, pattern), "number")
    number = pc.replace_substring(number, ",", "").cast(pa.float64())
    number = pc.if_else(pc.is_finite(number), number, None)
    return pc.fill_null(pc.round(number, 2).cast(pa.string()), "")


def _note(report: ReadReport, what: str, count: int) -> None:
    """Add to a count of the report, which does not show those that are 0."""
    if count:
        report.kept[what] = report.kept.get(what, 0) + count


ENDINGS = (".jsonl.gz", ".jsonl")
META = "meta_"
LOG = pa.schema(
    [
        ("user_id", pa.string()),
        ("parent_asin", pa.string()),
        ("asin", pa.string()),
        ("rating", pa.float64()),
        ("timestamp", pa.float64()),
    ]
)
FIRST_DAY, LAST_DAY = 788_918_400_000, 4_102_444_800_000
"""1995, when the shop opened, and 2100, in ms: times outside are wrong, or in another unit."""

Longest = Annotated[int, Field(ge=2)] | None


class Amazon(Reader):
    """One category: reviews and ratings are interactions, the metadata is the items' text.

    Users and items with fewer than five reviews are left out, unless ``min_user`` and ``min_item`` say otherwise. The
    file of reviews is read twice, who reviewed what first and then the texts of those reviews that are kept, so that
    memory is needed for these only. Items are ``parent_asin``s. A review without text has its title instead. Splits as
    in :class:`~reclm.data.splits.SplitOptions`.
    """

    name = "amazon"
    summary = "Amazon Reviews 2023, a category: reviews, ratings, and what the shop says of the items"
    source = "a folder with NAME.jsonl and meta_NAME.jsonl, or both as .jsonl.gz; NAME is like Movies_and_TV"
    remote = True

    class Config(SplitOptions):
        """Options of the reader."""

        category: str = ""
        """NAME, where the folder holds several categories."""
        min_user: Annotated[int, Field(ge=1)] = 5
        """Users with fewer interactions are left out (repeated with ``min_item`` until both hold)."""
        min_item: Annotated[int, Field(ge=1)] = 5
        """Items with fewer interactions are left out."""
        reviews: bool = True
        """Whether to keep the texts of reviews."""
        longest_review: Longest = 2000
        """Characters of a review that are kept, at most; null for all."""
        longest_text: Longest = 1000
        """Characters of an item's features and of its description that are kept, at most; null for all."""
        text_template: str = TEMPLATE
        """How an item's fields make one text; average_rating and price are fields, too."""

    def read(self, source: Path | None, config: BaseConfig, *, strict: bool = False) -> Dataset:
        """See :class:`Reader`."""
        assert isinstance(config, self.Config)
        bare = pa.table({name: pa.array([], pa.string()) for name in ITEM_FIELDS})
        item_texts(bare, config.text_template)  # a wrong template is refused before anything is read
        reviews, meta = (TextFile.on_disk(path) for path in _files(existing(source, self), config.category))
        malformed = MalformedLines(ReadReport(), strict)
        report = malformed.report
        users, items, log, lines = _read_log(reviews, malformed)
        rows = rows_to_keep(log, config, report)
        if not len(rows):
            raise BadInput(
                f"{reviews.label}: no users and items have the reviews that min_user={config.min_user} and "
                f"min_item={config.min_item} ask for; lower them with --set; dropped: {report.dropped}"
            )
        log, lines = log.take(rows), lines[rows]
        text = ItemTexts(items.array.take(pa.array(np.unique(log.item_idx))), config.longest_text)
        text.read(meta, malformed)
        if config.reviews:
            review = review_texts(reviews, lines, config.longest_review, report)
            log = Interactions(log.user_idx, log.item_idx, log.timestamp, log.rating, review)
        return from_log(
            self.name,
            users,
            items,
            log,
            text_of(items, text.table(), "parent_asin", ITEM_FIELDS),
            config,
            report,
            config.text_template,
        )


def _files(source: Path, category: str) -> tuple[Path, Path]:
    """The files of reviews and of metadata, in one folder or in ``review_categories`` and ``meta_categories``."""
    folder = source.parent if source.is_file() else source
    found = (
        {_stem(source): source} if source.is_file() else _named(source) | _named(source / "review_categories")
    )
    found = {name: path for name, path in found.items() if name and not name.startswith(META)}
    if not found:
        raise NotFound(f"no file of reviews in {source}; --source must be {Amazon.source}")
    if category and category not in found:
        raise unknown(f"category in {source}", category, found)
    if not category and len(found) > 1:
        raise BadInput(
            f"{source} holds several categories: {', '.join(sorted(found))}; choose one with --set category=NAME"
        )
    name = category or next(iter(found))
    places = (folder, folder / "meta_categories", folder.parent / "meta_categories")
    meta = next((path for place in places if (path := _named(place).get(META + name))), None)
    if meta is None:
        raise BadInput(f"{found[name]} has no {META}{name}.jsonl or {META}{name}.jsonl.gz beside it")
    return found[name], meta


def _stem(path: Path) -> str:
    """The name without its ending; empty if that is none of ``ENDINGS``."""
    return next((path.name.removesuffix(ending) for ending in ENDINGS if path.name.endswith(ending)), "")


def _named(folder: Path) -> dict[str, Path]:
    """The files of JSON lines in a folder, by name; of a file and its gzipped twin the plain one."""
    return {_stem(path): path for ending in ENDINGS for path in sorted(folder.glob(f"*{ending}"), key=str)}


def _read_log(file: TextFile, malformed: MalformedLines) -> tuple[IdMap, IdMap, Interactions, np.ndarray]:
    """Users, items, interactions without reviews, oldest first, and the lines they stood in.

    Raises:
        BadInput: if there are none.
    """
    blocks, raw = _Blocks(), JsonLines(file, LOG, malformed)
    for rows in raw.rows():
        blocks.add(rows, malformed)
    if raw.odd:
        malformed.report.kept["lines of reviews with a field of another type"] = raw.odd
    if not sum(map(len, blocks.lines)):
        first = f"; the first is {malformed.report.malformed[0]}" if malformed.report.malformed else ""
        raise BadInput(
            f"{file.label} holds no reviews: each line must be a JSON object with user_id, parent_asin, rating and "
            f"timestamp{first}"
        )
    return blocks.joined()


@dataclass
class _Blocks:
    """The interactions of one block of lines after another."""

    users: list[pa.DictionaryArray] = field(default_factory=list)
    items: list[pa.DictionaryArray] = field(default_factory=list)
    rating: list[np.ndarray] = field(default_factory=list)
    time: list[np.ndarray] = field(default_factory=list)
    lines: list[np.ndarray] = field(default_factory=list)

    def add(self, rows: Rows, malformed: MalformedLines) -> None:
        """Take a block; lines without user or item, or whose rating or time cannot be right, are malformed."""
        user = pc.utf8_trim_whitespace(pc.fill_null(rows["user_id"], ""))
        own, parent = (
            pc.utf8_trim_whitespace(pc.fill_null(rows[name], "")) for name in ("asin", "parent_asin")
        )
        item = pc.if_else(pc.equal(parent, ""), own, parent)
        (rating, no_rating), (time, no_time) = numbers(rows["rating"]), numbers(rows["timestamp"])
        wrong = {
            "no user_id": pc.equal(user, "").to_numpy(),
            "no parent_asin": pc.equal(item, "").to_numpy(),
            "rating is not from 1 to 5": no_rating | (rating < 1) | (rating > 5),
            "timestamp is no time in ms since 1970": no_time | (time < FIRST_DAY) | (time >= LAST_DAY),
        }
        good = np.ones(len(rows), bool)
        for why, bad in wrong.items():
            rows.reject(bad & good, why, malformed)
            good &= ~bad
        for column, parts in ((user, self.users), (item, self.items)):
            parts.append(pc.dictionary_encode(column.filter(pa.array(good)).combine_chunks()))
        self.rating.append(rating[good].astype(np.float32))
        self.time.append(time[good].astype(np.int64))
        self.lines.append(rows.lines[good])

    def joined(self) -> tuple[IdMap, IdMap, Interactions, np.ndarray]:
        """What :func:`_read_log` returns. Sorted by ms, because reviews of one second are told apart by these only."""
        users, items = (
            pa.chunked_array(parts).unify_dictionaries().combine_chunks()
            for parts in (self.users, self.items)
        )
        time = np.concatenate(self.time)
        order = np.argsort(time, kind="stable")
        log = Interactions(
            users.indices.to_numpy()[order],
            items.indices.to_numpy()[order],
            time[order] // 1000,
            np.concatenate(self.rating)[order],
        )
        return (
            IdMap(users.dictionary, "user"),
            IdMap(items.dictionary, "item"),
            log,
            np.concatenate(self.lines)[order],
        )
