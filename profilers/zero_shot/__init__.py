"""Profiles by an instruction-tuned language model as it comes: no tuning, one subject at a time."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Self

import numpy as np

from reclm.data.dataset import ProfileKind, TrainingView
from reclm.llm.chat import Chat, TextGenerator, prompt_hash
from reclm.profilers.profile_format import ProfileFormatError, parse, tidy
from reclm.profilers.zero_shot.config import ZeroShotConfig
from reclm.profilers.zero_shot.prompts import TITLES, item_chat, quoted, user_chat
from reclm.profiles.profile import Known, Profile, Profiler, Subject
from reclm.text.item_text import ItemBriefs

__all__ = ["ZeroShot", "ZeroShotConfig"]


class ZeroShot(Profiler):
    """User profiles from the newest items of the history, item profiles from text and the users who chose it.

    Args:
        config: see :class:`ZeroShotConfig`.
        generator: runs the language model.
    """

    Config = ZeroShotConfig

    def __init__(self, config: ZeroShotConfig, generator: TextGenerator) -> None:
        self.config: ZeroShotConfig = config
        self.generator = generator

    @classmethod
    def load(cls, folder: Path, generator: TextGenerator) -> Self:
        """A profiler that :meth:`save` wrote."""
        return cls(ZeroShotConfig.from_yaml(folder / "config.yaml"), generator)

    def fit(self, view: TrainingView) -> Self:
        """Nothing to learn."""
        return self

    def subjects(
        self, view: TrainingView, kind: ProfileKind, idx: np.ndarray, known: Known
    ) -> Iterator[Subject]:
        """The prompt for each row of ``idx``. Users without a history and items without any text are left out."""
        config = self.config
        briefs = ItemBriefs(view.item_text, details_limit=config.text_chars)
        params = config.sampling(kind)
        users = known.get("user", {})
        for row, one in zip(idx, view.idmap(kind).ids(idx), strict=True):
            history = view.history(kind, int(row))[::-1]
            if kind == "user":
                items = [briefs[item] for item in view.train.item_idx[history[: config.history]]]
                items = [item for item in items if item.title or item.topics or item.details]
                if not items:
                    continue
                chat = user_chat(items, config.topics, config.text_chars)
            else:
                item = briefs[row]
                if not (item.title or item.topics or item.details):
                    continue
                clickers = view.users.ids(view.train.user_idx[history[: config.clickers]])
                profiles = [users[user] for user in clickers if user in users]
                chat = item_chat(
                    item, config.topics, config.text_chars, quoted(profiles, config.quoted, item.title)
                )
            yield Subject(kind, one, prompt_hash(chat, self.generator.model, params), chat)

    def write(self, subjects: Iterable[Subject]) -> Iterator[Profile]:
        """The profiles, each as soon as it is done; equal prompts are generated once.

        A profile with too few different phrases is written once more, with a penalty on repetition, where the generator
        has one; the better one stays.
        """
        wanted: dict[ProfileKind, dict[str, list[Subject]]] = {"user": {}, "item": {}}
        for subject in subjects:
            wanted[subject.kind].setdefault(subject.prompt_hash, []).append(subject)
        for kind, by_prompt in wanted.items():
            chats = {key: _chat(same[0]) for key, same in by_prompt.items()}
            for answer in self._answers(kind, chats) if chats else ():
                for subject in by_prompt[answer.prompt_hash]:
                    yield replace(answer, id=subject.id)

    def _answers(self, kind: ProfileKind, chats: Mapping[str, Chat]) -> Iterator[Profile]:
        """One profile a chat."""
        poor: dict[str, Profile] = {}
        # a model that cannot be penalised would be asked the same again
        once = self.config.second_penalty is None or "repetition_penalty" in self.generator.unsupported
        for one in self._tries(kind, chats, again=False):
            if once or self.in_format(kind, one.text):
                yield one
            else:
                poor[one.prompt_hash] = one
        for one in self._tries(kind, {key: chats[key] for key in poor}, again=True):
            first = poor[one.prompt_hash]
            yield replace(
                one if self.in_format(kind, one.text) else first,
                prompt_tokens=first.prompt_tokens + one.prompt_tokens,
                new_tokens=first.new_tokens + one.new_tokens,
            )

    def _tries(self, kind: ProfileKind, chats: Mapping[str, Chat], again: bool) -> Iterator[Profile]:
        if not chats:
            return
        config, params = self.config, self.config.sampling(kind, again)
        phrases = config.phrases if kind == "user" else config.item_phrases
        for answer in self.generator.generate(chats, params):
            titles = chats[answer.key].messages[-1].content.rpartition(TITLES)[2]
            text = tidy(answer.text, phrases, titles)
            yield Profile.answered(kind, "", text, answer, self.generator.model, params)

    def in_format(self, kind: ProfileKind, text: str) -> bool:
        """Whether a profile is ``User identity: a, b, c; User interests: x, y, z.`` with as many of each."""
        try:
            parse(text, self.config.phrases if kind == "user" else self.config.item_phrases)
        except ProfileFormatError:
            return False
        return True


def _chat(subject: Subject) -> Chat:
    assert isinstance(subject.source, Chat)
    return subject.source
