"""Profiles as vectors: the matrix of all users or items in row order, and the tables that its vectors are cached in."""

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from reclm.console import progress_bar
from reclm.data.dataset import ProfileKind, TrainingView
from reclm.data.id_map import IdMap
from reclm.errors import BadInput, Busy
from reclm.files import Lock
from reclm.folders import Workspace, current, slug

if TYPE_CHECKING:
    from lancedb import DBConnection
    from lancedb.table import Table

    from reclm.profiles.store import ProfileStore
    from reclm.text.encoder import TextEncoder

CHUNK = 256
"""Texts that are encoded before their vectors are stored."""


@dataclass(frozen=True, eq=False)
class ProfileMatrix:
    """Profile embeddings in row order.

    Attributes:
        vectors: ``(n, t)`` float32; rows without a profile are not read.
        present: ``(n,)`` bool, whether the row has a profile.
    """

    vectors: np.ndarray
    present: np.ndarray

    def __post_init__(self) -> None:
        if self.vectors.ndim != 2 or self.present.shape != self.vectors.shape[:1]:
            raise ValueError(
                f"vectors {self.vectors.shape} and present {self.present.shape} do not go together"
            )

    def __len__(self) -> int:
        return len(self.vectors)

    @classmethod
    def from_rows(cls, ids: "pa.Array | list[str]", vectors: np.ndarray, idmap: IdMap) -> "ProfileMatrix":
        """Put ``(m, t)`` vectors of ``m`` ids into the row order of ``idmap``; ids that it lacks are left out."""
        matrix, present = np.zeros((len(idmap), vectors.shape[1]), np.float32), np.zeros(len(idmap), bool)
        rows = idmap.find(ids)
        matrix[rows[rows >= 0]] = vectors[rows >= 0]
        present[rows[rows >= 0]] = True
        return cls(matrix, present)


def profile_matrix(
    store: "ProfileStore", encoder: "TextEncoder", kind: ProfileKind, idmap: IdMap, progress: bool = True
) -> ProfileMatrix:
    """Return the embeddings of all profiles of ``kind``; new and changed texts are encoded, equal ones once."""
    return ProfileMatrix.from_rows(*read_vectors(vector_table(store, encoder, kind, progress), kind), idmap)


def item_text_features(
    view: TrainingView, encoder: "TextEncoder", workspace: Workspace | None = None, progress: bool = True
) -> np.ndarray:
    """Return the item text features ``f_v`` ``(I, t)`` float32 in row order; zero for items without text.

    They are cached in the workspace: a text is encoded again only where it, or the encoder, has changed.
    """
    from reclm.profiles.profile import Profile
    from reclm.profiles.store import ProfileStore
    from reclm.text.item_text import item_texts

    texts = dict(zip(view.items.ids(), item_texts(view.item_text, view.text_template), strict=True))
    folder = (workspace or current()).store(view.name, "item-text")
    # no fingerprint: a text's vector is the same whatever the splits are
    with ProfileStore.open(folder, "any", "item-text", view.name) as store:
        stored = store.texts("item")
        store.add(
            Profile("item", id, text, hashlib.sha256(text.encode()).hexdigest()[:32], "item-text")
            for id, text in texts.items()
            if text != stored.get(id, "")
        )
        features = profile_matrix(store, encoder, "item", view.items, progress).vectors
    features[[not text for text in texts.values()]] = 0.0
    return features


def vector_table(
    store: "ProfileStore", encoder: "TextEncoder", kind: ProfileKind, progress: bool = True
) -> "Table":
    """Return a table of vectors that has every profile of ``kind``, after encoding new and changed ones.

    It lies in the store; where the store cannot be written, in the workspace's cache; else in memory.
    """
    from reclm.profiles.store import connect, open_table

    texts = store.texts(kind)
    name = _table_name(encoder)
    own = open_table(store.db, name)
    if own is not None and not _changed(own, kind, texts):
        return own
    for folder in _writable_folders(store):
        busy = f"another process is embedding the profiles of {store.folder}; wait for it"
        try:
            with Lock(folder / ".embeddings.lock", busy, timeout=60):
                table = _create(connect(folder), name, encoder.dim)
                _fill(table, own, kind, texts, encoder, progress)
                return table
        except (BadInput, Busy):
            continue
    table = _create(connect("memory://"), name, encoder.dim)
    _fill(table, own, kind, texts, encoder, progress)
    return table


def _writable_folders(store: "ProfileStore") -> Iterator[Path]:
    if os.access(store.folder, os.W_OK | os.X_OK):
        yield store.folder
    key = hashlib.sha256(str(store.folder.resolve()).encode()).hexdigest()[:16]
    yield current().root / "embeddings" / key


def _table_name(encoder: "TextEncoder") -> str:
    safe = slug(encoder.name)
    if safe != encoder.name:  # two names may have one slug
        safe += f"-{_hash(encoder.name)[:8]}"
    return f"embeddings-{safe}"


def _create(db: "DBConnection", name: str, dim: int) -> "Table":
    columns = [("kind", pa.string()), ("id", pa.string()), ("text_hash", pa.string())]
    schema = pa.schema([*columns, ("vector", pa.list_(pa.float32(), dim))])
    return db.create_table(name, schema=schema, exist_ok=True)


def _changed(table: "Table", kind: ProfileKind, texts: dict[str, str]) -> dict[str, list[str]]:
    """Return the ids by text of the profiles that are new or have another text in the table."""
    rows = table.search().where(f"kind = '{kind}'").select(["id", "text_hash"]).to_arrow()
    stored = dict(zip(rows["id"].to_pylist(), rows["text_hash"].to_pylist(), strict=True))
    changed: dict[str, list[str]] = {}
    for id, text in texts.items():
        if stored.get(id) != _hash(text):
            changed.setdefault(text, []).append(id)
    return changed


def _fill(
    table: "Table",
    own: "Table | None",
    kind: ProfileKind,
    texts: dict[str, str],
    encoder: "TextEncoder",
    progress: bool,
) -> None:
    """Bring ``table`` up to date; vectors of equal texts come from it, or from the store's ``own`` table."""
    from reclm.profiles.store import compact

    changed = _changed(table, kind, texts)
    known: dict[str, np.ndarray] = {}
    for source in (table, own) if changed else ():
        if source is not None:
            known |= _vectors_of(source, kind, {_hash(text): text for text in changed})
    if known:
        _write(table, kind, changed, list(known), np.stack(list(known.values())))
    new = sorted((text for text in changed if text not in known), key=len, reverse=True)
    with progress_bar(f"embedding {kind} texts", len(new), progress and bool(new)) as advance:
        for start in range(0, len(new), CHUNK):
            chunk = new[start : start + CHUNK]
            _write(table, kind, changed, chunk, encoder.encode(chunk, progress=advance))
    if changed:
        compact(table)


def read_vectors(table: "Table", kind: ProfileKind) -> tuple[pa.Array, np.ndarray]:
    """Return the ids of ``kind`` and their vectors ``(m, t)``."""
    return _arrays(table.search().where(f"kind = '{kind}'").select(["id", "vector"]).to_arrow(), "id")


def nearest(table: "Table", query: np.ndarray, kind: ProfileKind, k: int) -> list[tuple[str, float]]:
    """Return the ids of the ``k`` vectors nearest to ``query`` with their cosine similarity, nearest first."""
    search = table.search(query).distance_type("cosine").where(f"kind = '{kind}'")  # pyright: ignore[reportAttributeAccessIssue]
    hits = search.select(["id", "_distance"]).limit(k).to_list()
    return [(hit["id"], 1.0 - hit["_distance"]) for hit in hits]


def _vectors_of(table: "Table", kind: ProfileKind, texts: dict[str, str]) -> dict[str, np.ndarray]:
    """Return the vectors by text of those among ``texts`` (by hash) that the table knows."""
    hashes = table.search().where(f"kind = '{kind}'").select(["text_hash"]).to_arrow()["text_hash"]
    if not texts.keys() & set(hashes.to_pylist()):
        return {}
    rows = table.search().where(f"kind = '{kind}'").select(["text_hash", "vector"]).to_arrow()
    rows = rows.filter(pc.is_in(rows["text_hash"], pa.array(list(texts), pa.string())))
    keys, vectors = _arrays(rows, "text_hash")
    return dict(zip((texts[key] for key in keys.to_pylist()), vectors, strict=True))


def _arrays(rows: pa.Table, key: str) -> tuple[pa.Array, np.ndarray]:
    keys, vectors = (
        pa.concat_arrays(rows[name].chunks or [pa.array([], rows[name].type)]) for name in (key, "vector")
    )
    flat = pc.list_flatten(vectors).to_numpy(zero_copy_only=False)
    return keys, flat.reshape(len(keys), vectors.type.list_size)


def _write(
    table: "Table", kind: ProfileKind, ids_of: dict[str, list[str]], texts: list[str], vectors: np.ndarray
) -> None:
    """Store ``vectors[i]`` for each id whose profile reads ``texts[i]``."""
    from reclm.profiles.store import upsert

    repeats = [len(ids_of[text]) for text in texts]
    flat = pa.array(np.repeat(vectors, repeats, axis=0).astype(np.float32).ravel())
    hashes = [_hash(text) for text, count in zip(texts, repeats, strict=True) for _ in range(count)]
    columns = {
        "kind": pa.array([kind] * sum(repeats)),
        "id": pa.array([id for text in texts for id in ids_of[text]]),
        "text_hash": pa.array(hashes),
        "vector": pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1]),
    }
    upsert(table, pa.table(columns))


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]
