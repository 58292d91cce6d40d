"""Profiles by a model tuned for the ranking that they produce (LangPTune, arXiv 2410.18870), as a plug-in."""

import hashlib
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from reclm.config import read_yaml
from reclm.data.dataset import ProfileKind, TrainingView
from reclm.errors import BadInput
from reclm.files import write_text
from reclm.llm.chat import Chat, TextGenerator, prompt_hash
from reclm.llm.models import find_model
from reclm.profilers.langptune.config import LangPTuneConfig
from reclm.profilers.langptune.prompts import (
    HistoryItem,
    SessionHistories,
    finished,
    history_text,
    profile_chat,
    source_text,
)
from reclm.profilers.tuning.adapter import ADAPTER
from reclm.profilers.tuning.metrics_log import read_metrics
from reclm.profilers.tuning.readability import interpretability
from reclm.profilers.tuning.run_folder import About, RunFolder
from reclm.profiles.profile import Known, Profile, Profiler, Subject
from reclm.text.encoder import TextEncoder

if TYPE_CHECKING:
    from reclm.profilers.langptune.pipeline import LangPTunePipeline

ENCODER, _DONE = "encoder", "done.yaml"
_HISTORY = "history"
"""Stands for the model of profiles that are the history's own text."""
_PASSES = 4
"""Fewest passes over the prompts to report as such: each half of a run then has two, enough for a variance."""
_WRITES = ("max_new_tokens", "temperature")
"""Options of how a tuned profiler writes."""
_LOGGED = {"cl": ("loss",), "rlso": ("reward", "kl", "copying", "readability", "compliance")}
_SECONDS = ("rollout_seconds", "reward_seconds", "update_seconds")


class LangPTuneAbout(About):
    """The origin of a LangPTune profiler."""

    encoder: str
    """The text encoder that the recommender began as, with a hash of its weights."""


class Tuned(RunFolder):
    """A run folder with ``adapter`` (PEFT) and ``encoder`` (sentence-transformers), where they are trained."""

    profiler = "langptune"
    Config = LangPTuneConfig
    About = LangPTuneAbout
    free = frozenset({*_WRITES, "measured"})
    writes = _WRITES
    prepared = ("data", "sessions")
    config: LangPTuneConfig
    about: LangPTuneAbout

    @property
    def learned(self) -> bool:
        """Return whether training was begun."""
        return any((self.folder / name).exists() for name in ("cl", "rlso", ENCODER, ADAPTER, _DONE))

    @property
    def done(self) -> bool:
        """Return whether training came to its end."""
        return (self.folder / _DONE).is_file()

    def finish(self) -> None:
        """Mark the training as done, and delete what it would have gone on with.

        The run of a training that is done does so, too: it may have been killed amid this.
        """
        if not self.done:
            write_text(self.folder / _DONE, f"variant: {self.config.variant}\n")
        for part in ("cl/checkpoints", "cl/samples", "rlso/checkpoints"):
            shutil.rmtree(self.folder / part, ignore_errors=True)

    def adapter(self, stage: str = "rlso") -> Path | None:
        """Return the folder of the language model's adapter; None where it is not trained."""
        return super().adapter("")

    @property
    def encoder(self) -> Path | None:
        """The folder of the trained encoder; None where it is not trained."""
        return folder if (folder := self.folder / ENCODER).is_dir() else None

    def log(self) -> Iterator[dict[str, float]]:
        """Yield the logged metrics, a row a step: ``epoch`` (the step), ``seconds``, and loss or reward."""
        for part, names in _LOGGED.items():
            rows: dict[int, dict[str, float]] = {}
            for name, curve in read_metrics(self.folder / part).items():
                key = "seconds" if name in _SECONDS else name
                if key in ("seconds", *names):
                    for step, value in zip(curve.steps.tolist(), curve.values.tolist(), strict=True):
                        row = rows.setdefault(step, {"epoch": step, "seconds": 0.0})
                        row[key] = row.get(key, 0.0) + value
            yield from (rows[step] for step in sorted(rows))


class LangPTuneProfiler(Profiler):
    """Write user profiles from a session, or from the newest items of a history; items have none, their text is read.

    Without a ``folder`` it asks ``model`` as it is (LangPTune-0); with one, :meth:`fit` tunes there what the variant
    trains. With ``source: history`` the profile is the history's own text, and no language model is asked.

    ``options`` are those of :class:`~reclm.profiles.profile.Profiler`; contrastive learning begins with ``encoder``.
    """

    Config = LangPTuneConfig
    tunable = True
    presets = MappingProxyType({"paper": {}, "cpu": read_yaml(Path(__file__).parent / "cpu.yaml")})
    config: LangPTuneConfig

    def __init__(self, config: LangPTuneConfig | None = None, **options: Any) -> None:
        super().__init__(config, **options)
        self.tuned: Tuned | None = None
        self._prompts = 0
        # further parts of folded histories, by the hash of their prompt
        self._later: dict[str, list[list[HistoryItem]]] = {}

    @classmethod
    def open(
        cls,
        folder: Path,
        settings: Mapping[str, Any] | None = None,
        model: str | TextGenerator | None = None,
        engine: str | None = None,
        engine_options: Mapping[str, Any] | None = None,
    ) -> Self:
        """Return the profiler that was tuned, to its end, in ``folder``; ``settings`` change how it writes."""
        tuned = Tuned.read(folder).reopened(settings, engine, engine_options)
        if not tuned.done:
            message = f"{folder} is not finished; run the same reclm tune again, it goes on"
            raise BadInput(message, value=folder)
        profiler = cls(tuned.config, model=model, folder=folder)
        profiler._use(tuned)
        return profiler

    @property
    def writer(self) -> str:
        """The name that its profiles are filed under."""
        return f"langptune-{_HISTORY}" if self.config.source == "history" else super().writer

    def training(self, view: TrainingView) -> dict[str, Any] | None:
        """Return all that the training depends on, in canonical form; None where nothing is trained."""
        if not any(self.config.trains):
            return None
        config = self._of(view).needed().model_dump(mode="json", exclude={"measured"})
        return {"model": find_model(self.model).name if self.config.source == "profile" else None, **config}

    def wording(self, view: TrainingView) -> dict[str, Any] | None:
        """Return all that the profiles' words depend on; None where a language model is to be trained first."""
        config = self._of(view)
        shown = {"prompts": config.prompts.model_dump(mode="json"), "history": config.sessions.history}
        if config.source == "history":
            return {"model": _HISTORY, **shown}
        if config.trains[1]:
            return None
        params = config.writing.model_dump(mode="json")
        return {"model": find_model(self.model).name, "params": params, **shown}

    def fit(self, view: TrainingView) -> Self:
        """Tune in the folder, or go on where tuning stopped; nothing where it is done, or there is no folder."""
        if self.tuned is None and self.folder is not None:
            tuning = self.tuning(view)
            tuning.run()
            self._prompts = len(tuning.train_rows)
            self._use(tuning.tuned)
        return self

    def tuning(self, view: TrainingView) -> "LangPTunePipeline":
        """Return the training that :meth:`fit` runs."""
        from reclm.profilers.langptune.pipeline import LangPTunePipeline

        return LangPTunePipeline.of(self, view, self._of(view))

    def log(self) -> list[dict[str, float]]:
        """Return what training logged, a row a step; ``pass`` over the prompts where there are four or more."""
        rows = list(self.tuned.log()) if self.tuned else []
        updates = [row for row in rows if "reward" in row]
        rewards, batch = np.array([row["reward"] for row in updates]), self.config.rlso.batch_size
        passes, unit = by_pass(rewards, self._prompts, batch)
        if unit != "updates":
            per_pass = self._prompts // batch
            for place, row in enumerate(updates[: len(passes) * per_pass]):
                row["pass"] = place // per_pass + 1
        return rows

    def _of(self, view: TrainingView) -> LangPTuneConfig:
        """Return the options, with those of the view's sessions in place of its own where the view has sessions."""
        sessions = {} if view.sessions is None else {"sessions": view.sessions.options}
        return self.config.model_copy(update=sessions)

    def _use(self, tuned: Tuned) -> None:
        self.tuned = tuned
        if self.config.source == "profile":
            self._generator = tuned.generator("rlso", tuned.model(self.model))
        if tuned.encoder:
            self.encoder = TextEncoder(str(tuned.encoder), self.encoder.device if self.encoder else None)

    def subjects(
        self, view: TrainingView, kind: ProfileKind, idx: np.ndarray, known: Known
    ) -> Iterator[Subject]:
        """Yield the prompt for each user of ``idx``; users without a history are left out, and all items.

        Of a history that is folded (:attr:`PromptConfig.fold`) it is the first part's, and the hash is of all parts.
        """
        if kind == "item":
            return
        histories, prompts, params = self._histories(view), self.config.prompts, self.config.writing
        for user, user_id in zip(idx.tolist(), view.users.ids(idx), strict=True):
            items = histories.of_user(user)
            if not items:
                continue
            if self.config.source == "history":
                text = history_text(items)
                yield Subject(kind, user_id, hashlib.sha256(text.encode()).hexdigest()[:32], text)
                continue
            parts = histories.folded(items)
            chats = [profile_chat(part, prompts) for part in parts]
            whole = Chat(tuple(message for chat in chats for message in chat.messages), prompts.begin)
            key = prompt_hash(whole, self.generator.model, params)
            if parts[1:]:
                self._later[key] = parts[1:]
            yield Subject(kind, user_id, key, chats[0])

    def write(self, subjects: Iterable[Subject]) -> Iterator[Profile]:
        """Yield the profiles, each as soon as it is done; equal prompts are generated once."""
        same_prompt: dict[str, list[Subject]] = {}
        for subject in subjects:
            if isinstance(subject.source, str):
                yield Profile("user", subject.id, subject.source, subject.prompt_hash, _HISTORY)
            else:
                same_prompt.setdefault(subject.prompt_hash, []).append(subject)
        params, prompts = self.config.writing, self.config.prompts
        chats: dict[str, Any] = {key: same[0].source for key, same in same_prompt.items()}
        part = 0
        while chats:
            longer = {}
            for answer in self.ask(chats, params):
                # one line with the begun words, as in training
                text = finished(prompts, answer.text.removeprefix(prompts.begin))
                later = self._later.get(answer.key, [])
                if len(later) > part:
                    longer[answer.key] = profile_chat(later[part], prompts, text)
                    continue
                for subject in same_prompt[answer.key]:
                    yield Profile.answered("user", subject.id, text, answer, self.generator.model, params)
            chats, part = longer, part + 1

    def cut_texts(self, view: TrainingView, kind: ProfileKind) -> list[str]:
        """Return lines that say how many texts of items, and reviews, are cut; items themselves have no prompts."""
        return self._histories(view).cut_texts() if kind == "user" else []

    def measures(self, view: TrainingView, profiles: Sequence[Profile]) -> dict[str, float]:
        """Return how profiles read, means over them: see :func:`~.readability.interpretability`."""
        if self.config.source == "history" or not profiles:
            return {}
        histories, users = self._histories(view), view.users.idx([profile.id for profile in profiles])
        sources = [source_text(histories.of_user(user)) for user in users.tolist()]
        ended = [profile.finish_reason == "stop" for profile in profiles]
        return interpretability([profile.text for profile in profiles], sources, ended)

    def _histories(self, view: TrainingView) -> SessionHistories:
        return SessionHistories(view, view.sessions, self.config.prompts, self.config.sessions.history)


def by_pass(rewards: np.ndarray, prompts: int, batch: int) -> tuple[np.ndarray, str]:
    """Return mean rewards of whole passes over the prompts, where there are four or more; else those of the updates.

    Rewards differ between prompts more than a policy learns in a few updates; every pass has the same prompts.
    The second value is ``"updates"`` or ``"passes over the prompts"``.
    """
    updates, rest = divmod(prompts, batch)
    passes = len(rewards) // updates if updates and not rest else 0
    if passes < _PASSES:
        return rewards, "updates"
    return rewards[: passes * updates].reshape(passes, updates).mean(1), "passes over the prompts"
