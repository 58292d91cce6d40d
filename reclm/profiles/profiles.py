"""Profiles of a data set's users and items, ready to use: texts, vectors, search, edits, exports."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from reclm.data.dataset import Dataset, ProfileKind, TrainingView
from reclm.data.id_map import IdMap
from reclm.errors import BadInput, NotFound, at_least, near
from reclm.folders import to_path
from reclm.profiles.matrix import ProfileMatrix, nearest, profile_vectors, vector_table
from reclm.profiles.profile import Profile, view_of
from reclm.profiles.run import ProfileRun
from reclm.profiles.store import KINDS, ProfileStore, kinds_of, stores
from reclm.text.encoder import TextEncoder

EDITED = "edited"
"""Model of a profile that :meth:`Profiles.edit` changed."""


HOW = "write them with reclm.write_profiles(DATA, …), or open a store: reclm.Profiles.open(FOLDER)"
"""The way to profiles, for messages."""


@dataclass(frozen=True, eq=False, repr=False)
class Profiles:
    """Profiles of one data set by one writer. Made by ``write_profiles``, :meth:`open` or :meth:`from_frames`.

    Attributes:
        folder: of the profile store.
        kinds: the kinds of profiles in use.
        run: counts of the run that wrote them, where one did.
        edits: texts by (kind, id) in place of those in the store.
    """

    folder: Path
    kinds: tuple[ProfileKind, ...] = KINDS
    run: ProfileRun | None = None
    edits: Mapping[tuple[ProfileKind, str], str] = field(default_factory=dict)
    _data: Dataset | TrainingView | None = None
    _encoder: TextEncoder | str | None = None

    @classmethod
    def open(
        cls,
        store: str | Path,
        data: Dataset | TrainingView | None = None,
        *,
        kinds: Iterable[ProfileKind] | None = None,
        encoder: str | TextEncoder | None = None,
    ) -> "Profiles":
        """Open the profiles in the folder ``store``. Reading changes nothing there.

        Args:
            data: the data set they describe; by default the one of that name in the workspace, found when it is needed.
            kinds: the kinds to use; by default all that the store has.
            encoder: the text encoder to read them with; by default the one that they were written with.

        Raises:
            NotFound: if there is no store.
            BadInput: if the profiles describe another data set than ``data``.
        """
        opened = ProfileStore.read(to_path(store, "store"))
        view = None if data is None else view_of(data)
        if view is not None and view.fingerprint != opened.info.fingerprint:
            raise _of_other_data(opened, view)
        stored: tuple[ProfileKind, ...] = tuple(kind for kind in KINDS if opened.count(kind))
        return cls(opened.folder, stored if kinds is None else kinds_of(kinds), _data=data, _encoder=encoder)

    @classmethod
    def find(
        cls,
        dataset: str,
        profiler: str | None = None,
        model: str | None = None,
        *,
        encoder: str | TextEncoder | None = None,
    ) -> "Profiles":
        """Find the profiles of a data set in the workspace; ``profiler`` and ``model`` are needed where several exist.

        Raises:
            NotFound: if there are none.
            BadInput: if there are several.
        """
        written = [(folder, info) for folder, info in stores() if info.dataset == dataset]
        matching = [folder for folder, info in written if _is_by(info.writer, profiler, model)]
        if len(matching) == 1:
            return cls.open(matching[0], encoder=encoder)
        if matching:
            message = f"several stores have profiles of data set {dataset!r}; choose one with --store: "
            raise BadInput(message + ", ".join(map(str, matching)), value=dataset, remedy="--store")
        by = f" by {' and '.join(filter(None, (profiler, model)))}" if profiler or model else ""
        remedy = f"reclm profile --dataset {dataset}"
        message = f"no profiles{by} of data set {dataset!r} in the workspace; see reclm profiles list, or write them: "
        raise NotFound(message + remedy, value=dataset, remedy=remedy)

    @classmethod
    def from_frames(
        cls,
        data: Dataset | TrainingView,
        users: Any = None,
        items: Any = None,
        *,
        text: str = "text",
        encoder: str | TextEncoder | None = None,
    ) -> "Profiles":
        """Take over profiles that somebody else wrote, and put them into a store of the workspace.

        Args:
            data: the data set whose users and items they describe; a warning names ids that it lacks.
            users, items: frames (pandas, polars, Arrow, DuckDB) with an id column (``id``, ``user_id`` or ``item_id``)
                and a column of texts; a column ``model`` is kept as their origin.
            text: the column of texts.
            encoder: the text encoder to read them with.

        Raises:
            BadInput: if a column is missing, an id has two texts, or no id is in the data set.
        """
        from reclm.profiles.exchange import import_frames

        return import_frames(data, {"user": users, "item": items}, text=text, encoder=encoder)

    @cached_property
    def store(self) -> ProfileStore:
        """The store, for reading."""
        return ProfileStore.read(self.folder)

    @property
    def name(self) -> str:
        """The data set's name."""
        return self.store.info.dataset

    @property
    def fingerprint(self) -> str:
        """The data set's fingerprint."""
        return self.store.info.fingerprint

    @property
    def writer(self) -> str:
        """The profiler, with its model, that wrote the profiles."""
        return self.store.info.writer

    @cached_property
    def encoder(self) -> TextEncoder:
        """The text encoder that the profiles are read with."""
        chosen = self._encoder or self.store.info.encoder or None
        return TextEncoder(chosen) if chosen is None or isinstance(chosen, str) else chosen

    @cached_property
    def view(self) -> TrainingView:
        """The training part of the data set that the profiles describe.

        Raises:
            NotFound: if it is not in the workspace.
            BadInput: if the data set of that name has changed since.
        """
        if self._data is not None:
            return view_of(self._data)
        from reclm.data.catalog import load_dataset

        view = load_dataset(self.name).view()
        if view.fingerprint != self.fingerprint:
            raise _of_other_data(self.store, view)
        return view

    def rows(self, kind: ProfileKind) -> pa.Table:
        """Return the profiles of ``kind`` as an Arrow table, sorted by id; see :data:`~reclm.profiles.store.SCHEMA`."""
        rows = self.store.rows(kind)
        if edits := self._edits(kind):
            new = [vars(self.get(id, kind)) | {"fingerprint": self.fingerprint} for id in edits]
            rows = rows.filter(pc.invert(pc.is_in(rows["id"], pa.array(edits.keys()))))
            rows = pa.concat_tables([rows, pa.Table.from_pylist(new, rows.schema)])
        return rows.sort_by("id")

    def texts(self, kind: ProfileKind = "user") -> pd.DataFrame:
        """Return the profiles of ``kind`` as a frame: id, text, model, written at."""
        rows = self.rows(kind).select(["id", "text", "model", "created"])
        return rows.rename_columns(["id", "text", "model", "written at"]).to_pandas()

    def get(self, id: Any, kind: ProfileKind = "user") -> Profile:
        """Return one profile and its origin.

        Raises:
            NotFound: if this user or item has none; near ids are offered.
        """
        id = str(id)
        if (kind, id) in self.edits:
            return Profile(kind, id, self.edits[kind, id], EDITED, EDITED)
        profile = self.store.get(kind, id)
        if profile is None:
            ids = sorted(self.store.hashes(kind))
            offered = near(id, ids) or ids[:3]
            hint = f"did you mean {', '.join(map(repr, offered))}?" if offered else "the store is empty"
            message = f"no profile of {kind} {id!r} in {self.folder}; {hint}"
            raise NotFound(message, value=id, where=self.folder, remedy=(*offered, "")[0])
        return profile

    def embed(self, progress: bool = True) -> "Profiles":
        """Encode the texts that are not encoded yet."""
        for kind in self.kinds:
            vector_table(self.store, self.encoder, kind, progress)
        return self

    def embeddings(self, kind: ProfileKind = "user", progress: bool = True) -> tuple[list[str], np.ndarray]:
        """Return the ids of the profiles of ``kind`` and their vectors ``(N, t)`` float32."""
        ids, vectors = profile_vectors(self.store, self.encoder, kind, progress)
        rows = dict(zip(ids.to_pylist(), vectors, strict=True)) | self._edited(kind)
        return list(rows), np.stack(list(rows.values())) if rows else vectors

    def _edits(self, kind: ProfileKind) -> dict[str, str]:
        return {id: text for (of, id), text in self.edits.items() if of == kind}

    def _edited(self, kind: ProfileKind) -> dict[str, np.ndarray]:
        edits = self._edits(kind)
        return dict(zip(edits, self.encoder.encode(list(edits.values())), strict=True)) if edits else {}

    def matrix(self, kind: ProfileKind, progress: bool = True) -> ProfileMatrix:
        """Return the embeddings of all users (or items) in row order of the data set."""
        return ProfileMatrix.from_rows(*self.embeddings(kind, progress), self.view.idmap(kind))

    def row_texts(self, kind: ProfileKind = "user") -> list[str]:
        """Return the text of each user (or item) in row order of the data set, empty where there is none."""
        return self.store.row_texts(kind, self.view.idmap(kind), self._edits(kind))

    def search(self, text: str, kind: ProfileKind = "user", k: int = 10) -> pd.DataFrame:
        """Return the ``k`` profiles nearest in meaning to ``text``, nearest first: id, similarity (cosine), text."""
        at_least(1, k=k)
        query, edited = self.encoder.encode([text])[0], self._edited(kind)
        table = vector_table(self.store, self.encoder, kind, True)
        stored = self.store.hashes(kind)
        more = len(edited) + table.count_rows(f"kind = '{kind}'") - len(stored)
        hits = [
            hit for hit in nearest(table, query, kind, k + more) if hit[0] in stored and hit[0] not in edited
        ]
        for id, vector in edited.items():
            norm = float(np.linalg.norm(vector) * np.linalg.norm(query))
            hits.append((id, float(vector @ query) / norm if norm else 0.0))
        hits = sorted(hits, key=lambda hit: -hit[1])[:k]
        rows = [(id, similarity, self.get(id, kind).text) for id, similarity in hits]
        return pd.DataFrame(rows, columns=["id", "similarity", "text"])

    def edit(self, id: Any, text: str, kind: ProfileKind = "user") -> "Profiles":
        """Return a copy in which one profile reads ``text``. Nothing on disk changes.

        Raises:
            BadInput: for an empty text.
            NotFound: if the data set has no such user or item.
        """
        if not text.strip():
            raise BadInput(f"the new profile of {kind} {id!r} is empty; give a text", value=text, where=id)
        if (kind, str(id)) not in self.edits and self.store.get(kind, str(id)) is None:
            self.view.idmap(kind).idx([id])
        return replace(
            self,
            edits={**self.edits, (kind, str(id)): text},
            kinds=tuple(dict.fromkeys((*self.kinds, kind))),
            _encoder=self.__dict__.get("encoder", self._encoder),  # with the model that is loaded already
        )

    def export(
        self, folder: str | Path, format: str = "parquet", kinds: Sequence[ProfileKind] | None = None
    ) -> list[Path]:
        """Write files for other programs: texts (``parquet``) or vectors (``npy``, ``safetensors``, ``recbole``)."""
        from reclm.profiles.exchange import export

        return export(self, format, to_path(folder, "folder"), kinds_of(kinds) if kinds else self.kinds)

    @property
    def coverage(self) -> dict[ProfileKind, tuple[int, int]]:
        """For each kind, the number of users (or items) with a profile, and of all."""
        idmaps: dict[ProfileKind, IdMap] = {kind: self.view.idmap(kind) for kind in self.kinds}
        return {
            kind: (int((idmap.find({*self.store.hashes(kind), *self._edits(kind)}) >= 0).sum()), len(idmap))
            for kind, idmap in idmaps.items()
        }

    def __len__(self) -> int:
        new = sum(self.store.get(kind, id) is None for kind, id in self.edits if kind in self.kinds)
        return sum(self.store.count(kind) for kind in self.kinds) + new

    def __repr__(self) -> str:
        counts = [f"{self.store.count(kind):,} {kind}s" for kind in self.kinds]
        counts += [f"{len(self.edits)} edited"] * bool(self.edits)
        return f"Profiles({self.name!r} by {self.writer!r}: {', '.join(counts) or 'none'})"

    def _repr_html_(self) -> str:
        head = f"<b>{escape(repr(self))}</b>"
        frames = (self.texts(kind).head(3)[["id", "text"]].assign(kind=kind) for kind in self.kinds)
        return head + "".join(frame.to_html(index=False, escape=True, border=0) for frame in frames)


class TextProfiles:
    """Profile texts of some users that lie in no store, as :func:`reclm.recommend.fit.fit` takes them."""

    kinds: tuple[ProfileKind, ...] = ("user",)

    def __init__(self, data: Dataset, texts: dict[str, str], encoder: TextEncoder) -> None:
        self.encoder, self.fingerprint = encoder, data.fingerprint
        self._data, self._texts = data, texts

    def get(self, id: Any, kind: ProfileKind = "user") -> Profile:
        """Return the profile of a user; NotFound if it has none."""
        if kind != "user" or str(id) not in self._texts:
            raise NotFound(f"no profile of {kind} {id!r}", value=id)
        return Profile("user", str(id), self._texts[str(id)], "", "")

    def matrix(self, kind: ProfileKind) -> ProfileMatrix:
        """Return the embeddings of all users in row order of the data set; of items there are none."""
        texts = self._texts if kind == "user" else {}
        idmap = self._data.users if kind == "user" else self._data.items
        return ProfileMatrix.of_texts(texts, self.encoder, idmap)


def _is_by(writer: str, profiler: str | None, model: str | None) -> bool:
    """Return whether a store's writer is ``profiler`` with ``model``, where these are named; no model is opened."""
    if profiler and writer != profiler and not writer.startswith(f"{profiler}-"):
        return False
    if not model:
        return True
    path = Path(model).expanduser()
    names = {model, path.stem if path.suffix == ".gguf" else path.resolve().name}
    return any(f"-{name}@" in writer or writer.endswith(f"-{name}") for name in names)


def _of_other_data(store: ProfileStore, view: TrainingView) -> BadInput:
    return BadInput(
        f"the profiles in {store.folder} describe data set {store.info.fingerprint}, not {view.name!r} "
        f"({view.fingerprint}); write them for this one: reclm profile --carry-over",
        value=store.info.fingerprint,
        where=store.folder,
        remedy="reclm profile --carry-over",
    )
