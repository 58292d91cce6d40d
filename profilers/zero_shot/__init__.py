"""Profiles by an instruction-tuned language model as it comes: no tuning, one subject at a time."""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Self

import numpy as np

from reclm.data.dataset import ProfileKind, TrainingView
from reclm.profilers.format import ProfileFormatError, parse, tidy
from reclm.profilers.zero_shot.config import ZeroShotConfig
from reclm.profilers.zero_shot.prompts import item_chat, quoted, user_chat
from reclm.profiles.profile import Profile, Profiler, Subject
from reclm.text.brief import ItemBriefs
from reclm.text.chat import Chat, TextGenerator, prompt_hash

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
        self, view: TrainingView, kind: ProfileKind, idx: np.ndarray, known: Mapping[str, str]
    ) -> Iterator[Subject]:
        """The prompt for each row of ``idx``. Users without a history and items without any text are left out."""
        config = self.config
        briefs = ItemBriefs(view.item_text, details_limit=config.text_chars)
        params = config.sampling(kind)
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
                profiles = [known[user] for user in clickers if user in known]
                chat = item_chat(
                    item, config.topics, config.text_chars, quoted(profiles, config.quoted, item.title)
                )
            yield Subject(kind, one, prompt_hash(chat, self.generator.model, params), chat)

    def write(self, subjects: Iterable[Subject]) -> Iterator[Profile]:
        """The profiles, each as soon as it is done; equal prompts are generated once."""
        wanted: dict[ProfileKind, dict[str, list[Subject]]] = {"user": {}, "item": {}}
        for subject in subjects:
            wanted[subject.kind].setdefault(subject.prompt_hash, []).append(subject)
        for kind, by_prompt in wanted.items():
            phrases = self.config.phrases if kind == "user" else self.config.item_phrases
            params = self.config.sampling(kind)
            settings = json.dumps(params.model_dump(mode="json"))
            chats = {key: _chat(same[0]) for key, same in by_prompt.items()}
            for answer in self.generator.generate(chats, params):
                text = tidy(answer.text, phrases)
                for subject in by_prompt[answer.key]:
                    yield Profile(
                        kind=kind,
                        id=subject.id,
                        text=text,
                        prompt_hash=subject.prompt_hash,
                        model=self.generator.model,
                        settings=settings,
                        prompt_tokens=answer.prompt_tokens,
                        new_tokens=answer.new_tokens,
                        finish_reason=answer.finish_reason,
                    )

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
