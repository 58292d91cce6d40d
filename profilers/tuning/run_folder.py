"""What the folders of tuned profilers have in common: config, what they were tuned from, and the tuned model."""

import os
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from peft import PeftModel

from reclm.config import Config
from reclm.errors import ReclmError
from reclm.llm.chat import TextGenerator
from reclm.llm.models import LanguageModel, LazyGenerator, digest, find_model
from reclm.profilers.rl.rollout import PolicyGenerator
from reclm.profilers.tuning.load_model import load_network, quiet

ABOUT, CONFIG = "about.yaml", "config.yaml"


class About(Config):
    """``about.yaml``: what a profiler was tuned from."""

    dataset: str
    fingerprint: str
    model: str | None
    """As it was asked for; None for the embedded one."""
    weights: str
    """The model's name, with a hash of its weights."""
    version: str = version("reclm-toolkit")


def check(folder: Path) -> None:
    """Raises a ReclmError if no tuned profiler is there."""
    if not (folder / ABOUT).is_file() or not (folder / CONFIG).is_file():
        raise ReclmError(f"{folder} holds no tuned profiler; give the folder that reclm tune wrote (--out)")


def write(folder: Path, config: Config, about: About) -> None:
    """Write ``config.yaml`` and ``about.yaml``, each whole or not at all.

    Raises:
        ReclmError: if they cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, part in ((CONFIG, config), (ABOUT, about)):
            part.to_yaml(folder / f"{name}.partial")
            os.replace(folder / f"{name}.partial", folder / name)
    except OSError as error:
        raise ReclmError(f"cannot write {folder}: {error.strerror or error}") from error


def compare(folder: Path, there: Mapping[str, Any], asked: Mapping[str, Any], within: str = "") -> None:
    """Raises a ReclmError that names the first option in which two tunings differ."""
    for name, other in asked.items():
        one = there.get(name)
        if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
            compare(folder, one, other, f"{within}{name}.")
        elif one != other:
            raise ReclmError(
                f"{folder} was tuned with {within}{name} = {one}, not {other}; go on with the same options, "
                "or begin in another folder (--out)"
            )


def something_else(folder: Path) -> ReclmError:
    """What is said of a folder that is not empty and holds no tuning."""
    return ReclmError(f"{folder} holds something else than a tuned profiler; give another folder (--out)")


def base_model(folder: Path, about: About, name: str | None = None) -> LanguageModel:
    """The model that was tuned in ``folder``.

    Raises:
        ReclmError: if ``name``, or what is found under the name it had, is another one.
    """
    found = find_model(name or about.model)
    if found.name != about.weights:
        raise ReclmError(
            f"{folder} was tuned from {about.weights}, not from {found.name}; give that one with --model"
        )
    return found


def tuned_generator(model: LanguageModel, adapter: Path | None, stage: str) -> LazyGenerator:
    """The model with the adapter that ``stage`` left, loaded when it is first needed; without one, as it came."""
    name = f"{model.name}+{stage}@{digest(sorted(adapter.glob('*.safetensors')))}" if adapter else model.name

    def load() -> TextGenerator:
        with quiet():
            network = load_network(model)
            if adapter:
                network = PeftModel.from_pretrained(network, str(adapter)).merge_and_unload()  # pyright: ignore[reportCallIssue]
            generator = PolicyGenerator(network, model)
        generator.model = name
        return generator

    return LazyGenerator(name, load)
