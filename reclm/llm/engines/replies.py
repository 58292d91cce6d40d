"""What servers say: the answers of chat completions in their dialects, and the reasons of refusals."""

import json
import re
from dataclasses import dataclass
from typing import Any

_COUNT_LIMIT = 2**31
"""Token counts that a server reports are smaller, or wrong."""
_CUT = {"length", "max_tokens", "max_output_tokens", "token_limit"}
_NO_STOP = {
    *("content_filter", "content-filter", "safety", "refusal", "blocked", "blocklist", "prohibited_content"),
    *("recitation", "spii", "guardrail_intervened", "sensitive", "error", "abort", "cancelled", "timeout"),
    *("insufficient_system_resource", "tool_calls", "tool_use", "function_call", "malformed_function_call"),
}
"""Ends of an answer (``finish_reason``) that make it none, whatever was written before."""
_TOO_LONG = re.compile(
    r"context[ _-]?(length|size|window)|maximum context|(prompt|input|request)\b[^.]{0,40}\b(too (long|large)|exceeds)"
    r"|too many tokens|exceeds? [^.]{0,40}\btokens?\b|reduce the length|max_model_len",
    re.IGNORECASE,
)
_FILTERED = re.compile(
    r"content[ _-]?(filter|policy|management)|moderat|flagged|safety|not allowed|harmful", re.I
)
_FORMAT_NAMES = ("response_format", "json_schema", "json_object", "structured output", "schema", "grammar")


class NoCompletionError(ValueError):
    """A server's reply is no chat completion. ``words`` are those of an error in its place."""

    def __init__(self, words: str = "") -> None:
        super().__init__(words)
        self.words = words


@dataclass(frozen=True)
class Reply:
    """A chat completion: the text, why there is none in it, whether it was cut, and tokens as far as they are said."""

    text: str
    fault: str
    cut: bool
    prompt_tokens: int | None
    new_tokens: int | None


def read_reply(content: bytes) -> Reply:
    """Read the body of an answer, whatever server wrote it; NoCompletionError if it is no chat completion."""
    try:
        body = json.loads(content.decode(json.detect_encoding(content), "replace"))
    except (ValueError, RecursionError) as error:
        raise NoCompletionError from error
    choices = body.get("choices") if isinstance(body, dict) else None
    choice = choices[0] if isinstance(choices, list) and choices else None
    error = next(
        (part["error"] for part in (body, choice) if isinstance(part, dict) and part.get("error")), None
    )
    if error is not None:
        raise NoCompletionError(words(error) or "an error without words")
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(choice, dict) or not isinstance(message, dict):
        raise NoCompletionError
    text, refusal = _text(message.get("content")), message.get("refusal")
    reason = str(choice.get("finish_reason") or "").lower()
    fault = f"the model refused: {words(refusal)}" if refusal else ""
    if reason in _NO_STOP and not fault:
        fault = f"the answer ended with {reason!r}"
    usage = body.get("usage")
    counts = [
        usage.get(name) if isinstance(usage, dict) else None
        for name in ("prompt_tokens", "completion_tokens")
    ]
    return Reply(text, fault, reason in _CUT, *map(_count, counts))


def _text(content: Any) -> str:
    """Return the text of a message: a string, or the parts of it that are no thinking."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise NoCompletionError
    parts = (
        part for part in content if isinstance(part, dict) and part.get("type") in {"text", "output_text"}
    )
    texts = [part for part in content if isinstance(part, str)] or [part.get("text") for part in parts]
    return "".join(text for text in texts if isinstance(text, str))


def _count(value: Any) -> int | None:
    """Return a token count; None for what cannot be one."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    fits = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _COUNT_LIMIT
    return value if fits else None


def words(body: Any) -> str:
    """Return a server's own words in an error, one short line."""
    for _ in range(3):  # {"error": {"message": …}}, {"detail": …}, {"message": …}
        if isinstance(body, dict):
            body = next(
                (body[name] for name in ("message", "detail", "error", "msg") if body.get(name)), body
            )
    return " ".join(str(body)[:2000].split())[:200].rstrip(".")


def is_too_long(text: str) -> bool:
    """Return whether a refusal is about the length of a prompt."""
    return bool(_TOO_LONG.search(text))


def is_about_the_prompt(text: str) -> bool:
    """Return whether a refusal is about one prompt, not about the request's fields."""
    return is_too_long(text) or bool(_FILTERED.search(text))


def names_field(name: str, text: str) -> bool:
    """Return whether a refusal names a field of the request."""
    names = _FORMAT_NAMES if name == "response_format" else (name,)
    return any(re.search(rf"(?<!\w){re.escape(one)}s?(?!\w)", text, re.IGNORECASE) for one in names)
