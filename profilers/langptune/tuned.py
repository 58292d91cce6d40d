"""The folder of a tuned profiler: what is in it, and the models that it makes."""

import os
import shutil
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

from peft import PeftModel

from reclm.config import Config
from reclm.data.dataset import TrainingView
from reclm.errors import ReclmError
from reclm.profilers.langptune.config import LangPTuneConfig
from reclm.profilers.network import load_network, quiet
from reclm.profilers.policy.rollout import PolicyGenerator
from reclm.profiles.lazy import LazyGenerator
from reclm.text.chat import TextGenerator
from reclm.text.models import LanguageModel, digest, find_model

ADAPTER, ENCODER = "adapter", "encoder"
_DONE = "done.yaml"
_WRITES = {"max_new_tokens", "temperature", "measured"}
"""Options that a tuned profiler may be given anew."""


class About(Config):
    """``about.yaml``: what a profiler was tuned from."""

    dataset: str
    fingerprint: str
    model: str | None
    """As it was asked for; None for the embedded one."""
    weights: str
    """The model's name, with a hash of its weights."""
    encoder: str
    """The text encoder that σ began as, with a hash of its weights."""
    version: str = version("reclm-toolkit")


@dataclass(frozen=True)
class Tuned:
    """``config.yaml``, ``about.yaml``, ``adapter`` (PEFT) and ``encoder`` (sentence-transformers), where trained."""

    folder: Path
    config: LangPTuneConfig
    about: About

    @classmethod
    def read(cls, folder: Path) -> Self:
        """What :meth:`begin` wrote.

        Raises:
            ReclmError: if there is no tuned profiler.
        """
        if not (folder / "about.yaml").is_file() or not (folder / "config.yaml").is_file():
            raise ReclmError(
                f"{folder} holds no tuned profiler; give the folder that reclm tune wrote (--out)"
            )
        return cls(
            folder,
            LangPTuneConfig.from_yaml(folder / "config.yaml"),
            About.from_yaml(folder / "about.yaml"),
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
        about = About(
            dataset=view.name,
            fingerprint=view.fingerprint,
            model=asked,
            weights=model.name,
            encoder=encoder,
        )
        tuned = cls(folder, config, about)
        if (folder / "about.yaml").is_file() and (folder / "config.yaml").is_file():
            there = cls.read(folder)
            if there == tuned:
                return tuned
            try:
                _compare(folder, there._defined, tuned._defined)
            except ReclmError:
                if there.learned:
                    raise
                shutil.rmtree(folder / "sessions", ignore_errors=True)
        elif folder.is_dir() and any(
            not one.name.endswith((".partial", ".yaml")) for one in folder.iterdir()
        ):
            raise ReclmError(
                f"{folder} holds something else than a tuned profiler; give another folder (--out)"
            )
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for name, part in (("config.yaml", config), ("about.yaml", about)):
                part.to_yaml(folder / f"{name}.partial")
                os.replace(folder / f"{name}.partial", folder / name)
        except OSError as error:
            raise ReclmError(f"cannot write {folder}: {error.strerror or error}") from error
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
        """Training came to its end: checkpoints are deleted."""
        (self.folder / _DONE).write_text(f"variant: {self.config.variant}\n", encoding="utf-8")
        for part in ("cl", "rlso"):
            shutil.rmtree(self.folder / part / "checkpoints", ignore_errors=True)

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
        found = find_model(name or self.about.model)
        if found.name != self.about.weights:
            raise ReclmError(
                f"{self.folder} was tuned from {self.about.weights}, not from {found.name}; give that one with --model"
            )
        return found

    def generator(self, model: LanguageModel) -> LazyGenerator:
        """The tuned model, loaded when it is first needed."""
        adapter = self.adapter
        name = f"{model.name}+rlso@{digest(sorted(adapter.glob('*.safetensors')))}" if adapter else model.name

        def load() -> TextGenerator:
            with quiet():
                network = load_network(model)
                if adapter:
                    network = PeftModel.from_pretrained(network, str(adapter)).merge_and_unload()  # pyright: ignore[reportCallIssue]
                generator = PolicyGenerator(network, model)
            generator.model = name
            return generator

        return LazyGenerator(name, load)


def _compare(folder: Path, there: dict[str, Any], asked: dict[str, Any], within: str = "") -> None:
    """Raises a ReclmError that names the first option in which two tunings differ."""
    for name, other in asked.items():
        one = there.get(name)
        if isinstance(other, dict) and isinstance(one, dict):
            _compare(folder, one, other, f"{within}{name}.")
        elif one != other:
            raise ReclmError(
                f"{folder} was tuned with {within}{name} = {one}, not {other}; go on with the same options, "
                "or begin in another folder (--out)"
            )
