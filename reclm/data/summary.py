"""The numbers that describe a data set."""

from dataclasses import astuple, dataclass
from html import escape
from typing import Any

import numpy as np
import pyarrow.compute as pc

from reclm.console import printable
from reclm.data.dataset import SPLITS, Dataset, Protocol
from reclm.data.item_text import item_texts
from reclm.data.splits import has_text, pairs


@dataclass(frozen=True)
class SplitSummary:
    """The interactions of a split, and the users and items that occur in them."""

    name: str
    interactions: int
    users: int
    items: int


@dataclass(frozen=True)
class ProtocolSummary:
    """A protocol as the evaluation sees it.

    Attributes:
        candidates: items ranked.
        users: users with at least one positive among the candidates that is not masked.
        positives: those test interactions.
        masked: interactions with candidates that are kept out of users' rankings.
    """

    name: str
    candidates: int
    users: int
    positives: int
    masked: int


@dataclass(frozen=True)
class Summary:
    """The numbers of a data set: :meth:`reclm.Dataset.summary`. Its text and its HTML show them as tables.

    Attributes:
        title: name and size.
        density: interactions of all splits over users × items.
        filled: per text field, the share of items where it is not empty.
        samples: an item id and its text, of items spread over the data set; none where there are no text fields.
        kept, dropped: counts of the reader, by what they count.
        malformed: the first malformed lines.
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
        tables: dict[str, list[tuple[Any, ...]]] = {
            "splits": [("split", "interactions", "users", "items"), *map(astuple, self.splits)],
            "protocols": [
                ("protocol", "candidates", "test users", "test interactions", "masked"),
                *map(astuple, self.protocols),
            ],
            "item text": [
                ("field", "items with it"),
                *((name, f"{share:.1%}") for name, share in self.filled.items()),
            ],
            "left out by the reader": [("reason", "count"), *self.dropped.items()],
            "items as a model reads them": [("id", "text"), *self.samples],
        }
        return {title: rows for title, rows in tables.items() if len(rows) > 1}

    def __str__(self) -> str:
        lines = [self.title]
        for title, rows in self.tables().items():
            cells = [
                [f"{cell:,}" if isinstance(cell, int) else printable(str(cell), 100) for cell in row]
                for row in rows
            ]
            widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
            lines += ["", title]
            lines += [
                "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
                for row in cells
            ]
        return "\n".join([*lines, *(f"  {line}" for line in self.malformed)])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        def row(cells: tuple[Any, ...], tag: str) -> str:
            texts = (f"{cell:,}" if isinstance(cell, int) else printable(str(cell), 100) for cell in cells)
            return "<tr>" + "".join(f"<{tag}>{escape(text)}</{tag}>" for text in texts) + "</tr>"

        parts = [f"<p><b>{escape(self.title)}</b></p>"]
        for title, (head, *rows) in self.tables().items():
            body = row(head, "th") + "".join(row(cells, "td") for cells in rows)
            parts.append(f"<p>{escape(title)}</p><table>{body}</table>")
        return "".join(parts)


def summarise(dataset: Dataset, samples: int = 3) -> Summary:
    """Count what ``dataset`` holds, and show the text of a few items."""
    users, items = dataset.n_users, dataset.n_items
    splits = [
        SplitSummary(name, len(part), len(np.unique(part.user_idx)), len(np.unique(part.item_idx)))
        for name in SPLITS
        for part in [dataset.split(name)]
    ]
    density = sum(split.interactions for split in splits) / (users * items)
    filled = {
        name: pc.sum(has_text(dataset.item_text[name])).as_py() / items
        for name in dataset.item_text.column_names
    }
    rows = np.linspace(0, items - 1, min(samples, items)).astype(np.int64)
    if not filled:  # a table without columns has no rows to take
        rows = rows[:0]
    texts = item_texts(dataset.item_text.take(rows), dataset.text_template)
    report = dataset.report
    return Summary(
        f"{dataset.name}: {users:,} users × {items:,} items, density {density:.4%}, fingerprint {dataset.fingerprint}",
        splits,
        [_protocol(dataset, protocol) for protocol in dataset.protocols],
        density,
        filled,
        list(zip(dataset.items.ids(rows), texts, strict=True)),
        dict(report.kept),
        dict(report.dropped),
        list(report.malformed),
    )


def _protocol(dataset: Dataset, protocol: Protocol) -> ProtocolSummary:
    width = len(dataset.items)
    known, test = dataset.joined(protocol.mask), dataset.test
    masked = np.unique(
        pairs(known.user_idx, known.item_idx, width)[np.isin(known.item_idx, protocol.candidates)]
    )
    counted = np.isin(test.item_idx, protocol.candidates)
    counted &= ~np.isin(pairs(test.user_idx, test.item_idx, width), masked)
    return ProtocolSummary(
        protocol.name,
        len(protocol.candidates),
        len(np.unique(test.user_idx[counted])),
        int(counted.sum()),
        len(masked),
    )
