"""Chats, answers, and the interface of text generators. Text from data goes into a message through :func:`plain`."""

import hashlib
import json
import re
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal

from pydantic import Field, model_serializer

from reclm.config import Config
from reclm.errors import BadInput


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
    json_schema: dict[str, Any] | None = None
    """A JSON schema for the answer, for an engine that is :attr:`~TextGenerator.structured`."""
    seed: int = 0

    @model_serializer(mode="wrap")
    def _without_a_schema(self, dump: Any) -> dict[str, Any]:
        # the hashes of stored prompts stay valid
        return {name: value for name, value in dump(self).items() if name != "json_schema" or value}


@dataclass(frozen=True)
class Generation:
    """The answer to the chat called ``key``, with its given start; the token that ends it is not counted.

    ``fault`` says in one line why there is no answer, where there is none; ``passing``: it may be gone in a later run.
    """

    key: str
    text: str
    prompt_tokens: int
    new_tokens: int
    finish_reason: Literal["stop", "length"]
    fault: str = ""
    passing: bool = False

    @classmethod
    def failed(cls, key: str, fault: str, passing: bool = False) -> "Generation":
        """Return what stands for an answer that did not come."""
        return cls(key, "", 0, 0, "stop", fault, passing)


class NoAnswers(BadInput):
    """An engine got no answer at all; the message is the first prompt's fault."""


def prompt_hash(chat: Chat, model: str, params: SamplingParams) -> str:
    """Return 32 hex digits that identify a generation: a prompt to a model."""
    parts = [model, asdict(chat), params.model_dump(mode="json")]
    text = json.dumps(parts, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode(errors="replace")).hexdigest()[:32]


class TextGenerator(ABC):
    """An engine that runs one language model.

    Attributes:
        local: whether the model is on this machine (:func:`~reclm.llm.models.find_model`), or else known by name only.
        unsupported: the sampling parameters that it ignores.
        structured: whether it takes a JSON schema, and then no pattern.
        neutral: options of its constructor that do not change answers.
        model: the name that goes into profiles and prompt hashes; equal names must mean equal weights.
    """

    local: ClassVar[bool] = True
    neutral: ClassVar[frozenset[str]] = frozenset()
    unsupported: frozenset[str] = frozenset()
    structured: bool = False
    model: str

    @abstractmethod
    def generate(self, chats: Mapping[str, Chat], params: SamplingParams) -> Iterator[Generation]:
        """Answer every chat, each once, in any order, each as soon as it is done.

        A prompt that gets no answer (it is too long, or refused) has a generation with a ``fault``; it costs no other.

        Raises:
            NoAnswers: if no prompt got an answer, now or before.
        """

    @abstractmethod
    def count_tokens(self, chats: Mapping[str, Chat]) -> dict[str, int]:
        """Count the prompt tokens of each chat, the given start of the answer included."""


def cut_at_stop(text: str, params: SamplingParams) -> tuple[str, bool]:
    """Return ``text`` up to the first stop string in it, and whether there is one."""
    cuts = [at for at in map(text.find, params.stop) if at >= 0]
    return text[: min(cuts, default=len(text))], bool(cuts)


_MIND = (
    r"\s*(?:[a-z]{1,12}[:_])?(?:think(?:ing)?|thoughts?|thought_process|"
    r"reason(?:ing)?|reflection|analysis|scratchpad)"
)
_THINKING = re.compile(
    # <think>, <thinking>, <seed:think>, [THINK], ◁think▷, <|begin_of_thought|>; gpt-oss: <|channel|>analysis;
    # Command A: <|START_THINKING|>; Apertus: <|inner_prefix|>; Gemma: <unused94>thought, <|channel>thought
    rf"<{_MIND}(?:\s[^<>]*)?>|\[THINK\]|◁think▷|<\|(?:begin_of_thought|(?:start_)?thinking|inner_prefix)\|>"
    r"|<\|channel\|>\s*(?:analysis|commentary)|\Aanalysis(?=[A-Z])|(?:<unused94>|<\|channel>)\s*thought",
    re.IGNORECASE,
)
_THOUGHT = re.compile(
    rf"</{_MIND}\s*>|\[/THINK\]|◁/think▷|<\|(?:end_of_thought|end_thinking|/thinking|inner_suffix)\|>"
    r"|<\|channel\|>\s*final\b[^<]*<\|message\|>|(?<=\W)assistantfinal(?=[A-Z{])"
    r"|<unused95>|<channel\|>|\[BEGIN FINAL RESPONSE\]",
    re.IGNORECASE,
)
_ENDS = re.compile(
    r"<\|(?:end|return|im_end|eot_id|endoftext|call|start|END_RESPONSE|end_of_solution)\|>.*"
    r"|(?:</(?:s|answer|response)>|\[END FINAL RESPONSE\])\s*\Z",
    re.DOTALL,
)
_TURN = re.compile(r"\A(?:\s*<(?:\|[^<>|]{1,40}\|>(?:\s*assistant\b)?|(?:answer|response)>))+")
_MARKS = " \t\r\n*_#`~|<>()[]{}.,;:!?\"'-–—…"
_REFUSAL = re.compile(
    r"\W*(?:(?:i(?:['’]m| am) (?:very |so |really )?)?sorry\b|as an ai\b|(?:unfortunately,? )?i (?:can(?:not|['’]t)"
    r"|am (?:unable|not able) to|['’]m (?:unable|not able) to|will not|won['’]t) (?:assist|help|comply|fulfil|provide"
    r"|create|generate|write|answer|continue|do)\b)",
    re.IGNORECASE,
)


def encodable(text: str) -> str:
    """Return ``text`` with U+FFFD in place of lone surrogates, which no file and no tokenizer takes.

    >>> encodable("caf\\ud83d")
    'caf\ufffd'
    """
    return re.sub("[\ud800-\udfff]", "\ufffd", text)


def without_thinking(text: str) -> str:
    """Return an answer without the thinking before it; empty where the thinking does not end.

    >>> without_thinking("<think>A cook?</think> User identity: cook")
    'User identity: cook'
    """
    text = encodable(text).replace("\0", "")
    for end in list(_THOUGHT.finditer(text))[-1:]:
        text = text[end.end() :]
    if begun := _THINKING.search(text):
        text = text[: begun.start()]
    return _TURN.sub("", _ENDS.sub("", text)).strip()


def no_answer(text: str, written: str) -> str:
    """Return why ``text``, what a model :func:`said` when it had ``written``, is no answer; empty where it is one."""
    if not text.strip(_MARKS):
        return "the model thought, and gave no answer" if _THINKING.search(written) else "the answer is empty"
    return f"the model refused: {text[:80]}" if _REFUSAL.match(text) else ""


_SPACES = {"Cc", "Zl", "Zp"}
_INVISIBLE = {"Cf", "Co", "Cs"}
_MARKERS = (
    # <s>, </s>, <|im_start|>, <start_of_turn>, <<SYS>>, [INST], [/INST]: the brackets become round
    (re.compile(r"<+(?=[^\W\d]|[|/])[|/]*"), "("),
    (re.compile(r"(?<=[\w|/])[|/]*>+"), ")"),
    # [gMASK], [UNUSED_TOKEN_146], [/INST], [start_of_turn], [|user|], [/|user|]
    (re.compile(r"\[(/?\w*[A-Z]{2}\w*|/?[a-z]+(?:_[a-z]+)+)\]"), r"(\1)"),
    (re.compile(r"\[[/|]*\|([^\[\]|]{0,40})\|?\]"), r"(\1)"),
    # <[begin▁of▁sentence]>; MiniMax: ]~!b[, ]~b], [e~[
    (re.compile(r"<\[([^\[\]<>]{1,60})\]>"), r"(\1)"),
    (re.compile(r"\]~!?b[\[\]]|\[e~\["), "(b)"),
    (re.compile("◁+/?"), "("),
    (re.compile("▷+"), ")"),
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
