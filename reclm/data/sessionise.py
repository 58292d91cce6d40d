"""Sessions made of a data set, by the filters of LangPTune (https://arxiv.org/abs/2410.18870, section 5)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from reclm.data import splits
from reclm.data.dataset import Dataset, Interactions, TrainingView
from reclm.data.sessions import NONE, SessionOptions, Sessions
from reclm.errors import ReclmError
from reclm.progress import progress_bar
from reclm.text.items import item_texts

CountTokens = Callable[[Sequence[str]], Sequence[int]]
"""How many tokens each of some texts has."""

BLOCK = 1000
"""Texts whose tokens are counted at a time, between two steps of the progress bar."""


def make_sessions(
    source: Dataset | TrainingView,
    options: SessionOptions,
    *,
    encoder_tokens: CountTokens | None = None,
    model_tokens: CountTokens | None = None,
    texts: Sequence[str] | None = None,
    progress: bool = True,
) -> Sessions:
    """Sessions of the users of a data set.

    Of a user's interactions with one item the first counts. An interaction is left out with its item; the limits of
    counts and of tokens all hold in the end, for what is left.

    Args:
        source: a data set, of which all splits are put together again, since users are split anew; or a view, of which
            there is the training part only.
        encoder_tokens: counts tokens for ``max_item_tokens``.
        model_tokens: counts tokens for ``max_history_tokens``: the item's text and the review of each item.
        texts: ``I`` texts of the items, as profiler and encoder are shown them. Default: by the data set's template.
        progress: show a bar while the tokens of many texts are counted.

    Raises:
        ReclmError: if no session is left, or none to train on.
        ValueError: for a limit of tokens without its counter.
    """
    for limit, counter in (("max_item_tokens", encoder_tokens), ("max_history_tokens", model_tokens)):
        if getattr(options, limit) is not None and counter is None:
            raise ValueError(f"{limit} needs a function that counts tokens")
    view = source.view() if isinstance(source, Dataset) else source
    texts = item_texts(view.item_text, view.text_template) if texts is None else texts
    parts = [source.train, source.valid, source.test] if isinstance(source, Dataset) else [source.train]
    generator = np.random.default_rng(options.seed)
    dropped: dict[str, int] = {}
    log = _oldest_first(parts, generator)
    usable = _usable(log, texts, options, encoder_tokens, progress, dropped)
    history_tokens = None
    if options.max_history_tokens is not None and model_tokens is not None:
        history_tokens = _HistoryTokens(log, texts, model_tokens, progress)
    session, core = _within_limits(log, usable, history_tokens, options, dropped)
    if not len(session.users):
        raise ReclmError(f"data set {view.name!r} has no sessions; left out: {dropped}; choose other limits")
    part = _split(len(session.users), options, generator)
    if not (part == splits.TRAIN).any():
        raise ReclmError(
            f"data set {view.name!r} has {len(session.users)} sessions, none is left to train on; left out: {dropped}"
        )
    place, rows = session.history >= 0, np.maximum(session.history, 0)
    item = np.append(log.item_idx, NONE)
    review = None
    if log.review is not None:
        review = pc.fill_null(log.review.take(pa.array(rows.ravel(), mask=~place.ravel())), "")
    return Sessions(
        session.users,
        item[session.history],
        item[session.future],
        part,
        np.unique(log.item_idx[core]),
        None if log.rating is None else np.where(place, log.rating[rows], np.float32(np.nan)),
        review,
        view.fingerprint,
        options,
        dropped,
    )


def _oldest_first(parts: Sequence[Interactions], generator: np.random.Generator) -> Interactions:
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


def _usable(
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


def _within_limits(
    log: Interactions,
    usable: np.ndarray,
    history_tokens: "_HistoryTokens | None",
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


class _HistoryTokens:
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


def _split(sessions: int, options: SessionOptions, generator: np.random.Generator) -> np.ndarray:
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
