"""The folder of a tuned profiler: what is in it, and the models that it makes."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from reclm.data.dataset import TrainingView
from reclm.errors import ReclmError
from reclm.llm.models import LanguageModel, LazyGenerator
from reclm.profilers.langptune.config import LangPTuneConfig
from reclm.profilers.tuning.run_folder import (
    ABOUT,
    CONFIG,
    About,
    base_model,
    check,
    compare,
    something_else,
    tuned_generator,
    write,
)

ADAPTER, ENCODER = "adapter", "encoder"
_DONE = "done.yaml"
_WRITES = {"max_new_tokens", "temperature", "measured"}
"""Options that a tuned profiler may be given anew."""


class LangPTuneAbout(About):
    """``about.yaml``: what a profiler was tuned from."""

    encoder: str
    """The text encoder that σ began as, with a hash of its weights."""


@dataclass(frozen=True)
class Tuned:
    """``config.yaml``, ``about.yaml``, ``adapter`` (PEFT) and ``encoder`` (sentence-transformers), where trained."""

    folder: Path
    config: LangPTuneConfig
    about: LangPTuneAbout

    @classmethod
    def read(cls, folder: Path) -> Self:
        """What :meth:`begin` wrote.

        Raises:
            ReclmError: if there is no tuned profiler.
        """
        check(folder)
        return cls(
            folder,
            LangPTuneConfig.from_yaml(folder / CONFIG),
            LangPTuneAbout.from_yaml(folder / ABOUT),
        )

    @classmethod
    def begin(
        cls,
        folder: Path,
        config: LangPTuneConfig,
        view: TrainingView,
        model: LanguageModel,
        asked: str | None,
        encoder: str,
    ) -> Self:
        """A folder to tune in: a new one, or one to go on in.

        Where nothing was learned yet, everything may change; sessions that were made otherwise are deleted.

        Raises:
            ReclmError: if what lies there was tuned from other data, another model or with other options, or it cannot
                be written.
        """
        about = LangPTuneAbout(
            dataset=view.name,
            fingerprint=view.fingerprint,
            model=asked,
            weights=model.name,
            encoder=encoder,
        )
        tuned = cls(folder, config, about)
        if (folder / ABOUT).is_file() and (folder / CONFIG).is_file():
            there = cls.read(folder)
            if there == tuned:
                return tuned
            try:
                compare(folder, there._defined, tuned._defined)
            except ReclmError:
                if there.learned:
                    raise
                shutil.rmtree(folder / "sessions", ignore_errors=True)
        elif folder.is_dir() and any(
            not one.name.endswith((".partial", ".yaml")) for one in folder.iterdir()
        ):
            raise something_else(folder)
        write(folder, config, about)
        return tuned

    @property
    def _defined(self) -> dict[str, Any]:
        """What the training depends on."""
        about = self.about.model_dump(include={"fingerprint", "weights", "encoder"})
        return about | self.config.model_dump(mode="json", exclude=_WRITES)

    @property
    def learned(self) -> bool:
        """Whether training was begun."""
        return any((self.folder / name).exists() for name in ("cl", "rlso", ENCODER, ADAPTER, _DONE))

    @property
    def done(self) -> bool:
        """Whether training came to its end."""
        return (self.folder / _DONE).is_file()

    def finish(self) -> None:
        """Training came to its end: what it would have gone on with is deleted."""
        (self.folder / _DONE).write_text(f"variant: {self.config.variant}\n", encoding="utf-8")
        for part in ("cl/checkpoints", "cl/profiles", "rlso/checkpoints"):
            shutil.rmtree(self.folder / part, ignore_errors=True)

    @property
    def adapter(self) -> Path | None:
        """Where the language model's adapter lies; None where it is not trained."""
        return self._there(ADAPTER)

    @property
    def encoder(self) -> Path | None:
        """Where σ's encoder lies; None where it is not trained."""
        return self._there(ENCODER)

    def _there(self, name: str) -> Path | None:
        return self.folder / name if (self.folder / name).is_dir() else None

    def model(self, name: str | None = None) -> LanguageModel:
        """The model that was tuned.

        Raises:
            ReclmError: if ``name``, or what is found under the name it had, is another one.
        """
        return base_model(self.folder, self.about, name)

    def generator(self, model: LanguageModel) -> LazyGenerator:
        """The tuned model, loaded when it is first needed."""
        return tuned_generator(model, self.adapter, "rlso")
