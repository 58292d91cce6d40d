"""Profiles by a model tuned for the ranking that they produce (LangPTune, arXiv 2410.18870), as a plug-in."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from reclm.config import merged
from reclm.data.dataset import ProfileKind, TrainingView
from reclm.errors import ReclmError
from reclm.folders import Workspace
from reclm.llm.chat import Chat, TextGenerator, prompt_hash
from reclm.llm.models import find_model
from reclm.profilers.langptune.config import LangPTuneConfig
from reclm.profilers.langptune.histories import newest
from reclm.profilers.langptune.prompts import Shown, finished, profile_chat
from reclm.profilers.langptune.run_folder import Tuned
from reclm.profiles.profile import Known, Profile, Profiler, Subject
from reclm.text.item_text import item_lines

if TYPE_CHECKING:
    from reclm.profilers.langptune.pipeline import Tuning

_WRITES = ("max_new_tokens", "temperature")
"""Options that a tuned profiler may be given anew."""


class LangPTuneProfiler(Profiler):
    """User profiles from the newest items of a history; items have none, σ reads their own text.

    Without a ``folder`` it asks ``model`` as it is (LangPTune-0); with one, :meth:`fit` tunes it there.

    Args:
        config: see :class:`LangPTuneConfig`.
        encoder: what σ begins as; all-MiniLM-L6-v2 by default.
        options: see :class:`~reclm.profiles.profile.Profiler`.
    """

    Config = LangPTuneConfig
    tunable = True
    config: LangPTuneConfig

    def __init__(self, config: LangPTuneConfig | None = None, **options: Any) -> None:
        super().__init__(config, **options)
        self.tuned: Tuned | None = None
        # further parts of folded histories, by the hash of their prompt
        self._later: dict[str, list[list[Shown]]] = {}

    @classmethod
    def open(
        cls,
        folder: Path,
        settings: Mapping[str, Any] | None = None,
        model: str | TextGenerator | None = None,
        engine: str | None = None,
    ) -> Self:
        """The profiler that was tuned in ``folder``; ``settings`` change how it writes.

        Raises:
            ReclmError: if none was, it is not finished, or the model or the engine is not its own.
        """
        if engine not in {None, "transformers"}:
            raise ReclmError(f"a tuned model runs on transformers, not on {engine!r}; leave --engine out")
        tuned = Tuned.read(folder)
        if not tuned.done:
            raise ReclmError(f"{folder} is not finished; run the same reclm tune again, it goes on")
        for name in settings or {}:
            if name not in _WRITES:
                raise ReclmError(
                    f"profiler langptune: {name!r} is a setting of tuning, and {folder} is tuned; leave it out "
                    f"(what changes how it writes: {', '.join(_WRITES)})"
                )
        values = merged(tuned.config.model_dump(mode="json"), settings or {})
        config = LangPTuneConfig.build(values, where="profiler langptune")
        if config.source == "history":
            raise ReclmError(
                f"{folder} was tuned on the histories' own text (source = history): it writes no profiles"
                + (f"; what was tuned is an encoder: --encoder {tuned.encoder}" if tuned.encoder else "")
            )
        profiler = cls(config, model=model, folder=folder)
        profiler._use(replace(tuned, config=config), profiler.model)
        return profiler

    def fit(self, view: TrainingView) -> Self:
        """Tune, or go on where tuning stopped; nothing where it is done, or there is nothing to tune.

        Raises:
            ReclmError: what training raises.
        """
        if self.tuned is None and self.folder is not None:
            tuning = self.tuning(view)
            tuning.run()
            if self.config.source == "profile":
                self._use(tuning.tuned, self.model)
        return self

    def tuning(self, view: TrainingView) -> "Tuning":
        """What :meth:`fit` runs."""
        from reclm.profilers.langptune.pipeline import Tuning

        model = find_model(self.model)
        self.folder = self.folder or Workspace.at().tuned(view.name, f"langptune-{model.name}")
        return Tuning(view, self.config, model, self.folder, asked_model=self.model, encoder=self.encoder)

    def _use(self, tuned: Tuned, model: str | None) -> None:
        self.tuned = tuned
        self._generator = tuned.generator(tuned.model(model))

    def subjects(
        self, view: TrainingView, kind: ProfileKind, idx: np.ndarray, known: Known
    ) -> Iterator[Subject]:
        """The prompt for each user of ``idx``: the newest items. Users without a history are left out, and all items.

        Of a history that is folded (:attr:`PromptConfig.fold`) it is the first part's, and the hash is of all parts.

        Raises:
            ReclmError: with ``source`` history.
        """
        if self.config.source == "history":
            raise ReclmError("profiler langptune writes no profiles with source = history; leave it out")
        if kind == "item":
            return
        prompts, params = self.config.prompts, self.config.writing
        lines = item_lines(view.item_text, view.text_template, prompts.item_chars)
        for row, one in zip(idx.tolist(), view.users.ids(idx), strict=True):
            parts = newest(view, lines, row, self.config.sessions.history, prompts)
            if not parts:
                continue
            chats = [profile_chat(some, prompts) for some in parts]
            whole = Chat(tuple(message for chat in chats for message in chat.messages), prompts.begin)
            key = prompt_hash(whole, self.generator.model, params)
            if parts[1:]:
                self._later[key] = parts[1:]
            yield Subject(kind, one, key, chats[0])

    def write(self, subjects: Iterable[Subject]) -> Iterator[Profile]:
        """The profiles, each as soon as it is done; equal prompts are generated once."""
        wanted: dict[str, list[Subject]] = {}
        for subject in subjects:
            wanted.setdefault(subject.prompt_hash, []).append(subject)
        params, prompts = self.config.writing, self.config.prompts
        asked = {key: same[0].source for key, same in wanted.items()}
        part = 0
        while asked:
            longer = {}
            for answer in self.generator.generate(asked, params):
                # as in training
                text = finished(prompts, answer.text.removeprefix(prompts.begin))
                later = self._later.get(answer.key, [])
                if len(later) > part:
                    longer[answer.key] = profile_chat(later[part], prompts, text)
                    continue
                for subject in wanted[answer.key]:
                    yield Profile.answered("user", subject.id, text, answer, self.generator.model, params)
            asked, part = longer, part + 1
