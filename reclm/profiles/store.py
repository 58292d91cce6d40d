"""Profiles on disk: a LanceDB folder for each data set and writer. Reading changes nothing and takes no lock."""

import glob
import shutil
import time
import warnings
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import fields
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, get_args

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from reclm.config import Config
from reclm.data.dataset import ProfileKind
from reclm.data.id_map import IdMap
from reclm.errors import BadInput, Busy, Damaged, NotFound, ReclmError
from reclm.files import Journal, Lock, draft_folder, remove_folder, swap
from reclm.folders import check_folder, current, has_file, make_folder
from reclm.profiles.profile import Profile
from reclm.profiles.salvage import LANCE_ERRORS, earlier_versions, last_version, present, read_rows, typed
from reclm.profiles.tables import compact, connect, new_table, open_table, upsert

if TYPE_CHECKING:
    from lancedb import DBConnection
    from lancedb.table import Table

KINDS: tuple[ProfileKind, ...] = get_args(ProfileKind)


def kinds_of(kinds: Iterable[str]) -> tuple[ProfileKind, ...]:
    """Return one kind or several in the order of :data:`KINDS`; BadInput for none, and for another name."""
    chosen = {kinds} if isinstance(kinds, str) else {*kinds}
    if not chosen or chosen - {*KINDS}:
        wrong = next(iter(chosen - {*KINDS}), None)
        raise BadInput(f"kinds = {kinds!r}: give 'user', 'item' or both", value=wrong, where="kinds")
    return tuple(kind for kind in KINDS if kind in chosen)


PATIENCE = 30.0
"""Seconds to wait for another process that writes to a store."""

_NUMBERS = {"prompt_tokens": pa.int32(), "new_tokens": pa.int32(), "seconds": pa.float32()}
_PROFILE_COLUMNS = [field.name for field in fields(Profile)]
_TEXTS = dict.fromkeys([*_PROFILE_COLUMNS, "fingerprint"], pa.string())
SCHEMA = pa.schema({**_TEXTS, **_NUMBERS, "created": pa.timestamp("us", "UTC")})
ITEM_TEXT = "item-text"
"""Writer of the stores that cache the vectors of item texts; they hold no profiles."""


class StoreInfo(Config):
    """``store.yaml``: the data set, and the writer: a profiler with its model, or ``imported-…``."""

    fingerprint: str
    writer: str
    dataset: str = ""
    earlier: str = ""
    """Folder, beside this one, of the store whose answers to equal prompts are taken over; none if empty."""
    encoder: str = ""
    """Name or folder of the text encoder that the profiles are to be read with; the default one if empty."""
    profiler: dict[str, Any] = Field(default_factory=dict)
    """Arguments of ``open_profiler`` that open the profiler of the last run; empty where it is not known."""


class ProfileStore:
    """Profiles of one data set by one writer, keyed by (kind, id), with their embeddings.

    A row is safe as soon as :meth:`add` has taken it: it is in the journal, and later in the table. Many processes may
    read a store while one writes to it. A ``with`` block ends with all rows in the table, also after an exception.
    """

    flush_rows = 2048
    flush_seconds = 10.0

    def __init__(self, folder: Path, info: StoreInfo) -> None:
        self.folder, self.info = folder, info
        busy = f"another run is writing to profile store {folder}; wait for it, or choose another --store"
        self.lock = Lock(folder / ".lock", busy, PATIENCE)
        self._journal = Journal(folder / "journal.jsonl")
        self._pending: dict[tuple[str, str], dict[str, Any]] = {}
        self._writing = False
        self._told: set[str] = set()
        self._flushed = time.monotonic()

    @staticmethod
    def at(folder: Path) -> bool:
        """Return whether there is a store in ``folder``."""
        return has_file(folder, "store.yaml")

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
        """Open the store in ``folder``, or create it where there is none.

        ``fresh`` sets a store that is there aside (as ``<folder>.old-<time>``) and begins an empty one; ``carry_over``
        does so where it was written for another data set, and looks there for answers to equal prompts.
        """
        info = StoreInfo(fingerprint=fingerprint, writer=writer, dataset=dataset)
        if fresh and cls.at(folder):
            with cls.read(folder).lock:
                folder.rename(_aside(folder))
        if not cls.at(folder):
            set_aside = (store for store in _set_aside(folder) if carry_over and store.info.writer == writer)
            earlier = next((store.folder.name for store in set_aside), "")
            return cls._create(folder, info.model_copy(update={"earlier": earlier}))
        store = cls.read(folder)
        if carry_over and store.info.fingerprint != fingerprint and store.info.writer == writer:
            return cls._carried_over(folder, info)
        stored, wanted = (store.info.fingerprint, store.info.writer), (fingerprint, writer)
        if stored != wanted:
            by, needed = (" by ".join(pair) for pair in (stored, wanted))
            raise BadInput(
                f"profile store {folder} was written for data set {by}, not {needed}; choose another --store, or "
                "set this one aside with reclm profile --carry-over (keeps answers to equal prompts) or --fresh",
                value=next(value for value in stored if value not in wanted),
                where=folder,
                remedy="--carry-over",
            )
        return store

    @classmethod
    def _carried_over(cls, folder: Path, info: StoreInfo) -> Self:
        """Set the store in ``folder`` aside, and return a new one that looks there for answers."""
        new = info.model_copy(update={"earlier": (aside := _aside(folder)).name})
        with cls.read(folder).lock:
            for unused in (one.folder for one in _set_aside(folder) if one.info.earlier == one.folder.name):
                remove_folder(unused)  # new, by a run that was killed before the swap
            with draft_folder(aside) as draft:
                cls._create(draft, new)
                draft.rename(aside)
            if not swap(aside, folder):
                shutil.rmtree(aside)
                folder.rename(aside)
        return cls.read(folder) if cls.at(folder) else cls._create(folder, new)

    @classmethod
    def _create(cls, folder: Path, info: StoreInfo) -> Self:
        check_folder(folder, "store.yaml", "a profile store", "--store")
        make_folder(folder, "--store or --home")
        store = cls(folder, info)
        store.describe()
        return store

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Open the store in ``folder``, whatever data set and writer it belongs to; :class:`NotFound` without one."""
        if not cls.at(folder):
            message = f"no profile store at {folder}; see reclm profiles list, or run: reclm profile"
            raise NotFound(message, value=folder, remedy="reclm profiles list")
        return cls(folder, StoreInfo.from_yaml(folder / "store.yaml"))

    def describe(self, **changes: Any) -> None:
        """Write ``store.yaml`` with ``changes`` of its fields, where there are any."""
        info = self.info.model_copy(update=changes)
        if info == self.info and self.at(self.folder):
            return
        self.info = info
        self.info.to_yaml(self.folder / "store.yaml")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @cached_property
    def db(self) -> "DBConnection":
        """The LanceDB connection; each read sees what other processes have written."""
        return connect(self.folder)

    def _table(self) -> "Table | None":
        return open_table(self.db, "profiles")

    def begin(self, timeout: float | None = None) -> None:
        """Lock the store for other writers until :meth:`close`; :class:`Busy` if another process holds it."""
        if not self._writing:
            self.lock.acquire(timeout)
            self._pending, self._writing = self._journalled(), True  # of a run that was killed
            self._mend()

    def add(self, profiles: Iterable[Profile]) -> None:
        """Store profiles, each as it comes, in the place of those with the same (kind, id); see :meth:`begin`."""
        for profile in profiles:
            self.begin()
            values = vars(profile) | {"fingerprint": self.info.fingerprint, "created": time.time_ns() // 1000}
            row = {field.name: typed(values[field.name], field.type) for field in SCHEMA}
            self._journal.append(row)
            self._pending[profile.kind, profile.id] = row
            late = time.monotonic() - self._flushed > self.flush_seconds
            if late or len(self._pending) >= self.flush_rows:
                self.flush()

    def flush(self) -> None:
        """Put the added rows into the table."""
        if self._pending:
            upsert(self._writable(), pa.Table.from_pylist(list(self._pending.values()), SCHEMA))
            self._pending = {}
        if self._writing:
            self._journal.clear()
        self._flushed = time.monotonic()

    def _writable(self) -> "Table":
        """Return the table, made where there is none; the table of an earlier version gets the columns it lacks."""
        table = self._table() or new_table(self.db, "profiles", SCHEMA)
        if "seconds" not in table.schema.names:
            table.add_columns(SCHEMA.field("seconds"))
        return table

    def _mend(self) -> None:
        """Set a damaged table aside, and put what is readable of it in its place."""
        rows, damage = self._read(SCHEMA.names)
        if damage:
            table, mark = self.folder / "profiles.lance", f"{datetime.now():%Y%m%d-%H%M%S-%f}"
            table.rename(table.with_name(f"profiles.lance.damaged-{mark}"))
            self.__dict__.pop("db", None)
            upsert(new_table(self.db, "profiles", SCHEMA), rows)

    def close(self) -> None:
        """Put the added rows, and those that a killed run left, into the table, and release the lock."""
        if self._journal.path.is_file():
            with suppress(Busy, BadInput):  # another run writes to it, or nobody may
                self.begin(timeout=0.0)
        if self._writing:
            self.flush()
            if table := self._table():
                compact(table)
            self._writing = False
            self.lock.release()

    def _journalled(self) -> dict[tuple[str, str], dict[str, Any]]:
        """Return the rows that are not in the table yet, by (kind, id)."""
        if self._writing:
            return self._pending
        rows: dict[tuple[str, str], dict[str, Any]] = {}
        for line in self._journal.rows():
            values = line or {}
            row = {field.name: typed(values.get(field.name), field.type) for field in SCHEMA}
            if row["kind"] in KINDS and row["id"] is not None and (row["text"] or "").strip():
                rows[row["kind"], row["id"]] = row
            else:
                self._tell("a line of its journal is damaged and left out")
        return rows

    def rows(self, kind: ProfileKind | None = None, columns: list[str] | None = None) -> pa.Table:
        """Return the rows of ``kind`` (of both by default); columns as in :data:`SCHEMA`.

        What is damaged is left out, and named in a warning; so is a blank text, which is no profile.
        """
        if kind is not None:
            kinds_of([kind])
        wanted = columns or SCHEMA.names
        # the journal is read first: a row that a writer moves meanwhile is then seen twice, not missed
        recent = {key: row for key, row in self._journalled().items() if kind in {None, row["kind"]}}
        rows, damage = self._read([*dict.fromkeys([*wanted, "kind", "id", "text"])])
        if damage:
            self._tell(damage)
        of_kind = True if kind is None else pc.equal(rows["kind"], kind)
        rows = rows.filter(pc.and_(present(rows), of_kind))
        if recent:
            keys = zip(rows["kind"].to_pylist(), rows["id"].to_pylist(), strict=True)
            older = rows.filter(pa.array([key not in recent for key in keys], pa.bool_()))
            rows = pa.concat_tables([older, pa.Table.from_pylist(list(recent.values()), rows.schema)])
        return rows.select(wanted)

    def _read(self, columns: list[str]) -> tuple[pa.Table, str]:
        """Return the table's rows, and what is damaged; columns that an earlier version did not write are null."""
        nothing = pa.schema([SCHEMA.field(name) for name in columns]).empty_table()
        newest = last_version(
            self.folder, "profiles"
        )  # before the table is opened: another process may write
        try:
            table = self._table()
            if table is None:
                return nothing, "nothing of its table can be read" if newest else ""
            if {"kind", "id", "text"} <= {*table.schema.names}:
                rows, lost = read_rows(table, columns, SCHEMA)
                if table.version < newest:
                    return rows, "its latest state is gone, an earlier one is read"
                return rows, f"{lost:,} profiles of it cannot be read" if lost else ""
        except (Damaged, *LANCE_ERRORS):
            pass
        with earlier_versions(self.folder, "profiles") as states:
            for table in states:
                with suppress(*LANCE_ERRORS):
                    rows, lost = read_rows(table, columns, SCHEMA)
                    return rows, "its latest state cannot be read, an earlier one is"
        return nothing, "nothing of its table can be read"

    def _tell(self, damage: str) -> None:
        """Warn of damage, once."""
        if damage not in self._told:
            self._told.add(damage)
            warnings.warn(
                f"profile store {self.folder} is damaged: {damage}; run reclm profile again to write what is missing",
                stacklevel=4,
            )

    def texts(self, kind: ProfileKind) -> dict[str, str]:
        """Return ``{id: profile text}``."""
        return dict(zip(*self.rows(kind, ["id", "text"]).to_pydict().values(), strict=True))

    def row_texts(self, kind: ProfileKind, idmap: IdMap, edits: Mapping[str, str] | None = None) -> list[str]:
        """Return the texts in the row order of ``idmap``, empty where there is none; ``edits`` by id come first."""
        texts, rows = self.texts(kind) | dict(edits or {}), [""] * len(idmap)
        for row, text in zip(idmap.find(list(texts)), texts.values(), strict=True):
            if row >= 0:
                rows[row] = text
        return rows

    def hashes(self, kind: ProfileKind) -> dict[str, str]:
        """Return ``{id: prompt hash}``."""
        return dict(zip(*self.rows(kind, ["id", "prompt_hash"]).to_pydict().values(), strict=True))

    def count(self, kind: ProfileKind | None = None) -> int:
        """Return the number of profiles."""
        return len(self.rows(kind, ["id"]))

    def get(self, kind: ProfileKind, id: str) -> Profile | None:
        """Return the profile of one user or item, None where there is none."""
        if row := self._journalled().get((kind, id)):
            return _profile({name: row.get(name) for name in _PROFILE_COLUMNS})
        with suppress(Damaged, *LANCE_ERRORS):
            if (table := self._table()) is None:
                return None
            columns = [name for name in _PROFILE_COLUMNS if name in table.schema.names]
            quoted = id.replace("'", "''")
            query = table.search().where(f"kind = '{kind}' AND id = '{quoted}'").select(columns)
            if (row := next(iter(query.to_list()), None)) and table.schema.field("text").type == pa.string():
                return _profile(row) if row["text"].strip() else None
        rows = self.rows(kind, _PROFILE_COLUMNS)
        return next(map(_profile, rows.filter(pc.equal(rows["id"], id)).to_pylist()), None)

    def by_hash(self, hashes: Iterable[str]) -> dict[str, Profile]:
        """Return one profile for each prompt hash that was answered, here or in the earlier store."""
        wanted, rows = set(hashes), self.rows(columns=_PROFILE_COLUMNS)
        answers = pc.is_in(rows.column("prompt_hash"), pa.array(list(wanted), pa.string()))
        profiles = {row["prompt_hash"]: _profile(row) for row in rows.filter(answers).to_pylist()}
        earlier = self.folder.with_name(self.info.earlier) if self.info.earlier else None
        if earlier and self.at(earlier) and (unanswered := wanted - profiles.keys()):
            profiles |= self.read(earlier).by_hash(unanswered)
        return profiles


def _profile(row: dict[str, Any]) -> Profile:
    """Return a row as a profile; a row of an earlier version has no seconds."""
    texts: dict[str, Any] = {name: "" if value is None else value for name, value in row.items()}
    numbers: dict[str, Any] = {name: row.get(name) or 0 for name in _NUMBERS}
    return Profile(**texts | numbers)


def _aside(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.old-{datetime.now():%Y%m%d-%H%M%S-%f}")


def _set_aside(folder: Path) -> "list[ProfileStore]":
    """Return the stores of ``folder`` that were set aside, the newest first."""
    others = sorted(folder.parent.glob(f"{glob.escape(folder.name)}.old-*"), reverse=True)
    return [ProfileStore.read(other) for other in others if ProfileStore.at(other)]


def stores() -> list[tuple[Path, StoreInfo]]:
    """Return the profile stores of the workspace, sorted by folder, without those that were set aside."""
    files = sorted((current().root / "profiles").glob("*/*/store.yaml"))
    known: list[tuple[Path, StoreInfo]] = []
    for file in (file for file in files if ".old-" not in file.parent.name):
        try:
            known.append((file.parent, StoreInfo.from_yaml(file)))
        except ReclmError as error:
            warnings.warn(f"profile store {file.parent} is left out: {error}", stacklevel=2)
    return [(folder, info) for folder, info in known if info.writer != ITEM_TEXT]
