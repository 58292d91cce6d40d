"""The numbers that describe a data set."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, NamedTuple

import numpy as np
import pyarrow.compute as pc

from reclm.console import printable
from reclm.data.dataset import SPLITS, Dataset, Protocol
from reclm.data.item_text import has_text, item_texts
from reclm.data.splits import pairs


class SplitSummary(NamedTuple):
    """The interactions of a split, and the users and items that occur in them."""

    name: str
    interactions: int
    users: int
    items: int


class ProtocolSummary(NamedTuple):
    """A protocol as the evaluation sees it: users and positives that count, interactions kept out of the rankings."""

    name: str
    candidates: int
    users: int
    positives: int
    masked: int


@dataclass(frozen=True, repr=False)
class Summary:
    """The numbers of a data set: :meth:`reclm.Dataset.summary`. Its text and its HTML show them as tables.

    Attributes:
        density: interactions of all splits over users × items.
        filled: per text field, the share of items where it is not empty.
        samples: an item id and its text, of items spread over the data set; none where there are no text fields.
    """

    title: str
    splits: list[SplitSummary]
    protocols: list[ProtocolSummary]
    density: float
    filled: dict[str, float]
    samples: list[tuple[str, str]]
    kept: dict[str, int]
    dropped: dict[str, int]
    malformed: list[str]

    def tables(self) -> dict[str, list[tuple[Any, ...]]]:
        """Return the rows of each table by its title, the column names first; a table without rows is left out."""
        filled = [(name, f"{share:.1%}") for name, share in self.filled.items()]
        tables: dict[str, list[tuple[Any, ...]]] = {
            "splits": [("split", "interactions", "users", "items"), *self.splits],
            "protocols": [
                ("protocol", "candidates", "test users", "test interactions", "masked"),
                *self.protocols,
            ],
            "item text": [("field", "items with it"), *filled],
            "left out by the reader": [("reason", "count"), *self.dropped.items()],
            "items as a model reads them": [("id", "text"), *self.samples],
        }
        return {title: rows for title, rows in tables.items() if len(rows) > 1}

    def __str__(self) -> str:
        lines = [self.title]
        for title, rows in self.tables().items():
            cells = [_cells(row) for row in rows]
            widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
            padded = (map(str.ljust, row, widths) for row in cells)
            lines += ["", title, *(f"  {'  '.join(row)}".rstrip() for row in padded)]
        return "\n".join([*lines, *(f"  {line}" for line in self.malformed)])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        def row(cells: Sequence[Any], tag: str = "td") -> str:
            return "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in _cells(cells)) + "</tr>"

        parts = [f"<p><b>{escape(self.title)}</b></p>"]
        for title, (head, *rows) in self.tables().items():
            parts.append(f"<p>{escape(title)}</p><table>{row(head, 'th')}{''.join(map(row, rows))}</table>")
        return "".join(parts)


def _cells(row: Iterable[Any]) -> list[str]:
    return [f"{cell:,}" if isinstance(cell, int) else printable(str(cell), 100) for cell in row]


def summarise(dataset: Dataset) -> Summary:
    """Count what ``dataset`` holds, and show the text of three items."""
    users, items, report = dataset.n_users, dataset.n_items, dataset.report
    parts = {name: dataset.split(name) for name in SPLITS}
    fields = {name: dataset.item_text[name] for name in dataset.item_text.column_names}
    # a table without columns has no rows to take
    rows = np.linspace(0, items - 1, min(3, items) if fields else 0).astype(np.int64)
    texts = item_texts(dataset.item_text.take(rows), dataset.text_template)
    density = sum(map(len, parts.values())) / (users * items)
    return Summary(
        f"{dataset.name}: {users:,} users × {items:,} items, density {density:.4%}, fingerprint {dataset.fingerprint}",
        [
            SplitSummary(name, len(part), len(np.unique(part.user_idx)), len(np.unique(part.item_idx)))
            for name, part in parts.items()
        ],
        [_protocol(dataset, protocol) for protocol in dataset.protocols],
        density,
        {name: pc.sum(has_text(column)).as_py() / items for name, column in fields.items()},
        list(zip(dataset.items.ids(rows), texts, strict=True)),
        dict(report.kept),
        dict(report.dropped),
        list(report.malformed),
    )


def _protocol(dataset: Dataset, protocol: Protocol) -> ProtocolSummary:
    known, test = (
        part.take(np.isin(part.item_idx, protocol.candidates))
        for part in (dataset.joined(protocol.mask), dataset.test)
    )
    masked = np.unique(pairs(known.user_idx, known.item_idx, dataset.n_items))
    counted = ~np.isin(pairs(test.user_idx, test.item_idx, dataset.n_items), masked)
    users = len(np.unique(test.user_idx[counted]))
    return ProtocolSummary(protocol.name, len(protocol.candidates), users, int(counted.sum()), len(masked))
