"""The folder of a tuned profiler: what is in it, and the models that it makes."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

from peft import PeftModel

from reclm.config import Config
from reclm.data.dataset import ProfileKind, TrainingView
from reclm.errors import ReclmError
from reclm.profilers.policy.rollout import PolicyGenerator
from reclm.profilers.reclm.config import RecLMConfig, StageName
from reclm.profilers.reclm.tuning import ADAPTER, load_network, quiet
from reclm.profiles.lazy import LazyGenerator
from reclm.text.chat import TextGenerator
from reclm.text.models import LanguageModel, digest, find_model

USER_STAGES: tuple[StageName, ...] = ("kd", "collab", "ppo")
"""Stages that leave an adapter that writes user profiles, in order."""
ITEM_STAGES: tuple[StageName, ...] = ("items",)


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
        """A folder to tune in: a new one, or one to go on in.

        Raises:
            ReclmError: if what lies there was tuned from other data, another model or with other options (``stages``
                and what is measured may differ), or cannot be written.
        """
        about = About(dataset=view.name, fingerprint=view.fingerprint, model=asked, weights=model.name)
        if (folder / "about.yaml").is_file():
            there = cls.read(folder)
            _same(folder, vars(there.about), vars(about), ("fingerprint", "weights"))
            _same(folder, _options(there.config), _options(config))
        elif folder.is_dir() and any(folder.iterdir()):
            raise ReclmError(
                f"{folder} holds something else than a tuned profiler; give another folder (--out)"
            )
        try:
            folder.mkdir(parents=True, exist_ok=True)
            config.to_yaml(folder / "config.yaml")
            about.to_yaml(folder / "about.yaml")
        except OSError as error:
            raise ReclmError(f"cannot write {folder}: {error.strerror or error}") from error
        return cls(folder, config, about)

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
