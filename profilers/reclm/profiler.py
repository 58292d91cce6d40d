"""Profiles by a model tuned for it (RecLM, arXiv 2412.19302): the prompts, and what comes back."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from reclm.config import merged
from reclm.data.dataset import ProfileKind, TrainingView
from reclm.errors import ReclmError
from reclm.folders import Workspace
from reclm.llm.chat import TextGenerator, plain, prompt_hash
from reclm.llm.models import LanguageModel, context_length, find_model, load_tokenizer
from reclm.llm.tokens import PromptTokenizer
from reclm.profilers.profile_format import ProfileFormatError, parse
from reclm.profilers.reclm import prompts
from reclm.profilers.reclm.budget import Budget, budget
from reclm.profilers.reclm.config import RecLMConfig
from reclm.profilers.reclm.instructions import Instructions, Sample
from reclm.profilers.reclm.neighbours import UserNeighbours, item_features, similar_items
from reclm.profilers.reclm.run_folder import Tuned
from reclm.profiles.profile import Known, Profile, Profiler, Subject
from reclm.profiles.store import KINDS
from reclm.text.encoder import TextEncoder

if TYPE_CHECKING:
    from reclm.profilers.reclm.pipeline import Tuning

_WRITES = ("generation", "instructions", "neighbours", "stages")
"""Parts of the config that a tuned profiler still goes by."""


class RecLMProfiler(Profiler):
    """User profiles from the histories of a user and of similar users; item profiles in two rounds.

    With a ``generator`` it asks that model as it is, one user at a time (LLMRec-style profiles, and how a teacher is
    asked); without, :meth:`fit` tunes ``model`` in ``folder`` and asks the tuned one.

    Args:
        config: see :class:`RecLMConfig`.
        generator: a model that is not to be tuned.
        model: what is tuned: a name as in :func:`~reclm.llm.models.find_model`; the embedded one by default.
        folder: where it is tuned, or was; by default in the workspace.
        encoder: finds similar items, and compares profiles with the teacher's; all-MiniLM-L6-v2 by default.
    """

    Config = RecLMConfig
    tunable = True
    config: RecLMConfig

    def __init__(
        self,
        config: RecLMConfig | None = None,
        generator: TextGenerator | None = None,
        *,
        model: str | None = None,
        folder: Path | None = None,
        encoder: TextEncoder | None = None,
    ) -> None:
        super().__init__(config or RecLMConfig(), generator)
        self.asked_model, self.folder = model, folder
        self.encoder = encoder
        self.tuned: Tuned | None = None
        self._kind: ProfileKind = "user"
        self._model: LanguageModel | None = None
        self._view: TrainingView | None = None

    @classmethod
    def open(
        cls, adapter: Path, settings: Mapping[str, Any] | None, model: str | None, engine: str | None
    ) -> tuple["RecLMProfiler", str]:
        """The profiler that was tuned in the folder ``adapter``; ``settings`` change how it writes.

        Raises:
            ReclmError: if none was, it has no adapter yet, or the model or the engine is not its own.
        """
        if engine not in {None, "transformers"}:
            raise ReclmError(f"a tuned model runs on transformers, not on {engine!r}; leave --engine out")
        tuned = Tuned.read(adapter)
        if not (tuned.last("user") or tuned.last("item")):
            raise ReclmError(f"{adapter} has no finished stage; run the same reclm tune again, it goes on")
        config = RecLMConfig.build(
            merged(tuned.config.model_dump(mode="json"), settings or {}), where="profiler reclm"
        )
        for name in settings or {}:
            if name not in _WRITES:
                raise ReclmError(
                    f"profiler reclm: {name!r} is a setting of tuning, and {adapter} is tuned; leave it out "
                    f"(what changes how it writes: {', '.join(_WRITES)})"
                )
        profiler = cls(config, model=model, folder=adapter)
        profiler._use(replace(tuned, config=config), tuned.model(model))
        return profiler, f"reclm-{profiler.generator.model}"

    def fit(self, view: TrainingView) -> Self:
        """Tune, or go on where tuning stopped; nothing where it is done, or there is nothing to tune.

        Raises:
            ReclmError: without teacher profiles, and what the stages raise.
        """
        if self.tuned is None and self.generator is None:
            tuning = self.tuning(view)
            tuning.run()
            self._use(tuning.tuned, tuning.model)
        elif self.tuned is None and self.config.stages:
            raise ReclmError(
                "profiler 'reclm' is tuned first: give --adapter DIR, which reclm tune writes, "
                "or --set stages=[] to ask the model as it is"
            )
        return self

    def tuning(self, view: TrainingView) -> "Tuning":
        """What :meth:`fit` runs."""
        from reclm.profilers.reclm.pipeline import Tuning

        model = find_model(self.asked_model)
        self.folder = self.folder or Workspace.at().tuned(view.name, f"reclm-{model.name}")
        return Tuning(
            view, self.config, model, self.folder, asked_model=self.asked_model, encoder=self.encoder
        )

    def _use(self, tuned: Tuned, model: LanguageModel) -> None:
        self.tuned, self._model = tuned, model
        self._turn_to("user")

    def _turn_to(self, kind: ProfileKind) -> None:
        """Have the model at hand that writes profiles of ``kind``; that of the other kind is let go."""
        if self.tuned is not None and self._model is not None:
            self._kind = kind
            self.generator = self.tuned.generator(self.tuned.last(kind), self._model)

    def rounds(self, view: TrainingView, kind: ProfileKind) -> list[np.ndarray]:
        """Items that have users, whose profiles they quote; then the others, which quote similar items'."""
        everyone = np.arange(len(view.idmap(kind)))
        if kind == "user":
            return [everyone]
        warm = np.zeros(len(everyone), bool)
        warm[view.train.item_idx] = True
        return [everyone[warm], everyone[~warm]] if not warm.all() else [everyone]

    def subjects(
        self, view: TrainingView, kind: ProfileKind, idx: np.ndarray, known: Known
    ) -> Iterator[Subject]:
        """The prompt for each row of ``idx``; rows without anything to go by are left out."""
        if kind != self._kind:
            self._turn_to(kind)
        phrases = self.config.instructions.phrases_of(kind)
        params = self.config.generation.params(phrases)
        for sample in self._asked(view, kind, idx, known):
            chat = sample.chat
            yield Subject(kind, sample.subject, prompt_hash(chat, self.generator.model, params), chat)

    def _asked(
        self, view: TrainingView, kind: ProfileKind, idx: np.ndarray, known: Known
    ) -> Iterator[Sample]:
        instructions = self._instructions(view)
        if kind == "user":
            alone = self.tuned is None or self.tuned.last("user") in {None, "kd"}
            return instructions.alone(idx) if alone else instructions.inference(idx, self._near(view).nearest)
        warm = np.isin(idx, view.train.item_idx)
        users, items = known.get("user", {}), known.get("item", {})
        if not warm.any() and items:
            return instructions.cold_items(idx, self._similar_items(view, idx, items), items)
        return instructions.warm_items(idx, users)

    def write(self, subjects: Iterable[Subject]) -> Iterator[Profile]:
        """The profiles, each as soon as it is done; equal prompts are generated once."""
        wanted: dict[tuple[ProfileKind, str], list[Subject]] = {}
        for subject in subjects:
            wanted.setdefault((subject.kind, subject.prompt_hash), []).append(subject)
        for kind, phrases in self._phrases.items():
            chats = {key: same[0].source for (of, key), same in wanted.items() if of == kind}
            params = self.config.generation.params(phrases)
            for answer in self.generator.generate(chats, params) if chats else ():
                for subject in wanted[kind, answer.key]:
                    text = prompts.profile_of(plain(answer.text))
                    yield Profile.answered(kind, subject.id, text, answer, self.generator.model, params)

    def in_format(self, kind: ProfileKind, text: str) -> bool:
        """Whether a profile is ``User identity: a, b, c; User interests: x, y, z.`` with as many of each."""
        try:
            parse(text, self._phrases[kind])
        except ProfileFormatError:
            return False
        return True

    @property
    def _phrases(self) -> dict[ProfileKind, int]:
        return {kind: self.config.instructions.phrases_of(kind) for kind in KINDS}

    def _instructions(self, view: TrainingView) -> Instructions:
        if self._view is not view or not hasattr(self, "_made"):
            self._view, self._made = view, Instructions(view, self.config.instructions, self._budget)
        return self._made

    @cached_property
    def _budget(self) -> Budget:
        """Of the model that is tuned; of one that is only asked, about: in tokens of the embedded model."""
        model = self._model or find_model()
        return budget(
            PromptTokenizer(load_tokenizer(model), context_length(model), model.name),
            self.config.instructions,
        )

    def _near(self, view: TrainingView) -> UserNeighbours:
        return UserNeighbours(
            view,
            self._instructions(view).shown.histories,
            self.config.neighbours,
            self.folder and self.folder / "neighbours",
        )

    def _similar_items(self, view: TrainingView, idx: np.ndarray, known: Mapping[str, str]) -> np.ndarray:
        """Similar items of the rows ``idx``, among those with a profile."""
        features = item_features(
            view, self.encoder or TextEncoder(), self.folder and self.folder / "neighbours"
        )
        rows = view.items.find(known)
        return similar_items(features, self.config.neighbours, rows[rows >= 0], idx)
