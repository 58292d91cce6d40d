"""Folders: the workspace that holds prepared data sets, profile stores and results."""

import os
import re
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from reclm.errors import BadInput, check_type, check_utf8


def slug(name: str) -> str:
    """Turn a name from outside into one safe folder name: no separators, no leading dot, at most 80 characters."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip(".-")[:80] or "unnamed"


def to_path(place: Any, where: str) -> Path:
    """Return the path that the argument ``where`` names; BadInput for anything but a path or its text."""
    check_type(where, place, (str, os.PathLike), "give a path, as in 'folder/name'")
    if not str(place) or "\0" in str(place):
        raise BadInput(
            f"{where} = {place!r} is no path; give one, as in 'folder/name'", value=place, where=where
        )
    check_utf8(str(place), where)
    return Path(place)


def make_folder(folder: Path, option: str) -> None:
    """Make the folder that an option names, and its parents, where they are missing."""
    check_local(folder, option)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        message = f"folder {folder} cannot be made ({error.strerror}); choose another {option}"
        raise BadInput(message, value=folder, where=option) from error


def check_local(folder: Path, option: str) -> None:
    """Refuse an address, such as ``s3://bucket/x``, in place of a folder: it would be a folder called ``s3:``."""
    if match := re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", str(folder)):
        message = f"{folder} is an address ({match[0]}), and {option} takes a folder of this machine"
        raise BadInput(message, value=folder, where=option)


def has_file(folder: Path, name: str) -> bool:
    """Return whether a file ``name`` is in ``folder``; BadInput where this user may not look."""
    try:
        return (folder / name).is_file()
    except PermissionError as error:
        message = f"{folder} cannot be read ({error.strerror}); ask its owner, or work in another --home"
        raise BadInput(message, value=error.errno, where=folder, remedy="--home") from error
    except OSError:  # no name of a file, such as one of 300 characters
        return False


def check_folder(folder: Path, mark: str, what: str, option: str) -> None:
    """Refuse a folder, named by ``option``, that holds something else than ``what``, which has a file ``mark``.

    Hidden files may be the draft and the lock of a process that writes it now.
    """
    check_local(folder, option)
    if folder.exists() and not has_file(folder, mark) and (not folder.is_dir() or any(folder.glob("[!.]*"))):
        message = f"{folder} holds something else than {what}; choose another {option}"
        raise BadInput(message, value=folder, where=folder)


@dataclass(frozen=True)
class Workspace:
    """The folder that holds a user's work."""

    root: Path

    @classmethod
    def at(cls, home: Path | None = None) -> "Workspace":
        """Return the workspace at ``home``, else at ``$RECLM_HOME``, else at ``./reclm-home``. Creates nothing."""
        return cls(home or to_path(os.environ.get("RECLM_HOME") or "reclm-home", "RECLM_HOME"))

    def datasets(self) -> Path:
        """Return the folder of the prepared data sets."""
        return self.root / "datasets"

    def dataset(self, name: str) -> Path:
        """Return the folder of the prepared data set ``name``."""
        return self.datasets() / slug(name)

    def store(self, dataset: str, writer: str) -> Path:
        """Return the folder of the profiles that ``writer`` (a profiler, with its model) wrote for ``dataset``."""
        return self.root / "profiles" / slug(dataset) / slug(writer)

    def tuned(self, dataset: str, name: str) -> Path:
        """Return the folder of a profiler that is tuned on ``dataset``."""
        return self.root / "tuned" / slug(dataset) / slug(name)

    def trials(self) -> Path:
        """Return the folder of cached trials, each under the hash of what defines it."""
        return self.root / "cells"

    def runs(self) -> Path:
        """Return the folder of benchmark results, one folder a run."""
        return self.root / "runs"

    def new_run(self, *names: str) -> Path:
        """Return the folder for a run that is saved now, ``runs/TIME-NAMES``; it may be taken. Creates nothing."""
        return self.runs() / "-".join([datetime.now().strftime("%Y%m%d-%H%M%S"), *map(slug, names)])


_CURRENT: ContextVar[Workspace | None] = ContextVar("workspace", default=None)


def current() -> Workspace:
    """Return the workspace that :func:`workspace` chose, else the default one."""
    return _CURRENT.get() or Workspace.at()


def workspace(folder: str | Path | None = None) -> Path:
    """Return the folder that holds your work, after changing it to ``folder`` where one is given.

    By default it is ``$RECLM_HOME``, else ``./reclm-home``.
    """
    if folder is not None:
        _CURRENT.set(Workspace(to_path(folder, "folder")))
    return current().root
