"""Chats, answers, and the interface of text generators. Text from data goes into a message through :func:`plain`."""

import hashlib
import json
import re
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import ClassVar, Literal

from pydantic import Field

from reclm.config import Config


@dataclass(frozen=True)
class Message:
    """One turn of a chat."""

    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True)
class Chat:
    """A prompt: the messages, and the start of the answer where it is given."""

    messages: tuple[Message, ...]
    answer_start: str = ""


class SamplingParams(Config):
    """Options of generation; they are part of a prompt's hash."""

    max_new_tokens: int = Field(default=48, ge=1)
    temperature: float = Field(default=0.0, ge=0)
    """0 takes the most likely token each time."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    repetition_penalty: float = Field(default=1.0, gt=0)
    """Divides the (positive) logits of all tokens that occur in the prompt or the answer so far."""
    presence_penalty: float = Field(default=0.0, ge=-2, le=2)
    """Subtracted from the logits of all tokens that occur in the answer so far, the prompt not counted."""
    stop: tuple[str, ...] = ()
    """Generation ends behind the first of these strings; it is not part of the text."""
    pattern: str | None = None
    """A regular expression that the answer, after its given start, must match: no other token is allowed."""
    seed: int = 0


@dataclass(frozen=True)
class Generation:
    """The answer to the chat called ``key``, with its given start; the token that ends it is not counted."""

    key: str
    text: str
    prompt_tokens: int
    new_tokens: int
    finish_reason: Literal["stop", "length"]


def prompt_hash(chat: Chat, model: str, params: SamplingParams) -> str:
    """Return 32 hex digits that identify a generation: a prompt to a model."""
    parts = [model, asdict(chat), params.model_dump(mode="json")]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:32]


class TextGenerator(ABC):
    """An engine that runs one language model.

    Attributes:
        local: whether the model is on this machine (:func:`~reclm.llm.models.find_model`), or else known by name only.
        unsupported: the sampling parameters that it ignores.
        model: the name that goes into profiles and prompt hashes; equal names must mean equal weights.
    """

    local: ClassVar[bool] = True
    unsupported: frozenset[str] = frozenset()
    model: str

    @abstractmethod
    def generate(self, chats: Mapping[str, Chat], params: SamplingParams) -> Iterator[Generation]:
        """Answer every chat, each once, in any order, each as soon as it is done.

        Raises:
            BadInput: if a prompt does not fit the model's context window (which key, how many tokens).
        """

    @abstractmethod
    def count_tokens(self, chats: Mapping[str, Chat]) -> dict[str, int]:
        """Count the prompt tokens of each chat, the given start of the answer included."""


def cut_at_stop(text: str, params: SamplingParams) -> tuple[str, bool]:
    """Return ``text`` up to the first stop string in it, and whether there is one."""
    cuts = [at for at in map(text.find, params.stop) if at >= 0]
    return text[: min(cuts, default=len(text))], bool(cuts)


_SPACES = {"Cc", "Zl", "Zp"}
_INVISIBLE = {"Cf", "Co", "Cs"}
_MARKERS = (
    # <s>, </s>, <|im_start|>, <start_of_turn>, <<SYS>>, [INST], [/INST]: the brackets become round
    (re.compile(r"<+(?=[^\W\d]|[|/])[|/]*"), "("),
    (re.compile(r"(?<=[\w|/])[|/]*>+"), ")"),
    (re.compile(r"\[(/?[A-Z][A-Z_]+)\]"), r"(\1)"),
    # "### Instruction:", "USER: … ASSISTANT: …"
    (re.compile(r"#{2,}"), "#"),
    (re.compile(r"\b(user|assistant|system|human)\s*:", re.IGNORECASE), r"\1 -"),
)


def plain(text: str, limit: int | None = None) -> str:
    """Make text from data safe to stand in a prompt: one line, readable, and unable to act as chat markup.

    >>> plain("The <|im_start|>system\\n[INST] Show", 40)
    'The (im_start)system (INST) Show'

    Compatibility forms are folded (NFKC), control and invisible characters go, brackets of role and template markers
    become round ones. A text longer than ``limit`` characters is cut at a word boundary.
    """
    text = unicodedata.normalize("NFKC", text)
    kinds = map(unicodedata.category, text)
    text = "".join(
        " " if kind in _SPACES else character
        for character, kind in zip(text, kinds, strict=True)
        if kind not in _INVISIBLE
    )
    for marker, replacement in _MARKERS:
        text = marker.sub(replacement, text)
    text = " ".join(text.split())
    if limit is not None and len(text) > limit:
        head = text[:limit]
        if head[-1:].isalnum() and text[limit].isalnum():
            head = head.rpartition(" ")[0] or head
        text = head.rstrip(" ,;:-")
    return text
