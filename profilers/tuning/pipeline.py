"""The base of the pipelines that tune a profiler."""

import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Self

from rich.table import Table

from reclm.config import Config
from reclm.data.dataset import TrainingView
from reclm.folders import current
from reclm.llm.models import LanguageModel, find_model
from reclm.llm.tokens import PromptTokenizer
from reclm.profilers.tuning.run_folder import RunFolder
from reclm.profiles.profile import Profiler
from reclm.text.encoder import TextEncoder


class Tuning(ABC):
    """The training of a profiler on one data set, in one run folder; a run that was interrupted goes on there.

    ``requested_model`` is the name that ``model`` was found by, ``encoder`` the text encoder to begin with;
    ``progress`` shows bars, and prints the steps on stderr.
    """

    Folder: ClassVar[type[RunFolder]]
    config: Any

    def __init__(
        self,
        view: TrainingView,
        config: Any,
        model: LanguageModel,
        folder: Path,
        *,
        requested_model: str | None = None,
        encoder: TextEncoder | None = None,
        progress: bool = True,
    ) -> None:
        self.view, self.config, self.model, self.folder, self.progress = view, config, model, folder, progress
        self.requested_model, self.encoder = requested_model, encoder or TextEncoder()
        self.prompts = PromptTokenizer.of(model)

    @classmethod
    def of(cls, profiler: Profiler, view: TrainingView, config: Config | None = None) -> Self:
        """Return the tuning of ``profiler``, in its folder or a new one of the workspace."""
        model = find_model(profiler.model)
        if profiler.folder is None:
            profiler.folder = current().tuned(view.name, f"{cls.Folder.profiler}-{model.name}")
        options = {"encoder": profiler.encoder, "progress": profiler.progress}
        config = config or profiler.config
        return cls(view, config, model, profiler.folder, requested_model=profiler.model, **options)

    def begin(self, **about: Any) -> Any:
        """Return the run folder, new or as an earlier run left it (see :meth:`RunFolder.begin`)."""
        return self.Folder.begin(
            self.folder, self.config, self.view, self.model, self.requested_model, **about
        )

    def say(self, text: str) -> None:
        """Print a step, on stderr."""
        if self.progress:
            print(text, file=sys.stderr)

    def say_cut_texts(self) -> None:
        """Print how many texts the prompts show in part."""
        for line in self.cut_texts():
            self.say(f"note: {line}")

    @abstractmethod
    def cut_texts(self) -> list[str]:
        """Return lines that say how many texts the prompts show in part; none where all are shown whole."""

    @abstractmethod
    def run(self) -> None:
        """Train every stage that is not finished."""

    @abstractmethod
    def estimate(self) -> Table:
        """Return a table of the work ahead, with times from a small batch on this machine; train nothing."""

    @abstractmethod
    def sample_texts(self, count: int) -> Iterator[str]:
        """Yield ``count`` samples of each stage in readable form."""

    @abstractmethod
    def results(self) -> list[Table | str]:
        """Measure the finished tuning, write its report and curves, and return tables and lines to print."""

    @abstractmethod
    def next_command(self) -> list[str]:
        """Return the command that uses the tuned profiler, without the data set."""
