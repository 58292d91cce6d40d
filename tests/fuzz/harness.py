"""Runs a case: the files of a target, one of them changed, are read within limits, and the outcome is judged."""

import resource
import shutil
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

from reclm.errors import ReclmError
from reclm.folders import workspace

from .mutate import mutate

SECONDS = 10.0
"""A case that takes longer hangs."""
MIB = 500
"""Memory that a case may take above the process after its imports, beside four times its input."""


@dataclass(frozen=True)
class Target:
    """Something that reads files.

    Attributes:
        write: puts sound files into a folder.
        read: reads them; a :class:`ReclmError` refuses them.
        judge: is given the folder, what was read, and what was read of the sound files; it asserts that nothing is
            wrong with it, by means of its own.
        files: globs of the files that are changed; all by default.
        modules: the modules whose branches are counted.
    """

    name: str
    write: Callable[[Path], None]
    read: Callable[[Path], Any]
    judge: Callable[[Path, Any, Any], None]
    files: Sequence[str] = ("**/*",)
    modules: Sequence[str] = ()


@dataclass(frozen=True)
class Outcome:
    """The outcome of a case: read or refused, or a fault, which are traceback, wrong, hangs, memory and died."""

    target: str
    case: int
    kind: str
    detail: str = ""
    seconds: float = 0.0
    mib: float = 0.0

    @property
    def fault(self) -> bool:
        return self.kind not in ("read", "refused")


@dataclass
class _Sound:
    """The sound files of a target, and what is read of them; written once a process."""

    folder: Path
    value: Any
    files: list[str] = field(default_factory=list)


@cache
def _sound(target: Target) -> _Sound:
    folder = Path(tempfile.mkdtemp(prefix=f"fuzz-{target.name}-"))
    workspace(folder / "home")
    (folder / "files").mkdir()
    target.write(folder / "files")
    names = {path for pattern in target.files for path in (folder / "files").glob(pattern) if path.is_file()}
    value = target.read(folder / "files")
    target.judge(folder / "files", value, value)
    return _Sound(folder, value, sorted(str(path.relative_to(folder / "files")) for path in names))


def run_case(target: Target, case: int) -> Outcome:
    """Change the files of a target as number ``case`` says, read them, and return the outcome."""
    sound, random = _sound(target), Random(f"{target.name} {case}")
    folder = Path(tempfile.mkdtemp(prefix="case-", dir=sound.folder))
    try:
        files = folder / "files"
        shutil.copytree(sound.folder / "files", files)
        workspace(folder / "home")
        name = random.choice(sound.files)
        if len(sound.files) > 1 and random.random() < 0.04:
            _swap(files, name, random.choice(sound.files))
        else:
            content = (files / name).read_bytes()
            for _ in range(random.choice((1, 1, 2))):
                content = mutate(name, content, random)
            (files / name).write_bytes(content)
        size = sum(path.stat().st_size for path in files.rglob("*") if path.is_file())
        return _outcome(target, case, files, sound.value, name, size)
    finally:
        workspace(sound.folder / "home")
        shutil.rmtree(folder, ignore_errors=True)


def _swap(files: Path, name: str, other: str) -> None:
    """Put the content of another file into one, or delete it where both are the same."""
    if name == other:
        (files / name).unlink()
    else:
        (files / name).write_bytes((files / other).read_bytes())


def _outcome(target: Target, case: int, files: Path, sound: Any, name: str, size: int) -> Outcome:
    before, start = _forget_peak(), time.perf_counter()

    def outcome(kind: str, detail: str = "") -> Outcome:
        seconds, mib = time.perf_counter() - start, _peak() - before
        if kind in ("read", "refused") and mib > MIB + 4 * size / 2**20:
            kind, detail = "memory", f"{mib:.0f} MiB for {size:,} bytes of {name}"
        return Outcome(target.name, case, kind, detail, seconds, mib)

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            value = target.read(files)
    except ReclmError as error:
        lines = str(error).splitlines()
        if len(lines) != 1 or len(lines[0]) > 2_000 or not lines[0].isprintable():
            return outcome("traceback", f"{name}: not one printable line: {str(error)[:200]!r}")
        return outcome("refused", lines[0])
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        ours = [frame for frame in frames if "site-packages" not in frame.filename]
        at = f"{Path(ours[-1].filename).name}:{ours[-1].lineno}"
        return outcome("traceback", f"{name}: {type(error).__name__} at {at}: {str(error)[:200]!r}")
    try:
        target.judge(files, value, sound)
    except AssertionError as error:
        return outcome("wrong", f"{name}: {str(error)[:300]}")
    except Exception as error:
        return outcome(
            "wrong", f"{name}: read, and the other reader says {type(error).__name__}: {str(error)[:200]}"
        )
    return outcome("read")


def _peak() -> float:
    """Return the most memory that the process has held since :func:`_forget_peak`, in MiB."""
    try:
        status = Path("/proc/self/status").read_text()
        return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) / 1024
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _forget_peak() -> float:
    """Let the peak begin anew where the system can do that, and return it."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return _peak()
