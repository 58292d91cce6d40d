"""The folder of a tuned profiler: what is in it, and the models that it makes."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from reclm.data.dataset import ProfileKind, TrainingView
from reclm.errors import ReclmError
from reclm.llm.models import LanguageModel, LazyGenerator
from reclm.profilers.reclm.config import ORDER, RecLMConfig, StageName
from reclm.profilers.reclm.sft import ADAPTER
from reclm.profilers.tuning.metrics_log import FILE
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

USER_STAGES: tuple[StageName, ...] = ("kd", "collab", "ppo")
"""Stages that leave an adapter that writes user profiles, in order."""
ITEM_STAGES: tuple[StageName, ...] = ("items",)
_BEGUN = (CONFIG, f"{CONFIG}.partial", f"{ABOUT}.partial")
"""What a run leaves that is killed, or finds the disk full, while it begins."""


@dataclass(frozen=True)
class Tuned:
    """``config.yaml``, ``about.yaml`` and a folder a stage, each with its ``adapter``."""

    folder: Path
    config: RecLMConfig
    about: About

    @classmethod
    def read(cls, folder: Path) -> Self:
        """What :meth:`begin` wrote.

        Raises:
            ReclmError: if there is no tuned profiler.
        """
        check(folder)
        return cls(folder, RecLMConfig.from_yaml(folder / CONFIG), About.from_yaml(folder / ABOUT))

    @classmethod
    def begin(
        cls, folder: Path, config: RecLMConfig, view: TrainingView, model: LanguageModel, asked: str | None
    ) -> Self:
        """A folder to tune in: a new one, or one to go on in, which :meth:`write` gives the new ``config``.

        Where nothing was learned yet, samples that were made with other options are deleted.

        Raises:
            ReclmError: if what lies there was tuned from other data, another model or with other options (``stages``,
                what is measured and how profiles are written may differ), or cannot be written.
        """
        about = About(dataset=view.name, fingerprint=view.fingerprint, model=asked, weights=model.name)
        tuned = cls(folder, config, about)
        if (folder / ABOUT).is_file():
            there = cls.read(folder)
            try:
                compare(folder, there._defined, tuned._defined)
            except ReclmError:
                if there.learned:
                    raise
                for stage in ORDER:
                    shutil.rmtree(folder / stage, ignore_errors=True)
        elif folder.is_dir() and any(one.name not in _BEGUN for one in folder.iterdir()):
            raise something_else(folder)
        if not tuned.learned:
            tuned.write()
        return tuned

    def write(self) -> None:
        """Write ``config.yaml`` and ``about.yaml``, each whole or not at all.

        Raises:
            ReclmError: if they cannot be written.
        """
        write(self.folder, self.config, self.about)

    @property
    def _defined(self) -> dict[str, Any]:
        """What the training depends on."""
        about = self.about.model_dump(include={"fingerprint", "weights"})
        return about | self.config.model_dump(mode="json", exclude={"stages", "measured", "generation"})

    @property
    def learned(self) -> bool:
        """Whether a stage was begun, or done."""
        left = (FILE, "checkpoints", ADAPTER)
        return any((self.folder / stage / name).exists() for stage in ORDER for name in left)

    def adapter(self, stage: StageName) -> Path | None:
        """Where a stage's adapter lies; None while it is not done."""
        path = self.folder / stage / ADAPTER
        return path if (path / "adapter_config.json").is_file() else None

    def last(self, kind: ProfileKind) -> StageName | None:
        """The stage that writes profiles of ``kind``: the last one that is wanted and done."""
        stages = USER_STAGES if kind == "user" else ITEM_STAGES
        done: list[StageName] = [one for one in stages if one in self.config.stages and self.adapter(one)]
        return done[-1] if done else None

    def model(self, name: str | None = None) -> LanguageModel:
        """The model that was tuned.

        Raises:
            ReclmError: if ``name``, or what is found under the name it had, is another one.
        """
        return base_model(self.folder, self.about, name)

    def generator(self, stage: StageName | None, model: LanguageModel) -> LazyGenerator:
        """The model as ``stage`` left it, loaded when it is first needed; None: as it came."""
        return tuned_generator(model, self.adapter(stage) if stage else None, stage or "")
