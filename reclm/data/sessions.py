"""Sessions: what a user did first, for a profile to be written from, and what came next, for it to be judged by.

Paper: End-to-end Training for Recommendation with Language-based User Profiles, https://arxiv.org/abs/2410.18870,
section 5.
"""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from pydantic import Field, model_validator

from reclm.config import Config, read_yaml
from reclm.data.assemble import Fraction, Seed
from reclm.errors import ReclmError

Split = Literal["train", "valid", "test"]
SPLITS: tuple[Split, ...] = ("train", "valid", "test")
NONE = -1
"""Stands in the history where there is no further item."""

FORMAT = 2
HEAD, TABLE, ITEMS = "sessions.yaml", "sessions.parquet", "items.parquet"

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
        fingerprint: of the data set.
        options: how they were made.
        dropped: what was left out, by reason.
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
        """Positions of the sessions of a split, ascending."""
        return np.flatnonzero(self.split == SPLITS.index(split))

    def reviews(self, row: int) -> list[str]:
        """What the user of a session wrote about the items of the history, in their order; empty without reviews."""
        if self.review is None:
            return []
        width = self.history.shape[1]
        return self.review.slice(row * width, int((self.history[row] != NONE).sum())).to_pylist()

    def save(self, folder: Path) -> None:
        """Write ``sessions.parquet`` (a row a session), ``items.parquet`` and ``sessions.yaml``, the one by which they
        are found; sessions already there are replaced.

        Raises:
            ReclmError: if ``folder`` cannot be written.
        """
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
        head = {
            "format": FORMAT,
            "fingerprint": self.fingerprint,
            "sessions": {split: len(self.rows(split)) for split in SPLITS},
            "items": len(self.items),
            "options": self.options.model_dump(mode="json"),
            "dropped": self.dropped,
        }
        try:
            folder.mkdir(parents=True, exist_ok=True)
            # without it there are no sessions: a killed run leaves none
            (folder / HEAD).unlink(missing_ok=True)
            for name, table in ((TABLE, columns), (ITEMS, {"item_idx": pa.array(self.items)})):
                partial = folder / f"{name}.partial"
                pq.write_table(pa.table(table), partial)
                os.replace(partial, folder / name)
            partial = folder / f"{HEAD}.partial"
            partial.write_text(yaml.safe_dump(head, sort_keys=False), encoding="utf-8")
            os.replace(partial, folder / HEAD)
        except OSError as error:
            raise ReclmError(f"cannot write sessions to {folder}: {error.strerror}") from error

    @classmethod
    def load(cls, folder: Path, fingerprint: str | None = None) -> "Sessions":
        """The sessions that :meth:`save` wrote to ``folder``.

        Args:
            fingerprint: of the data set they must have been made of, if that matters.

        Raises:
            ReclmError: if there are none, or they are damaged or of another data set.
        """
        if not (folder / HEAD).is_file():
            raise ReclmError(f"no sessions in {folder}: it has no {HEAD}; make them again")
        head = read_yaml(folder / HEAD)
        if head.get("format") != FORMAT:
            raise ReclmError(
                f"{folder / HEAD} has format {head.get('format')}, this version of reclm reads {FORMAT}"
            )
        if fingerprint is not None and head.get("fingerprint") != fingerprint:
            raise ReclmError(
                f"the sessions in {folder} were made of a data set with fingerprint {head.get('fingerprint')}, "
                f"not {fingerprint}; make them again"
            )
        try:
            return _from_tables(pq.read_table(folder / TABLE), pq.read_table(folder / ITEMS), head)
        except (OSError, LookupError, TypeError, ValueError) as error:  # Arrow's own errors are among these
            what = " ".join(str(error).split())
            raise ReclmError(f"{folder} holds damaged sessions: {what}; make them again") from error


def _lists(values: pa.Array, width: int) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(values, width)


def _from_tables(table: pa.Table, items: pa.Table, head: dict[str, Any]) -> Sessions:
    table = table.combine_chunks()

    def matrix(name: str) -> np.ndarray:
        column = table[name].combine_chunks()
        return column.flatten().to_numpy(zero_copy_only=False).reshape(len(table), column.type.list_size)

    options = SessionOptions.model_validate(head["options"])
    sessions = Sessions(
        table["user_idx"].to_numpy(),
        matrix("history"),
        matrix("future"),
        np.array([SPLITS.index(name) for name in table["split"].to_pylist()], np.int8),
        items["item_idx"].to_numpy(),
        matrix("rating") if "rating" in table.column_names else None,
        table["review"].combine_chunks().flatten() if "review" in table.column_names else None,
        head["fingerprint"],
        options,
        head["dropped"],
    )
    if {split: len(sessions.rows(split)) for split in SPLITS} != head["sessions"]:
        raise ValueError(f"{TABLE} is not the one that {HEAD} was written for")
    used = np.union1d(sessions.history[sessions.history != NONE], sessions.future)
    if len(sessions.items) != head["items"] or not np.isin(used, sessions.items).all():
        raise ValueError(f"{ITEMS} is not the one that {HEAD} was written for")
    return sessions
