"""The texts of Amazon Reviews 2023: what the shop says of items and what users say in reviews."""

from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from reclm.data.dataset import ReadReport
from reclm.data.readers.base import MalformedLines
from reclm.data.readers.columns import Column, joined
from reclm.data.readers.json_lines import JsonLines
from reclm.data.readers.lines import TextFile
from reclm.data.readers.markup import plain, shortened
from reclm.errors import BadInput

ITEM_FIELDS = ("title", "categories", "features", "description", "average_rating", "price")
TEMPLATE = "{title}[. {categories}][. {features}][. {description}]"
META = pa.schema(
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
        lines = JsonLines(file, META, malformed, mixed=("price",))
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
