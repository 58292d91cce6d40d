"""RecLM's prompts, put to any language model: the teacher, an untuned model (LLMRec-style profiles), a stage."""

from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from typing import Any, Self

import numpy as np

from reclm.data.dataset import ProfileKind, TrainingView
from reclm.llm.chat import Chat, plain, prompt_hash
from reclm.llm.models import LanguageModel, context_length, find_model, load_tokenizer
from reclm.llm.tokens import PromptTokenizer
from reclm.profilers.profile_format import fault
from reclm.profilers.reclm import prompts
from reclm.profilers.reclm.config import RecLMConfig
from reclm.profilers.reclm.neighbours import item_features, similar_items
from reclm.profilers.reclm.samples import Instructions, Sample
from reclm.profiles.profile import Known, Profile, Profiler, Subject
from reclm.profiles.store import KINDS
from reclm.text.encoder import TextEncoder


class RecLMPrompter(Profiler):
    """Describe users from their histories; items in two rounds, those with users first.

    Attributes:
        neighbours: ``(U, N)`` similar users, whose histories the prompts show, too; None: one user at a time.
    """

    Config = RecLMConfig
    config: RecLMConfig

    def __init__(self, config: RecLMConfig | None = None, **options: Any) -> None:
        super().__init__(config, **options)
        self.neighbours: np.ndarray | None = None
        self._instructions: tuple[TrainingView, Instructions] | None = None

    def fit(self, view: TrainingView) -> Self:
        """Return itself: there is nothing to learn."""
        return self

    def rounds(self, view: TrainingView, kind: ProfileKind) -> list[np.ndarray]:
        """Return items that have users, whose profiles they quote; then the others, which quote similar items'."""
        rows = np.arange(len(view.idmap(kind)))
        if kind == "user":
            return [rows]
        warm = np.zeros(len(rows), bool)
        warm[view.train.item_idx] = True
        return [rows[warm], rows[~warm]] if not warm.all() else [rows]

    def subjects(
        self, view: TrainingView, kind: ProfileKind, idx: np.ndarray, known: Known
    ) -> Iterator[Subject]:
        """Yield the prompt for each row of ``idx``; rows without a history or text are left out."""
        params = self.config.generation.params(self._phrases[kind])
        samples = self._user_samples if kind == "user" else self._item_samples
        for sample in samples(view, idx, known):
            key = prompt_hash(sample.chat, self.generator.model, params)
            yield Subject(kind, sample.subject, key, sample.chat)

    def write(self, subjects: Iterable[Subject]) -> Iterator[Profile]:
        """Yield each profile as soon as it is done; equal prompts are generated once."""
        by_prompt: dict[tuple[ProfileKind, str], list[Subject]] = {}
        for subject in subjects:
            by_prompt.setdefault((subject.kind, subject.prompt_hash), []).append(subject)
        for kind, phrases in self._phrases.items():
            sources = {key: same[0].source for (of, key), same in by_prompt.items() if of == kind}
            chats = {key: chat for key, chat in sources.items() if isinstance(chat, Chat)}
            params = self.config.generation.params(phrases)
            for answer in self.generator.generate(chats, params) if chats else ():
                for subject in by_prompt[kind, answer.key]:
                    text = prompts.profile_of(plain(answer.text))
                    yield Profile.answered(kind, subject.id, text, answer, self.generator.model, params)

    def in_format(self, kind: ProfileKind, text: str) -> bool:
        """Return whether a profile is ``User identity: a, b, c; User interests: x, y, z.`` with as many of each."""
        return fault(text, self._phrases[kind]) is None

    def _user_samples(self, view: TrainingView, idx: np.ndarray, known: Known) -> Iterator[Sample]:
        if self.neighbours is None:
            return self.instructions(view).alone(idx)
        return self.instructions(view).inference(idx, self.neighbours)

    def _item_samples(self, view: TrainingView, idx: np.ndarray, known: Known) -> Iterator[Sample]:
        instructions, items = self.instructions(view), known.get("item", {})
        if items and not np.isin(idx, view.train.item_idx).any():
            return instructions.cold_items(idx, self._similar_items(view, idx, items), items)
        return instructions.warm_items(idx, known.get("user", {}))

    def _similar_items(self, view: TrainingView, idx: np.ndarray, known: Mapping[str, str]) -> np.ndarray:
        """Return ``(I, N)`` similar items of the rows ``idx``, among those with a profile."""
        cache = self.folder and self.folder / "neighbours"
        features = item_features(view, self.encoder or TextEncoder(), cache)
        rows = view.items.find(known)
        return similar_items(features, self.config.neighbours, rows[rows >= 0], idx)

    def instructions(self, view: TrainingView) -> Instructions:
        """Return the maker of a view's prompts, made once."""
        if self._instructions is None or self._instructions[0] is not view:
            self._instructions = view, Instructions(view, self.config.instructions, self._budget)
        return self._instructions[1]

    @property
    def _phrases(self) -> dict[ProfileKind, int]:
        return {kind: self.config.instructions.phrases_of(kind) for kind in KINDS}

    @cached_property
    def _budget(self) -> prompts.Budget:
        model = self._token_model()
        tokenizer = PromptTokenizer(load_tokenizer(model), context_length(model), model.name)
        return prompts.Budget.of(tokenizer, self.config.instructions)

    def _token_model(self) -> LanguageModel:
        """Return the model whose tokens are counted; of one behind a server, the embedded one's come close."""
        return find_model()
