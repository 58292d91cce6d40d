"""Profiles of sessions that were written and are not written again."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from reclm.profilers.langptune.writer import Written
from reclm.profiles.journal import Journal


class KeptProfiles:
    """A file of profiles by session, told apart by all that they depend on.

    What is added outlives the process. Several processes may add to one file; none sees what the others add meanwhile.

    Args:
        folder: where; it is made when the first profiles are added.
        key: the model, how it samples, the prompts and the sessions.
    """

    def __init__(self, folder: Path, key: Sequence[str]) -> None:
        name = hashlib.sha256(json.dumps(list(key)).encode()).hexdigest()[:12]
        self._journal = Journal(folder / f"profiles-{name}.jsonl")
        self._known = {row["session"]: (row["text"], row["ended"]) for row in self._journal.rows()}

    def missing(self, rows: Sequence[int]) -> list[int]:
        """Those of the sessions that have no profile here, each once."""
        return [row for row in dict.fromkeys(rows) if row not in self._known]

    def add(self, rows: Sequence[int], written: Written) -> None:
        """Keep a profile for each session."""
        self._journal.path.parent.mkdir(parents=True, exist_ok=True)
        for row, text, ended in zip(rows, written.texts, written.ended, strict=True):
            self._journal.append({"session": row, "text": text, "ended": ended})
            self._known[row] = text, ended
        self._journal.close()

    def get(self, rows: Sequence[int], tokens: int = 0) -> Written:
        """The profiles of sessions that are all here; ``tokens`` of them were written just now."""
        both = [self._known[row] for row in rows]
        return Written([text for text, _ in both], [ended for _, ended in both], tokens)
