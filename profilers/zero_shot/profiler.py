"""The zero-shot profiler: user profiles from histories, item profiles from item text and the users who chose it."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Self

import numpy as np
from pydantic import Field

from reclm.config import Config
from reclm.data.dataset import ProfileKind, TrainingView
from reclm.llm.chat import Chat, SamplingParams, prompt_hash
from reclm.profilers.profile_format import answer_pattern, fault, tidy
from reclm.profilers.zero_shot.prompts import TITLES, common_phrases, item_chat, user_chat
from reclm.profiles.profile import Known, Profile, Profiler, Subject
from reclm.text.item_text import ItemBriefs


class ZeroShotConfig(Config):
    """The content of the prompts, and how answers are generated. Prompt tokens are the cost: keep prompts short."""

    history: int = Field(default=8, ge=1)
    """Newest items of a user that a prompt names."""
    text_chars: int = Field(default=260, ge=40)
    """Most characters of titles and description in a prompt."""
    topics: int = Field(default=5, ge=0)
    """Most topics (genres, categories) named, the commonest of the history first."""
    clickers: int = Field(default=5, ge=0)
    """Newest users of an item whose profiles its prompt may quote; 5 in the paper."""
    quoted: int = Field(default=4, ge=1)
    """Most interests quoted from those profiles, and half as many identities."""
    phrases: int = Field(default=3, ge=1, le=10)
    """Identities, and as many interests, in a user's profile; 3 in the paper."""
    item_phrases: int = Field(default=3, ge=1, le=10)
    """The same of an item's profile; 5 in the paper, which takes half as long again."""
    constrain: bool = True
    """Let the model write nothing that is not in the profile format."""
    max_new_tokens: int = Field(default=80, ge=8)
    temperature: float = Field(default=0.0, ge=0)
    """0 takes the most likely token each time; the paper samples at 0.9."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    repetition_penalty: float = Field(default=1.0, gt=0)
    """On the words of prompt and answer. The paper's 1.3 drives a small model away from the history's own words."""
    presence_penalty: float = Field(default=2.0, ge=-2, le=2)
    """On the words of the answer alone: prevents repeated phrases."""
    second_penalty: float | None = Field(default=1.1, gt=1)
    """Repetition penalty when a profile with too few different phrases is written once more; none: it stays."""
    seed: int = 0

    def phrases_of(self, kind: ProfileKind) -> int:
        """Return the number of identities, and of interests, in a profile of ``kind``."""
        return self.phrases if kind == "user" else self.item_phrases

    def sampling(self, kind: ProfileKind, again: bool = False) -> SamplingParams:
        """Return how profiles of a kind are generated; ``again``: at the second try."""
        # an item's prompt says less than a history, and more of the answer is repeated
        spare = 1 if kind == "user" else 2
        return SamplingParams(
            max_new_tokens=self.max_new_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            repetition_penalty=(again and self.second_penalty) or self.repetition_penalty,
            presence_penalty=self.presence_penalty,
            stop=("\n",),
            pattern=answer_pattern(self.phrases_of(kind), spare) if self.constrain else None,
            seed=self.seed,
        )


class ZeroShot(Profiler):
    """Ask a language model as it is, once for each user and item."""

    Config = ZeroShotConfig
    config: ZeroShotConfig

    def fit(self, view: TrainingView) -> Self:
        """Return itself: there is nothing to learn."""
        return self

    def subjects(
        self, view: TrainingView, kind: ProfileKind, idx: np.ndarray, known: Known
    ) -> Iterator[Subject]:
        """Yield the prompt for each row of ``idx``. Users without a history and items without any text are left out."""
        config = self.config
        briefs = ItemBriefs(view.item_text, details_limit=config.text_chars)
        params = config.sampling(kind)
        users = known.get("user", {})
        for row, subject in zip(idx, view.idmap(kind).ids(idx), strict=True):
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
                quoted = common_phrases(profiles, config.quoted, item.title)
                chat = item_chat(item, config.topics, config.text_chars, quoted)
            yield Subject(kind, subject, prompt_hash(chat, self.generator.model, params), chat)

    def write(self, subjects: Iterable[Subject]) -> Iterator[Profile]:
        """Yield each profile as soon as it is done; equal prompts are generated once.

        A profile with too few different phrases is written once more, with a penalty on repetition, where the generator
        has one; the better one is returned.
        """
        by_prompt: dict[ProfileKind, dict[str, list[Subject]]] = {"user": {}, "item": {}}
        for subject in subjects:
            by_prompt[subject.kind].setdefault(subject.prompt_hash, []).append(subject)
        for kind, subjects_of in by_prompt.items():
            chats = {key: _chat(same[0]) for key, same in subjects_of.items()}
            for profile in self._profiles(kind, chats) if chats else ():
                for subject in subjects_of[profile.prompt_hash]:
                    yield replace(profile, id=subject.id)

    def _profiles(self, kind: ProfileKind, chats: Mapping[str, Chat]) -> Iterator[Profile]:
        """Yield one profile a chat."""
        malformed: dict[str, Profile] = {}
        # a model that cannot be penalised would be asked the same again
        once = self.config.second_penalty is None or "repetition_penalty" in self.generator.unsupported
        for profile in self._generate(kind, chats, again=False):
            if once or self.in_format(kind, profile.text):
                yield profile
            else:
                malformed[profile.prompt_hash] = profile
        for profile in self._generate(kind, {key: chats[key] for key in malformed}, again=True):
            first = malformed[profile.prompt_hash]
            yield replace(
                profile if self.in_format(kind, profile.text) else first,
                prompt_tokens=first.prompt_tokens + profile.prompt_tokens,
                new_tokens=first.new_tokens + profile.new_tokens,
            )

    def _generate(self, kind: ProfileKind, chats: Mapping[str, Chat], again: bool) -> Iterator[Profile]:
        if not chats:
            return
        params, phrases = self.config.sampling(kind, again), self.config.phrases_of(kind)
        for answer in self.generator.generate(chats, params):
            titles = chats[answer.key].messages[-1].content.rpartition(TITLES)[2]
            text = tidy(answer.text, phrases, titles)
            yield Profile.answered(kind, "", text, answer, self.generator.model, params)

    def in_format(self, kind: ProfileKind, text: str) -> bool:
        """Return whether a profile is ``User identity: a, b, c; User interests: x, y, z.`` with as many of each."""
        return fault(text, self.config.phrases_of(kind)) is None


def _chat(subject: Subject) -> Chat:
    assert isinstance(subject.source, Chat)
    return subject.source
