"""Files and folders that are written whole or not at all, an append-only journal, and a lock between processes."""

import itertools
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path
from typing import Any, Self

from filelock import FileLock, Timeout

from reclm.errors import BadInput, Busy

_NUMBER = itertools.count()


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a draft of the same suffix, which takes the place of ``path`` if the block ends without an exception."""
    draft = path.with_name(f".{path.stem}-{os.getpid()}-{next(_NUMBER)}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield draft
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)
    except OSError as error:
        raise _refused(path, error) from error


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty folder to fill, which replaces ``folder`` as a whole if the block ends without an exception."""
    draft, before = (
        folder.with_name(f".{folder.name}-{os.getpid()}-{next(_NUMBER)}.{part}") for part in ("new", "old")
    )
    try:
        draft.mkdir(parents=True)
        try:
            yield draft
            if folder.exists():
                folder.rename(before)
            draft.rename(folder)
        finally:
            if before.exists() and not folder.exists():
                before.rename(folder)
            for leftover in (draft, before):
                shutil.rmtree(leftover, ignore_errors=True)
    except OSError as error:
        raise _refused(folder, error) from error


def _refused(path: Path, error: OSError) -> BadInput:
    return BadInput(f"cannot write {path}: {error.strerror or error}; choose another folder", where=path)


class Lock:
    """A lock between processes on an empty file; ``busy`` is the message where another holds it after ``timeout`` s."""

    def __init__(self, path: Path, busy: str, timeout: float = 0.0) -> None:
        self.path, self.busy, self.timeout = path, busy, timeout
        self._lock = FileLock(path)

    def acquire(self) -> None:
        """Take the lock, or take it once more; :class:`Busy` if another process holds it."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(timeout=self.timeout)
        except Timeout as error:
            raise Busy(self.busy, where=self.path) from error
        except OSError as error:
            raise _refused(self.path.parent, error) from error

    def release(self) -> None:
        """Release the lock, as often as it was taken."""
        self._lock.release()

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


class Journal:
    """Rows in a file, one JSON line each: a process that is killed loses no row that was appended."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: FileIO | None = None

    def append(self, row: dict[str, Any]) -> None:
        """Write one row, which outlives the process from now on."""
        if self._file is None:
            self._file = self.path.open("a+b", buffering=0)
            if self._file.tell():
                self._file.seek(-1, os.SEEK_END)
                if self._file.read(1) != b"\n":
                    self._file.write(b"\n")  # behind a line that a kill cut short
        self._file.write(json.dumps(row).encode() + b"\n")

    def rows(self) -> list[dict[str, Any]]:
        """Return the rows of the file; a line that a kill cut short is left out."""
        rows: list[dict[str, Any]] = []
        with suppress(FileNotFoundError):
            for line in self.path.read_bytes().splitlines():
                with suppress(ValueError, RecursionError):
                    rows.append(json.loads(line))
        return rows

    def clear(self) -> None:
        """Delete the file."""
        self.close()
        self.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Close the file; the next :meth:`append` opens it again."""
        if self._file is not None:
            self._file.close()
            self._file = None
