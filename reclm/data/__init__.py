"""Data sets: readers of raw files, splits, and the frozen container that everything else takes."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from reclm.data.dataset import Dataset
    from reclm.folders import Workspace


def load(name_or_path: "str | Path", workspace: "Workspace") -> "Dataset":
    """A data set by name or folder.

    Looked for in this order: a folder with ``dataset.yaml``; a name prepared in ``workspace``; an embedded reader
    (``ml-100k``), whose data is then prepared on the spot and kept in ``workspace``.

    Raises:
        ReclmError: if there is none: how to prepare it or, for an unknown name, the nearest one known.
    """
    from reclm.data.catalog import load

    return load(name_or_path, workspace)
