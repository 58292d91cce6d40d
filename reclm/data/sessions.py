"""The ``next-item`` protocol, with the filters of LangPTune (https://arxiv.org/abs/2410.18870, section 5)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, model_validator

from reclm.config import Config
from reclm.console import progress_bar
from reclm.data import splits
from reclm.data.dataset import SPLITS, Dataset, Interactions, Protocol, ReadReport, Split, TrainingView
from reclm.data.item_text import item_texts
from reclm.data.splits import Fraction, Seed
from reclm.errors import BadInput

NONE = -1  # pads a short history; hides the future of a held-out user
BLOCK = 1000  # texts whose tokens are counted between two steps of the progress bar
Count = Annotated[int, Field(ge=1)]
CountTokens = Callable[[Sequence[str]], Sequence[int]]  # the tokens of each text


class SessionOptions(Config):
    """Options of :func:`next_item`. The defaults are the paper's."""

    history: Count = 4
    """Items a profile is written from, |h|."""
    future: Count = 1
    """Items that come after them, |f|."""
    min_history: Count | None = None
    """Users with fewer items than this before the future ones are left out. Default: ``history``."""
    take: Literal["oldest", "newest"] = "oldest"
    """The items that a session takes: a user's first ones, as in the paper, or the last ones."""
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
        splits.check_fractions(self.valid, self.test)
        if self.min_history is not None and self.min_history > self.history:
            raise ValueError(f"min_history {self.min_history} is more than history {self.history}")
        return self


@dataclass(frozen=True, eq=False)
class Sessions:
    """``n`` sessions, one a user, by ascending user.

    Attributes:
        users: ``(n,)`` int64 rows of the data set's users.
        history: ``(n, h)`` int64 item_idx, oldest first; a shorter history is padded by -1 at its end.
        future: ``(n, f)`` int64 item_idx, oldest first, none of them in the history.
        split: ``(n,)`` int8: 0 train, 1 valid, 2 test.
        items: ``(m,)`` int64 item_idx, ascending: all that no filter left out, in a session or not. They are ranked.
        rating: ``(n, h)`` float32 of the history, nan where it is padded; None where the data set has none.
        review: ``(n·h,)`` texts of the history, row after row, empty where it is padded; None where there are none.
        fingerprint: of the data set whose interactions they are.
        dropped: counts of interactions and users that were left out, by reason.
    """

    users: np.ndarray
    history: np.ndarray
    future: np.ndarray
    split: np.ndarray
    items: np.ndarray
    rating: np.ndarray | None
    review: pa.Array | None
    fingerprint: str
    options: SessionOptions
    dropped: dict[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.users)

    def rows(self, split: Split) -> np.ndarray:
        """Return the positions ``(m,)`` of the sessions of a split, ascending."""
        return np.flatnonzero(self.split == SPLITS.index(split))

    def reviews(self, row: int) -> list[str]:
        """Return a user's reviews of the items of the history, in their order; none where there are no reviews."""
        if self.review is None:
            return []
        width = self.history.shape[1]
        return self.review.slice(row * width, int((self.history[row] != NONE).sum())).to_pylist()

    def blanked(self) -> "Sessions":
        """Return the same sessions with -1 for the futures of held-out users."""
        held_out = self.split != splits.TRAIN
        return replace(self, future=np.where(held_out[:, None], NONE, self.future))

    def to_table(self) -> pa.Table:
        """Return a table with a row a session; :meth:`from_table` makes sessions of it again."""
        h, f = self.history.shape[1], self.future.shape[1]
        lists = {"history": (self.history, h), "future": (self.future, f), "rating": (self.rating, h)}
        columns = {"user_idx": pa.array(self.users), "split": pa.array(np.array(SPLITS)[self.split])}
        for name, (values, width) in lists.items():
            if values is not None:
                columns[name] = pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), width)
        if self.review is not None:
            columns["review"] = pa.FixedSizeListArray.from_arrays(self.review, h)
        return pa.table(columns)

    def head(self) -> dict[str, Any]:
        """Return what the table does not say, ready for YAML."""
        return {
            "fingerprint": self.fingerprint,
            "sessions": {split: len(self.rows(split)) for split in SPLITS},
            "items": len(self.items),
            "options": self.options.model_dump(mode="json"),
            "dropped": self.dropped,
        }

    @classmethod
    def from_table(cls, table: pa.Table, items: np.ndarray, head: Mapping[str, Any]) -> "Sessions":
        """Return the sessions of :meth:`to_table` and :meth:`head`."""
        names = [name for name in ("history", "future", "rating", "review") if name in table.column_names]
        lists: dict[str, Any] = {"rating": None, "review": None}
        lists |= {name: table[name].combine_chunks().flatten() for name in names}
        for name in set(names) - {"review"}:
            lists[name] = lists[name].to_numpy(zero_copy_only=False).reshape(len(table), -1)
        return cls(
            users=table["user_idx"].to_numpy(),
            split=np.array([SPLITS.index(name) for name in table["split"].to_pylist()], np.int8),
            items=items,
            fingerprint=head["fingerprint"],
            options=SessionOptions.model_validate(head["options"]),
            dropped=head["dropped"],
            **lists,
        )


def next_item(
    source: Dataset | TrainingView,
    options: SessionOptions,
    *,
    encoder_tokens: CountTokens | None = None,
    model_tokens: CountTokens | None = None,
    progress: bool = True,
) -> Dataset:
    """Return the data set whose one protocol is ``next-item``: to rank the items that come after a user's history.

    Users, items and item text are those of ``source``. ``train`` holds the sessions of training users, history and
    future, and the histories of held-out users; ``valid`` and ``test`` hold the futures of held-out users. Of a user's
    interactions with one item the first counts. An interaction is left out with its item; the limits of counts and of
    tokens all hold in the end, for what is left.

    Args:
        source: a data set, whose splits are put together again, since users are split anew; or a view, of which there
            is the training part only.
        encoder_tokens: counts tokens for ``max_item_tokens``.
        model_tokens: counts tokens for ``max_history_tokens``: the item's text and the review of each item.
    """
    for name, counter in (("max_item_tokens", encoder_tokens), ("max_history_tokens", model_tokens)):
        if (limit := getattr(options, name)) is not None and counter is None:
            message = f"{name} = {limit} needs a function that counts tokens; or set {name} to null"
            raise BadInput(message, value=name)
    view = source.view() if isinstance(source, Dataset) else source
    parts = [source.train, source.valid, source.test] if isinstance(source, Dataset) else [source.train]
    generator, report = np.random.default_rng(options.seed), ReadReport()
    log, texts = _oldest_first(parts, generator), item_texts(view.item_text, view.text_template)
    filters = _Filters(log, texts, options, encoder_tokens, model_tokens, progress, report)
    users, history, future, core = filters.sessions()
    part = _split(len(users), options, generator)
    if not (part == splits.TRAIN).any():
        sessions = f"{len(users)} sessions, none is left to train on" if len(users) else "no sessions"
        raise BadInput(
            f"data set {view.name!r} has {sessions}; choose other limits; left out: {report.dropped}"
        )
    place, rows, item = history >= 0, np.maximum(history, 0), np.append(log.item_idx, NONE)
    review = None
    if log.review is not None:
        review = pc.fill_null(log.review.take(pa.array(rows.ravel(), mask=~place.ravel())), "")
    rating = None if log.rating is None else np.where(place, log.rating[rows], np.float32(np.nan))
    columns = (users, item[history], item[future], part, np.unique(log.item_idx[core]), rating, review)
    sessions = Sessions(*columns, view.fingerprint, options, report.dropped)
    known = np.concatenate([history, np.where((part == splits.TRAIN)[:, None], future, NONE)], axis=1)
    valid, test = (log.take(future[part == which].ravel()) for which in (splits.VALID, splits.TEST))
    parts = (log.take(known[known != NONE]), valid, test)
    protocols = (Protocol("next-item", sessions.items, ("train",)),)
    rest: dict[str, Any] = {
        "item_text": view.item_text,
        "text_template": view.text_template,
        "noun": view.noun,
    }
    rest |= {"protocols": protocols, "report": ReadReport(dropped=dict(report.dropped)), "sessions": sessions}
    return splits.finished(Dataset(f"{view.name}-next-item", view.users, view.items, *parts, **rest))


def _oldest_first(parts: Sequence[Interactions], generator: np.random.Generator) -> Interactions:
    """Return all interactions by user, each user's oldest first (in random order without timestamps)."""
    parts = [part for part in parts if len(part)]

    def column(name: str) -> Any:
        values = [getattr(part, name) for part in parts]
        return None if any(value is None for value in values) else np.concatenate(values)

    reviews = [part.review.cast(pa.large_string()) for part in parts if part.review is not None]
    review = pa.chunked_array(reviews).combine_chunks() if len(reviews) == len(parts) else None
    user, time = column("user_idx"), column("timestamp")
    log = Interactions(user, column("item_idx"), time, column("rating"), review)
    return log.take(np.lexsort((generator.permutation(len(log)) if time is None else time, user)))


@dataclass
class _Filters:
    """The filters of a log; ``report`` receives what they drop."""

    log: Interactions
    texts: Sequence[str]
    options: SessionOptions
    encoder_tokens: CountTokens | None
    model_tokens: CountTokens | None
    progress: bool
    report: ReadReport

    def __post_init__(self) -> None:
        # tokens of texts and reviews, each counted once
        self.item = np.full(len(self.texts), NONE, np.int64)
        self.review = np.full(len(self.log), 0 if self.log.review is None else NONE, np.int64)

    def usable(self) -> np.ndarray:
        """Mark the interactions ``(n,)`` with items that may be shown, each pair once."""
        log, texts, limit = self.log, self.texts, self.options.max_item_tokens
        usable = np.ones(len(log), bool)

        def keep(mask: np.ndarray, why: str) -> None:
            nonlocal usable
            self.report.drop(why, int((usable & ~mask).sum()))
            usable &= mask

        keep(splits.first_of_pairs(log.user_idx, log.item_idx, None), "repeated interaction")
        if self.options.need_text:
            filled = np.array([bool(text.strip()) for text in texts], bool)
            keep(filled[log.item_idx], "interaction with an item without text")
        if limit is not None:
            used = np.unique(log.item_idx[usable])
            short = np.ones(len(texts), bool)
            short[used] = self.count([texts[int(item)] for item in used], self.encoder_tokens) <= limit
            keep(short[log.item_idx], f"interaction with an item of more than {limit} tokens")
        return usable

    def sessions(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Return the sessions of the core of the usable interactions, and the core as rows of the log.

        Users whose history is too long are left out. Without them other users and items may no longer be in the core,
        which moves other sessions: repeated until nothing changes.
        """
        log, options, usable, limit = self.log, self.options, self.usable(), self.options.max_history_tokens
        while True:
            rows = np.flatnonzero(usable)
            core = splits.core(log.user_idx[rows], log.item_idx[rows], options.min_user, options.min_item)
            self.report.drop("interaction of a user or item with too few", len(rows) - int(core.sum()))
            rows = rows[core]
            users, history, future = _cut(log.user_idx[rows], rows, options)
            long = np.zeros(len(users), bool) if limit is None else self.history_tokens(history) > limit
            if not long.any():
                short = len(np.unique(log.user_idx[rows])) - len(users)
                self.report.drop("user with too few items for a session", short)
                return users, history, future, rows
            self.report.drop(f"user with a history of more than {limit} tokens", int(long.sum()))
            usable = np.zeros(len(log), bool)
            usable[rows] = ~np.isin(log.user_idx[rows], users[long])

    def history_tokens(self, history: np.ndarray) -> np.ndarray:
        """Return the tokens ``(n,)``, reviews included, of histories: rows ``(n, h)`` of the log, padded by -1."""
        rows = history[history >= 0]
        items = np.unique(self.log.item_idx[rows])
        items = items[self.item[items] < 0]
        self.item[items] = self.count([self.texts[int(item)] for item in items], self.model_tokens)
        if self.log.review is not None:
            new = rows[self.review[rows] < 0]
            reviews = self.log.review.take(pa.array(new)).to_pylist()
            self.review[new] = self.count(reviews, self.model_tokens)
        tokens = self.item[self.log.item_idx] + self.review
        return np.where(history >= 0, tokens[history], 0).sum(axis=1)

    def count(self, texts: Sequence[str], counter: CountTokens | None) -> np.ndarray:
        """Return the tokens of each text, ``(n,)`` int64; many texts show a progress bar on stderr."""
        assert counter is not None
        tokens = np.empty(len(texts), np.int64)
        show = self.progress and len(texts) > 4 * BLOCK
        with progress_bar("counting tokens", len(texts), show) as advance:
            for first in range(0, len(texts), BLOCK):
                block = texts[first : first + BLOCK]
                tokens[first : first + BLOCK] = counter(block)
                advance(len(block))
        return tokens


def _cut(user_idx: np.ndarray, rows: np.ndarray, options: SessionOptions) -> tuple[np.ndarray, ...]:
    """Return users ``(n,)``, history ``(n, h)`` and future ``(n, f)`` of rows that stand by user, oldest first."""
    users, start, count = np.unique(user_idx, return_index=True, return_counts=True)
    least = options.min_history or options.history
    length = np.minimum(count, options.history + options.future)  # of the session
    enough = count >= least + options.future
    first = start if options.take == "oldest" else start + count - length
    users, first, past = users[enough], first[enough], (length - options.future)[enough]
    place = np.arange(options.history)
    padded = np.append(rows, NONE)  # rows is empty where no user is left
    history = padded[np.where(place < past[:, None], first[:, None] + place, len(rows))]
    return users, history, padded[(first + past)[:, None] + np.arange(options.future)]


def _split(sessions: int, options: SessionOptions, generator: np.random.Generator) -> np.ndarray:
    """Draw ``round(n · valid)`` and ``round(n · test)`` random sessions, at least one where the fraction is not 0."""
    valid, test = (max(1, round(sessions * share)) if share else 0 for share in (options.valid, options.test))
    part = np.full(sessions, splits.TRAIN, np.int8)
    turn = generator.permutation(sessions)
    part[turn[:test]] = splits.TEST
    part[turn[test : test + valid]] = splits.VALID
    return part
