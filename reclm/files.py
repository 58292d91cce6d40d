"""Files and folders that are written whole or not at all, an append-only journal, and a lock between processes."""

import ctypes
import errno
import hashlib
import itertools
import json
import os
import platform
import re
import shutil
import sys
import zlib
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path
from typing import Any, Self

from filelock import FileLock, Timeout

from reclm.errors import BadInput, Busy, Damaged

_NUMBER = itertools.count()
_HOST = f"{zlib.crc32(platform.node().encode()):08x}"
_DRAFT = re.compile(rf"\.(?P<name>.+)-{_HOST}-(?P<pid>\d+)-\d+(?P<end>\.new|\.old|\.[^.]*)")
CHECKSUMS = "checksums.json"


def _draft(path: Path, end: str) -> Path:
    """Return a new name beside ``path`` that tells the process it belongs to."""
    return path.with_name(f".{path.name}-{_HOST}-{os.getpid()}-{next(_NUMBER)}{end}")


def _alive(pid: int) -> bool:
    if os.name != "posix":
        return True  # there, asking would end it
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def clean(folder: Path) -> None:
    """Remove the drafts that killed processes of this machine left in ``folder``; what they set aside comes back."""
    with suppress(OSError):
        for path in folder.iterdir():
            match = _DRAFT.fullmatch(path.name)
            if match is None or _alive(int(match["pid"])):
                continue
            with suppress(OSError):
                if match["end"] == ".old" and not (target := folder / match["name"]).exists():
                    path.rename(target)
                elif path.is_dir():
                    shutil.rmtree(path)
                else:
                    path.unlink()


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a draft of the same suffix, which takes the place of ``path`` if the block ends without an exception."""
    draft = _draft(path.with_suffix(""), path.suffix or ".draft")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        clean(path.parent)
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
    draft, before = _draft(folder, ".new"), _draft(folder, ".old")
    try:
        clean(folder.parent)
        draft.mkdir(parents=True)
        try:
            yield draft
            if not swap(draft, folder):
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


@contextmanager
def atomic_change(folder: Path, replaced: Collection[str]) -> Iterator[Path]:
    """Yield a folder that takes the place of ``folder``, as :func:`atomic_folder` does, to write some files anew.

    It begins with all that is in ``folder`` but the files ``replaced`` and drafts, as links where the file system has
    them.
    """

    def ignored(place: str, names: list[str]) -> list[str]:
        top = set(replaced) if Path(place) == folder else set()
        return [name for name in names if name in top or _DRAFT.fullmatch(name)]

    with atomic_folder(folder) as draft:
        if folder.is_dir():
            options: dict[str, Any] = {"copy_function": _link, "dirs_exist_ok": True}
            shutil.copytree(folder, draft, symlinks=True, ignore=ignored, **options)
        yield draft


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target, follow_symlinks=False)
    except (OSError, NotImplementedError):
        shutil.copy2(source, target, follow_symlinks=False)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8, whole or not at all; half a surrogate pair in a text of data is written as an escape."""
    with atomic_file(path) as draft:
        draft.write_text(text, encoding="utf-8", errors="backslashreplace", newline="\n")


@contextmanager
def draft_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty folder to fill beside ``folder``, for :func:`move_to_free`; what is left of it is deleted."""
    draft = _draft(folder, ".new")
    try:
        clean(folder.parent)
        draft.mkdir(parents=True)
        try:
            yield draft
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    except OSError as error:
        raise _refused(folder, error) from error


def move_to_free(draft: Path, folder: Path) -> Path:
    """Move a filled folder to ``folder``, or ``folder-2`` … where that is taken, in one step; return its new place."""
    for number in itertools.count(1):
        place = folder if number == 1 else folder.with_name(f"{folder.name}-{number}")
        try:
            return draft.rename(place)
        except OSError as error:
            if error.errno not in {errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR}:
                raise
    raise AssertionError


@contextmanager
def atomic_files(folder: Path, earlier: Collection[str], last: str) -> Iterator[Path]:
    """Yield an empty folder to fill, whose files replace the ``earlier`` ones in ``folder``.

    Where ``folder`` holds nothing else it is replaced as a whole. Otherwise the earlier files are deleted, the file
    ``last``, which says that all are there, first; then the new ones are moved in, and it comes last.
    """
    if not folder.exists() or {path.name for path in folder.iterdir()} <= set(earlier):
        with atomic_folder(folder) as draft:
            yield draft
        return
    draft = _draft(folder / "files", ".new")
    try:
        clean(folder)
        draft.mkdir()
        try:
            yield draft
            names = sorted(path.name for path in draft.iterdir() if path.name != last)
            for name in (last, *sorted({*earlier, *names})):
                (folder / name).unlink(missing_ok=True)
            for name in (*names, last):
                (draft / name).rename(folder / name)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    except OSError as error:
        raise _refused(folder, error) from error


def swap(one: Path, other: Path) -> bool:
    """Exchange two folders in one step; return False where one is missing, or the file system cannot."""
    if sys.platform != "linux" or not (one.exists() and other.exists()):
        return False
    exchange = getattr(ctypes.CDLL(None), "renameat2", None)
    here, both = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return exchange is not None and exchange(here, os.fsencode(one), here, os.fsencode(other), both) == 0


def remove_folder(folder: Path) -> None:
    """Delete a folder, if it is there: as a whole, wherever the process is killed."""
    aside = _draft(folder, ".new")
    with suppress(FileNotFoundError):
        folder.rename(aside)
    shutil.rmtree(aside, ignore_errors=True)


def write_checksums(folder: Path, names: Iterable[str]) -> None:
    """Write the SHA-256 of the files ``names`` that are in ``folder``, for :func:`check_files`."""
    files = [folder / name for name in names if (folder / name).is_file()]
    with atomic_file(folder / CHECKSUMS) as draft:
        draft.write_text(json.dumps({path.name: _sha256(path) for path in files}, indent=1), encoding="utf-8")


def check_files(folder: Path, what: str, remedy: str) -> None:
    """Raise Damaged if a file in ``folder`` is missing or not as :func:`write_checksums` found it.

    A folder without checksums, of an earlier version, is not checked.
    """
    path = folder / CHECKSUMS
    if not path.is_file():
        return
    try:
        sums = json.loads(path.read_text(encoding="utf-8"))
        changed = next((name for name, known in sums.items() if _sha256(folder / name) != known), None)
    except (ValueError, AttributeError, OSError, TypeError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise Damaged(f"{folder} is a damaged {what}: {reason}; {remedy}", where=path) from error
    if changed is not None:
        message = f"{folder} is a damaged {what}: the checksum of {changed} is not what was written; {remedy}"
        raise Damaged(message, value=changed, where=folder / changed)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _refused(path: Path, error: OSError) -> BadInput:
    return BadInput(f"cannot write {path}: {error.strerror or error}; choose another folder", where=path)


class Lock:
    """A lock between processes on an empty file; ``busy`` is the message where another holds it after ``timeout`` s."""

    def __init__(self, path: Path, busy: str, timeout: float = 0.0) -> None:
        self.path, self.busy, self.timeout = path, busy, timeout
        self._lock = FileLock(path)

    def acquire(self, timeout: float | None = None) -> None:
        """Take the lock, or take it once more; :class:`Busy` if another process holds it, after ``timeout`` s, too."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(timeout=self.timeout if timeout is None else timeout)
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


def parse_object(line: str | bytes) -> dict[str, Any]:
    """Return the JSON object in a line; ValueError for anything else, and where two of its values have one name."""
    try:
        value = json.loads(line, object_pairs_hook=distinct_names)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"no JSON: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"a JSON {type(value).__name__}, not an object")
    return value


def distinct_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object; ValueError where two of its values have one name: nobody can tell which one is meant."""
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"two values are called {next(name for name in names if names.count(name) > 1)!r}")
    return values


def _row(line: bytes) -> dict[str, Any] | None:
    try:
        return parse_object(line)
    except ValueError:
        return None


class Journal:
    """Rows in a file, one JSON line each: a process that is killed loses no row that was appended.

    Lines end with a line feed alone, as they are written: a carriage return is a blank in JSON.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: FileIO | None = None

    def append(self, row: dict[str, Any]) -> None:
        """Write one row, which outlives the process from now on."""
        if self._file is None:
            self._file = self.path.open("a+b", buffering=0)
            self._file.seek(0)
            content = self._file.read()
            end = content.rfind(b"\n") + 1
            if _row(content[end:]) is not None:
                self._file.write(b"\n")
            else:
                self._file.truncate(end)  # of a line that a kill cut short
        self._file.write(json.dumps(row).encode() + b"\n")

    def rows(self) -> list[dict[str, Any] | None]:
        """Return the rows of the file, None for a damaged one; a last line that a kill cut short is left out."""
        rows: list[dict[str, Any] | None] = []
        with suppress(FileNotFoundError):
            *lines, last = self.path.read_bytes().split(b"\n")
            rows = [_row(line) for line in lines]
            if (row := _row(last)) is not None:
                rows.append(row)
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
