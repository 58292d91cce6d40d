"""The container of a data set: ids, splits, item text, protocols; and the part of it that a profiler may read."""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy import sparse

from reclm.data.id_map import IdMap
from reclm.data.item_text import any_text
from reclm.errors import BadInput, check_type, unknown
from reclm.folders import to_path

if TYPE_CHECKING:
    from reclm.data.sessions import Sessions
    from reclm.data.summary import Summary

ProfileKind = Literal["user", "item"]
Split = Literal["train", "valid", "test"]
SPLITS: tuple[Split, ...] = ("train", "valid", "test")
BLOCK = 1 << 16  # strings that are hashed at a time
_NOUN = re.compile(r"(?:[^\W\d_][\w'’ -]{0,38}[^\W_])?")


@dataclass(frozen=True, eq=False)
class Interactions:
    """Interactions of users with items, one a row; all columns have the same length ``n``.

    Attributes:
        user_idx, item_idx: ``(n,)`` int64 rows of the data set's id maps.
        timestamp: ``(n,)`` int64, seconds since 1970.
        rating: ``(n,)`` float32.
        review: ``(n,)`` strings.
    """

    user_idx: np.ndarray
    item_idx: np.ndarray
    timestamp: np.ndarray | None = None
    rating: np.ndarray | None = None
    review: pa.Array | None = None

    def __post_init__(self) -> None:
        columns = {name: values for name, values in vars(self).items() if values is not None}
        for name, values in columns.items():
            if len(values) != len(self.user_idx):
                raise BadInput(f"column {name} has {len(values)} rows, user_idx has {len(self.user_idx)}")
            if name != "review":
                column = np.ascontiguousarray(values, np.float32 if name == "rating" else np.int64)
                column.flags.writeable = False
                object.__setattr__(self, name, column)

    def __len__(self) -> int:
        return len(self.user_idx)

    @classmethod
    def from_table(cls, table: pa.Table) -> "Interactions":
        """Return the interactions of a table with columns of these names; it may have others, too."""
        present = [column.name for column in fields(cls) if column.name in table.column_names]
        numbers = {name: table[name].to_numpy() for name in present if name != "review"}
        return cls(**numbers, review=table["review"].combine_chunks() if "review" in present else None)

    @classmethod
    def empty(cls) -> "Interactions":
        """Return no interactions."""
        return cls(np.empty(0, np.int64), np.empty(0, np.int64))

    def take(self, rows: np.ndarray) -> "Interactions":
        """Return the interactions at ``rows`` (positions or a boolean mask), in that order."""
        rows = np.flatnonzero(rows) if rows.dtype == bool else rows
        columns = {name: column for name, column in vars(self).items() if column is not None}
        review = columns.pop("review", None)
        taken = {name: column[rows] for name, column in columns.items()}
        return Interactions(**taken, review=None if review is None else review.take(pa.array(rows)))

    def matrix(self, users: int, items: int) -> sparse.csr_array:
        """Return a ``(users, items)`` float32 CSR matrix of ones; an interaction that occurs twice counts once."""
        ones = np.ones(len(self), np.float32)
        matrix = sparse.coo_array((ones, (self.user_idx, self.item_idx)), shape=(users, items)).tocsr()
        matrix.data[:] = 1.0
        matrix.sort_indices()
        return matrix

    def by(self, kind: ProfileKind, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Group interactions by user (or item), each group oldest first where there are timestamps.

        Return ``(indptr, rows)``: ``rows[indptr[u]:indptr[u + 1]]`` are the positions of u's interactions.
        """
        key = self.user_idx if kind == "user" else self.item_idx
        order = np.lexsort((key,) if self.timestamp is None else (self.timestamp, key))
        indptr = np.concatenate([[0], np.cumsum(np.bincount(key, minlength=count))])
        return indptr, order


@dataclass(frozen=True)
class Protocol:
    """A way to evaluate, such as ``full-shot`` or ``zero-shot``: the items to rank, and those to leave out.

    Attributes:
        candidates: ``(c,)`` sorted item_idx that are ranked for every user. Positives outside are not counted.
        mask: the splits whose interactions a user cannot be recommended again.
    """

    name: str
    candidates: np.ndarray
    mask: tuple[Literal["train", "valid"], ...] = ("train", "valid")


@dataclass
class ReadReport:
    """Holds counts of what a reader found and of the records it dropped, by reason, and the first malformed lines."""

    counts: dict[str, int] = field(default_factory=dict)
    dropped: dict[str, int] = field(default_factory=dict)
    malformed: list[str] = field(default_factory=list)

    def drop(self, why: str, count: int = 1) -> None:
        """Add to the records left out for the reason ``why``."""
        if count:
            self.dropped[why] = self.dropped.get(why, 0) + int(count)

    def first_malformed(self) -> str:
        """Return ``"; the first malformed line: …"``, nothing where there is none."""
        return f"; the first malformed line: {self.malformed[0]}" if self.malformed else ""

    def count(self, what: str, count: int = 1) -> None:
        """Add to a count of what was found; those that are 0 are not shown."""
        if count:
            self.counts[what] = self.counts.get(what, 0) + int(count)


@dataclass(frozen=True, eq=False)
class TrainingView:
    """The part of a data set that a profiler may read: training part and item text. No other part is there to leak.

    Attributes:
        fingerprint: of the data set; it travels into every artefact made from the view.
        sessions: of a ``next-item`` data set, the futures of held-out users blanked.
        noun: what the data set calls its items, see :class:`Dataset`.
    """

    name: str
    users: IdMap
    items: IdMap
    train: Interactions
    item_text: pa.Table
    text_template: str
    fingerprint: str
    sessions: "Sessions | None" = None
    noun: str = ""

    @cached_property
    def has_item_text(self) -> bool:
        """Tell whether any item has a text."""
        return any_text(self.item_text)

    def idmap(self, kind: ProfileKind) -> IdMap:
        """Return the id map of ``kind``."""
        return self.users if kind == "user" else self.items

    @cached_property
    def _groups(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        return {kind: self.train.by(kind, len(self.idmap(kind))) for kind in get_args(ProfileKind)}

    def history(self, kind: ProfileKind, idx: int) -> np.ndarray:
        """Return the positions in ``train`` of a user's (or an item's) interactions, oldest first."""
        indptr, rows = self._groups[kind]
        return rows[indptr[idx] : indptr[idx + 1]]


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """A data set, split and ready.

    Attributes:
        users, items: the id maps, ``U`` and ``I`` long.
        train, valid, test: the splits. ``valid`` may be empty.
        item_text: ``I`` rows, one string column a field, most telling first; empty string = no text. No column:
            nothing is known of the items but their ids.
        protocols: the evaluations it offers, in order.
        text_template: makes one text of an item's fields, e.g. ``"{title}[ ({year})][. {genre}]"``; empty for all
            fields in order (:func:`reclm.text.item_text.item_texts`).
        report: counts of the reader; not part of the fingerprint.
        sessions: of a ``next-item`` data set (:func:`reclm.data.sessions.next_item`).
        folder: where it was loaded from; None for one made in memory.
        by_time: split at moments: no training interaction is later than one of validation, none of these than a test.
        noun: what its items are, in the plural, for prompts: ``films``; empty where it is not known. Not part of the
            fingerprint.
    """

    name: str
    users: IdMap
    items: IdMap
    train: Interactions
    valid: Interactions
    test: Interactions
    item_text: pa.Table
    protocols: tuple[Protocol, ...]
    text_template: str = ""
    report: ReadReport = field(default_factory=ReadReport)
    sessions: "Sessions | None" = None
    folder: Path | None = None
    by_time: bool = False
    noun: str = ""

    @classmethod
    def from_frames(
        cls,
        interactions: Any,
        items: Any = None,
        *,
        user: str = "user_id",
        item: str = "item_id",
        time: str | None = "timestamp",
        rating: str | None = None,
        label: str | None = "label",
        text: Sequence[str] | str | None = None,
        split: Literal["per-user", "time", "given", "sessions"] = "per-user",
        name: str = "mine",
        noun: str = "",
        **options: Any,
    ) -> "Dataset":
        """Make a data set of your own frames: pandas, polars, Arrow tables or DuckDB relations.

        Ids may be strings or numbers; they come back as strings, whole numbers without a decimal point. Rows without
        an id, or whose time or rating cannot be read, are left out and counted in ``report``.

        Args:
            interactions: one row an interaction.
            items: one row an item, with the same column of ids. Default: nothing is known of the items but their ids.
            user, item: columns of ids.
            time: column of dates, timestamps, ISO strings, or numbers since 1970 (option ``time_unit``: s, ms, us, ns;
                ``date`` where 20170714 is a day).
                None, or ``"timestamp"`` where there is no such column: without times, splits are random.
            rating: column of ratings.
            label: column of 0 and 1; interactions labelled 0 are left out. None, or ``"label"`` where there is no such
                column: all are positives.
            text: columns of item text, most telling first, or a template such as ``"{title}[. {genre}]"``. Default: all
                columns of strings but the id.
            split: ``per-user``: each user's newest interactions are held out, and whole items for zero-shot (options:
                :class:`~reclm.data.splits.SplitOptions`). ``time``: all from one moment on is the test, from an
                earlier one on validation; items first seen in the test are zero-shot (the same options). ``given``: the
                column ``split`` (option ``split_column``) says train, valid or test. ``sessions``: the ``next-item``
                protocol (options: :class:`~reclm.data.sessions.SessionOptions`).
            name: the name of the data set.
            noun: what the items are, in the plural, for prompts: ``films``, ``songs``.
            options: of the split.

        Raises:
            BadInput: for a frame, column type or option that cannot be used.
            NotFound: for a column or option that does not exist.
        """
        from reclm.data.readers.table import LogColumns, from_frames

        columns = LogColumns(user, item, time, rating, label=label)
        dataset = from_frames(interactions, items, columns, text, split, name, options)
        return replace(dataset, noun=noun)

    def __post_init__(self) -> None:
        if self.item_text.num_rows != len(self.items):
            raise BadInput(f"item_text has {self.item_text.num_rows} rows for {len(self.items)} items")
        users, items = len(self.users), len(self.items)
        for name in SPLITS:
            split = self.split(name)
            if split.user_idx.max(initial=-1) >= users or split.item_idx.max(initial=-1) >= items:
                raise BadInput(f"{name} refers to rows beyond the {users} users × {items} items")
        if not len(self.train):
            raise BadInput(f"data set {self.name!r} has no training interactions", value=self.name)
        if not _NOUN.fullmatch(self.noun):
            message = f"noun = {self.noun!r}: give a word or a few in the plural, such as films"
            raise BadInput(message, value=self.noun, where="noun")

    @cached_property
    def has_item_text(self) -> bool:
        """Tell whether any item has a text; if none has, items are known by their ids alone."""
        return any_text(self.item_text)

    @property
    def n_users(self) -> int:
        """Number of users."""
        return len(self.users)

    @property
    def n_items(self) -> int:
        """Number of items."""
        return len(self.items)

    def __repr__(self) -> str:
        splits = ", ".join(f"{name} {len(self.split(name)):,}" for name in SPLITS)
        protocols = ", ".join(protocol.name for protocol in self.protocols)
        size = f"{self.n_users:,} users × {self.n_items:,} items"
        return f"Dataset {self.name!r}: {size}; {splits}; {protocols}"

    def _repr_html_(self) -> str:
        return self.summary()._repr_html_()

    def summary(self) -> "Summary":
        """Count what the data set holds: splits, protocols, item text, what the reader dropped and why."""
        from reclm.data.summary import summarise

        return summarise(self)

    def check(self, progress: bool = True) -> Any:
        """Measure how far simple recommenders get on validation and test; say whether profiles could help.

        Returns:
            a :class:`~reclm.recommend.check.DataCheck`: its text is a table and a paragraph.

        Raises:
            NotFound: if the data set has no test part.
        """
        # recommenders stand above data: reached by name, when they are wanted
        return import_module("reclm.recommend.check").check(self, progress)

    def save(self, folder: str | Path) -> None:
        """Write the data set to ``folder``, whole or not at all; a data set already there is replaced.

        ``reclm.load_dataset(folder)`` reads it back.
        """
        from reclm.data.storage import save

        save(self, to_path(folder, "folder"))

    def protocol(self, name: str) -> Protocol:
        """Return the protocol called ``name``; one that the data set does not offer is a :class:`NotFound`."""
        protocols = {protocol.name: protocol for protocol in self.protocols}
        if name not in protocols:
            raise unknown(f"protocol of data set {self.name!r}", name, protocols)
        return protocols[name]

    def split(self, name: Split) -> Interactions:
        """Return ``train``, ``valid`` or ``test``."""
        return getattr(self, name)

    def joined(self, names: Sequence[Split]) -> Interactions:
        """Return several splits as one (user and item columns only)."""
        parts = [Interactions.empty(), *map(self.split, names)]
        user_idx = np.concatenate([part.user_idx for part in parts])
        return Interactions(user_idx, np.concatenate([part.item_idx for part in parts]))

    def view(self) -> TrainingView:
        """Return the training part and item text, all that a profiler may read."""
        shared = (self.name, self.users, self.items, self.train, self.item_text, self.text_template)
        return TrainingView(*shared, self.fingerprint, self.sessions and self.sessions.blanked(), self.noun)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of ids, splits, item text, protocols and sessions (16 hex digits); equal content, equal fingerprint."""
        digest = hashlib.sha256()
        for ids in (self.users, self.items):
            _add_strings(digest, ids.array)
        for name in SPLITS:
            split = self.split(name)
            for column in (split.user_idx, split.item_idx, split.timestamp, split.rating):
                content = b"-" if column is None else len(column).to_bytes(8, "little") + column.tobytes()
                digest.update(content)
            if split.review is not None:
                _add_strings(digest, split.review)
        for field_name in self.item_text.column_names:
            digest.update(field_name.encode())
            _add_strings(digest, self.item_text.column(field_name))
        digest.update(self.text_template.encode())
        for protocol in self.protocols:
            digest.update(f"{protocol.name} {protocol.mask}".encode())
            digest.update(protocol.candidates.astype(np.int64).tobytes())
        if (sessions := self.sessions) is not None:
            for array in (sessions.users, sessions.history, sessions.future, sessions.split):
                digest.update(f"{array.shape}".encode() + array.tobytes())
        if self.by_time:
            digest.update(b"by time")
        return digest.hexdigest()[:16]


def check_dataset(data: Any) -> Dataset:
    """Return ``data``, or raise BadInput if it is anything else, such as a name or a frame."""
    remedy = "load it: reclm.load_dataset(NAME), or make it: reclm.Dataset.from_frames(FRAME, ITEMS)"
    check_type("data", data, Dataset, remedy)
    return data


def _add_strings(digest: Any, column: pa.Array | pa.ChunkedArray) -> None:
    """Hash the strings of a column, each after its length, so that no two columns are alike; null counts as empty."""
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    nothing = pa.scalar(b"", pa.large_binary())
    for chunk in chunks:
        for first in range(0, len(chunk), BLOCK):
            block = pc.fill_null(chunk.slice(first, BLOCK).cast(pa.large_binary()), nothing)
            lengths = pc.binary_length(block).cast(pa.int64()).to_numpy().astype("<i8")
            buffers = [None, pa.py_buffer(lengths)]
            prefix = pa.FixedSizeBinaryArray.from_buffers(pa.binary(8), len(block), buffers)
            joined = pc.binary_join_element_wise(prefix.cast(pa.large_binary()), block, nothing)
            digest.update(joined.buffers()[2] or b"")
