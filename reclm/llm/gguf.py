"""GGUF files, converted once into what the engines read; the copies are kept in the user's cache.

Both engines run the same numbers: the file's quantised weights, dequantised and rounded to float16. (OpenVINO GenAI
reads quantised GGUF files too, but rounds the offsets of the types that have any, Q4_1 and the K types: SmolLM2-135M's
log-probabilities move by more than 1.)
"""

import hashlib
import io
import os
import shutil
import tempfile
from collections.abc import Callable
from contextlib import redirect_stderr
from importlib.metadata import version
from pathlib import Path

import numpy as np
import platformdirs

from reclm.errors import ReclmError


def half_copy(path: Path, name: str) -> Path:
    """The GGUF file with float16 matrices, for OpenVINO. ``name`` names the weights."""
    return (
        _cached(path, f"half {name} {version('gguf')}", lambda folder: _write_half(path, folder))
        / "model.gguf"
    )


def transformers_copy(path: Path, name: str, weights: bool) -> Path:
    """A folder with tokenizer, config and (``weights``) float16 safetensors, for transformers."""
    import transformers

    key = f"transformers {transformers.__version__} {weights} {name}"
    return _cached(path, key, lambda folder: _write_transformers(path, folder, weights))


def _cached(path: Path, key: str, build: Callable[[Path], None]) -> Path:
    """The cache folder for ``key``, built from ``path`` if it is not there; whole or not at all."""
    cache = Path(os.environ.get("RECLM_CACHE") or platformdirs.user_cache_path("reclm")) / "gguf"
    folder = cache / hashlib.sha256(key.encode()).hexdigest()[:16]
    if folder.is_dir():
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(dir=cache, prefix="unfinished-"))
    try:
        try:
            build(fresh)
        except (ValueError, IndexError, KeyError, NotImplementedError) as error:
            raise ReclmError(
                f"{path} is no GGUF file that can be read: {' '.join(str(error).split())}"
            ) from error
        fresh.rename(folder)
    except OSError:
        # another process was first
        if not folder.is_dir():
            raise
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return folder


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
