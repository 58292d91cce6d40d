"""The numbers that describe a data set."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.compute as pc

from reclm.console import Description
from reclm.data.dataset import SPLITS, Dataset, Protocol, Split
from reclm.data.item_text import has_text, item_texts
from reclm.data.splits import pairs


@dataclass(frozen=True, repr=False)
class Summary(Description):
    """The numbers of a data set: :meth:`reclm.Dataset.summary`. Tables without rows are left out.

    Attributes:
        counts: the reader's counts of what it found.
    """

    counts: dict[str, int]


def summarise(dataset: Dataset) -> Summary:
    """Count what ``dataset`` holds, and show the text of three items."""
    users, items, report = dataset.n_users, dataset.n_items, dataset.report
    fields = {name: dataset.item_text[name] for name in dataset.item_text.column_names}
    # a table without columns has no rows to take
    rows = np.linspace(0, items - 1, min(3, items) if fields else 0).astype(np.int64)
    texts = item_texts(dataset.item_text.take(rows), dataset.text_template)
    shares = {name: pc.sum(has_text(column)).as_py() / items for name, column in fields.items()}
    protocols = ("protocol", "candidates", "test users", "test interactions", "masked")
    tables = {
        "splits": [("split", "interactions", "users", "items"), *(_split(dataset, name) for name in SPLITS)],
        "protocols": [protocols, *(_protocol(dataset, protocol) for protocol in dataset.protocols)],
        "item text": [
            ("field", "items with it"),
            *((name, f"{share:.1%}") for name, share in shares.items()),
        ],
        "left out by the reader": [("reason", "count"), *report.dropped.items()],
        "items as a model reads them": [("id", "text"), *zip(dataset.items.ids(rows), texts, strict=True)],
    }
    density = sum(len(dataset.split(name)) for name in SPLITS) / (users * items)
    size = f"{users:,} users × {items:,} items, density {density:.4%}, fingerprint {dataset.fingerprint}"
    tables = {title: body for title, body in tables.items() if len(body) > 1}
    found = "found: " + "; ".join(f"{count:,} {noun}" for noun, count in report.counts.items())
    lines = (*[found] * bool(report.counts), *report.malformed)
    return Summary(f"{dataset.name}: {size}", tables, dict(report.counts), lines=lines)


def _split(dataset: Dataset, name: Split) -> tuple[Any, ...]:
    part = dataset.split(name)
    return name, len(part), len(np.unique(part.user_idx)), len(np.unique(part.item_idx))


def _protocol(dataset: Dataset, protocol: Protocol) -> tuple[Any, ...]:
    """Count as the evaluation does: candidates, users and positives that count, interactions not to be ranked."""
    known, test = (
        part.take(np.isin(part.item_idx, protocol.candidates))
        for part in (dataset.joined(protocol.mask), dataset.test)
    )
    masked = np.unique(pairs(known.user_idx, known.item_idx, dataset.n_items))
    counted = ~np.isin(pairs(test.user_idx, test.item_idx, dataset.n_items), masked)
    users = len(np.unique(test.user_idx[counted]))
    return protocol.name, len(protocol.candidates), users, int(counted.sum()), len(masked)
