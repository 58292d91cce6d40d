"""The interface of readers of raw data, the places they read from, and their report of malformed lines."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BeforeValidator

from reclm.config import Config as BaseConfig
from reclm.console import printable
from reclm.data.dataset import Dataset, ReadReport
from reclm.errors import BadInput, MissingExtra, NotFound

if TYPE_CHECKING:
    import duckdb

SHOWN = 5  # malformed lines that a report quotes; all are counted

Names = BeforeValidator(
    lambda value: [x.strip() for x in value.split(",")] if isinstance(value, str) else value
)
"""Lets an option of several names be written as ``"title, genre"``."""


@dataclass
class MalformedLines:
    """Reports the lines that readers cannot use: counted and the first few quoted or, if ``strict``, fatal."""

    report: ReadReport
    strict: bool = False

    def add(self, file: str, line: int, text: str, why: str) -> None:
        """Note one malformed line, or raise if ``strict``, with file, line number, text and reason."""
        place = f"{file}:{line}: {printable(text, 160)}"
        if self.strict:
            raise BadInput(f"{place} ({why}); mend the line, or leave out --strict to pass over such lines")
        self.report.drop("malformed line")
        if len(self.report.malformed) < SHOWN:
            self.report.malformed.append(f"{place} ({why})")


class Reader(ABC):
    """Turns raw files into a :class:`Dataset`. Registered by entry point under ``reclm.datasets``.

    Attributes:
        name: what users call it, and the default name of the data set.
        summary: one line for ``reclm data list``.
        source: what ``--source`` must point at, in words; empty for an ``embedded`` reader.
        embedded: needs no source: the data comes with an installed package.
        remote: reads a :class:`RemotePath`, too.
        noun: what the items of its data sets are, in the plural, for prompts; empty where they may be anything.
        Config: its options, each with a default.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    source: ClassVar[str] = ""
    embedded: ClassVar[bool] = False
    remote: ClassVar[bool] = False
    noun: ClassVar[str] = ""
    Config: ClassVar[type[BaseConfig]] = BaseConfig

    @abstractmethod
    def read(self, source: Path | None, config: BaseConfig, *, strict: bool = False) -> Dataset:
        """Read ``source`` and split it. What is left out is counted, with the reason, in ``Dataset.report``.

        Args:
            source: the raw files; None only for an embedded reader.
            config: an instance of ``self.Config``.
            strict: stop at the first malformed line instead of passing over it.

        Raises:
            BadInput: if the source is missing, empty or of another format, or for a malformed line if ``strict``.
        """


def existing(source: Path | None, reader: Reader | type[Reader]) -> Path:
    """Return ``source``, which must be given and there."""
    if source is None:
        raise BadInput(f"data set {reader.name!r} needs --source: {reader.source}")
    if not source.exists():
        raise NotFound(f"no such file or folder: {source}; --source must be {reader.source}")
    return source


class RemotePath:
    """A file or folder in a file system of fsspec, such as ``s3://bucket/folder``, with the methods of a path."""

    def __init__(self, url: str) -> None:
        from fsspec.core import url_to_fs

        try:
            self.file_system, self.path = url_to_fs(url)
        except ImportError as error:
            raise MissingExtra(f"{url} cannot be read: {error}", value=url) from error
        except (ValueError, OSError) as error:
            raise NotFound(f"{url} cannot be read: {error}", value=url) from error

    def __str__(self) -> str:
        return self.file_system.unstrip_protocol(self.path)

    def _at(self, path: str) -> "RemotePath":
        other = object.__new__(RemotePath)
        other.file_system, other.path = self.file_system, path
        return other

    def __truediv__(self, name: str) -> "RemotePath":
        return self._at(f"{self.path.rstrip('/')}/{name}")

    @property
    def name(self) -> str:
        return PurePosixPath(self.path).name

    @property
    def parent(self) -> "RemotePath":
        return self._at(self.path.rstrip("/").rpartition("/")[0])

    def exists(self) -> bool:
        return self.file_system.exists(self.path)

    def is_file(self) -> bool:
        return self.file_system.isfile(self.path)

    def glob(self, pattern: str) -> Iterator["RemotePath"]:
        if self.file_system.isdir(self.path):
            paths = sorted(self.file_system.ls(self.path, detail=False))
            yield from (self._at(path) for path in paths if PurePosixPath(path).match(pattern))

    def stat(self) -> Any:
        return SimpleNamespace(st_size=self.file_system.size(self.path))

    def open(self, mode: str = "rb") -> Any:
        return self.file_system.open(self.path, mode)

    def register(self, connection: "duckdb.DuckDBPyConnection") -> None:
        """Let a connection read the file system."""
        connection.register_filesystem(self.file_system)
