"""Data sets by name: readers that are installed, data sets that are prepared."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from reclm import plugins
from reclm.data.dataset import Dataset
from reclm.data.readers.base import Reader
from reclm.data.storage import is_dataset, load_folder, save
from reclm.errors import ReclmError, unknown
from reclm.folders import Workspace, slug


def prepare(
    reader_name: str,
    source: Path | None,
    options: dict[str, Any],
    workspace: Workspace,
    *,
    name: str | None = None,
    folder: Path | None = None,
    strict: bool = False,
) -> tuple[Dataset, Path]:
    """Read raw data, split it and save the result.

    Args:
        reader_name: a plug-in of the group ``reclm.datasets``.
        options: of the reader's ``Config``.
        name: what to call the data set; by default as the reader.
        folder: where to save it; by default in ``workspace`` under its name.

    Returns:
        the data set and its folder.

    Raises:
        ReclmError: for an unknown reader or option, or what :meth:`Reader.read` or :func:`save` object to.
    """
    reader: Reader = plugins.get("dataset", reader_name)()
    config = reader.Config.build(options, where=f"{reader_name} option")
    if source is None and not reader.embedded:
        raise ReclmError(f"data set {reader_name!r} needs --source PATH: {reader.source}")
    name = name or reader_name
    if folder is None and slug(name) != name:
        raise ReclmError(
            f"a data set cannot be called {name!r}: its folder is; take letters A to Z, digits, dots, dashes and "
            f"underscores, as {slug(name)!r}, or name the folder with --out"
        )
    dataset = replace(reader.read(source, config, strict=strict), name=name)
    folder = folder or workspace.dataset(dataset.name)
    how = {"reader": reader_name, "source": source and str(source), "options": config.model_dump(mode="json")}
    save(dataset, folder, how | {"strict": strict})
    return dataset, folder


def prepared(workspace: Workspace) -> dict[str, Path]:
    """The folders of the data sets in a workspace, by name, sorted."""
    folders = sorted(workspace.dataset("x").parent.glob("*"))
    return {folder.name: folder for folder in folders if is_dataset(folder) and folder.name[0] != "."}


def load(name_or_path: str | Path, workspace: Workspace) -> Dataset:
    """See :func:`reclm.data.load`."""
    name = str(name_or_path)
    # a name that is no folder's is none of the workspace's
    own = [workspace.dataset(name)] if slug(name) == name else []
    for folder in (Path(name_or_path), *own):
        if is_dataset(folder):
            return load_folder(folder)
    readers = plugins.names("dataset")
    if name in readers:
        reader: Reader = plugins.get("dataset", name)()
        if reader.embedded:
            return prepare(name, None, {}, workspace)[0]
        raise ReclmError(
            f"data set {name!r} is not prepared in {workspace.root}; reclm data prepare {name} --source PATH "
            f"(PATH: {reader.source})"
        )
    if Path(name_or_path).exists():
        raise ReclmError(
            f"{name} is no prepared data set (it has no dataset.yaml); reclm data prepare NAME --source {name}, "
            f"where NAME is one of {', '.join(readers)}"
        )
    raise unknown("data set", name, {*readers, *prepared(workspace)})
