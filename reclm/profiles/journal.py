"""What is on its way into a store's table."""

import json
from io import FileIO
from pathlib import Path
from typing import Any


class Journal:
    """Rows written down the moment they exist, one JSON line each, until the table holds them.

    A table takes some 20 ms a write and grows a version with each, a line takes 10 µs. So that a run killed
    at any moment loses no row it was given, rows come here at once and go into the table by the thousand.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: FileIO | None = None

    def append(self, row: dict[str, Any]) -> None:
        """Write one row down; when this returns it outlives the process."""
        if self._file is None:
            self._file = self.path.open("ab", buffering=0)
        self._file.write(json.dumps(row).encode() + b"\n")

    def rows(self) -> list[dict[str, Any]]:
        """The rows that stand here; a last line cut short by a kill is none."""
        if not self.path.exists():
            return []
        *lines, _cut_short = self.path.read_bytes().split(b"\n")
        return [json.loads(line) for line in lines]

    def clear(self) -> None:
        """Forget the rows: the table holds them now."""
        self.close()
        self.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Let go of the file."""
        if self._file is not None:
            self._file.close()
            self._file = None
