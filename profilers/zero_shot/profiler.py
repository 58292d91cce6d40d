"""The zero-shot profiler: user profiles from histories, item profiles from item text and the users who chose it.

Profiles have the papers' form, or say what the model knows of an item (:mod:`.describe`).

A prompt is one instruction, worked examples from domains of their own, then the subject. The embedded model of 135M
parameters needs the examples and the begun answer; larger models do not mind them, and what all prompts share is
computed once.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate, chain
from pathlib import Path
from typing import Literal, Self

import numpy as np
from pydantic import Field

from reclm.config import Config, read_yaml
from reclm.data.dataset import ProfileKind, TrainingView
from reclm.llm.chat import Chat, Message, SamplingParams, plain
from reclm.profilers.chat_profiler import ChatProfiler
from reclm.profilers.profile_format import NOUN, PAPERS, Parts, ProfileForm, described
from reclm.profilers.zero_shot.describe import cut_texts, describing_chats
from reclm.profiles.profile import Known, Profile, Subject
from reclm.text.item_text import ItemBrief, ItemBriefs

TITLES = "Titles"
_FEW = 8
"""Profiles out of format that a server's model is asked for again, however many are in format."""
_WORDS = read_yaml(Path(__file__).parent / "prompts.yaml")
TASKS: dict[ProfileKind, str] = _WORDS["tasks"]
LISTED, DESCRIBED, BARE = (
    tuple(_WORDS["examples"][name] for name in _WORDS[shown]) for shown in ("listed", "described", "bare")
)


def spare_of(kind: ProfileKind) -> int:
    """Return how many interests more a model is asked for: an item's prompt says less, and more is repeated."""
    return 1 if kind == "user" else 2


class ZeroShotConfig(Config):
    """The content of the prompts, and how answers are generated. Prompt tokens are the cost: keep prompts short."""

    form: Literal["papers", "describe"] = "papers"
    """``papers``: who a user probably is, and the interests; of an item, those of its users. ``describe``: what the
    model knows of an item, or of a taste: themes, mood, audience, similar items. Each form has a store of its own."""
    history: int = Field(default=8, ge=1)
    """Newest items of a user that a prompt names."""
    text_chars: int = Field(default=260, ge=40)
    """Most characters of titles and description in a prompt."""
    topics: int = Field(default=5, ge=0)
    """Most topics (genres, categories) named, the commonest of the history first."""
    clickers: int = Field(default=5, ge=0)
    """Newest users of an item whose profiles its prompt may quote; 5 in the paper. ``describe`` quotes nobody."""
    quoted: int = Field(default=4, ge=1)
    """Most interests quoted from those profiles, and half as many identities."""
    phrases: int = Field(default=3, ge=1, le=10)
    """Identities, and as many interests, in a user's profile; 3 in the paper. ``describe``: themes, similar items."""
    item_phrases: int = Field(default=3, ge=1, le=10)
    """Identities, and as many interests, in an item's profile; 5 in the paper, which takes half as long again."""
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

    def sampling(
        self,
        kind: ProfileKind,
        form: ProfileForm = PAPERS,
        *,
        every_script: bool = False,
        again: bool = False,
    ) -> SamplingParams:
        """Return how profiles of a kind are generated, see :meth:`ChatProfiler.sampling`."""
        options = self.model_dump(include=set(SamplingParams.model_fields))
        options["repetition_penalty"] = (again and self.second_penalty) or self.repetition_penalty
        pattern = form.pattern(self.phrases_of(kind), spare_of(kind), every_script=every_script)
        return SamplingParams(**options, stop=("\n",), pattern=pattern if self.constrain else None)


class ZeroShot(ChatProfiler):
    """Ask a language model as it is, once for each user and item."""

    Config = ZeroShotConfig
    config: ZeroShotConfig
    _noun: str = NOUN

    @property
    def form(self) -> ProfileForm:
        """The form of the profiles; that of descriptions has the noun of the view that was fitted last."""
        return PAPERS if self.config.form == "papers" else described(self._noun)

    @property
    def writer(self) -> str:
        """The name that its profiles are filed under: each form has a store of its own."""
        return (
            super().writer
            if self.config.form == "papers"
            else f"{self.name}-{self.config.form}-{self.generator.model}"
        )

    def fit(self, view: TrainingView) -> Self:
        """Take over what the view calls its items; there is nothing else to learn."""
        self._noun = view.noun or NOUN
        return self

    def subjects(
        self, view: TrainingView, kind: ProfileKind, idx: np.ndarray, known: Known
    ) -> Iterator[Subject]:
        """Yield the prompt for each row of ``idx``. Users without a history and items without any text are left out."""
        self.fit(view)
        return self.as_subjects(kind, self._chats(view, kind, idx, known))

    def cut_texts(self, view: TrainingView, kind: ProfileKind) -> list[str]:
        """Return lines that say how many titles and, of prompts for items, details are cut."""
        if self.config.form == "describe":
            return cut_texts(view, kind, self.config.text_chars)
        briefs = self._briefs(view)
        return briefs.cut_titles() + (briefs.cut_details() if kind == "item" else [])

    def _briefs(self, view: TrainingView) -> ItemBriefs:
        return ItemBriefs(view.item_text, details_limit=self.config.text_chars)

    def _chats(
        self, view: TrainingView, kind: ProfileKind, idx: np.ndarray, known: Known
    ) -> Iterator[tuple[str, Chat]]:
        config, users = self.config, known.get("user", {})
        if config.form == "describe":
            sources = ((id, rows) for id, _, rows in self._sources(view, kind, idx))
            yield from describing_chats(view, kind, sources, _WORDS["describe"], config.text_chars)
            return
        briefs = self._briefs(view)
        for subject, history, rows in self._sources(view, kind, idx):
            items = [brief for brief in map(briefs.__getitem__, rows) if any(vars(brief).values())]
            if not items:
                continue
            clickers = history[: config.clickers] if kind == "item" else []
            profiles = [
                users[user] for user in view.users.ids(view.train.user_idx[clickers]) if user in users
            ]
            yield subject, _chat(kind, items, common_phrases(profiles, config.quoted, items[0].title), config)

    def _sources(
        self, view: TrainingView, kind: ProfileKind, idx: np.ndarray
    ) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
        """Yield the ID of each row, the places of its interactions in ``train``, newest first, and its item_idx."""
        for row, id in zip(idx, view.idmap(kind).ids(idx), strict=True):
            history = view.history(kind, int(row))[::-1]
            newest = view.train.item_idx[history[: self.config.history]]
            yield id, history, newest if kind == "user" else np.array([row])

    def answers(self, kind: ProfileKind, chats: Mapping[str, Chat]) -> Iterator[Profile]:
        """Yield one profile a chat.

        A profile that is cut or has too few different phrases is written once more, with a penalty on repetition or
        at random (:meth:`ChatProfiler.asked`); the better one is returned. A server whose model keeps no format is not
        paid twice.
        """
        malformed: dict[str, Profile] = {}
        once = self.config.second_penalty is None
        for profile in self._generate(kind, chats, again=False):
            if once or self.in_format(kind, profile.text):
                yield profile
            else:
                malformed[profile.prompt_hash] = profile
        if not self.generator.local and len(malformed) > max(_FEW, len(chats) / 2):
            yield from malformed.values()
            return
        for profile in self._generate(kind, {key: chats[key] for key in malformed}, again=True):
            first = malformed[profile.prompt_hash]
            mended = (
                self.in_format(kind, profile.text)
                or profile.finish_reason != "length" == first.finish_reason
                or (bool(profile.text) and not first.text)
            )
            yield replace(
                profile if mended else first,
                prompt_tokens=first.prompt_tokens + profile.prompt_tokens,
                new_tokens=first.new_tokens + profile.new_tokens,
            )
            del malformed[profile.prompt_hash]
        yield from malformed.values()  # those whose second attempt was no answer

    def _generate(self, kind: ProfileKind, chats: Mapping[str, Chat], again: bool) -> Iterator[Profile]:
        if not chats:
            return
        params, phrases = self.sampling(kind), self.config.phrases_of(kind)
        for answer, asked in self.ask_for(kind, chats, again=again):
            about = self._about(kind, chats[answer.key].messages[-1].content)
            text = self.form.tidy(self.form.read(answer, params), phrases, about)
            yield Profile.answered(kind, "", text, answer, self.generator.model, asked)

    def _about(self, kind: ProfileKind, question: str) -> str:
        """Return the part of a prompt that :meth:`ProfileForm.tidy` compares an answer with."""
        if self.config.form == "papers":
            return question.rpartition(TITLES)[2]
        return question if kind == "item" else ""  # a taste may be said by the titles of the history

    def sampling(
        self, kind: ProfileKind, *, every_script: bool = False, again: bool = False
    ) -> SamplingParams:
        """Return how profiles of a kind are generated."""
        return self.config.sampling(kind, self.form, every_script=every_script, again=again)

    def phrases_of(self, kind: ProfileKind) -> int:
        """Return the number of identities, and of interests, in a profile of ``kind``."""
        return self.config.phrases_of(kind)

    def spare_of(self, kind: ProfileKind) -> int:
        """Return how many interests more a model is asked for."""
        return spare_of(kind)

    @property
    def constrained(self) -> bool:
        """Return whether the model is held to the format, where its engine can do so."""
        return self.config.constrain

    def in_format(self, kind: ProfileKind, text: str) -> bool:
        """Return whether a profile has all fields of the form, with as many phrases as were asked for."""
        return self.form.fault(text, self.config.phrases_of(kind)) is None


def _chat(kind: ProfileKind, items: Sequence[ItemBrief], chosen_by: Parts, config: ZeroShotConfig) -> Chat:
    """Return the prompt for a user who chose ``items``, newest first, or for one item with phrases of its users."""
    # commas stand between phrases in the answer, semicolons between titles
    titles = [item.title.replace(",", "").replace(";", "") for item in items if item.title]
    lengths = accumulate(len(title) + 2 for title in titles)
    titles = titles[: max(1, sum(length - 2 <= config.text_chars for length in lengths))]
    details = items[0].details if len(items) == 1 else ""
    if titles or kind == "item":
        titles[:1] = [_described("".join(titles[:1]), details, config.text_chars)]
    # the titles stand last, next to the answer, which is to be about them more than about what their users like, too
    lines = [
        _line("Chosen by", ", ", chosen_by["identities"]),
        _line("They like", ", ", chosen_by["interests"]),
        _line("Topics", ", ", _commonest((item.topics for item in items), config.topics)),
        _line(TITLES, "; ", titles),
    ]
    examples = DESCRIBED if details else BARE
    turns = [Message("system", TASKS[kind])]
    for example in LISTED if len(titles) > 1 else examples:
        question, _, answer = example.rpartition("\n")
        turns += [Message("user", question), Message("assistant", answer)]
    return Chat((*turns, Message("user", "\n".join(filter(None, lines)))), PAPERS.start)


def common_phrases(profiles: Iterable[str], limit: int, title: str) -> Parts:
    """Return the commonest interests of the profiles, at most ``limit``, and half as many identities.

    A profile in another form is passed over, and so is the item's own title.
    """
    parsed = [PAPERS.parse(text) for text in profiles if PAPERS.fault(text) is None]
    item_title = title.casefold()
    interests = (
        [phrase for phrase in parts["interests"] if phrase.casefold() not in item_title] for parts in parsed
    )
    identities = _commonest((parts["identities"] for parts in parsed), (limit + 1) // 2)
    commonest = {"identities": identities, "interests": _commonest(interests, limit)}
    return {name: tuple(plain(phrase, 40) for phrase in phrases) for name, phrases in commonest.items()}


def _line(name: str, between: str, parts: Sequence[str]) -> str:
    return f"{name}: {between.join(parts)}" if any(parts) else ""


def _described(title: str, details: str, chars: int) -> str:
    room = chars - len(title)
    details = plain(details, room) if details and room >= 40 else ""
    return f"{title.rstrip('.')}. {details}" if title and details else title or details


def _commonest(lists: Iterable[Iterable[str]], limit: int) -> list[str]:
    return [word for word, _ in Counter(chain.from_iterable(lists)).most_common(limit)]
