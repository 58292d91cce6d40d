"""The ``next-item`` protocol: sessions of a history and the items that came after it.

They are made of a data set by the filters of LangPTune (https://arxiv.org/abs/2410.18870, section 5).
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml

from reclm.config import read_yaml
from reclm.data import splits
from reclm.data.dataset import SPLITS, Dataset, Protocol, ReadReport, Split, TrainingView
from reclm.data.item_text import item_texts
from reclm.data.session_cut import (
    NONE,
    CountTokens,
    HistoryTokens,
    SessionOptions,
    oldest_first,
    split_sessions,
    usable_interactions,
    within_limits,
)
from reclm.errors import BadInput, Damaged, NotFound

FORMAT = 2
HEAD, TABLE, ITEMS = "sessions.yaml", "sessions.parquet", "items.parquet"


@dataclass(frozen=True, eq=False)
class Sessions:
    """``n`` sessions, one a user, by ascending user.

    Attributes:
        users: ``(n,)`` int64 rows of the data set's users.
        history: ``(n, h)`` int64 item_idx, oldest first; a shorter history is padded by -1 at its end.
        future: ``(n, f)`` int64 item_idx, oldest first, none of them in the history.
        split: ``(n,)`` int8: 0 train, 1 valid, 2 test.
        items: ``(m,)`` int64 item_idx, ascending: those of all interactions that no filter left out, in a session or
            not. A ranking chooses among them.
        rating: ``(n, h)`` float32 of the history, nan where it is padded; None where the data set has none.
        review: ``(n·h,)`` texts of the history, row after row, empty where it is padded; None where there are none.
        fingerprint: of the data set whose interactions they are.
        options: how they were made.
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
        """Return the positions of the sessions of a split, ascending."""
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
        columns = {
            "user_idx": pa.array(self.users),
            "split": pa.array(np.array(SPLITS)[self.split]),
            "history": _lists(pa.array(self.history.ravel()), h),
            "future": _lists(pa.array(self.future.ravel()), f),
        }
        if self.rating is not None:
            columns["rating"] = _lists(pa.array(self.rating.ravel()), h)
        if self.review is not None:
            columns["review"] = _lists(self.review, h)
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
        """Return the sessions of :meth:`to_table` and :meth:`head`.

        Raises:
            ValueError: if these do not belong together.
        """
        table = table.combine_chunks()

        def matrix(name: str) -> np.ndarray:
            column = table[name].combine_chunks()
            return column.flatten().to_numpy(zero_copy_only=False).reshape(len(table), column.type.list_size)

        sessions = cls(
            table["user_idx"].to_numpy(),
            matrix("history"),
            matrix("future"),
            np.array([SPLITS.index(name) for name in table["split"].to_pylist()], np.int8),
            items,
            matrix("rating") if "rating" in table.column_names else None,
            table["review"].combine_chunks().flatten() if "review" in table.column_names else None,
            head["fingerprint"],
            SessionOptions.model_validate(head["options"]),
            head["dropped"],
        )
        if {split: len(sessions.rows(split)) for split in SPLITS} != head["sessions"]:
            raise ValueError(f"{TABLE} is not the one that the head was written for")
        used = np.union1d(sessions.history[sessions.history != NONE], sessions.future)
        if len(items) != head["items"] or not np.isin(used, items).all():
            raise ValueError(f"{ITEMS} is not the one that the head was written for")
        return sessions

    def save(self, folder: Path) -> None:
        """Write ``sessions.parquet``, ``items.parquet`` and, last, ``sessions.yaml``; sessions there are replaced.

        Raises:
            BadInput: if ``folder`` cannot be written.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
            # without it there are no sessions: a killed run leaves none
            (folder / HEAD).unlink(missing_ok=True)
            for name, table in ((TABLE, self.to_table()), (ITEMS, pa.table({"item_idx": self.items}))):
                partial = folder / f"{name}.partial"
                pq.write_table(table, partial)
                os.replace(partial, folder / name)
            partial = folder / f"{HEAD}.partial"
            partial.write_text(
                yaml.safe_dump({"format": FORMAT} | self.head(), sort_keys=False), encoding="utf-8"
            )
            os.replace(partial, folder / HEAD)
        except OSError as error:
            raise BadInput(f"cannot write sessions to {folder}: {error.strerror}", value=folder) from error

    @classmethod
    def load(cls, folder: Path, fingerprint: str | None = None) -> "Sessions":
        """Return the sessions that :meth:`save` wrote to ``folder``.

        Args:
            fingerprint: of the data set they must have been made of, if that matters.

        Raises:
            NotFound: if there are none.
            Damaged: if they are damaged or of another data set.
        """
        if not (folder / HEAD).is_file():
            raise NotFound(f"no sessions in {folder}: it has no {HEAD}; make them again", value=folder)
        head = read_yaml(folder / HEAD)
        if head.get("format") != FORMAT:
            raise Damaged(
                f"{folder / HEAD} has format {head.get('format')}, this version of reclm reads {FORMAT}",
                value=head.get("format"),
            )
        if fingerprint is not None and head.get("fingerprint") != fingerprint:
            raise Damaged(
                f"the sessions in {folder} were made of a data set with fingerprint {head.get('fingerprint')}, "
                f"not {fingerprint}; make them again",
                value=head.get("fingerprint"),
            )
        try:
            items = pq.read_table(folder / ITEMS)["item_idx"].to_numpy()
            return cls.from_table(pq.read_table(folder / TABLE), items, head)
        except (OSError, LookupError, TypeError, ValueError) as error:  # Arrow's own errors are among these
            reason = " ".join(str(error).split())
            raise Damaged(
                f"{folder} holds damaged sessions: {reason}; make them again", value=folder
            ) from error


def _lists(values: pa.Array, width: int) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(values, width)


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
        progress: show a bar while the tokens of many texts are counted.

    Raises:
        BadInput: if no session is left, or none to train on; for a limit of tokens without its counter.
    """
    for limit, counter in (("max_item_tokens", encoder_tokens), ("max_history_tokens", model_tokens)):
        if getattr(options, limit) is not None and counter is None:
            raise BadInput(
                f"{limit} = {getattr(options, limit)} needs a function that counts tokens; or set {limit} to null",
                value=limit,
            )
    view = source.view() if isinstance(source, Dataset) else source
    texts = item_texts(view.item_text, view.text_template)
    parts = [source.train, source.valid, source.test] if isinstance(source, Dataset) else [source.train]
    generator = np.random.default_rng(options.seed)
    dropped: dict[str, int] = {}
    log = oldest_first(parts, generator)
    usable = usable_interactions(log, texts, options, encoder_tokens, progress, dropped)
    history_tokens = None
    if options.max_history_tokens is not None and model_tokens is not None:
        history_tokens = HistoryTokens(log, texts, model_tokens, progress)
    session, core = within_limits(log, usable, history_tokens, options, dropped)
    if not len(session.users):
        raise BadInput(f"data set {view.name!r} has no sessions; left out: {dropped}; choose other limits")
    part = split_sessions(len(session.users), options, generator)
    if not (part == splits.TRAIN).any():
        raise BadInput(
            f"data set {view.name!r} has {len(session.users)} sessions, none is left to train on; left out: {dropped}"
        )
    place, rows = session.history >= 0, np.maximum(session.history, 0)
    item = np.append(log.item_idx, NONE)
    review = None
    if log.review is not None:
        review = pc.fill_null(log.review.take(pa.array(rows.ravel(), mask=~place.ravel())), "")
    sessions = Sessions(
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
    known = np.where((part == splits.TRAIN)[:, None], session.future, NONE)
    known = np.concatenate([session.history, known], axis=1)
    return splits.finished(
        Dataset(
            f"{view.name}-next-item",
            view.users,
            view.items,
            log.take(known[known != NONE]),
            log.take(session.future[part == splits.VALID].ravel()),
            log.take(session.future[part == splits.TEST].ravel()),
            view.item_text,
            (Protocol("next-item", sessions.items, ("train",)),),
            view.text_template,
            ReadReport(dropped=dict(dropped)),
            sessions,
        )
    )


def make_sessions(source: Dataset | TrainingView, options: SessionOptions, **counters: Any) -> Sessions:
    """Return the sessions alone of :func:`next_item`."""
    sessions = next_item(source, options, **counters).sessions
    assert sessions is not None
    return sessions
