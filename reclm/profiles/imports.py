"""Profiles that somebody else wrote: from frames or a file into a store of the workspace."""

import hashlib
import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from reclm.data.dataset import Dataset, ProfileKind, TrainingView
from reclm.data.id_map import id_strings
from reclm.data.readers.columns import to_arrow
from reclm.errors import BadInput, unknown
from reclm.folders import current
from reclm.profiles.profile import Profile, view_of
from reclm.profiles.profiles import Profiles
from reclm.profiles.store import ProfileStore

if TYPE_CHECKING:
    from reclm.text.encoder import TextEncoder

IMPORTED = "imported"
"""Model of a profile that has no other origin, and the start of the writer's name."""


def import_frames(
    data: Dataset | TrainingView,
    frames: Mapping[ProfileKind, Any],
    *,
    text: str = "text",
    id: str | None = None,
    encoder: "str | TextEncoder | None" = None,
    origin: str = "frame",
    store: Path | None = None,
) -> Profiles:
    """Put frames of ids and texts into a store; see :meth:`~reclm.profiles.profiles.Profiles.from_frames`.

    Args:
        frames: a frame a kind; None for no profiles of a kind.
        id: the column of ids; by default ``id``, ``user_id`` or ``item_id``, else the only other column.
        origin: where they come from, for the record.
        store: the store's folder, which may hold imported profiles already; by default a new one in the workspace.
    """
    view = view_of(data)
    profiles = [
        profile
        for kind, frame in frames.items()
        if frame is not None
        for profile in _read(_table(frame, kind, origin), view, kind, text, id, origin)
    ]
    if not profiles:
        raise BadInput(
            "there are no profiles to import; give a frame of users, of items, or both", value=origin
        )
    content = sorted((profile.kind, profile.id, profile.text, profile.model) for profile in profiles)
    writer = f"{IMPORTED}-{hashlib.sha256(json.dumps(content).encode()).hexdigest()[:8]}"
    if store and ProfileStore.at(store):
        there = ProfileStore.read(store).info.writer
        writer = (
            there if there.startswith(IMPORTED) else writer
        )  # more imported profiles, of the other kind, say
    folder = store or current().store(view.name, writer)
    with ProfileStore.open(folder, view.fingerprint, writer, view.name) as opened:
        opened.add(profiles)
        if isinstance(encoder, str):
            opened.describe(encoder=encoder)
    return Profiles.open(folder, data, encoder=encoder)


def import_file(
    file: str | Path,
    data: Dataset | TrainingView,
    kind: ProfileKind = "user",
    *,
    text: str = "text",
    id: str | None = None,
    encoder: "str | TextEncoder | None" = None,
    store: Path | None = None,
) -> Profiles:
    """Put a CSV, TSV, Parquet or JSON-lines file of ids and texts into a store of the workspace.

    Args:
        file: with a header line, where it is CSV or TSV.
        kind: of the profiles in it.
        text, id, encoder, store: as in :func:`import_frames`.

    Raises:
        BadInput: as :meth:`~reclm.profiles.profiles.Profiles.from_frames`.
        NotFound: if there is no such file.
    """
    from reclm.data.readers.records import read_records

    path = Path(file)
    return import_frames(
        data, {kind: read_records(path)}, text=text, id=id, encoder=encoder, origin=path.name, store=store
    )


def _table(frame: Any, kind: ProfileKind, origin: str) -> pa.Table:
    if isinstance(frame, Mapping):
        return pa.table({"id": id_strings(frame), "text": pa.array(frame.values(), pa.string())})
    return to_arrow(frame, f"{kind}s of {origin}")


def _read(
    table: pa.Table, view: TrainingView, kind: ProfileKind, text: str, id: str | None, origin: str
) -> list[Profile]:
    """Return the profiles of a table; ids that the data set lacks, and blank texts, are left out."""
    names = table.column_names
    if text not in names:
        raise unknown(f"column of {origin}", text, names)
    id = id or _id_column(names, kind, text, origin)
    if id not in names:
        raise unknown(f"column of {origin}", id, names)
    ids = pc.fill_null(id_strings(table[id].combine_chunks()), "").to_pylist()
    texts = pc.fill_null(table[text].cast(pa.string()), "").to_pylist()
    models = table["model"].cast(pa.string()).to_pylist() if "model" in names else [None] * len(ids)
    _warn_of_unknown(ids, view, kind, origin)
    profiles: dict[str, Profile] = {}
    known = view.idmap(kind).find(ids) >= 0
    for row in np.flatnonzero(known).tolist():
        words = texts[row].strip()
        if not words:
            continue
        before = profiles.get(ids[row])
        if before is not None and before.text != words:
            raise BadInput(
                f"{origin}: {kind} {ids[row]!r} has two profiles; leave one of them out",
                value=ids[row],
                where=origin,
            )
        key = hashlib.sha256(f"{IMPORTED} {words}".encode()).hexdigest()[:32]
        settings = json.dumps({"origin": origin})
        profiles[ids[row]] = Profile(kind, ids[row], words, key, models[row] or IMPORTED, settings)
    return list(profiles.values())


def _id_column(names: list[str], kind: ProfileKind, text: str, origin: str) -> str:
    usual = [name for name in ("id", f"{kind}_id") if name in names][:1]
    candidates = usual or [name for name in names if name not in {text, "model"}]
    if len(candidates) != 1:
        raise BadInput(
            f"{origin} needs a column of ids called 'id' or '{kind}_id'; found: {', '.join(names)}",
            value=names,
            where=origin,
            remedy="id",
        )
    return candidates[0]


def _warn_of_unknown(ids: list[str], view: TrainingView, kind: ProfileKind, origin: str) -> None:
    idmap = view.idmap(kind)
    unknown_ids = [ids[row] for row in np.flatnonzero(idmap.find(ids) < 0).tolist()]
    if not unknown_ids:
        return
    shown = ", ".join(map(repr, unknown_ids[:5])) + (", …" if len(unknown_ids) > 5 else "")
    example = ", ".join(map(repr, idmap.ids(np.arange(min(3, len(idmap))))))
    message = (
        f"{origin}: {len(unknown_ids):,} of {len(ids):,} {kind} ids are not in data set {view.name!r}: {shown} "
        f"(its ids look like {example})"
    )
    if len(unknown_ids) == len(ids):
        raise BadInput(f"{message}; give profiles of this data set", value=unknown_ids[0], where=origin)
    warnings.warn(f"{message}; they are left out", stacklevel=4)
