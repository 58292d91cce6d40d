"""The contents of a folder by their meaning: what two runs of one command must agree on, whenever they ran."""

import hashlib
import io
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import yaml
from safetensors.numpy import load

from reclm.benchmarks.results import Result
from reclm.data.storage import is_dataset, load_folder
from reclm.profiles.store import ProfileStore
from reclm.profiles.tables import connect, open_table
from reclm.recommend.saved import load_model

MAY_DIFFER = {
    r"(.*/)?tensorboard/.*": "a log: each run that was begun has a file there",
    r"(.*\.lance)/.*": "LanceDB's own files: the table is read instead",
    r"(.*/)?checksums.json": "the times in the files: the readers check it",
}
"""Patterns of files that are not compared, and why."""
_TIMES = re.compile(r"(.*_)?(seconds|runtime|per_second|rollout_tokens|created)|environment|run|_fingerprint")
"""Columns and keys that say when and where a run was, and how fast; datasets draws its ``_fingerprint``."""
_TIMED = re.compile(r"\d{8}-\d{6}(-\d{6})?")
_SPANS = re.compile(
    r"[\d.,]+( ?(s|ms|min|minutes?|hours?|seconds?|profiles/s|/s)\b)|\d{4}-\d\d-\d\d[ T]\d\d:\d\d(:\d\d)?"
)


_SECONDS = re.compile(r"^\| \w+ \| \w+ \| [\d.]+ \| \d+% \|$", re.MULTILINE)
"""Rows of LangPTune's report: what takes how long."""


def contents(folder: Path) -> dict[str, list[str]]:
    """Return the names of all files and folders, times in them left out, and what each says, as digests."""
    found: dict[str, list[str]] = {}
    for name, path in _paths(folder):
        found.setdefault(_TIMED.sub("TIME", name), []).append(_digest(path))
    return {name: sorted(digests) for name, digests in sorted(found.items())}


def _paths(folder: Path) -> Iterator[tuple[str, Path]]:
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if not any(re.fullmatch(pattern, name) for pattern in MAY_DIFFER):
            yield name, path


def _digest(path: Path) -> str:
    if path.is_dir() and path.suffix != ".lance":
        return "folder"
    try:
        value = _rows(path) if path.is_dir() else _READERS.get(path.suffix, bytes)(path.read_bytes())
    except Exception as error:
        value = f"cannot be read: {error}"
    return hashlib.sha256(repr(value).encode()).hexdigest()[:16]


def _table(data: bytes) -> list[dict[str, Any]]:
    table = pq.read_table(io.BytesIO(data))
    return table.drop_columns([name for name in table.column_names if _TIMES.fullmatch(name)]).to_pylist()


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            key: _timeless(value[key]) for key in sorted(value, key=str) if not _TIMES.fullmatch(str(key))
        }
    if isinstance(value, list):
        return [_timeless(part) for part in value]
    return _TIMED.sub("TIME", value) if isinstance(value, str) else value


def _text(data: bytes) -> str:
    return _SECONDS.sub("TIME", _SPANS.sub("TIME", data.decode()))


_READERS: dict[str, Callable[[bytes], Any]] = {
    ".safetensors": lambda data: sorted(
        (name, array.dtype, array.shape, array.tobytes()) for name, array in load(data).items()
    ),
    ".parquet": _table,
    ".json": lambda data: _timeless(json.loads(data)),
    ".jsonl": lambda data: [_timeless(json.loads(line)) for line in data.splitlines()],
    ".yaml": lambda data: _timeless(yaml.safe_load(data)),
    **dict.fromkeys((".csv", ".html", ".md", ".tex"), _text),
    ".png": lambda data: "a picture",
}


def _rows(path: Path) -> list[Any]:
    table = open_table(connect(path.parent), path.stem)
    if table is None:
        return []
    rows = table.search().to_arrow()
    rows = rows.drop_columns([name for name in rows.column_names if _TIMES.fullmatch(name)])
    return sorted(map(repr, rows.to_pylist()))


_TENSORS = "profiles.safetensors"


def fault(folder: Path) -> str:
    """Open all that has appeared in a work folder with the product's readers; return the first that is not whole."""
    for name, check in _CHECKS.items():
        for path in sorted(folder.glob(name)):
            if path.name.startswith(".") or any(
                part.startswith(".") for part in path.relative_to(folder).parts
            ):
                continue
            try:
                check(path)
            except Exception as error:
                return f"{path.relative_to(folder)} is not whole: {type(error).__name__}: {str(error)[:200]}"
    return ""


def _run(folder: Path) -> None:
    if not (folder / "about.json").is_file():  # of reclm fit
        models = [head.parent for head in folder.glob("models/*/model.yaml")]
        assert models, "neither a run nor a model"
        for model in models:
            _model(model)
        return
    result = Result.load(folder)
    assert result.trials, "no trials"
    for row in result.about.rows:
        _model(folder / "models" / row.name)


def _export(folder: Path) -> None:
    files = {path.name for path in folder.iterdir() if not path.name.startswith(".")}
    manifest = json.loads((folder / "manifest.json").read_text())
    assert files == {*manifest["files"], "manifest.json"}, f"{sorted(files)} beside {manifest['files']}"
    for kind, count in manifest["profiles"].items():
        if manifest["format"] == "parquet":
            assert len(pq.read_table(folder / f"{kind}.parquet")) == count, kind
        if manifest["format"] in ("parquet", "recbole"):
            continue
        ids = json.loads((folder / f"{kind}.ids.json").read_text())
        npy = manifest["format"] == "npy"
        matrix = np.load(folder / f"{kind}.npy") if npy else load((folder / _TENSORS).read_bytes())[kind]
        assert len(ids) == len(matrix) == count, kind


def _model(folder: Path) -> None:
    model = load_model(folder)
    assert len(model.recommend([str(model.data.users.ids(np.zeros(1, np.int64))[0])]))


def _atomic(folder: Path) -> None:
    names = ("item", "test.inter", "train.inter", "user", "valid.inter")
    assert {path.name for path in folder.iterdir()} == {f"{folder.name}.{name}" for name in names}


def _dataset(folder: Path) -> None:
    assert is_dataset(folder), "no data set"
    load_folder(folder)


def _store(file: Path) -> None:
    ProfileStore.read(file.parent).rows()


_CHECKS = {
    "home/datasets/*": _dataset,
    "**/store.yaml": _store,
    "home/runs/*": _run,
    "run": _run,
    "saved": _run,
    "model-of-films": _model,
    "export": _export,
    "atomic": _atomic,
}
