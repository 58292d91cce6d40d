"""Profiles, and the base class of profilers."""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from reclm import plugins
from reclm.config import Config as BaseConfig
from reclm.config import merged, read_yaml
from reclm.data.dataset import Dataset, ProfileKind, TrainingView, check_dataset
from reclm.errors import BadInput
from reclm.llm.chat import Chat, Generation, SamplingParams, TextGenerator, no_answer, without_thinking
from reclm.llm.models import open_generator
from reclm.text.encoder import TextEncoder

CONFIG = "config.yaml"

Known = Mapping[ProfileKind, Mapping[str, str]]
"""Profiles that may be quoted: their texts by kind and id; a kind may be missing."""


def view_of(data: Dataset | TrainingView) -> TrainingView:
    """Return the training part of a data set: all that a profiler may read."""
    return data if isinstance(data, TrainingView) else check_dataset(data).view()


@dataclass(frozen=True)
class Profile:
    """A plain-language description of one user or item, and its origin.

    Attributes:
        prompt_hash: identifies the prompt; the same hash is never generated twice.
        model: the language model, or the profiler's name where none was used; ``imported`` if somebody else wrote it.
        settings: the generation settings as JSON.
        prompt_tokens, new_tokens: 0 where no language model was used.
        finish_reason: ``"stop"``, ``"length"`` or ``"none"`` (no language model).
        seconds: time to answer its prompt, as a share of the run's; profiles of equal prompts share one time.
    """

    kind: ProfileKind
    id: str
    text: str
    prompt_hash: str
    model: str
    settings: str = "{}"
    prompt_tokens: int = 0
    new_tokens: int = 0
    finish_reason: str = "none"
    seconds: float = 0.0

    @classmethod
    def answered(
        cls, kind: ProfileKind, id: str, text: str, answer: Generation, model: str, params: SamplingParams
    ) -> Self:
        """Make a profile of ``text``, read from a language model's ``answer``, whose key is the prompt's hash."""
        settings = json.dumps(params.model_dump(mode="json"))
        counts = answer.prompt_tokens, answer.new_tokens
        return cls(kind, id, text, answer.key, model, settings, *counts, answer.finish_reason)


@dataclass(frozen=True)
class Subject:
    """One user or item to describe; ``source`` is the prompt: a chat for a language model, else the finished text."""

    kind: ProfileKind
    id: str
    prompt_hash: str
    source: Chat | str


class Profiler(ABC):
    """Writes profiles. A subclass has a ``Config`` and is registered under ``reclm.profilers``.

    ``Profiler(config, model=NAME)`` asks a language model as it is, ``Profiler.open(folder)`` one that was tuned, and a
    ``tunable`` one tunes ``model`` in ``folder`` when it is fitted.

    Args:
        config: its options; None: the defaults of its ``Config``.
        model: the language model: a name (see :func:`~reclm.llm.models.find_model`), or an open generator.
        engine: runs the model; None chooses.
        engine_options: of the engine, by name.
        generator: an open generator, in place of ``model`` and ``engine``.
        folder: where a tunable profiler is tuned, or was.
        encoder: the text encoder that a tunable profiler compares texts with.

    Raises:
        BadInput: if a model is named for a profiler that uses none.

    Attributes:
        presets: settings by name, for ``tune(config=NAME)``.
        encoder: of a tuned profiler, the text encoder that its profiles are to be read with; None: any.
    """

    needs_model: ClassVar[bool] = True
    tunable: ClassVar[bool] = False
    Config: ClassVar[type[BaseConfig]] = BaseConfig
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    progress = True
    """Show bars while it is tuned."""

    def __init__(
        self,
        config: BaseConfig | None = None,
        *,
        model: str | TextGenerator | None = None,
        engine: str | None = None,
        engine_options: Mapping[str, Any] | None = None,
        generator: TextGenerator | None = None,
        folder: Path | None = None,
        encoder: TextEncoder | None = None,
    ) -> None:
        if isinstance(model, TextGenerator):
            model, generator = None, model
        if not self.needs_model and (model or engine or engine_options):
            message = (
                f"profiler {self.name!r} uses no language model; leave --model, --engine and --engine-set out"
            )
            raise BadInput(message, value=model or engine or engine_options)
        self.config = config or self.Config()
        self.model, self.engine, self.folder, self.encoder = model, engine, folder, encoder
        self.engine_options = dict(engine_options or {})
        self._generator = generator

    @classmethod
    def open(
        cls,
        folder: Path,
        settings: Mapping[str, Any] | None = None,
        model: str | TextGenerator | None = None,
        engine: str | None = None,
        engine_options: Mapping[str, Any] | None = None,
    ) -> Self:
        """Return the profiler that was tuned or saved in ``folder``, with ``settings`` over those saved there.

        A tuned one has a model of its own, and takes no other.

        Raises:
            BadInput: if the folder holds no such profiler, or a setting, the model or the engine does not fit it.
        """
        name = plugins.name_of("profiler", cls)
        if not (folder / CONFIG).is_file():
            raise BadInput(
                f"profiler {name!r} is not tuned; leave the folder out",
                value=str(folder),
            )
        values = merged(read_yaml(folder / CONFIG), settings or {})
        config = cls.Config.build(values, where=f"profiler {name}")
        return cls(config, model=model, engine=engine, engine_options=engine_options)

    @property
    def name(self) -> str:
        """The name it is registered under."""
        return plugins.name_of("profiler", type(self))

    @property
    def writer(self) -> str:
        """The name that its profiles are filed under: its own and, where it needs one, its model's."""
        return f"{self.name}-{self.generator.model}" if self.generator else self.name

    @property
    def generator(self) -> Any:
        """The language model, found when it is first asked for and loaded at its first prompt.

        None for a profiler that uses none, and for one that is to be tuned in its folder and is not yet.
        """
        if self._generator is None and self.needs_model and self.folder is None:
            self._generator = open_generator(self.model, self.engine, self.engine_options)
        return self._generator

    @cached_property
    def faults(self) -> dict[str, str]:
        """Why prompts got no answer, by prompt hash: of all that this profiler asked."""
        return {}

    @cached_property
    def refused(self) -> set[str]:
        """The hashes among :attr:`faults` of prompts that would get no answer in a later run, either."""
        return set()

    def fail(self, prompt_hash: str, fault: str, passing: bool = False) -> None:
        """Note why a prompt got no answer; ``passing``: it may get one in a later run."""
        self.faults[prompt_hash] = fault
        (self.refused.discard if passing else self.refused.add)(prompt_hash)

    def ask(self, chats: Mapping[str, Chat], params: SamplingParams) -> Iterator[Generation]:
        """Yield the answers of the language model to chats by prompt hash, without the thinking before them.

        A refusal, an empty answer or thinking alone is none: it is noted in :attr:`faults`.
        """
        for answer in self.generator.generate(chats, params):
            text, begun = without_thinking(answer.text), chats[answer.key].answer_start.strip()
            fault = answer.fault or no_answer(text.removeprefix(begun), answer.text)
            if fault:
                self.fail(answer.key, fault, answer.passing)
            else:
                self.faults.pop(answer.key, None)
                self.refused.discard(answer.key)
                yield replace(answer, text=text)

    @abstractmethod
    def fit(self, view: TrainingView) -> Self:
        """Learn from the view; a profiler with nothing to learn returns itself."""

    def rounds(self, view: TrainingView, kind: ProfileKind) -> Sequence[np.ndarray]:
        """Return the rows of ``kind`` round by round, ``(n,)`` each, no row twice; by default all in one round.

        Prompts of a round may quote profiles of earlier rounds.
        """
        return [np.arange(len(view.idmap(kind)))]

    @abstractmethod
    def subjects(
        self, view: TrainingView, kind: ProfileKind, idx: np.ndarray, known: Known
    ) -> Iterator[Subject]:
        """Yield the prompt of each row of ``idx``; rows with nothing to write about are left out.

        ``known`` has the profiles that prompts may quote: of earlier rounds and, for items, of all users; none is of
        the same round, so that a resumed run builds the same prompts.
        """

    @abstractmethod
    def write(self, subjects: Iterable[Subject]) -> Iterator[Profile]:
        """Yield the profiles, in any order, each as soon as it is done; equal prompt hashes are generated once."""

    def training(self, view: TrainingView) -> dict[str, Any] | None:
        """Return all that :meth:`fit` trains on and with, but for the view; None where it trains no model."""
        return None

    def wording(self, view: TrainingView) -> dict[str, Any] | None:
        """Return all that the words of the profiles depend on, but for the view; None where that is not known yet."""
        return None

    def cut_texts(self, view: TrainingView, kind: ProfileKind) -> list[str]:
        """Return lines that say how many texts the prompts show in part; none where all are shown whole."""
        return []

    def log(self) -> list[dict[str, float]]:
        """Return what :meth:`fit` logged, a row a step: ``epoch`` (the step), ``seconds``, and its metrics."""
        return []

    def measures(self, view: TrainingView, profiles: Sequence[Profile]) -> dict[str, float]:
        """Return measures of all profiles together, by name."""
        return {}

    def in_format(self, kind: ProfileKind, text: str) -> bool:
        """Return whether a profile has the form that this profiler promises; by default, whether it is not blank."""
        return bool(text.strip())

    def save(self, folder: Path) -> None:
        """Write the config to ``folder``, where :meth:`open` reads it."""
        self.config.to_yaml(folder / CONFIG)
