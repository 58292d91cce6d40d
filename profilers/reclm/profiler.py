"""RecLM's profiles (https://arxiv.org/abs/2412.19302) by a model that was tuned for them, or by any model as it is."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from reclm.config import read_yaml
from reclm.data.dataset import ProfileKind, TrainingView
from reclm.errors import BadInput, NotFound
from reclm.llm.chat import Chat, SamplingParams, TextGenerator, plain
from reclm.llm.models import LanguageModel, find_model
from reclm.llm.tokens import PromptTokenizer
from reclm.profilers.chat_profiler import ChatProfiler
from reclm.profilers.reclm.config import ORDER, WRITERS, RecLMConfig, StageName
from reclm.profilers.reclm.neighbours import UserNeighbours, similar_items
from reclm.profilers.reclm.prompts import numbered
from reclm.profilers.reclm.samples import Instructions, Sample
from reclm.profilers.tuning.adapter import ADAPTER
from reclm.profilers.tuning.metrics_log import FILE
from reclm.profilers.tuning.run_folder import About, RunFolder
from reclm.profiles.profile import Known, Profile, Subject
from reclm.text.encoder import TextEncoder

if TYPE_CHECKING:
    from reclm.profilers.reclm.pipeline import RecLMPipeline


class RecLMAbout(About):
    """The origin of a RecLM profiler."""

    profiler: str = "reclm"


class RecLMFolder(RunFolder):
    """The run folder of a RecLM tuning."""

    profiler = "reclm"
    Config = RecLMConfig
    About = RecLMAbout
    free = frozenset({"stages", "measured", "generation"})
    writes = ("generation", "instructions", "neighbours", "stages")
    prepared = ORDER

    @property
    def learned(self) -> bool:
        """Return whether the training of a stage was begun."""
        traces = (FILE, "checkpoints", ADAPTER)
        return any((self.folder / stage / name).exists() for stage in ORDER for name in traces)

    def last(self, kind: ProfileKind) -> StageName | None:
        """Return the stage that writes profiles of ``kind``: the last one that is configured and finished."""
        done = [stage for stage in WRITERS[kind] if stage in self.config.stages and self.adapter(stage)]
        return done[-1] if done else None


class RecLMProfiler(ChatProfiler):
    """Describe users from their histories and those of similar users; items in two rounds, those with users first.

    Without a ``folder`` and with no ``stages`` it asks ``model`` as it is (LLMRec-style profiles); with a folder,
    :meth:`fit` tunes it there.

    Args:
        config: see :class:`RecLMConfig`.
        options: see :class:`~reclm.profiles.profile.Profiler`; ``encoder`` finds similar items, and compares profiles
            with the teacher's (all-MiniLM-L6-v2 by default).

    Attributes:
        neighbours: ``(U, N)`` similar users, whose histories the prompts show, too; None: one user at a time.
    """

    tunable = True
    presets = MappingProxyType({"paper": {}, "cpu": read_yaml(Path(__file__).parent / "cpu.yaml")})
    Config = RecLMConfig
    config: RecLMConfig

    def __init__(self, config: RecLMConfig | None = None, **options: Any) -> None:
        super().__init__(config, **options)
        self.neighbours: np.ndarray | None = None
        self.tuned: RecLMFolder | None = None
        self._tuned_model: LanguageModel | None = None
        self._kind: ProfileKind = "user"
        self._instructions: Instructions | None = None

    @classmethod
    def open(
        cls,
        folder: Path,
        settings: Mapping[str, Any] | None = None,
        model: str | TextGenerator | None = None,
        engine: str | None = None,
        engine_options: Mapping[str, Any] | None = None,
    ) -> Self:
        """Return the profiler that was tuned in ``folder``; ``settings`` change how it writes.

        Raises:
            NotFound: if no stage is finished there.
            BadInput: if a setting belongs to the tuning, or the model or the engine is another one.
        """
        tuned = RecLMFolder.read(folder).reopened(settings, engine, engine_options)
        if not (tuned.last("user") or tuned.last("item")):
            raise NotFound(
                f"{folder} has no finished stage; run the same reclm tune again, it goes on", value=folder
            )
        profiler = cls(tuned.config, model=model, folder=folder)
        profiler._use(tuned, tuned.model(profiler.model))
        return profiler

    def fit(self, view: TrainingView) -> Self:
        """Tune, or go on where tuning stopped; do nothing where it is done, or there is nothing to tune."""
        if self.tuned is None and self.folder is not None:
            tuning = self.tuning(view)
            tuning.run()
            self._use(tuning.tuned, tuning.model)
        elif self.tuned is None and self.config.stages:
            raise BadInput(
                "profiler 'reclm' is tuned first: give its folder, which reclm tune writes, as --profiler FOLDER, "
                "or --set stages=[] to ask the model as it is",
                where="stages",
                remedy="stages=[]",
            )
        return self

    def tuning(self, view: TrainingView) -> "RecLMPipeline":
        """Return the stages that :meth:`fit` runs; by default in a folder of the workspace."""
        from reclm.profilers.reclm.pipeline import RecLMPipeline

        return RecLMPipeline.of(self, view)

    def rounds(self, view: TrainingView, kind: ProfileKind) -> list[np.ndarray]:
        """Return items that have users, whose profiles they quote; then the others, which quote similar items'."""
        rows = np.arange(len(view.idmap(kind)))
        if kind == "user":
            return [rows]
        cold = np.isin(rows, view.train.item_idx, invert=True)
        return [rows[~cold], rows[cold]] if cold.any() else [rows]

    def subjects(
        self, view: TrainingView, kind: ProfileKind, idx: np.ndarray, known: Known
    ) -> Iterator[Subject]:
        """Yield the prompt of each row that has a history or text, as the last stage of ``kind`` was tuned on it."""
        if self.tuned and self._tuned_model and kind != self._kind:
            self._use(self.tuned, self._tuned_model, kind)
        if kind == "user" and self.tuned and self.tuned.last("user") not in {None, "kd"}:
            histories = self.instructions(view).histories.of_users
            self.neighbours = UserNeighbours(view, histories, self.config.neighbours, self._cache).nearest
        samples = self._samples(view, kind, idx, known)
        return self.as_subjects(kind, ((sample.subject, sample.chat) for sample in samples))

    def answers(self, kind: ProfileKind, chats: Mapping[str, Chat]) -> Iterator[Profile]:
        """Yield one profile a chat."""
        params = self.sampling(kind)
        for answer, asked in self.ask_for(kind, chats):
            # behind its number, where the histories of several users are shown
            text = plain(self.form.read(answer, params)).removeprefix(numbered([""]))
            yield Profile.answered(kind, "", text, answer, self.generator.model, asked)

    def in_format(self, kind: ProfileKind, text: str) -> bool:
        """Return whether a profile is ``User identity: a, b, c; User interests: x, y, z.`` with as many of each."""
        return self.form.fault(text, self.phrases_of(kind)) is None

    def cut_texts(self, view: TrainingView, kind: ProfileKind) -> list[str]:
        """Return a line that says how many items' texts are cut."""
        return self.instructions(view).histories.cut_texts()

    def instructions(self, view: TrainingView) -> Instructions:
        """Return the maker of a view's prompts, made once."""
        if self._instructions is None or self._instructions.view is not view:
            # the tokens of a model behind a server are counted by the embedded one's tokenizer, which comes close
            tokenizer = PromptTokenizer.of(self._tuned_model or find_model())
            self._instructions = Instructions(view, self.config.instructions, tokenizer)
        return self._instructions

    def _samples(
        self, view: TrainingView, kind: ProfileKind, idx: np.ndarray, known: Known
    ) -> Iterator[Sample]:
        instructions, items = self.instructions(view), known.get("item", {})
        if kind == "user" and self.neighbours is None:
            return instructions.alone(idx)
        if kind == "user":
            return instructions.inference(idx, self.neighbours)
        if not items or np.isin(idx, view.train.item_idx).any():
            return instructions.warm_items(idx, known.get("user", {}))
        rows = view.items.find(items)
        encoder, count = self.encoder or TextEncoder(), self.config.neighbours.count
        near = similar_items(view, encoder, self._cache, count, rows[rows >= 0], idx)
        return instructions.cold_items(idx, near, items)

    def sampling(
        self, kind: ProfileKind, *, every_script: bool = False, again: bool = False
    ) -> SamplingParams:
        """Return how profiles of a kind are generated; a second try is as the first."""
        return self.config.generation.params(self.phrases_of(kind), every_script=every_script)

    def phrases_of(self, kind: ProfileKind) -> int:
        """Return the number of identities, and of interests, in a profile of ``kind``."""
        return self.config.instructions.phrases_of(kind)

    @property
    def _cache(self) -> Path | None:
        return self.folder and self.folder / "neighbours"

    def _use(self, tuned: RecLMFolder, model: LanguageModel, kind: ProfileKind = "user") -> None:
        """Take the model that writes profiles of ``kind``; that of the other kind is let go."""
        self.tuned, self._tuned_model, self._kind = tuned, model, kind
        self._generator = tuned.generator(tuned.last(kind), model)
