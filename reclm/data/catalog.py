"""Data sets by name: the readers that are installed, the data sets that are prepared."""

import os
from collections.abc import Mapping
from dataclasses import replace as with_fields
from pathlib import Path
from typing import Any

import pandas as pd

from reclm import plugins
from reclm.data.dataset import Dataset
from reclm.data.readers.base import Reader, RemotePath
from reclm.data.storage import is_dataset, load_folder, read_head, save
from reclm.errors import BadInput, NotFound, ReclmError, unknown
from reclm.folders import current, slug, to_path

SIZES = {"users": "users", "items": "items", "train": "train interactions"}
"""Columns of :func:`list_datasets` and the counts of a reader that they show."""
COLUMNS = "name kind summary options users items train fingerprint folder source"


def prepare_dataset(
    reader: str,
    source: str | Path | None = None,
    *,
    name: str | Path | None = None,
    replace: bool = False,
    strict: bool = False,
    noun: str = "",
    **options: Any,
) -> Dataset:
    """Read raw data, split it and save the result in the workspace.

    Args:
        reader: one of :func:`list_datasets`: ``table`` for your own files, ``ml-100k``, ``mind``, …
        source: the raw files, also in a remote file system (``s3://…``, ``hf://…``); not needed by an embedded reader.
        name: the name to save it under; by default the reader's. A :class:`~pathlib.Path` is a folder to save it in,
            outside the workspace.
        replace: save it over a data set of that name that was prepared in another way.
        strict: stop at the first malformed line instead of counting it.
        noun: what the items are, in the plural, for prompts: ``films``, ``songs``; by default the reader's.
        options: of the reader, e.g. ``min_user=5``.

    Raises:
        NotFound: for an unknown reader or option, or a source that does not exist.
        BadInput: for a value that cannot be used, or a name that is taken.
    """
    place: Any = None if source is None else to_path(source, "source")
    if isinstance(source, str) and "://" in source:
        place = RemotePath(source)
    plugin: Reader = plugins.get("dataset", reader)()
    config = plugin.Config.build(options, where=f"{reader} option")
    if place is None and not plugin.embedded:
        raise BadInput(f"data set {reader!r} needs --source PATH: {plugin.source}", where="source")
    if place is not None and not isinstance(place, Path) and not plugin.remote:
        raise BadInput(f"reader {reader!r} reads local files only; download {source} first", value=source)
    folder = name if isinstance(name, Path) else _named_folder(name or reader)
    recipe = {"reader": reader, "source": _whole(place), "options": config.model_dump(mode="json")}
    if not replace and is_dataset(folder):
        _check_same_recipe(folder, recipe, plugin.Config().model_dump(mode="json"))
    elif not replace and folder.name != reader and folder.parent.resolve() == current().datasets().resolve():
        _check_not_embedded(folder.name)
    dataset = plugin.read(place, config, strict=strict)
    called = reader if isinstance(name, Path) else name or reader
    dataset = with_fields(dataset, name=called, folder=folder, noun=noun or dataset.noun or plugin.noun)
    save(dataset, folder, recipe | {"strict": strict, "from_workspace": _from_workspace(recipe["source"])})
    return dataset


def _named_folder(name: str) -> Path:
    if slug(name) != name:
        message = f"a data set cannot be called {name!r}: no folder can; take {slug(name)!r}, or a folder with --out"
        raise BadInput(message, value=name, remedy=slug(name))
    return current().dataset(name)


def _whole(source: Path | RemotePath | None) -> str | None:
    """Return the address of a source; that of a local one from the root, since each folder may hold a ``log.csv``."""
    return str(source.resolve()) if isinstance(source, Path) else source and str(source)


def _from_workspace(source: str | None) -> str | None:
    """Return the way from the workspace to a local source, which is the same where both were moved."""
    if source is None or "://" in source:
        return None
    return os.path.relpath(source, current().root.resolve())


def _check_not_embedded(name: str) -> None:
    """Refuse a name under which an embedded data set would be found no more."""
    if name in plugins.names("dataset") and plugins.get("dataset", name).embedded:
        message = f"{name} is a data set that comes with the toolkit, and would be found no more"
        remedy = "prepare this one under another --name, or add --replace"
        raise BadInput(f"{message}; {remedy}", value=name, where="--name", remedy="--replace")


def _check_same_recipe(folder: Path, recipe: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
    """Refuse to save over a data set that comes from another reader, source or choice of options."""
    try:
        saved = read_head(folder).get("prepared", {})
    except ReclmError:  # a damaged one may be prepared again
        return
    # an option that this version has added has its default there
    saved = {**saved, "options": {**defaults, **(saved.get("options") or {})}}
    if isinstance(source := saved.get("source"), str) and "://" not in source:  # 0.1 wrote it as it was typed
        moved = saved.get("from_workspace") in {_from_workspace(recipe["source"])} - {None}
        saved["source"] = recipe["source"] if moved else _whole(Path(source))
    key = next((key for key, value in recipe.items() if saved.get(key) != value), None)
    if key is not None:
        remedy = "prepare this one under another --name, or add --replace"
        message = f"{folder} holds a data set with another {key} ({saved.get(key)}); {remedy}"
        raise BadInput(message, value=saved.get(key), where=folder, remedy="--replace")


def prepared() -> dict[str, Path]:
    """Return the folders of the data sets in the workspace by name, sorted."""
    folders = sorted(current().datasets().glob("*"))
    return {folder.name: folder for folder in folders if folder.name[0] != "." and _holds_dataset(folder)}


def _holds_dataset(folder: Path) -> bool:
    """Return whether there is a data set; one that may not be read is listed as damaged, and hides no other."""
    try:
        return is_dataset(folder)
    except BadInput:
        return True


def load_dataset(name: str | Path) -> Dataset:
    """Load a data set by name or folder.

    It is looked for in this order: a folder with ``dataset.yaml``; a name that is prepared in the workspace; an
    embedded reader (``ml-100k``), whose data is then prepared on the spot.

    Raises:
        NotFound: if there is none; the message says how to prepare it or offers the nearest known name.
        Damaged: if its files were changed or cannot be read.
    """
    text = str(to_path(name, "name"))
    folders = [Path(name), current().dataset(text)] if slug(text) == text else [Path(name)]
    for folder in folders:
        if is_dataset(folder):
            return load_folder(folder)
    readers = plugins.names("dataset")
    if text in readers:
        reader: Reader = plugins.get("dataset", text)()
        if reader.embedded:
            return prepare_dataset(text)
        remedy = f"reclm data prepare {text} --source PATH"
        message = f"data set {text!r} is not prepared in {current().root}; {remedy} (PATH: {reader.source})"
        raise NotFound(message, value=text, remedy=remedy)
    if os.path.exists(name):  # no path, such as one of 300 characters, is no error of it
        remedy = f"reclm data prepare NAME --source {text}"
        message = f"{text} is no prepared data set (it has no dataset.yaml); {remedy}, where NAME is one of "
        raise NotFound(message + ", ".join(readers), value=text, remedy=remedy)
    raise unknown("data set", text, {*readers, *prepared()})


def list_datasets() -> pd.DataFrame:
    """Return a table of the data sets prepared so far and of the readers that can prepare more.

    Columns: ``name``; ``kind`` (``prepared``, ``embedded`` reader or ``reader``); ``summary``; ``options`` of a reader
    with their defaults, or those that a data set was prepared with; ``users``, ``items``, ``train``; ``fingerprint``;
    ``folder``, or the ``source`` that a reader needs. A plug-in or data set that cannot be read says so in ``summary``.
    """
    rows = [_prepared_row(name, folder) for name, folder in prepared().items()]
    rows += [_reader_row(name) for name in plugins.names("dataset")]
    frame = pd.DataFrame(rows, columns=COLUMNS.split())
    return frame.astype(dict.fromkeys(("users", "items", "train"), "Int64"))


def _prepared_row(name: str, folder: Path) -> dict[str, Any]:
    row: dict[str, Any] = {"name": name, "kind": "prepared", "folder": str(folder)}
    try:
        head = read_head(folder)
        counts, recipe = head.get("report", {}).get("kept", {}), head.get("prepared") or {}
        protocols = ", ".join(protocol["name"] for protocol in head["protocols"])
        summary = f"{recipe.get('reader', 'of your own')}: {protocols}"
        details = {"summary": summary, "options": recipe.get("options", {}), "source": recipe.get("source")}
        sizes = {
            size: counts.get(name) for size, name in SIZES.items()
        }  # those of others' making may lack them
        return row | details | sizes | {"fingerprint": head["fingerprint"]}
    except (ReclmError, LookupError, TypeError, ValueError) as error:
        return row | {"summary": f"damaged: {error}"}


def _reader_row(name: str) -> dict[str, Any]:
    try:
        reader: type[Reader] = plugins.get("dataset", name)
    except ReclmError as error:  # a reader's missing package does not hide the others
        return {"name": name, "kind": "reader", "summary": str(error)}
    row = {"name": name, "kind": "embedded" if reader.embedded else "reader", "summary": reader.summary}
    return row | {"options": reader.Config().model_dump(mode="json"), "source": reader.source}
