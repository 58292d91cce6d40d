"""The folder of a tuned profiler: what is in it, and the models that it makes."""

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

from peft import PeftModel

from reclm.config import Config
from reclm.data.dataset import ProfileKind, TrainingView
from reclm.errors import ReclmError
from reclm.profilers.curves import FILE
from reclm.profilers.network import load_network, quiet
from reclm.profilers.policy.rollout import PolicyGenerator
from reclm.profilers.reclm.config import ORDER, RecLMConfig, StageName
from reclm.profilers.reclm.tuning import ADAPTER
from reclm.profiles.lazy import LazyGenerator
from reclm.text.chat import TextGenerator
from reclm.text.models import LanguageModel, digest, find_model

USER_STAGES: tuple[StageName, ...] = ("kd", "collab", "ppo")
"""Stages that leave an adapter that writes user profiles, in order."""
ITEM_STAGES: tuple[StageName, ...] = ("items",)
_BEGUN = ("config.yaml", "config.yaml.partial", "about.yaml.partial")
"""What a run leaves that is killed, or finds the disk full, while it begins."""


class About(Config):
    """``about.yaml``: what a profiler was tuned from."""

    dataset: str
    fingerprint: str
    model: str | None
    """As it was asked for; None for the embedded one."""
    weights: str
    """The model's name, with a hash of its weights."""
    version: str = version("reclm-toolkit")


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
        if not (folder / "about.yaml").is_file():
            raise ReclmError(
                f"{folder} holds no tuned profiler; give the folder that reclm tune wrote (--out)"
            )
        return cls(
            folder, RecLMConfig.from_yaml(folder / "config.yaml"), About.from_yaml(folder / "about.yaml")
        )

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
        if (folder / "about.yaml").is_file():
            there = cls.read(folder)
            try:
                _same(folder, vars(there.about), vars(about), ("fingerprint", "weights"))
                _same(folder, _options(there.config), _options(config))
            except ReclmError:
                if there.learned:
                    raise
                for stage in ORDER:
                    shutil.rmtree(folder / stage, ignore_errors=True)
        elif folder.is_dir() and any(one.name not in _BEGUN for one in folder.iterdir()):
            raise ReclmError(
                f"{folder} holds something else than a tuned profiler; give another folder (--out)"
            )
        if not tuned.learned:
            tuned.write()
        return tuned

    def write(self) -> None:
        """Write ``config.yaml`` and ``about.yaml``, each whole or not at all.

        Raises:
            ReclmError: if they cannot be written.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for name, part in (("config.yaml", self.config), ("about.yaml", self.about)):
                part.to_yaml(self.folder / f"{name}.partial")
                os.replace(self.folder / f"{name}.partial", self.folder / name)
        except OSError as error:
            raise ReclmError(f"cannot write {self.folder}: {error.strerror or error}") from error

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
        found = find_model(name or self.about.model)
        if found.name != self.about.weights:
            raise ReclmError(
                f"{self.folder} was tuned from {self.about.weights}, not from {found.name}; give that one with --model"
            )
        return found

    def generator(self, stage: StageName | None, model: LanguageModel) -> LazyGenerator:
        """The model as ``stage`` left it, loaded when it is first needed; None: as it came."""
        adapter = self.adapter(stage) if stage else None
        name = (
            f"{model.name}+{stage}@{digest(sorted(adapter.glob('*.safetensors')))}" if adapter else model.name
        )

        def load() -> TextGenerator:
            with quiet():
                network = load_network(model)
                if adapter:
                    network = PeftModel.from_pretrained(network, str(adapter)).merge_and_unload()  # pyright: ignore[reportCallIssue]
                generator = PolicyGenerator(network, model)
            generator.model = name
            return generator

        return LazyGenerator(name, load)


def _options(config: RecLMConfig) -> dict[str, Any]:
    return config.model_dump(mode="json", exclude={"stages", "measured", "generation"})


def _same(
    folder: Path, there: Mapping[str, Any], asked: Mapping[str, Any], names: tuple[str, ...] = ()
) -> None:
    for name in names or asked:
        one, other = there.get(name), asked[name]
        if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
            _same(
                folder,
                {f"{name}.{key}": value for key, value in one.items()},
                {f"{name}.{key}": value for key, value in other.items()},
            )
        elif one != other:
            raise ReclmError(
                f"{folder} was tuned with {name} = {one}, not {other}; go on with the same options, "
                "or begin in another folder (--out)"
            )
