"""Profiles for other programs."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from reclm.data.dataset import ProfileKind
from reclm.data.id_map import IdMap
from reclm.errors import BadInput, NotFound, unknown
from reclm.folders import make_folder, slug
from reclm.profiles.matrix import ProfileMatrix
from reclm.profiles.store import KINDS, ProfileStore

if TYPE_CHECKING:
    from reclm.profiles.profiles import Profiles

Format = Literal["parquet", "npy", "safetensors", "recbole"]
FORMATS: tuple[Format, ...] = get_args(Format)

NEXT: dict[Format, str] = {
    "parquet": "pandas.read_parquet('{out}/user.parquet')",
    "npy": "numpy.load('{out}/user.npy'), rows as in user.ids.json",
    "safetensors": "safetensors.numpy.load_file('{out}/profiles.safetensors'), rows as in user.ids.json",
    "recbole": "copy the files beside the data set's .inter, add recbole.yaml to config_file_list",
}
"""How to go on from the files of a format."""

_Ids = dict[ProfileKind, list[str]]
_Matrices = dict[ProfileKind, np.ndarray]
_RECBOLE = {"user": ("useremb", "uid", "user_emb"), "item": ("itememb", "iid", "item_emb")}


def export(
    profiles: "Profiles",
    format: str,
    out: Path,
    kinds: Sequence[ProfileKind] = KINDS,
) -> list[Path]:
    """Write all profiles into the folder ``out``, sorted by id.

    - ``parquet``: ``<kind>.parquet``, the rows of the store, texts and how they came about; no vectors.
    - ``npy``: ``<kind>.npy`` ``(n, t)`` float32 and ``<kind>.ids.json``, the ids in row order.
    - ``safetensors``: ``profiles.safetensors`` with a tensor a kind, and the same files of ids.
    - ``recbole``: atomic files ``<dataset>.useremb`` and ``.itememb``, and the settings that make RecBole read
      them in ``recbole.yaml``.

    ``manifest.json`` says what they are and were made from.

    Returns:
        The files written.

    Raises:
        ReclmError: for an unknown format, an empty store, or an id that the format cannot carry.
    """
    if format not in FORMATS:
        raise unknown("export format", format, FORMATS)
    store = profiles.store
    texts: dict[ProfileKind, pd.DataFrame] = {
        kind: frame for kind in kinds if len(frame := profiles.texts(kind))
    }
    if not texts:
        raise NotFound(
            f"profile store {store.folder} has nothing to export; run: reclm profile", where=store.folder
        )
    make_folder(out, "--out")
    if format == "parquet":
        files = [_parquet(profiles, kind, out) for kind in texts]
    else:
        ids: _Ids = {kind: sorted(frame["id"]) for kind, frame in texts.items()}
        matrices: _Matrices = {
            kind: ProfileMatrix.from_rows(*profiles.embeddings(kind), IdMap(ids[kind], kind)).vectors
            for kind in texts
        }
        write = {"npy": _npy, "safetensors": _safetensors, "recbole": _recbole}[format]
        files = write(store, out, ids, matrices)
    manifest = store.info.model_dump() | {
        "format": format,
        "encoder": None if format == "parquet" else profiles.encoder.name,
        "profiles": {kind: len(frame) for kind, frame in texts.items()},
        "files": [file.name for file in files],
    }
    path = out / "manifest.json"
    path.write_text(json.dumps(manifest, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return [*files, path]


def _parquet(profiles: "Profiles", kind: ProfileKind, out: Path) -> Path:
    path = out / f"{kind}.parquet"
    pq.write_table(profiles.rows(kind), path)
    return path


def _write_ids(out: Path, ids: _Ids) -> list[Path]:
    paths = []
    for kind, names in ids.items():
        paths.append(out / f"{kind}.ids.json")
        paths[-1].write_text(json.dumps(names, ensure_ascii=False), encoding="utf-8")
    return paths


def _npy(_: ProfileStore, out: Path, ids: _Ids, matrices: _Matrices) -> list[Path]:
    for kind, matrix in matrices.items():
        np.save(out / f"{kind}.npy", matrix)
    return [*(out / f"{kind}.npy" for kind in matrices), *_write_ids(out, ids)]


def _safetensors(store: ProfileStore, out: Path, ids: _Ids, matrices: _Matrices) -> list[Path]:
    from safetensors.numpy import save_file

    path = out / "profiles.safetensors"
    tensors: dict[str, np.ndarray] = {**matrices}
    save_file(tensors, path, metadata={"fingerprint": store.info.fingerprint})
    return [path, *_write_ids(out, ids)]


def _recbole(store: ProfileStore, out: Path, ids: _Ids, matrices: _Matrices) -> list[Path]:
    dataset = slug(store.info.dataset)
    paths = []
    for kind, matrix in matrices.items():
        suffix, id_field, vector_field = _RECBOLE[kind]
        bad = next((id for id in ids[kind] if not id or set(id) & set('\t\n\r"')), None)
        if bad is not None:
            raise BadInput(
                f"{kind} id {bad!r} cannot stand in RecBole's atomic files (tab, quote or line break)",
                value=bad,
            )
        paths.append(out / f"{dataset}.{suffix}")
        with paths[-1].open("w", encoding="utf-8", newline="\n") as file:
            file.write(f"{id_field}:token\t{vector_field}:float_seq\n")
            for id, row in zip(ids[kind], matrix, strict=True):
                file.write(f"{id}\t{' '.join(pa.array(row).cast(pa.string()).to_pylist())}\n")
    fields = [_RECBOLE[kind] for kind in matrices]
    settings = {
        "additional_feat_suffix": [suffix for suffix, _, _ in fields],
        "load_col": {"inter": ["user_id", "item_id"]}
        | {suffix: [id, vector] for suffix, id, vector in fields},
        "preload_weight": {id: vector for _, id, vector in fields},
    } | {f"alias_of_{kind}_id": [_RECBOLE[kind][1]] for kind in matrices}
    paths.append(out / "recbole.yaml")
    head = (
        f"# RecBole's settings for these profiles: put the files beside {dataset}.inter, name this file in\n"
        "# config_file_list, and take the matrices with dataset.get_preload_weight('uid' or 'iid').\n"
        "# A data set called ml-100k RecBole reads from its own package: give it another name there.\n"
    )
    paths[-1].write_text(head + yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
    return paths
