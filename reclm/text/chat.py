"""Chats, and what comes back for them: the words that profilers and text generators share.

Text that comes from data (titles, reviews, other profiles) goes into a message through :func:`plain`, and every
engine tokenises message contents so that no special token can arise from them: data cannot forge roles.
"""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Literal

from reclm.config import Config


@dataclass(frozen=True)
class Message:
    """One turn of a chat."""

    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True)
class Chat:
    """A prompt: the messages, and the first words of the answer where it is begun for the model."""

    messages: tuple[Message, ...]
    answer_start: str = ""


class SamplingParams(Config):
    """How to generate. Part of what identifies a profile."""

    max_new_tokens: int = 48
    temperature: float = 0.0
    """0 takes the most likely token each time."""
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    stop: tuple[str, ...] = ()
    """Generation ends behind the first of these strings; it is not part of the text."""
    seed: int = 0


@dataclass(frozen=True)
class Generation:
    """What a model wrote for the chat called ``key``; ``text`` includes the begun answer, ends stripped."""

    key: str
    text: str
    prompt_tokens: int
    new_tokens: int
    finish_reason: Literal["stop", "length"]


def prompt_hash(chat: Chat, model: str, params: SamplingParams) -> str:
    """What identifies a generation (32 hex digits): equal hash, equal question to an equal model."""
    parts = [model, asdict(chat), params.model_dump(mode="json")]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:32]


class TextGenerator(ABC):
    """An engine that runs one language model.

    Attributes:
        model: the name that goes into profiles and prompt hashes; equal names must mean equal weights.
    """

    model: str

    @abstractmethod
    def generate(self, chats: Mapping[str, Chat], params: SamplingParams) -> Iterator[Generation]:
        """Answer every chat, each once, in any order, each as soon as it is done.

        Raises:
            ReclmError: if a prompt does not fit the model's context window (which key, how many tokens).
        """

    @abstractmethod
    def count_tokens(self, chats: Mapping[str, Chat]) -> dict[str, int]:
        """Prompt tokens of each chat, begun answer included."""
