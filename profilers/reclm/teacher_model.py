"""A teacher that is asked: a chat model writes profiles of some subjects, one at a time."""

import sys
from functools import cached_property
from pathlib import Path

from reclm.data.dataset import ProfileKind, TrainingView
from reclm.llm.chat import Chat
from reclm.profilers.reclm.config import RecLMConfig
from reclm.profilers.reclm.untuned import UntunedRecLM
from reclm.profiles.estimate import KindEstimate, dry_run
from reclm.profiles.store import KINDS, ProfileStore
from reclm.profiles.write import make_profiles, plans, written

_SAMPLE = 8
"""Prompts that are answered for an estimate; they may cost money."""


class AskedTeacher:
    """The model that ``config.teacher`` names, asked for profiles of the kinds that there is no file of.

    Answers are stored in ``folder`` one by one: a run that was broken asks only for the rest.
    """

    def __init__(self, view: TrainingView, config: RecLMConfig, folder: Path) -> None:
        self.view, self.folder, self.teacher = view, folder, config.teacher
        paths = {"user": config.teacher.users, "item": config.teacher.items}
        self.kinds: list[ProfileKind] = [kind for kind in KINDS if paths[kind] is None]
        self._config = RecLMConfig(
            instructions=config.instructions,
            generation=config.generation,
            neighbours=config.neighbours,
            stages=(),
        )

    @cached_property
    def profiler(self) -> UntunedRecLM:
        """Asks the model as it is."""
        return UntunedRecLM(self._config, model=self.teacher.model, engine=self.teacher.engine)

    def ask(self, progress: bool = True) -> None:
        """Have every profile written that is not there, and say beforehand how many tokens that takes.

        Raises:
            ReclmError: if the model is not there.
        """
        view, profiler, limit = self.view, self.profiler, self.teacher.limit
        writer = f"reclm-{profiler.generator.model}"
        with ProfileStore.open(self.folder, view.fingerprint, writer, view.name) as store:
            for kind in self.kinds if progress else ():
                known: dict[ProfileKind, dict[str, str]] = {
                    "user": store.texts("user") if kind == "item" else {},
                    "item": {},
                }
                for todo in plans(view, profiler, store, kind, known, limit):
                    known[kind] |= written(store, todo)
                    chats = {
                        one.prompt_hash: one.source for one in todo.prompts if isinstance(one.source, Chat)
                    }
                    if chats:
                        read = sum(profiler.generator.count_tokens(chats).values())
                        most = len(chats) * self._config.generation.max_new_tokens
                        print(
                            f"asking {profiler.generator.model} for {len(chats):,} {kind} profiles: about {read:,} "
                            f"tokens to read, at most {most:,} to write",
                            file=sys.stderr,
                        )
            make_profiles(view, profiler, store, self.kinds, limit, progress)

    def estimate(self) -> list[KindEstimate]:
        """What asking would take, from a few answers that are not stored."""
        stored = ProfileStore.read(self.folder) if ProfileStore.at(self.folder) else None
        return dry_run(self.view, self.profiler, stored, self.kinds, self.teacher.limit, _SAMPLE)
