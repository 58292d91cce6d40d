"""Profiles that somebody else wrote into a store, and the profiles of a store for other programs."""

import hashlib
import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml
from safetensors.numpy import save_file

from reclm.data.dataset import Dataset, ProfileKind, TrainingView
from reclm.data.id_map import IdMap, id_strings
from reclm.data.readers.columns import find_column, strings, to_arrow
from reclm.errors import BadInput, NotFound, unknown
from reclm.files import atomic_files
from reclm.folders import current, make_folder, slug
from reclm.profiles.matrix import ProfileMatrix
from reclm.profiles.profile import Profile, view_of
from reclm.profiles.profiles import Profiles
from reclm.profiles.store import KINDS, ProfileStore
from reclm.text.encoder import TextEncoder

IMPORTED = "imported"
"""Model of a profile that has no other origin, and the start of the writer's name."""


def import_frames(
    data: Dataset | TrainingView,
    frames: Mapping[ProfileKind, Any],
    *,
    text: str = "text",
    id: str | None = None,
    encoder: str | TextEncoder | None = None,
    origin: str = "frame",
    store: Path | None = None,
) -> Profiles:
    """Put frames of ids and texts into a store; see :meth:`~reclm.profiles.profiles.Profiles.from_frames`.

    The column ``id`` is by default ``id``, ``user_id`` or ``item_id``, else the only other one; ``store`` may hold
    imported profiles already; ``origin`` is for the record.
    """
    view = view_of(data)
    if isinstance(encoder, str):
        encoder = TextEncoder(encoder)
        encoder.model  # noqa: B018 - a store must not name one that cannot be loaded
    profiles = [
        profile
        for kind, frame in frames.items()
        if frame is not None
        for profile in _read(_table(frame, kind, origin), view, kind, text, id, origin)
    ]
    if not profiles:
        message = "there are no profiles to import; give a frame of users, of items, or both"
        raise BadInput(message, value=origin)
    content = sorted((profile.kind, profile.id, profile.text, profile.model) for profile in profiles)
    writer = f"{IMPORTED}-{hashlib.sha256(json.dumps(content).encode()).hexdigest()[:8]}"
    if store and ProfileStore.at(store):  # more imported profiles, of the other kind, say
        present = ProfileStore.read(store).info.writer
        writer = present if present.startswith(IMPORTED) else writer
    folder = store or current().store(view.name, writer)
    with ProfileStore.open(folder, view.fingerprint, writer, view.name) as opened:
        opened.add(profiles)
        if encoder is not None:
            opened.describe(encoder=encoder.source)
    return Profiles.open(folder, data, encoder=encoder)


def _table(frame: Any, kind: ProfileKind, origin: str) -> pa.Table:
    if isinstance(frame, Mapping):
        return pa.table({"id": id_strings(frame), "text": pa.array(frame.values(), pa.string())})
    return to_arrow(frame, f"{kind}s of {origin}")


def _read(
    table: pa.Table, view: TrainingView, kind: ProfileKind, text: str, id: str | None, origin: str
) -> list[Profile]:
    """Return the profiles of a table; ids that the data set lacks, and blank texts, are left out."""
    names = table.column_names
    for option, column in (("--text ", text), ("--id ", id)):
        if column is not None:
            find_column(origin, column, names, option)
    id = id or _id_column(names, kind, text, origin)
    ids = pc.fill_null(id_strings(table[id].combine_chunks()), "").to_pylist()
    texts = pc.fill_null(strings(table[text]), "").to_pylist()
    models = strings(table["model"]).to_pylist() if "model" in names else [None] * len(ids)
    settings = json.dumps({"origin": origin})
    profiles: dict[str, Profile] = {}
    blank = repeated = 0
    for row in _known_rows(ids, view, kind, origin):
        if not (words := texts[row].strip()):
            blank += 1
            continue
        repeated += ids[row] in profiles
        if ids[row] in profiles and profiles[ids[row]].text != words:
            message = f"{origin}: {kind} {ids[row]!r} has two profiles; leave one of them out"
            raise BadInput(message, value=ids[row], where=origin)
        key = hashlib.sha256(f"{IMPORTED} {words}".encode()).hexdigest()[:32]
        profiles[ids[row]] = Profile(kind, ids[row], words, key, models[row] or IMPORTED, settings)
    if blank or repeated:
        message = (
            f"{origin}: {blank:,} {kind} profiles without a text are left out, and {repeated:,} repeated ones"
        )
        warnings.warn(message, stacklevel=4)
    return list(profiles.values())


def _id_column(names: list[str], kind: ProfileKind, text: str, origin: str) -> str:
    usual = [name for name in ("id", f"{kind}_id") if name in names][:1]
    candidates = usual or [name for name in names if name not in {text, "model"}]
    if len(candidates) != 1:
        message = f"{origin} needs a column of ids called 'id' or '{kind}_id'; found: {', '.join(names)}"
        raise BadInput(message, value=names, where=origin, remedy="id")
    return candidates[0]


def _known_rows(ids: list[str], view: TrainingView, kind: ProfileKind, origin: str) -> list[int]:
    """Return the places of the ids that the data set has; a warning names others, and it is an error if all are."""
    idmap = view.idmap(kind)
    known = idmap.find(ids) >= 0
    others = [ids[row] for row in np.flatnonzero(~known).tolist()]
    if others:
        named = ", ".join(map(repr, others[:5])) + (", …" if len(others) > 5 else "")
        example = ", ".join(map(repr, idmap.ids(np.arange(min(3, len(idmap))))))
        message = (
            f"{origin}: {len(others):,} of {len(ids):,} {kind} ids are not in data set {view.name!r}: {named} "
            f"(its ids look like {example})"
        )
        if len(others) == len(ids):
            raise BadInput(f"{message}; give profiles of this data set", value=others[0], where=origin)
        warnings.warn(f"{message}; they are left out", stacklevel=5)
    return np.flatnonzero(known).tolist()


Format = Literal["parquet", "npy", "safetensors", "recbole"]
FORMATS: tuple[Format, ...] = get_args(Format)

NEXT: dict[Format, str] = {
    "parquet": "pandas.read_parquet('{out}/user.parquet')",
    "npy": "numpy.load('{out}/user.npy'), rows as in user.ids.json",
    "safetensors": "safetensors.numpy.load_file('{out}/profiles.safetensors'), rows as in user.ids.json",
    "recbole": "copy the files beside the data set's .inter, add recbole.yaml to config_file_list",
}
"""The next step with the files of a format."""
MANIFEST = "manifest.json"

_Ids = dict[ProfileKind, list[str]]
_Matrices = dict[ProfileKind, np.ndarray]
_RECBOLE = {"user": ("useremb", "uid", "user_emb"), "item": ("itememb", "iid", "item_emb")}


def export(profiles: Profiles, format: str, folder: Path, kinds: Sequence[ProfileKind] = KINDS) -> list[Path]:
    """Write all profiles into a folder, sorted by id, and ``manifest.json``: what they are and were made from.

    They replace an earlier export in the folder. The manifest is there only if all other files are.

    - ``parquet``: ``<kind>.parquet``, the rows of the store, texts and how they came about; no vectors.
    - ``npy``: ``<kind>.npy`` ``(n, t)`` float32 and ``<kind>.ids.json``, the ids in row order.
    - ``safetensors``: ``profiles.safetensors`` with a tensor a kind, and the same files of ids.
    - ``recbole``: atomic files ``<dataset>.useremb`` and ``.itememb``, and the settings that read them, recbole.yaml.
    """
    if format not in FORMATS:
        raise unknown("export format", format, FORMATS)
    store = profiles.store
    tables: dict[ProfileKind, pa.Table] = {kind: rows for kind in kinds if len(rows := profiles.rows(kind))}
    if not tables:
        message = f"profile store {store.folder} has nothing to export; run: reclm profile"
        raise NotFound(message, where=store.folder)
    make_folder(folder, "--out")
    with atomic_files(folder, _exported(folder), MANIFEST) as draft:
        files = _write(profiles, format, draft, tables)
    return [folder / file.name for file in files]


def _exported(folder: Path) -> list[str]:
    """Return the names of the files of an earlier export into a folder, as its manifest has them."""
    try:
        files = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]
        return [MANIFEST, *(name for name in files if Path(name).name == name and name.isprintable())]
    except (OSError, ValueError, LookupError, TypeError):
        return []


def _write(profiles: Profiles, format: str, folder: Path, tables: dict[ProfileKind, pa.Table]) -> list[Path]:
    store = profiles.store
    if format == "parquet":
        files = [folder / f"{kind}.parquet" for kind in tables]
        for rows, file in zip(tables.values(), files, strict=True):
            pq.write_table(rows, file)
    else:
        idmaps: dict[ProfileKind, IdMap] = {
            kind: IdMap(rows["id"].to_pylist(), kind) for kind, rows in tables.items()
        }
        matrices: _Matrices = {
            kind: ProfileMatrix.from_rows(*profiles.embeddings(kind), idmap).vectors
            for kind, idmap in idmaps.items()
        }
        ids: _Ids = {kind: idmap.ids() for kind, idmap in idmaps.items()}
        if format == "recbole":
            files = _recbole(store, folder, ids, matrices)
        else:
            files = _vectors(format, store, folder, ids, matrices)
    manifest = store.info.model_dump() | {
        "format": format,
        "encoder": None if format == "parquet" else profiles.encoder.name,
        "profiles": {kind: len(rows) for kind, rows in tables.items()},
        "files": [file.name for file in files],
    }
    path = folder / MANIFEST
    path.write_text(json.dumps(manifest, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return [*files, path]


def _vectors(format: str, store: ProfileStore, folder: Path, ids: _Ids, matrices: _Matrices) -> list[Path]:
    if format == "npy":
        files = [folder / f"{kind}.npy" for kind in matrices]
        for file, matrix in zip(files, matrices.values(), strict=True):
            np.save(file, matrix)
    else:
        files = [folder / "profiles.safetensors"]
        tensors: dict[str, np.ndarray] = {**matrices}
        save_file(tensors, files[0], metadata={"fingerprint": store.info.fingerprint})
    for kind, names in ids.items():
        files.append(folder / f"{kind}.ids.json")
        files[-1].write_text(json.dumps(names, ensure_ascii=False), encoding="utf-8")
    return files


def _recbole(store: ProfileStore, folder: Path, ids: _Ids, matrices: _Matrices) -> list[Path]:
    dataset = slug(store.info.dataset)
    paths = []
    for kind, matrix in matrices.items():
        suffix, id_field, vector_field = _RECBOLE[kind]
        bad = next((id for id in ids[kind] if not id or set(id) & set('\t\n\r"')), None)
        if bad is not None:
            message = f"{kind} id {bad!r} cannot stand in RecBole's atomic files (tab, quote or line break)"
            raise BadInput(message, value=bad)
        paths.append(folder / f"{dataset}.{suffix}")
        with paths[-1].open("w", encoding="utf-8", newline="\n") as file:
            file.write(f"{id_field}:token\t{vector_field}:float_seq\n")
            for id, row in zip(ids[kind], matrix, strict=True):
                file.write(f"{id}\t{' '.join(pa.array(row).cast(pa.string()).to_pylist())}\n")
    fields = [_RECBOLE[kind] for kind in matrices]
    settings = {
        "additional_feat_suffix": [suffix for suffix, _, _ in fields],
        "load_col": {"inter": ["user_id", "item_id"], **{suffix: names for suffix, *names in fields}},
        "preload_weight": {id: vector for _, id, vector in fields},
    } | {f"alias_of_{kind}_id": [_RECBOLE[kind][1]] for kind in matrices}
    head = (
        f"# RecBole's settings for these profiles: put the files beside {dataset}.inter, name this file in\n"
        "# config_file_list, and take the matrices with dataset.get_preload_weight('uid' or 'iid').\n"
        "# A data set called ml-100k RecBole reads from its own package: give it another name there.\n"
    )
    path = folder / "recbole.yaml"
    path.write_text(head + yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
    return [*paths, path]
