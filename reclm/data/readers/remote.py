"""Files in remote file systems, such as ``s3://bucket/folder`` or ``hf://datasets/owner/name``, by fsspec."""

from collections.abc import Iterator
from pathlib import PurePosixPath
from types import SimpleNamespace
from typing import Any, BinaryIO, cast

import duckdb

from reclm.errors import MissingExtra, NotFound


class RemotePath:
    """A file or folder in a remote file system, with the methods of a path that readers use.

    Raises:
        MissingExtra: if the package for the file system is not installed.
        NotFound: if fsspec knows no such file system, or it cannot be reached.
    """

    def __init__(self, url: str) -> None:
        from fsspec.core import url_to_fs

        try:
            self.file_system, self.path = url_to_fs(url)
        except ImportError as error:
            raise MissingExtra(f"{url} cannot be read: {error}", value=url) from error
        except (ValueError, OSError) as error:
            raise NotFound(f"{url} cannot be read: {error}", value=url) from error

    def _at(self, path: str) -> "RemotePath":
        other = object.__new__(RemotePath)
        other.file_system, other.path = self.file_system, path
        return other

    def __str__(self) -> str:
        return self.file_system.unstrip_protocol(self.path)

    def __truediv__(self, name: str) -> "RemotePath":
        return self._at(f"{self.path.rstrip('/')}/{name}")

    @property
    def name(self) -> str:
        """The last part."""
        return PurePosixPath(self.path).name

    @property
    def suffix(self) -> str:
        """The ending of the name."""
        return PurePosixPath(self.path).suffix

    @property
    def parent(self) -> "RemotePath":
        """The folder."""
        return self._at(self.path.rstrip("/").rpartition("/")[0])

    def with_name(self, name: str) -> "RemotePath":
        """Return the file of that name in the same folder."""
        return self.parent / name

    def exists(self) -> bool:
        """Tell whether there is such a file or folder."""
        return self.file_system.exists(self.path)

    def is_file(self) -> bool:
        """Tell whether it is a file."""
        return self.file_system.isfile(self.path)

    def is_dir(self) -> bool:
        """Tell whether it is a folder."""
        return self.file_system.isdir(self.path)

    def iterdir(self) -> Iterator["RemotePath"]:
        """Yield what lies in a folder, by name."""
        yield from (self._at(path) for path in sorted(self.file_system.ls(self.path, detail=False)))

    def glob(self, pattern: str) -> list["RemotePath"]:
        """Return the files in the folder whose names match."""
        return (
            [path for path in self.iterdir() if PurePosixPath(path.name).match(pattern)]
            if self.is_dir()
            else []
        )

    def stat(self) -> Any:
        """Return the size, as ``st_size``."""
        return SimpleNamespace(st_size=self.file_system.size(self.path))

    def open(self, mode: str = "rb") -> BinaryIO:
        """Open the file."""
        return cast(BinaryIO, self.file_system.open(self.path, mode))

    def register(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Let a connection read the file system."""
        connection.register_filesystem(self.file_system)
