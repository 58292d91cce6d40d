"""Amazon Reviews 2023, as the McAuley lab publishes it: a file of reviews and a file of metadata a category.

Paper: Bridging Language and Items for Retrieval and Recommendation, https://arxiv.org/abs/2403.03952;
files and fields: https://amazon-reviews-2023.github.io.
"""

from dataclasses import replace
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
from reclm.data.readers.columns import Column, joined, numbered, numbers, text_of
from reclm.data.readers.lines import Rows
from reclm.data.readers.markup import plain, shortened
from reclm.data.readers.records import JsonLines
from reclm.data.readers.text_file import TextFile
from reclm.data.splits import SplitOptions, from_log, rows_to_keep
from reclm.errors import BadInput, NotFound, unknown

ENDINGS = (".jsonl.gz", ".jsonl")
META = "meta_"
ITEM_FIELDS = ("title", "categories", "features", "description", "average_rating", "price")
TEMPLATE = "{title}[. {categories}][. {features}][. {description}]"
TEXT, NUMBER, TEXTS = pa.string(), pa.float64(), pa.list_(pa.string())
IDS = ("user_id", "parent_asin", "asin")
LOG = pa.schema(dict.fromkeys(IDS, TEXT) | dict.fromkeys(("rating", "timestamp"), NUMBER))
REVIEW = pa.schema({"title": TEXT, "text": TEXT})
METADATA = pa.schema(
    dict.fromkeys(("parent_asin", "title", "main_category", "price"), TEXT)
    | dict.fromkeys(("categories", "features", "description"), TEXTS)
    | {"average_rating": NUMBER}
)
FIRST_DAY, LAST_DAY = 788_918_400_000, 4_102_444_800_000  # 1995, when the shop opened, and 2100, in ms

Longest = Annotated[int, Field(ge=2)] | None


class Amazon(Reader):
    """One category: reviews and ratings are interactions, the metadata is the items' text.

    Users and items with fewer than five reviews are left out, unless ``min_user`` and ``min_item`` say otherwise. The
    file of reviews is read twice, first the interactions and then the texts of those that are kept, so that memory is
    needed for these only. Items are ``parent_asin``s. A review without text has its title instead. Splits as in
    :class:`~reclm.data.splits.SplitOptions`.
    """

    name = "amazon"
    summary = "Amazon Reviews 2023, a category: reviews, ratings, and what the shop says of the items"
    source = "a folder with NAME.jsonl and meta_NAME.jsonl, or both as .jsonl.gz; NAME is like Movies_and_TV"
    remote = True
    noun = "products"

    class Config(SplitOptions):
        category: str = ""
        """NAME, where the folder holds several categories."""
        min_user: Annotated[int, Field(ge=1)] = 5
        """Users with fewer interactions are left out (repeated with ``min_item`` until both hold)."""
        min_item: Annotated[int, Field(ge=1)] = 5
        """Items with fewer interactions are left out."""
        reviews: bool = True
        """Keep the texts of reviews."""
        longest_review: Longest = 2000
        """Characters of a review that are kept, at most; null for all."""
        longest_text: Longest = 1000
        """Characters of an item's features and of its description that are kept, at most; null for all."""
        text_template: str = TEMPLATE
        """Template that makes one text of an item's fields; average_rating and price are fields, too."""

    def read(self, source: Path | None, config: BaseConfig, *, strict: bool = False) -> Dataset:
        assert isinstance(config, self.Config)
        bare = pa.table({name: pa.array([], pa.string()) for name in ITEM_FIELDS})
        item_texts(bare, config.text_template)  # a wrong template is refused before anything is read
        reviews, meta = (TextFile.on_disk(path) for path in _files(existing(source, self), config.category))
        malformed = MalformedLines(ReadReport(), strict)
        report = malformed.report
        users, items, log, lines = _read_log(reviews, malformed)
        rows = rows_to_keep(log, config, report)
        if not len(rows):
            limits = f"min_user={config.min_user} and min_item={config.min_item}"
            remedy = f"lower them with --set; dropped: {report.dropped}{report.first_malformed()}"
            raise BadInput(f"{reviews.label}: no users and items have enough reviews for {limits}; {remedy}")
        log, lines = log.take(rows), lines[rows]
        wanted = items.array.take(pa.array(np.unique(log.item_idx)))
        described = _read_items(meta, wanted, config.longest_text, malformed)
        text = text_of(items, described, "parent_asin", ITEM_FIELDS)
        if config.reviews:
            log = replace(log, review=_read_reviews(reviews, lines, config.longest_review, report))
        return from_log(self.name, users, items, log, text, config, report, config.text_template)


def _files(source: Path, category: str) -> tuple[Path, Path]:
    """Return the files of reviews and metadata, in one folder or in ``review_categories`` and ``meta_categories``."""
    folder, named = source.parent, {_stem(source): source}
    if not source.is_file():
        folder, named = source, _named(source) | _named(source / "review_categories")
    reviews = {name: path for name, path in named.items() if name and not name.startswith(META)}
    if not reviews:
        raise NotFound(f"no file of reviews in {source}; --source must be {Amazon.source}")
    if category and category not in reviews:
        raise unknown(f"category in {source}", category, reviews)
    if not category and len(reviews) > 1:
        names = ", ".join(sorted(reviews))
        raise BadInput(f"{source} holds several categories: {names}; choose one with --set category=NAME")
    name = category or next(iter(reviews))
    places = (folder, folder / "meta_categories", folder.parent / "meta_categories")
    meta = next((path for place in places if (path := _named(place).get(META + name))), None)
    if meta is None:
        raise BadInput(f"{reviews[name]} has no {META}{name}.jsonl or {META}{name}.jsonl.gz beside it")
    return reviews[name], meta


def _stem(path: Path) -> str:
    """Return the name without its ending; nothing if that is none of ``ENDINGS``."""
    return next((path.name.removesuffix(ending) for ending in ENDINGS if path.name.endswith(ending)), "")


def _named(folder: Path) -> dict[str, Path]:
    """Return the files of JSON lines in a folder, by name; of a file and its gzipped twin the plain one."""
    return {_stem(path): path for ending in ENDINGS for path in sorted(folder.glob(f"*{ending}"), key=str)}


def _read_log(file: TextFile, malformed: MalformedLines) -> tuple[IdMap, IdMap, Interactions, np.ndarray]:
    """Return users, items, interactions without reviews, oldest first, and the lines they stood in."""
    raw, report = JsonLines(file, LOG, malformed, ids=IDS), malformed.report
    parts = [_interactions(rows, malformed) for rows in raw.rows()]
    report.count("lines of reviews with a field of another type", raw.odd)
    if not any(len(lines) for *_, lines in parts):
        wanted = "each line must be a JSON object with user_id, parent_asin, rating and timestamp"
        raise BadInput(f"{file.label} holds no reviews: {wanted}{report.first_malformed()}")
    user_parts, item_parts, ratings, times, lines = zip(*parts, strict=True)
    (users, user_idx), (items, item_idx) = numbered(user_parts, "user"), numbered(item_parts, "item")
    time = np.concatenate(times)
    order = np.argsort(time, kind="stable")  # by ms: they alone tell the reviews of one second apart
    rating = np.concatenate(ratings)[order]
    log = Interactions(user_idx[order], item_idx[order], time[order] // 1000, rating)
    return users, items, log, np.concatenate(lines)[order]


def _interactions(
    rows: Rows, malformed: MalformedLines
) -> tuple[pa.DictionaryArray, pa.DictionaryArray, np.ndarray, np.ndarray, np.ndarray]:
    """Return users, items, ratings, times in ms and lines; rows where one of them cannot be right are malformed."""
    user, parent, variant = (pc.utf8_trim_whitespace(pc.fill_null(rows[name], "")) for name in IDS)
    item = pc.if_else(pc.equal(parent, ""), variant, parent)
    (rating, no_rating), (time, no_time) = numbers(rows["rating"]), numbers(rows["timestamp"])
    wrong = {
        "no user_id": pc.equal(user, "").to_numpy(),
        "no parent_asin": pc.equal(item, "").to_numpy(),
        "rating is not from 1 to 5": no_rating | (rating < 1) | (rating > 5),
        "timestamp is no time in ms since 1970": no_time | (time < FIRST_DAY) | (time >= LAST_DAY),
    }
    good = rows.good(wrong, malformed)
    users, items = (pc.dictionary_encode(ids.filter(pa.array(good)).combine_chunks()) for ids in (user, item))
    return users, items, rating[good].astype(np.float32), time[good].astype(np.int64), rows.lines[good]


def _read_items(file: TextFile, wanted: pa.Array, longest: int | None, malformed: MalformedLines) -> pa.Table:
    """Return ``parent_asin`` and :data:`ITEM_FIELDS`, strings, of the wanted items: a row for each of their lines."""
    lines = JsonLines(file, METADATA, malformed, mixed=("price",), ids=("parent_asin",))
    report = malformed.report
    parts = []
    for rows in lines.rows():
        nameless = pc.equal(pc.fill_null(rows["parent_asin"], ""), "").to_numpy()
        rows.reject(nameless, "no parent_asin", malformed)
        described = rows.keep(pc.is_in(rows["parent_asin"], value_set=wanted).to_numpy())
        if len(described):
            parts.append(_item_fields(described.table, longest, report))
    report.count("lines of metadata with a field of another type", lines.odd)
    if not parts:
        raise BadInput(f"{file.label} describes none of the {len(wanted)} items reviewed often enough")
    table = pa.concat_tables(parts)
    count = pc.count_distinct(table["parent_asin"]).as_py()
    report.drop("further line of metadata of the same item", len(table) - count)
    report.count("items without metadata", len(wanted) - count)
    return table


def _item_fields(raw: pa.Table, longest: int | None, report: ReadReport) -> pa.Table:
    categories = joined(raw["categories"], ", ")
    columns = {
        "title": raw["title"],
        "categories": pc.if_else(pc.equal(categories, ""), raw["main_category"], categories),
        "features": joined(raw["features"], "; "),
        "description": joined(raw["description"], " "),
    }
    html, cut = np.zeros((2, raw.num_rows), bool)
    for name, column in columns.items():
        text, marked = plain(column)
        text, long = shortened(text, longest if name in ("features", "description") else None)
        columns[name], html, cut = text, html | marked, cut | long
    price = prices(raw["price"])
    without_number = pc.and_(pc.equal(price, ""), pc.is_valid(raw["price"]))
    report.count("items with HTML in their text", html.sum())
    report.count("items whose text was shortened", cut.sum())
    report.count("items without description", pc.sum(pc.equal(columns["description"], "")).as_py())
    report.count("items without price", pc.sum(pc.is_null(raw["price"])).as_py())
    report.count("items whose price is no number", pc.sum(without_number).as_py())
    rating = pc.fill_null(raw["average_rating"].cast(pa.string()), "")
    return pa.table({"parent_asin": raw["parent_asin"], **columns, "average_rating": rating, "price": price})


def _read_reviews(file: TextFile, lines: np.ndarray, longest: int | None, report: ReadReport) -> pa.Array:
    """Return the reviews in ``lines`` ``(n,)`` of ``file``, distinct numbers, as strings in their order.

    ``report`` receives how many held HTML, were shortened or are empty.
    """
    wanted = np.sort(lines)
    texts, places = [], []
    # what is malformed was reported when the interactions were read
    for block in JsonLines(file, REVIEW, MalformedLines(ReadReport())).rows():
        place = np.searchsorted(wanted, block.lines).clip(max=len(wanted) - 1)
        rows = block.keep(wanted[place] == block.lines)
        title, text = (pc.fill_null(rows[name], "") for name in ("title", "text"))
        blank = pc.equal(pc.utf8_trim_whitespace(text), "")
        column, marked = plain(pc.if_else(blank, title, text))
        column, cut = shortened(column, longest)
        report.count("reviews with HTML", marked.sum())
        report.count("reviews that were shortened", cut.sum())
        report.count("reviews without text", pc.sum(pc.equal(column, "")).as_py() or 0)
        texts += column.chunks
        places.append(rows.lines)
    # more than 2 GiB of text are no Arrow string array, but a large one
    everything = pa.chunked_array([text.cast(pa.large_string()) for text in texts], pa.large_string())
    read = np.concatenate(places)
    place = np.searchsorted(read, lines).clip(max=len(read) - 1)
    # a line that is JSON to one of the two parsers only may be missing
    rows = pa.array(place, mask=read[place] != lines)
    return pc.fill_null(everything.combine_chunks().take(rows), "")


def prices(column: Column) -> Column:
    """Return the first number in each price, to two decimals; empty where there is none.

    >>> prices(pa.chunked_array([["12.99", "from $1,299.5", "1,2,3", "9" * 400, "—", None]])).to_pylist()
    ['12.99', '1299.5', '1', '', '', '']
    """
    pattern = r"(?P<number>(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?)"
    number = pc.struct_field(pc.extract_regex(column, pattern), "number")
    number = pc.replace_substring(number, ",", "").cast(pa.float64())
    number = pc.if_else(pc.is_finite(number), number, None)
    return pc.fill_null(pc.round(number, 2).cast(pa.string()), "")
