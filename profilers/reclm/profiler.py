"""Profiles by a model tuned for it (RecLM, https://arxiv.org/abs/2412.19302), as a plug-in."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

import numpy as np

from reclm.config import read_yaml
from reclm.data.dataset import ProfileKind, TrainingView
from reclm.errors import BadInput, NotFound
from reclm.llm.chat import TextGenerator
from reclm.llm.models import LanguageModel
from reclm.profilers.reclm.config import RecLMConfig
from reclm.profilers.reclm.neighbours import UserNeighbours
from reclm.profilers.reclm.pipeline import RecLMFolder, RecLMPipeline
from reclm.profilers.reclm.prompter import RecLMPrompter
from reclm.profiles.profile import Known, Subject


class RecLMProfiler(RecLMPrompter):
    """Describe users from their histories and those of similar users; items in two rounds.

    Without a ``folder`` and with no ``stages`` it asks ``model`` as it is; with a folder, :meth:`fit` tunes it there.

    Args:
        config: see :class:`RecLMConfig`.
        encoder: finds similar items, and compares profiles with the teacher's; all-MiniLM-L6-v2 by default.
        options: see :class:`~reclm.profiles.profile.Profiler`.
    """

    tunable = True
    presets = MappingProxyType({"paper": {}, "cpu": read_yaml(Path(__file__).parent / "cpu.yaml")})

    def __init__(self, config: RecLMConfig | None = None, **options: Any) -> None:
        super().__init__(config, **options)
        self.tuned: RecLMFolder | None = None
        self._kind: ProfileKind = "user"
        self._tuned_model: LanguageModel | None = None

    @classmethod
    def open(
        cls,
        folder: Path,
        settings: Mapping[str, Any] | None = None,
        model: str | TextGenerator | None = None,
        engine: str | None = None,
    ) -> Self:
        """Return the profiler that was tuned in ``folder``; ``settings`` change how it writes.

        Raises:
            NotFound: if nothing was tuned there, or no stage is finished.
            BadInput: if a setting belongs to the tuning, or the model or the engine is another one.
        """
        tuned = RecLMFolder.read(folder).reopened(settings, engine)
        if not (tuned.last("user") or tuned.last("item")):
            raise NotFound(
                f"{folder} has no finished stage; run the same reclm tune again, it goes on", value=folder
            )
        profiler = cls(tuned.config, model=model, folder=folder)
        profiler._use(tuned, tuned.model(profiler.model))
        return profiler

    def fit(self, view: TrainingView) -> Self:
        """Tune, or go on where tuning stopped; do nothing where it is done, or there is nothing to tune.

        Raises:
            BadInput: without a folder or teacher profiles, and what the stages raise.
        """
        if self.tuned is None and self.folder is not None:
            tuning = self.tuning(view)
            tuning.run()
            self._use(tuning.tuned, tuning.model)
        elif self.tuned is None and self.config.stages:
            raise BadInput(
                "profiler 'reclm' is tuned first: give --adapter DIR, which reclm tune writes, "
                "or --set stages=[] to ask the model as it is",
                where="stages",
                remedy="stages=[]",
            )
        return self

    def tuning(self, view: TrainingView) -> RecLMPipeline:
        """Return the stages that :meth:`fit` runs; by default in a folder of the workspace."""
        return RecLMPipeline.of(self, view)

    def subjects(
        self, view: TrainingView, kind: ProfileKind, idx: np.ndarray, known: Known
    ) -> Iterator[Subject]:
        """Yield the prompt for each row of ``idx``, as the last stage of ``kind`` was tuned on it."""
        if kind != self._kind:
            self._load(kind)
        shows_neighbours = self.tuned is not None and self.tuned.last("user") not in {None, "kd"}
        if kind == "user" and shows_neighbours:
            histories = self.instructions(view).histories.of_users
            cache = self.folder and self.folder / "neighbours"
            self.neighbours = UserNeighbours(view, histories, self.config.neighbours, cache).nearest
        return super().subjects(view, kind, idx, known)

    def _use(self, tuned: RecLMFolder, model: LanguageModel) -> None:
        self.tuned, self._tuned_model = tuned, model
        self._load("user")

    def _load(self, kind: ProfileKind) -> None:
        """Take the model that writes profiles of ``kind``; that of the other kind is let go."""
        if self.tuned is not None and self._tuned_model is not None:
            self._kind = kind
            self._generator = self.tuned.generator(self.tuned.last(kind), self._tuned_model)

    def _token_model(self) -> LanguageModel:
        return self._tuned_model or super()._token_model()
