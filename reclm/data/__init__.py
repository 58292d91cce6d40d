"""Data sets: readers of raw files, splits, and the frozen container that everything else takes."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from reclm.data.dataset import Dataset
    from reclm.folders import Workspace


def load(name_or_path: "str | Path", workspace: "Workspace | None" = None) -> "Dataset":
    """Load a data set by name or folder: see :func:`reclm.data.catalog.load_dataset`."""
    from contextvars import copy_context

    from reclm import folders
    from reclm.data.catalog import load_dataset

    def at_workspace() -> "Dataset":
        if workspace is not None:
            folders.workspace(workspace.root)
        return load_dataset(name_or_path)

    return copy_context().run(at_workspace)  # leaves the caller's workspace as it is
