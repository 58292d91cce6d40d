"""The numbers that say what a data set holds."""

from dataclasses import dataclass

import numpy as np

from reclm.data.dataset import Dataset, Protocol
from reclm.data.splits import pairs
from reclm.text.item_text import item_texts


@dataclass(frozen=True)
class SplitSummary:
    """A split: how many interactions, and how many users and items they touch."""

    name: str
    interactions: int
    users: int
    items: int


@dataclass(frozen=True)
class ProtocolSummary:
    """A protocol as the evaluation will see it.

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
    """What ``reclm data show`` prints.

    Attributes:
        density: interactions of all splits over users × items.
        filled: per text field, the share of items where it is not empty.
        samples: an item id and its text, of items spread over the data set; none where there are no text fields.
    """

    splits: list[SplitSummary]
    protocols: list[ProtocolSummary]
    density: float
    filled: dict[str, float]
    samples: list[tuple[str, str]]


def summarise(dataset: Dataset, samples: int = 3) -> Summary:
    """Count what ``dataset`` holds, and show the text of a few items."""
    users, items = len(dataset.users), len(dataset.items)
    splits = [
        SplitSummary(name, len(part), len(np.unique(part.user_idx)), len(np.unique(part.item_idx)))
        for name in ("train", "valid", "test")
        for part in [dataset.split(name)]
    ]
    everything = sum(split.interactions for split in splits)
    filled = {
        name: sum(bool((text or "").strip()) for text in dataset.item_text[name].to_pylist()) / items
        for name in dataset.item_text.column_names
    }
    rows = np.linspace(0, items - 1, min(samples, items)).astype(np.int64)
    if not filled:  # a table without columns has no rows to take
        rows = rows[:0]
    texts = item_texts(dataset.item_text.take(rows), dataset.text_template)
    return Summary(
        splits,
        [_protocol(dataset, one) for one in dataset.protocols],
        everything / (users * items),
        filled,
        list(zip(dataset.items.ids(rows), texts, strict=True)),
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
