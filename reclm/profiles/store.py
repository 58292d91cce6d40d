"""Profiles on disk: one LanceDB folder a data set and writer."""

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Self, get_args

import lancedb
import pyarrow as pa
import pyarrow.compute as pc
from filelock import FileLock, Timeout
from lancedb.expr import col
from lancedb.table import Table

from reclm.config import Config
from reclm.data.dataset import ProfileKind
from reclm.errors import ReclmError
from reclm.files import Journal
from reclm.folders import make_folder
from reclm.profiles.profile import Profile

KINDS: tuple[ProfileKind, ...] = get_args(ProfileKind)

PATIENCE = 5.0
"""Seconds to wait for another writer: a reader that puts a killed run's journal into the table takes less."""

SCHEMA = pa.schema(
    [
        ("kind", pa.string()),
        ("id", pa.string()),
        ("text", pa.string()),
        ("prompt_hash", pa.string()),
        ("model", pa.string()),
        ("settings", pa.string()),
        ("prompt_tokens", pa.int32()),
        ("new_tokens", pa.int32()),
        ("finish_reason", pa.string()),
        ("seconds", pa.float32()),
        ("fingerprint", pa.string()),
        ("created", pa.timestamp("us", "UTC")),
    ]
)
_PROFILE_COLUMNS = [field.name for field in fields(Profile)]


class StoreInfo(Config):
    """``store.yaml``: what a store holds the profiles of."""

    fingerprint: str
    """Of the data set the profiles were written from."""
    writer: str
    """The profiler, with its model."""
    dataset: str = ""
    """The data set's name."""
    earlier: str = ""
    """Folder, beside this one, of the store whose answers to equal prompts are taken over; none if empty."""


class ProfileStore:
    """Profiles of one data set by one writer, keyed by (kind, id), with their embeddings.

    Rows are safe from the moment :meth:`add` has taken them (see :class:`~reclm.files.Journal`).
    Many may read a store while one process writes to it. Used as a context manager, it puts everything into
    the table at the end, also when it is left by an exception.
    """

    flush_rows = 2048
    flush_seconds = 10.0

    def __init__(self, folder: Path, info: StoreInfo) -> None:
        self.folder, self.info = folder, info
        # an interval of 0: every read sees what other processes have written
        self.db = lancedb.connect(folder, read_consistency_interval=timedelta(0))
        self._lock = _lock_of(folder)
        self._journal = Journal(folder / "journal.jsonl")
        self._pending: dict[tuple[str, str], dict[str, Any]] = {}
        self._flushed = time.monotonic()
        self._table = _opened(self.db)
        self._recover()

    @staticmethod
    def at(folder: Path) -> bool:
        """Whether there is a store in ``folder``."""
        return (folder / "store.yaml").is_file()

    @classmethod
    def open(
        cls,
        folder: Path,
        fingerprint: str,
        writer: str,
        dataset: str = "",
        *,
        fresh: bool = False,
        carry_over: bool = False,
    ) -> Self:
        """The store in ``folder``, created where there is none.

        Args:
            folder: the store's own folder.
            fingerprint, dataset: of the data set the profiles are written from, and its name.
            writer: the profiler, with its model.
            fresh: set a store that is there aside (as ``<folder>.old-<time>``) and begin an empty one.
            carry_over: do so where it was written for another data set (the same one, since grown, say), and go on
                looking there for what answers an equal prompt (:meth:`by_hash`).

        Raises:
            ReclmError: if the store was written for another data set or by another writer.
        """
        info = StoreInfo(fingerprint=fingerprint, writer=writer, dataset=dataset)
        if fresh and cls.at(folder):
            _set_aside(folder)
        if not cls.at(folder):
            return cls._create(folder, info)
        store = cls.read(folder)
        if carry_over and store.info.fingerprint != fingerprint and store.info.writer == writer:
            return cls._create(folder, info.model_copy(update={"earlier": _set_aside(folder).name}))
        for what, found, wanted in (
            ("for data set", store.info.fingerprint, fingerprint),
            ("by", store.info.writer, writer),
        ):
            if found != wanted:
                raise ReclmError(
                    f"profile store {folder} was written {what} {found}, not {wanted}; choose another --store, or "
                    "set this one aside with reclm profile --carry-over (keeps answers to equal prompts) or --fresh"
                )
        return store

    @classmethod
    def _create(cls, folder: Path, info: StoreInfo) -> Self:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ReclmError(f"{folder} is not empty and no profile store; choose another --store")
        make_folder(folder, "--store or --home")
        draft = folder.with_name(f"{folder.name}.{time.time_ns()}.yaml")
        info.to_yaml(draft)
        draft.replace(folder / "store.yaml")
        return cls(folder, info)

    @classmethod
    def read(cls, folder: Path) -> Self:
        """The store in ``folder``, whatever data set and writer it belongs to.

        Raises:
            ReclmError: if there is none.
        """
        if not cls.at(folder):
            raise ReclmError(f"no profile store at {folder}; write profiles with: reclm profile")
        return cls(folder, StoreInfo.from_yaml(folder / "store.yaml"))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps other writers out.

        Raises:
            ReclmError: if another process is writing to this store.
        """
        _acquire(self._lock, self.folder)
        try:
            yield
        finally:
            self._lock.release()

    def _recover(self) -> None:
        """Put what a killed run left in the journal into the table, unless that run is still alive."""
        try:
            with self._lock.acquire(timeout=0):
                self._pending = {(row["kind"], row["id"]): row for row in self._journal.rows()}
                self.flush()
        except Timeout:
            return

    def add(self, profiles: Iterable[Profile]) -> None:
        """Store profiles, each as it comes; one under the same (kind, id) is replaced.

        The store stays closed to other writers until :meth:`close`.

        Raises:
            ReclmError: if another process is writing to this store.
        """
        for profile in profiles:
            if not self._lock.is_locked:
                _acquire(self._lock, self.folder)
            row = vars(profile) | {"fingerprint": self.info.fingerprint, "created": time.time_ns() // 1000}
            self._journal.append(row)
            self._pending[profile.kind, profile.id] = row
            late = time.monotonic() - self._flushed > self.flush_seconds
            if late or len(self._pending) >= self.flush_rows:
                self.flush()

    def flush(self) -> None:
        """Put what was added into the table."""
        if self._pending:
            upsert(self._table, pa.Table.from_pylist(list(self._pending.values()), SCHEMA))
            self._pending.clear()
            self._journal.clear()
        self._flushed = time.monotonic()

    def close(self) -> None:
        """Put what was added into the table and let other writers in."""
        if self._lock.is_locked:
            self.flush()
            compact(self._table)
            self._lock.release()

    def rows(self, kind: ProfileKind | None = None, columns: list[str] | None = None) -> pa.Table:
        """The stored rows of ``kind`` (of both by default); columns as in :data:`SCHEMA`."""
        self.flush()
        query = self._table.search().select(columns or SCHEMA.names)
        return (query if kind is None else query.where(col("kind") == kind)).to_arrow()

    def texts(self, kind: ProfileKind) -> dict[str, str]:
        """``{id: profile text}``."""
        return self._column(kind, "text")

    def hashes(self, kind: ProfileKind) -> dict[str, str]:
        """``{id: prompt hash}``."""
        return self._column(kind, "prompt_hash")

    def _column(self, kind: ProfileKind, name: str) -> dict[str, str]:
        rows = self.rows(kind, ["id", name])
        return dict(zip(rows.column("id").to_pylist(), rows.column(name).to_pylist(), strict=True))

    def count(self, kind: ProfileKind | None = None) -> int:
        """How many profiles there are."""
        self.flush()
        return self._table.count_rows(None if kind is None else f"kind = '{kind}'")

    def get(self, kind: ProfileKind, id: str) -> Profile | None:
        """The profile of one user or item."""
        self.flush()
        query = self._table.search().where((col("kind") == kind) & (col("id") == id)).select(_PROFILE_COLUMNS)
        return next(map(_profile, query.to_list()), None)

    def by_hash(self, hashes: Iterable[str]) -> dict[str, Profile]:
        """For each of these prompt hashes that was answered, here or in the earlier store, one of its profiles."""
        wanted, rows = set(hashes), self.rows(columns=_PROFILE_COLUMNS)
        answers = pc.is_in(rows.column("prompt_hash"), pa.array(list(wanted), pa.string()))
        found = {row["prompt_hash"]: _profile(row) for row in rows.filter(answers).to_pylist()}
        earlier = self.folder.with_name(self.info.earlier) if self.info.earlier else None
        if earlier and self.at(earlier) and (open_ := wanted - found.keys()):
            found |= self.read(earlier).by_hash(open_)
        return found


def _profile(row: dict[str, Any]) -> Profile:
    """A row of an earlier version has no seconds."""
    known: dict[str, Any] = row | {"seconds": row["seconds"] or 0.0}
    return Profile(**known)


def _opened(db: lancedb.DBConnection) -> Table:
    """The table of the profiles; one that an earlier version made gets the columns that it lacks."""
    if "profiles" not in db.list_tables().tables:
        return db.create_table("profiles", schema=SCHEMA, exist_ok=True)
    table = db.open_table("profiles")
    if "seconds" not in table.schema.names:
        table.add_columns(SCHEMA.field("seconds"))
    return table


def upsert(table: Table, rows: pa.Table) -> None:
    """Insert rows, in the place of those with the same (kind, id)."""
    merge = table.merge_insert(["kind", "id"]).when_matched_update_all().when_not_matched_insert_all()
    merge.execute(rows)


def compact(table: Table) -> None:
    """Merge the files of many small writes; versions that readers may still hold stay for some minutes."""
    table.optimize(cleanup_older_than=timedelta(minutes=5))


def _lock_of(folder: Path) -> FileLock:
    return FileLock(folder / ".lock")


def _acquire(lock: FileLock, folder: Path) -> None:
    try:
        lock.acquire(timeout=PATIENCE)
    except Timeout as error:
        raise ReclmError(
            f"another run is writing to profile store {folder}; wait for it, or choose another --store"
        ) from error


def _set_aside(folder: Path) -> Path:
    lock = _lock_of(folder)
    _acquire(lock, folder)
    try:
        return folder.rename(folder.with_name(f"{folder.name}.old-{datetime.now():%Y%m%d-%H%M%S-%f}"))
    finally:
        lock.release()
