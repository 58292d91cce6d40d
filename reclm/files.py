"""Rows in a file, a JSON line each: what is on its way into a store's table, or needs no table."""

import json
import os
from io import FileIO
from pathlib import Path
from typing import Any


class Journal:
    """Rows written down the moment they exist, one JSON line each; of a store, until the table holds them.

    A table takes some 20 ms a write and grows a version with each, a line takes 10 µs. So that a run killed
    at any moment loses no row it was given, rows come here at once and go into the table by the thousand.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: FileIO | None = None

    def append(self, row: dict[str, Any]) -> None:
        """Write one row down; when this returns it outlives the process."""
        if self._file is None:
            self._file = self.path.open("a+b", buffering=0)
            if self._file.tell():
                self._file.seek(-1, os.SEEK_END)
                if self._file.read(1) != b"\n":
                    self._file.write(b"\n")  # behind a line that a kill cut short
        self._file.write(json.dumps(row).encode() + b"\n")

    def rows(self) -> list[dict[str, Any]]:
        """The rows that stand here; a line cut short by a kill is none."""
        if not self.path.exists():
            return []
        return [row for line in self.path.read_bytes().splitlines() if (row := _row(line)) is not None]

    def clear(self) -> None:
        """Forget the rows: the table holds them now."""
        self.close()
        self.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Let go of the file."""
        if self._file is not None:
            self._file.close()
            self._file = None


def _row(line: bytes) -> dict[str, Any] | None:
    try:
        return json.loads(line)
    except ValueError:
        return None
