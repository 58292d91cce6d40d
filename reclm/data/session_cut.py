"""How a log is filtered and cut into sessions: the options, and the steps in their order."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field, model_validator

from reclm.config import Config
from reclm.console import progress_bar
from reclm.data import splits
from reclm.data.dataset import Interactions
from reclm.data.splits import Fraction, Seed

NONE = -1
"""Stands in a history where there is no further item, and in a future that is not to be seen."""

Count = Annotated[int, Field(ge=1)]


class SessionOptions(Config):
    """Which sessions are made. The defaults are the paper's."""

    history: Count = 4
    """Items a profile is written from, |h|."""
    future: Count = 1
    """Items that come after them, |f|."""
    min_history: Count | None = None
    """Users with fewer items than this before the future ones are left out. Default: ``history``."""
    take: Literal["oldest", "newest"] = "oldest"
    """Whether a session is a user's first items, as in the paper, or the last ones."""
    min_user: Count = 5
    """Users with fewer interactions are left out (repeated with ``min_item`` until both hold)."""
    min_item: Count = 5
    """Items with fewer interactions are left out."""
    need_text: bool = True
    """Leave out items without text."""
    max_item_tokens: Count | None = 512
    """Items whose text has more tokens, by the text encoder, are left out."""
    max_history_tokens: Count | None = 1024
    """Sessions whose history, texts and reviews, has more tokens, by the language model, are left out."""
    valid: Fraction = 0.08
    """Fraction of the users whose sessions neither train nor test: to choose settings by."""
    test: Fraction = 0.08
    """Fraction of the users whose sessions test it."""
    seed: Seed = 0
    """Chooses these users and, without timestamps, the order of a user's interactions."""

    @model_validator(mode="after")
    def _consistent(self) -> "SessionOptions":
        if self.valid + self.test >= 1:
            raise ValueError(f"valid {self.valid} and test {self.test} leave nothing to train on")
        if self.min_history is not None and self.min_history > self.history:
            raise ValueError(f"min_history {self.min_history} is more than history {self.history}")
        return self


CountTokens = Callable[[Sequence[str]], Sequence[int]]
"""Counts the tokens of each of some texts."""

BLOCK = 1000
"""Texts whose tokens are counted at a time, between two steps of the progress bar."""


def oldest_first(parts: Sequence[Interactions], generator: np.random.Generator) -> Interactions:
    """All interactions, users ascending, each user's oldest first (in random order without timestamps)."""
    parts = [part for part in parts if len(part)]

    def column(name: str) -> np.ndarray | None:
        values = [getattr(part, name) for part in parts]
        return None if any(value is None for value in values) else np.concatenate(values)

    reviews = [part.review.cast(pa.large_string()) for part in parts if part.review is not None]
    review = pa.chunked_array(reviews).combine_chunks() if len(reviews) == len(parts) else None
    user, item, time = column("user_idx"), column("item_idx"), column("timestamp")
    assert user is not None
    assert item is not None
    log = Interactions(user, item, time, column("rating"), review)
    return log.take(np.lexsort((generator.permutation(len(log)) if time is None else time, user)))


def usable_interactions(
    log: Interactions,
    texts: Sequence[str],
    options: SessionOptions,
    count: CountTokens | None,
    progress: bool,
    dropped: dict[str, int],
) -> np.ndarray:
    """``(n,)`` bool: the interactions with items that may be shown, each pair once."""
    usable = np.ones(len(log), bool)

    def keep(mask: np.ndarray, why: str) -> None:
        nonlocal usable
        _drop(dropped, why, int((usable & ~mask).sum()))
        usable &= mask

    keep(splits.first_of_pairs(log.user_idx, log.item_idx, None), "repeated interaction")
    if options.need_text:
        filled = np.array([bool(text.strip()) for text in texts], bool)
        keep(filled[log.item_idx], "interaction with an item without text")
    if options.max_item_tokens is not None and count is not None:
        used = np.unique(log.item_idx[usable])
        short = np.ones(len(texts), bool)
        short[used] = (
            _counted([texts[int(item)] for item in used], count, progress) <= options.max_item_tokens
        )
        keep(short[log.item_idx], f"interaction with an item of more than {options.max_item_tokens} tokens")
    return usable


@dataclass(frozen=True)
class _Rows:
    """Sessions as rows of a log: users ``(n,)``, history ``(n, h)`` padded by -1, future ``(n, f)``."""

    users: np.ndarray
    history: np.ndarray
    future: np.ndarray


def within_limits(
    log: Interactions,
    usable: np.ndarray,
    history_tokens: "HistoryTokens | None",
    options: SessionOptions,
    dropped: dict[str, int],
) -> tuple[_Rows, np.ndarray]:
    """The sessions of the core of the ``usable`` interactions, without users whose history is too long; and its rows.

    Without them other users and items may no longer be in the core, which moves other sessions: repeated until nothing
    changes.
    """
    keep = usable
    while True:
        rows = np.flatnonzero(keep)
        core = splits.core(log.user_idx[rows], log.item_idx[rows], options.min_user, options.min_item)
        _drop(dropped, "interaction of a user or item with too few", len(rows) - int(core.sum()))
        rows = rows[core]
        session = _cut(log.user_idx[rows], rows, options)
        long = np.zeros(len(session.users), bool)
        if history_tokens is not None:
            long = history_tokens(session.history) > options.max_history_tokens
        if not long.any():
            short = len(np.unique(log.user_idx[rows])) - len(session.users)
            _drop(dropped, "user with too few items for a session", short)
            return session, rows
        why = f"user with a history of more than {options.max_history_tokens} tokens"
        _drop(dropped, why, int(long.sum()))
        keep = np.zeros(len(log), bool)
        keep[rows] = ~np.isin(log.user_idx[rows], session.users[long])


class HistoryTokens:
    """Tokens of histories: of the items' texts and of the reviews, each counted once."""

    def __init__(self, log: Interactions, texts: Sequence[str], count: CountTokens, progress: bool) -> None:
        self.log, self.texts, self.count, self.progress = log, texts, count, progress
        self.item = np.full(len(texts), NONE, np.int64)
        self.review = np.full(len(log), NONE if log.review is not None else 0, np.int64)

    def __call__(self, history: np.ndarray) -> np.ndarray:
        """``(n,)`` tokens of histories, given as rows ``(n, h)`` of the log, padded by -1."""
        rows = history[history >= 0]
        items = np.unique(self.log.item_idx[rows])
        items = items[self.item[items] < 0]
        self.item[items] = _counted([self.texts[int(item)] for item in items], self.count, self.progress)
        new = rows[self.review[rows] < 0]
        if self.log.review is not None:
            self.review[new] = _counted(
                self.log.review.take(pa.array(new)).to_pylist(), self.count, self.progress
            )
        added = self.item[self.log.item_idx] + self.review
        return np.where(history >= 0, added[history], 0).sum(axis=1)


def _counted(texts: Sequence[str], count: CountTokens, progress: bool) -> np.ndarray:
    """Tokens of each text, ``(n,)`` int64; many texts show a progress bar on stderr."""
    tokens = np.empty(len(texts), np.int64)
    with progress_bar("counting tokens", len(texts), progress and len(texts) > 4 * BLOCK) as advance:
        for first in range(0, len(texts), BLOCK):
            block = texts[first : first + BLOCK]
            tokens[first : first + BLOCK] = count(block)
            advance(len(block))
    return tokens


def _cut(user_idx: np.ndarray, rows: np.ndarray, options: SessionOptions) -> _Rows:
    """Sessions of ``rows`` of a log, grouped by ``user_idx`` and oldest first."""
    users, start, count = np.unique(user_idx, return_index=True, return_counts=True)
    least = options.min_history or options.history
    length = np.minimum(count, options.history + options.future)  # of the session
    kept = count >= least + options.future
    first = start if options.take == "oldest" else start + count - length
    users, first, past = users[kept], first[kept], (length - options.future)[kept]
    place = np.arange(options.history)
    shown = place < past[:, None]
    # rows is empty where no user is left
    padded = np.append(rows, NONE)
    history = np.where(shown, padded[np.where(shown, first[:, None] + place, len(rows))], NONE)
    return _Rows(users, history, padded[(first + past)[:, None] + np.arange(options.future)])


def split_sessions(sessions: int, options: SessionOptions, generator: np.random.Generator) -> np.ndarray:
    """``(n,)`` int8: ``round(n · valid)`` and ``round(n · test)`` random sessions, at least one where it is not 0."""
    valid, test = (max(1, round(sessions * share)) if share else 0 for share in (options.valid, options.test))
    part = np.full(sessions, splits.TRAIN, np.int8)
    turn = generator.permutation(sessions)
    part[turn[:test]] = splits.TEST
    part[turn[test : test + valid]] = splits.VALID
    return part


def _drop(dropped: dict[str, int], why: str, count: int) -> None:
    if count:
        dropped[why] = dropped.get(why, 0) + count
