"""The run folder of a tuned profiler: config, origin, adapters."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar, Self

from reclm.config import Config as BaseConfig
from reclm.config import merged
from reclm.data.dataset import TrainingView
from reclm.errors import BadInput, NotFound
from reclm.llm.chat import TextGenerator
from reclm.llm.engines.transformers import NetworkGenerator
from reclm.llm.models import LanguageModel, LazyGenerator, digest, find_model
from reclm.profilers.tuning.adapter import ADAPTER, with_adapter
from reclm.profilers.tuning.training import load_network, quiet

ABOUT, CONFIG = "about.yaml", "config.yaml"


class About(BaseConfig):
    """The content of ``about.yaml``: the origin of a tuned profiler."""

    dataset: str
    fingerprint: str
    model: str | None
    """The model's name as it was asked for; None for the embedded one."""
    weights: str
    """The model's name, with a hash of its weights."""
    version: str = version("reclm-toolkit")


@dataclass(frozen=True)
class RunFolder:
    """The base of run folders: ``config.yaml``, ``about.yaml``, and a folder for each stage with its ``adapter``."""

    profiler: ClassVar[str]
    Config: ClassVar[type[BaseConfig]]
    About: ClassVar[type[BaseConfig]] = About
    free: ClassVar[frozenset[str]] = frozenset()
    """Options that may change when tuning goes on."""
    writes: ClassVar[tuple[str, ...]] = ()
    """Options that change how the tuned profiler writes."""
    prepared: ClassVar[tuple[str, ...]] = ()
    """Folders that are deleted when options change before anything was learned."""

    folder: Path
    config: Any
    about: Any

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Return the run that :meth:`begin` wrote."""
        if not (folder / ABOUT).is_file() or not (folder / CONFIG).is_file():
            message = f"{folder} holds no tuned profiler; give the folder that reclm tune wrote (--out)"
            raise NotFound(message, value=folder)
        return cls(folder, cls.Config.from_yaml(folder / CONFIG), cls.About.from_yaml(folder / ABOUT))

    def reopened(
        self,
        settings: Mapping[str, Any] | None,
        engine: str | None,
        engine_options: Mapping[str, Any] | None = None,
    ) -> Self:
        """Return the run with ``settings`` over its own, for a profiler that is opened to write."""
        if engine not in {None, "transformers"}:
            message = f"a tuned model runs on transformers, not on {engine!r}; leave --engine out"
            raise BadInput(message, value=engine)
        if engine_options:
            raise BadInput("a tuned model has no options of an engine; leave them out", value=engine_options)
        settings, where = settings or {}, f"profiler {self.profiler}"
        config = self.Config.build(merged(self.config.model_dump(mode="json"), settings), where=where)
        for name in sorted(settings.keys() - set(self.writes)):
            message = f"{where}: {name!r} is a setting of tuning, and {self.folder} is tuned; leave it out"
            changes = f"what changes how it writes: {', '.join(self.writes)}"
            raise BadInput(f"{message} ({changes})", value=name, where=where)
        return replace(self, config=config)

    @classmethod
    def begin(
        cls,
        folder: Path,
        config: BaseConfig,
        view: TrainingView,
        model: LanguageModel,
        requested: str | None,
        **about: Any,
    ) -> Self:
        """Return a folder to tune in: a new one, or one to go on in, which :meth:`write` gives the new ``config``.

        Where nothing was learned yet, data that were prepared with other options are deleted. ``requested`` is the name
        that ``model`` was found by; ``about`` are further fields of ``About``. A folder that was tuned from other data,
        another model or with other options (those that are ``free`` may differ), or holds something else, is refused.
        """
        about |= {"dataset": view.name, "fingerprint": view.fingerprint}
        about |= {"model": requested, "weights": model.name}
        run = cls(folder, config, cls.About(**about))
        if (folder / ABOUT).is_file():
            earlier = cls.read(folder)
            if model.is_called(earlier.about.weights):
                run = replace(run, about=run.about.model_copy(update={"weights": earlier.about.weights}))
            try:
                _compare(folder, earlier._definition, run._definition)
            except BadInput:
                if earlier.learned:
                    raise
                for name in cls.prepared:
                    shutil.rmtree(folder / name, ignore_errors=True)
        elif folder.is_dir() and {path.name for path in folder.glob("[!.]*")} - {CONFIG}:
            message = f"{folder} holds something else than a tuned profiler; give another folder (--out)"
            raise BadInput(message, value=folder)
        if not run.learned:
            run.write()
        return run

    def write(self) -> None:
        """Write ``config.yaml`` and ``about.yaml`` where they change, each whole or not at all."""
        for name, part in ((CONFIG, self.config), (ABOUT, self.about)):
            path = self.folder / name
            if not path.is_file() or type(part).from_yaml(path) != part:
                part.to_yaml(path)

    @property
    def _definition(self) -> dict[str, Any]:
        """All that the training depends on."""
        about = self.about.model_dump(exclude={"dataset", "model", "version", "profiler"})
        config = self.config.model_dump(mode="json", exclude=set(self.free))
        for part in (part for part in config.values() if isinstance(part, dict)):
            part.pop("checkpoint_steps", None)
        return about | config

    @property
    def learned(self) -> bool:
        """Return whether the training of a stage was begun."""
        raise NotImplementedError

    def adapter(self, stage: str) -> Path | None:
        """Return the folder of a stage's adapter; None while the stage is not finished."""
        path = self.folder / stage / ADAPTER
        return path if (path / "adapter_config.json").is_file() else None

    def model(self, name: str | None = None) -> LanguageModel:
        """Return the model that was tuned; ``name``, or the requested name, must still be that of its weights."""
        model, tuned = find_model(name or self.about.model), self.about.weights
        if not model.is_called(tuned):
            message = (
                f"{self.folder} was tuned from {tuned}, not from {model.name}; give that one with --model"
            )
            raise BadInput(message, value=model.name, remedy=tuned)
        return replace(model, name=tuned)

    def generator(self, stage: str | None, model: LanguageModel) -> LazyGenerator:
        """Return the model as ``stage`` left it, loaded at its first prompt; None: the untuned model."""
        adapter = self.adapter(stage) if stage else None
        name = model.name
        if adapter:
            name += f"+{stage}@{digest(sorted(adapter.glob('*.safetensors')))}"

        def load() -> TextGenerator:
            with quiet():
                network = load_network(model)
                if adapter:
                    network = with_adapter(network, adapter).merge_and_unload()
                generator = NetworkGenerator(network, model)
            generator.model = name
            return generator

        return LazyGenerator(name, load)


def _compare(folder: Path, old: Mapping[str, Any], new: Mapping[str, Any], within: str = "") -> None:
    """Raise a BadInput that names the first option in which two tunings differ."""
    for name, value in new.items():
        before = old.get(name)
        if isinstance(before, dict) and isinstance(value, dict) and before.keys() == value.keys():
            _compare(folder, before, value, f"{within}{name}.")
        elif before != value:
            message = f"{folder} was tuned with {within}{name} = {before}, not {value}"
            remedy = "go on with the same options, or begin in another folder (--out)"
            raise BadInput(f"{message}; {remedy}", value=value, where=f"{within}{name}")
