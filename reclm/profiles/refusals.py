"""The prompts of a profile store that a model would not answer: later runs do not pay for them again."""

from collections.abc import Mapping, Sequence
from typing import Any, Self

from reclm.files import Journal
from reclm.profiles.store import ProfileStore


class Refusals:
    """Why prompts got no answer that would get none again, by prompt hash: refused, empty, too long, cut.

    They lie in ``refused.jsonl`` beside the profiles, a row each; ``known`` has those of the earlier store as well.
    ``tried`` are prompts of a model that had not answered any: it may be to blame, so they are asked again, but last.
    """

    def __init__(self, store: ProfileStore, known: Mapping[str, str]) -> None:
        self._store, self.known = store, dict(known)
        self.tried: set[str] = set()
        self._held: dict[str, str] = {}
        self._file = Journal(store.folder / "refused.jsonl")

    @classmethod
    def of(cls, store: ProfileStore) -> Self:
        """Read the refusals of a store; a damaged row is left out: its prompt is asked again."""
        earlier = store.folder.with_name(store.info.earlier) if store.info.earlier else None
        known = cls.of(store.read(earlier)).known if earlier and store.at(earlier) else {}
        found = cls(store, known)
        for row in found._file.rows():
            if not isinstance(row, dict) or not isinstance(prompt := row.get("prompt_hash"), str):
                continue
            if isinstance(fault := row.get("fault"), str):
                found.known[prompt] = fault
            elif row.get("tried") is True:
                found.tried.add(prompt)
        return found

    def add(self, faults: Mapping[str, str], proven: bool) -> None:
        """Remember faults by prompt hash, as refusals once the model is ``proven`` to answer others."""
        self._held |= faults
        if proven:
            new = {prompt: fault for prompt, fault in self._held.items() if self.known.get(prompt) != fault}
            self._append([{"prompt_hash": prompt, "fault": fault} for prompt, fault in new.items()])
            self.known |= new
            self._held = {}
        else:
            new = faults.keys() - self.tried
            self._append([{"prompt_hash": prompt, "tried": True} for prompt in sorted(new)])
            self.tried |= new

    def _append(self, rows: Sequence[dict[str, Any]]) -> None:
        if rows:
            self._store.begin()
            for row in rows:
                self._file.append(row)
            self._file.close()
