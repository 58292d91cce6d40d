"""The prompts of a profile store that a model would not answer: later runs do not pay for them again."""

from collections.abc import Mapping
from typing import Self

from reclm.files import Journal
from reclm.profiles.store import ProfileStore


class Refusals:
    """Why prompts got no answer that would get none again, by prompt hash: refused, empty, too long, cut.

    They lie in ``refused.jsonl`` beside the profiles, a row each; ``known`` has those of the earlier store as well.
    """

    def __init__(self, store: ProfileStore, known: Mapping[str, str]) -> None:
        self._store, self.known = store, dict(known)
        self._file = Journal(store.folder / "refused.jsonl")

    @classmethod
    def of(cls, store: ProfileStore) -> Self:
        """Read the refusals of a store; a damaged row is left out: its prompt is asked again."""
        earlier = store.folder.with_name(store.info.earlier) if store.info.earlier else None
        known = cls.of(store.read(earlier)).known if earlier and store.at(earlier) else {}
        found = cls(store, known)
        for row in found._file.rows():
            prompt, fault = (
                row.get(name) if isinstance(row, dict) else None for name in ("prompt_hash", "fault")
            )
            if isinstance(prompt, str) and isinstance(fault, str):
                found.known[prompt] = fault
        return found

    def add(self, faults: Mapping[str, str]) -> None:
        """Remember faults by prompt hash."""
        new = {prompt: fault for prompt, fault in faults.items() if self.known.get(prompt) != fault}
        if new:
            self._store.begin()
            for prompt, fault in new.items():
                self._file.append({"prompt_hash": prompt, "fault": fault})
            self._file.close()
        self.known |= new
