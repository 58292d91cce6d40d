"""Profiles as vectors: one table an encoder, beside the profiles."""

import hashlib
from typing import cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from lancedb.expr import col
from lancedb.query import LanceVectorQueryBuilder
from lancedb.table import Table

from reclm.console import progress_bar
from reclm.data.dataset import ProfileKind
from reclm.data.id_map import IdMap
from reclm.folders import slug
from reclm.profiles.profile import Profile
from reclm.profiles.store import ProfileStore, compact, upsert
from reclm.text.encoder import TextEncoder

CHUNK = 256
"""Texts that are encoded before their vectors are stored."""


def embed(
    store: ProfileStore, encoder: TextEncoder, kind: ProfileKind, idmap: IdMap, progress: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """The profile matrix of ``kind``, row by row as ``idmap`` has it.

    Only texts that are new or changed since the last call are encoded, equal texts once.

    Returns:
        ``(matrix, has_profile)``: ``(n, t)`` float32, zero where there is no profile, and ``(n,)`` bool.
    """
    table = update(store, encoder, kind, progress)
    matrix, present = np.zeros((len(idmap), _dim(table)), np.float32), np.zeros(len(idmap), bool)
    ids, vectors = _vectors(table, kind)
    rows = idmap.find(ids)
    matrix[rows[rows >= 0]] = vectors[rows >= 0]
    present[rows[rows >= 0]] = True
    return matrix, present


def search(
    store: ProfileStore, encoder: TextEncoder, text: str, kind: ProfileKind, k: int = 10
) -> list[tuple[Profile, float]]:
    """The ``k`` profiles nearest to ``text`` with their cosine similarity, nearest first."""
    table = update(store, encoder, kind)
    nearest = cast(LanceVectorQueryBuilder, table.search(encoder.encode([text])[0]))
    query = nearest.distance_type("cosine").where(col("kind") == kind)
    hits = query.select(["id", "_distance"]).limit(k).to_list()
    found = [(store.get(kind, hit["id"]), 1.0 - hit["_distance"]) for hit in hits]
    return [(profile, score) for profile, score in found if profile is not None]


def update(store: ProfileStore, encoder: TextEncoder, kind: ProfileKind, progress: bool = True) -> Table:
    """The vectors' table, after encoding every profile of ``kind`` that is new or changed."""
    texts = store.texts(kind)
    table = _table(store, encoder)
    # without the vectors, which are most of it
    rows = table.search().where(col("kind") == kind).select(["id", "text_hash"]).to_arrow()
    hashes = rows.column("text_hash").to_pylist()
    stored = dict(zip(rows.column("id").to_pylist(), hashes, strict=True))
    wanted: dict[str, list[str]] = {}
    for id, text in texts.items():
        if stored.get(id) != _hash(text):
            wanted.setdefault(text, []).append(id)
    if not wanted:
        return table
    holder = dict(zip(hashes, rows.column("id").to_pylist(), strict=True))
    known = [text for text in wanted if _hash(text) in holder]
    new = sorted((text for text in wanted if _hash(text) not in holder), key=len, reverse=True)
    with store.locked(), progress_bar(f"embedding {kind} texts", len(new), progress) as advance:
        if known:
            there, vectors = _vectors(table, kind)
            row_of = {id: row for row, id in enumerate(there.to_pylist())}
            _write(table, kind, wanted, known, vectors[[row_of[holder[_hash(text)]] for text in known]])
        for start in range(0, len(new), CHUNK):
            chunk = new[start : start + CHUNK]
            _write(table, kind, wanted, chunk, encoder.encode(chunk, progress=advance))
        compact(table)
    return table


def _table(store: ProfileStore, encoder: TextEncoder) -> Table:
    safe = slug(encoder.name)
    if safe != encoder.name:  # two names may have one slug
        safe += f"-{_hash(encoder.name)[:8]}"
    name = f"embeddings-{safe}"
    if name in store.db.list_tables(limit=1000).tables:
        return store.db.open_table(name)
    columns = [("kind", pa.string()), ("id", pa.string()), ("text_hash", pa.string())]
    schema = pa.schema([*columns, ("vector", pa.list_(pa.float32(), encoder.dim))])
    return store.db.create_table(name, schema=schema, exist_ok=True)


def _dim(table: Table) -> int:
    return table.schema.field("vector").type.list_size


def _vectors(table: Table, kind: ProfileKind) -> tuple[pa.Array, np.ndarray]:
    """Ids and vectors ``(n, t)`` of ``kind``."""
    rows = table.search().where(col("kind") == kind).select(["id", "vector"]).to_arrow().combine_chunks()
    ids, vectors = (pa.concat_arrays(column.chunks or [pa.array([], column.type)]) for column in rows)
    flat = pc.list_flatten(vectors).to_numpy(zero_copy_only=False)
    return ids, flat.reshape(len(ids), _dim(table))


def _write(
    table: Table, kind: ProfileKind, ids_of: dict[str, list[str]], texts: list[str], vectors: np.ndarray
) -> None:
    """Store ``vectors[i]`` for everyone whose profile reads ``texts[i]``."""
    if not texts:
        return
    repeats = [len(ids_of[text]) for text in texts]
    flat = pa.array(np.repeat(vectors, repeats, axis=0).astype(np.float32).ravel())
    hashes = [_hash(text) for text, count in zip(texts, repeats, strict=True) for _ in range(count)]
    columns = {
        "kind": pa.array([kind] * sum(repeats)),
        "id": pa.array([id for text in texts for id in ids_of[text]]),
        "text_hash": pa.array(hashes),
        "vector": pa.FixedSizeListArray.from_arrays(flat, _dim(table)),
    }
    upsert(table, pa.table(columns))


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]
