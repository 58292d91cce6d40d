"""Profiles of sessions that were written and are not written again."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from reclm.files import Journal
from reclm.profilers.langptune.writer import Written


class KeptProfiles:
    """A file of profiles by session, told apart by all that they depend on.

    What is added outlives the process. Several processes may add to one file; of a session's profiles the first counts.

    Args:
        folder: where; it is made when the first profiles are added.
        key: the model, how it samples, the prompts and the sessions.
    """

    def __init__(self, folder: Path, key: Sequence[str]) -> None:
        name = hashlib.sha256(json.dumps(list(key)).encode()).hexdigest()[:12]
        self._journal = Journal(folder / f"profiles-{name}.jsonl")
        self._rows: dict[int, dict[str, Any]] = {}
        self._size = 0

    def missing(self, rows: Sequence[int]) -> list[int]:
        """Those of the sessions that have no profile here, each once."""
        path = self._journal.path
        if path.is_file() and path.stat().st_size != self._size:  # another process may have added some
            for row in self._journal.rows():
                self._rows.setdefault(row["session"], row)
            self._size = path.stat().st_size
        return [row for row in dict.fromkeys(rows) if row not in self._rows]

    def add(self, rows: Sequence[int], written: Written) -> None:
        """Keep a profile for each session, each with its share of what all of them took."""
        path = self._journal.path
        path.parent.mkdir(parents=True, exist_ok=True)
        alone = (path.stat().st_size if path.is_file() else 0) == self._size
        each = {"tokens": written.tokens / len(rows), "seconds": written.seconds / len(rows)}
        for row, text, ended in zip(rows, written.texts, written.ended, strict=True):
            line = {"session": row, "text": text, "ended": ended, **each}
            self._journal.append(line)
            self._rows[row] = line
        self._journal.close()
        if alone:  # own lines are not read again
            self._size = path.stat().st_size

    def get(self, rows: Sequence[int], paid: Sequence[int] = ()) -> Written:
        """The profiles of sessions that are all here, with what those of ``paid`` took, whoever wrote them."""
        texts, ended = ([self._rows[row][name] for row in rows] for name in ("text", "ended"))
        tokens, seconds = (sum(self._rows[row][name] for row in paid) for name in ("tokens", "seconds"))
        return Written(texts, ended, round(tokens), seconds)
