"""Profiles as vectors: the matrix of all users or items in row order, and the tables that its vectors are cached in."""

import hashlib
import os
import shutil
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from reclm.console import progress_bar
from reclm.data.dataset import ProfileKind, TrainingView
from reclm.data.id_map import IdMap
from reclm.data.item_text import item_texts, joined_text
from reclm.errors import BadInput, Busy, Damaged
from reclm.files import Lock
from reclm.folders import Workspace, current, slug
from reclm.profiles.profile import Profile
from reclm.profiles.salvage import LANCE_ERRORS
from reclm.profiles.store import ITEM_TEXT, ProfileStore
from reclm.profiles.tables import compact, connect, new_table, open_table, upsert
from reclm.text.encoder import TextEncoder

if TYPE_CHECKING:
    from lancedb import DBConnection
    from lancedb.table import Table

CHUNK = 256
"""Texts that are encoded before their vectors are stored."""


@dataclass(frozen=True, eq=False)
class ProfileMatrix:
    """Profile embeddings ``(n, t)`` float32 in row order; ``present``, ``(n,)`` bool, tells which rows have one."""

    vectors: np.ndarray
    present: np.ndarray

    def __post_init__(self) -> None:
        if self.vectors.ndim != 2 or self.present.shape != self.vectors.shape[:1]:
            raise ValueError(f"vectors {self.vectors.shape}, but present {self.present.shape}")

    def __len__(self) -> int:
        return len(self.vectors)

    @classmethod
    def from_rows(cls, ids: "pa.Array | list[str]", vectors: np.ndarray, idmap: IdMap) -> "ProfileMatrix":
        """Put ``(m, t)`` vectors of ``m`` ids into the row order of ``idmap``; ids that it lacks are left out."""
        matrix, present = np.zeros((len(idmap), vectors.shape[1]), np.float32), np.zeros(len(idmap), bool)
        rows = idmap.find(ids)
        known = rows >= 0
        matrix[rows[known]], present[rows[known]] = vectors[known], True
        return cls(matrix, present)

    @classmethod
    def without_vectors(cls, texts: Sequence[str]) -> "ProfileMatrix":
        """Tell who has a profile, of texts in row order, where nobody reads the vectors: they are not encoded."""
        return cls(np.zeros((len(texts), 1), np.float32), np.array([bool(text) for text in texts], bool))

    @classmethod
    def of_texts(cls, texts: dict[str, str], encoder: TextEncoder, idmap: IdMap) -> "ProfileMatrix":
        """Encode texts by id, all anew, into the row order of ``idmap``."""
        return cls.from_rows(list(texts), encoder.encode(list(texts.values())), idmap)


def profile_matrix(
    store: ProfileStore, encoder: TextEncoder, kind: ProfileKind, idmap: IdMap, progress: bool = True
) -> ProfileMatrix:
    """Return the embeddings of all profiles of ``kind``; new and changed texts are encoded, equal ones once."""
    return ProfileMatrix.from_rows(*profile_vectors(store, encoder, kind, progress), idmap)


def profile_vectors(
    store: ProfileStore, encoder: "TextEncoder", kind: ProfileKind, progress: bool
) -> tuple[pa.Array, np.ndarray]:
    """Return the ids of all profiles of ``kind`` and their vectors ``(m, t)``; see :func:`vector_table`."""
    ids, vectors = read_vectors(vector_table(store, encoder, kind, progress), kind)
    # the table may have vectors of what is no profile any more
    stored = pc.is_in(ids, pa.array(store.texts(kind), pa.string()))
    return ids.filter(stored), vectors[stored.to_numpy(zero_copy_only=False)]


def item_text_features(
    view: TrainingView, encoder: TextEncoder, workspace: Workspace | None = None, progress: bool = True
) -> np.ndarray:
    """Return the item text features ``f_v`` ``(I, t)`` float32 in row order, zero without text; they are cached."""
    return _text_features(
        view, item_texts(view.item_text, view.text_template), "", encoder, workspace, progress
    )


def joined_texts(view: TrainingView, profiles: Sequence[str]) -> list[str]:
    """Return the items' texts, each joined with its profile, in row order."""
    pairs = zip(item_texts(view.item_text, view.text_template), profiles, strict=True)
    return [joined_text(text, profile) for text, profile in pairs]


def joined_cache(store: Path, control: str | None = None) -> str:
    """Return the name of the cache of :func:`joined_features` of a store's profiles, or of a control of them."""
    return _hash(f"{store.resolve()} {control or ''}")[:12]


def joined_features(
    view: TrainingView,
    profiles: Sequence[str],
    cache: str,
    encoder: TextEncoder,
    workspace: Workspace | None = None,
    progress: bool = True,
) -> ProfileMatrix:
    """Return the features ``(I, t)`` of the items' texts, each joined with its profile, before they are encoded.

    Args:
        profiles: of each item, empty where it has none.
        cache: a name for the source of the profiles, under which the features are cached.
    """
    features = _text_features(view, joined_texts(view, profiles), cache, encoder, workspace, progress)
    return ProfileMatrix(features, ProfileMatrix.without_vectors(profiles).present)


def _text_features(
    view: TrainingView,
    texts: Sequence[str],
    cache: str,
    encoder: TextEncoder,
    workspace: Workspace | None,
    progress: bool,
) -> np.ndarray:
    """Return the vectors ``(I, t)`` of one text an item, zero where it is empty."""
    by_id = dict(zip(view.items.ids(), texts, strict=True))
    folder = (workspace or current()).store(view.name, "-".join(filter(None, (ITEM_TEXT, cache))))
    # no fingerprint: a text's vector is the same whatever the splits are
    with ProfileStore.open(folder, "any", ITEM_TEXT, view.name) as store:
        stored = store.texts("item")
        changed = [(id, text) for id, text in by_id.items() if text != stored.get(id, "")]
        store.add(Profile("item", id, text, _hash(text), ITEM_TEXT) for id, text in changed)
    # the lock is released: another process may need these texts, too
    features = profile_matrix(store, encoder, "item", view.items, progress).vectors
    features[[not text for text in texts]] = 0.0
    return features


def vector_table(store: ProfileStore, encoder: TextEncoder, kind: ProfileKind, progress: bool) -> "Table":
    """Return a table of vectors that has every profile of ``kind``, after encoding new and changed ones.

    It lies in the store; where the store cannot be written, in the workspace's cache; else in memory.
    """
    texts = store.texts(kind)
    name = f"embeddings-{slug(encoder.name)}"
    if slug(encoder.name) != encoder.name:  # two names may have one slug
        name += f"-{_hash(encoder.name)[:8]}"
    stored = _intact(store.db, name)
    if stored is not None and not _changed(stored, kind, texts):
        return stored
    names = dict.fromkeys(("kind", "id", "text_hash"), pa.string())
    schema = pa.schema({**names, "vector": pa.list_(pa.float32(), encoder.dim)})
    with ExitStack() as stack:
        folder = _lock_folder(store, stack)
        db = connect(folder or "memory://")
        if folder and _intact(db, name) is None:  # a cache: what is damaged is made again
            shutil.rmtree(folder / f"{name}.lance", ignore_errors=True)
        table = new_table(db, name, schema)
        if changed := _changed(table, kind, texts):
            _fill(table, stored, kind, changed, encoder, progress)
        return table


def _intact(db: "DBConnection", name: str) -> "Table | None":
    """Return a table of vectors; None where there is none that can be read."""
    with suppress(Damaged, *LANCE_ERRORS):
        table = open_table(db, name)
        if table is not None and {"kind", "id", "text_hash", "vector"} <= {*table.schema.names}:
            table.to_arrow()
            return table
    return None


def _lock_folder(store: ProfileStore, stack: ExitStack) -> Path | None:
    """Return the first folder for vectors that can be written, locked by this process until ``stack`` is left."""
    folders = [current().root / "embeddings" / _hash(str(store.folder.resolve()))[:16]]
    if os.access(store.folder, os.W_OK | os.X_OK):
        folders.insert(0, store.folder)
    for folder in folders:
        with suppress(BadInput, Busy):
            stack.enter_context(Lock(folder / ".embeddings.lock", f"{folder} is in use", timeout=60))
            return folder
    return None


def _changed(table: "Table", kind: ProfileKind, texts: dict[str, str]) -> dict[str, list[str]]:
    """Return the ids by text of the profiles that are new or have another text in the table."""
    rows = _rows(table, kind, "id", "text_hash")
    stored = dict(zip(*rows.to_pydict().values(), strict=True))
    changed: dict[str, list[str]] = {}
    for id, text in texts.items():
        if stored.get(id) != _hash(text):
            changed.setdefault(text, []).append(id)
    return changed


def _fill(
    table: "Table",
    stored: "Table | None",
    kind: ProfileKind,
    changed: dict[str, list[str]],
    encoder: TextEncoder,
    progress: bool,
) -> None:
    """Store the vectors of ``changed`` texts; those of equal texts come from ``table`` or ``stored``."""
    text_of = {_hash(text): text for text in changed}
    known: dict[str, np.ndarray] = {}
    for source in filter(None, (table, stored)):
        rows = _rows(source, kind, "text_hash", "vector")
        hashes, vectors = _arrays(rows.filter(pc.is_in(rows["text_hash"], pa.array(text_of.keys()))))
        known |= dict(zip((text_of[key] for key in hashes.to_pylist()), vectors, strict=True))
    if known:
        _write(table, kind, changed, list(known), np.stack(list(known.values())))
    new = sorted((text for text in changed if text not in known), key=len, reverse=True)
    with progress_bar(f"embedding {kind} texts", len(new), progress and bool(new)) as advance:
        for start in range(0, len(new), CHUNK):
            chunk = new[start : start + CHUNK]
            _write(table, kind, changed, chunk, encoder.encode(chunk, progress=advance))
    compact(table)


def read_vectors(table: "Table", kind: ProfileKind) -> tuple[pa.Array, np.ndarray]:
    """Return the ids of ``kind`` and their vectors ``(m, t)``."""
    return _arrays(_rows(table, kind, "id", "vector"))


def nearest(table: "Table", query: np.ndarray, kind: ProfileKind, k: int) -> list[tuple[str, float]]:
    """Return the ids of the ``k`` vectors nearest to ``query`` ``(t,)`` with their cosine similarity, nearest first."""
    search = table.search(query).distance_type("cosine").where(f"kind = '{kind}'")  # pyright: ignore[reportAttributeAccessIssue]
    hits = search.select(["id", "_distance"]).limit(k).to_list()
    return [(hit["id"], 1.0 - hit["_distance"]) for hit in hits]


def _rows(table: "Table", kind: ProfileKind, *columns: str) -> pa.Table:
    return table.search().where(f"kind = '{kind}'").select(list(columns)).to_arrow()


def _arrays(rows: pa.Table) -> tuple[pa.Array, np.ndarray]:
    """Return two columns, of strings and of vectors, as arrays."""
    keys, vectors = (pa.concat_arrays(column.chunks or [pa.array([], column.type)]) for column in rows)
    flat = pc.list_flatten(vectors).to_numpy(zero_copy_only=False)
    return keys, flat.reshape(len(keys), vectors.type.list_size)


def _write(
    table: "Table", kind: ProfileKind, ids_of: dict[str, list[str]], texts: list[str], vectors: np.ndarray
) -> None:
    """Store ``vectors[i]`` for each id whose profile reads ``texts[i]``."""
    rows = [(id, row) for row, text in enumerate(texts) for id in ids_of[text]]
    flat = pa.array(vectors[[row for _, row in rows]].astype(np.float32).ravel())
    columns = {
        "kind": pa.array([kind] * len(rows)),
        "id": pa.array([id for id, _ in rows]),
        "text_hash": pa.array([_hash(texts[row]) for _, row in rows]),
        "vector": pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1]),
    }
    upsert(table, pa.table(columns))


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode(errors="replace")).hexdigest()[:32]
