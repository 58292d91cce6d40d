"""The server that an engine asks: its address and key, its answers in their dialects, its errors in words for users."""

import json
import os
import re
import zlib
from contextlib import suppress
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, NoReturn
from urllib.parse import urlsplit

from reclm.errors import BadInput, Busy, NotFound, ReclmError, needs_extra
from reclm.llm.chat import NoAnswers

with needs_extra("engine 'server'"):
    import openai
    from anyio import fail_after
    from openai import AsyncOpenAI as Client
    from openai import DefaultAsyncHttpxClient as _Http

_OPENAI = "https://api.openai.com/v1"
_LOCAL = {"localhost", "::1", "0.0.0.0"}
DEFAULTS = {"temperature": 1, "top_p": 1, "presence_penalty": 0}
"""Fields whose absence changes answers, and the values that all models take."""
_LONGEST = 4 * 2**20
"""Most bytes of an answer that are read: a profile has some hundred."""
_LISTING = 10.0
"""Seconds that the list of models may take."""
_SECRET = 6
"""Fewest characters of a key that is hidden: servers of one's own take any word."""
FAILED = 8
"""What a failure of the server counts among the prompts in a row without an answer."""

_LATER = "run again later, it goes on where it stopped"
TIMEOUT = "{url} did not answer {key!r} within {timeout:g} s; ask less at once, or run again later"
_FAULTS = {
    openai.APITimeoutError: (TIMEOUT, True),
    openai.APIConnectionError: (
        "cannot reach {url}, tried {sent}; start the server, or set OPENAI_BASE_URL to where it is",
        False,
    ),
    openai.AuthenticationError: (
        "{url} does not accept the key (401); set OPENAI_API_KEY to a valid one",
        False,
    ),
    openai.PermissionDeniedError: (
        "{url} does not permit {model!r} (403): {words}; check OPENAI_API_KEY",
        False,
    ),
    openai.RateLimitError: (
        "{url} allows no more requests now (429), asked {sent}: {words}; " + _LATER,
        False,
    ),
    openai.InternalServerError: ("{url} fails ({status}), asked {sent}: {words}; " + _LATER, True),
}
"""Messages for errors of the client, and whether the next prompt may fare better. A timeout is a connection error, too,
and comes first."""
_TRANSIENT = (openai.RateLimitError, openai.APIConnectionError)
_UNPAID = 402
_LASTING = {400, 403, 413, 422, 451}
"""Status of a refusal that is about the prompt: a later run would meet it again."""
_NO_CHAT = (
    "{url} answered {key!r} with something else than a chat completion; "
    "OPENAI_BASE_URL must be where the API begins, mostly …/v1"
)


class PassedOverError(Exception):
    """A prompt that gets no answer; ``weight`` is what it counts among those in a row.

    ``passing``: the server failed, not the prompt; a later run may get an answer.
    """

    def __init__(self, error: ReclmError, weight: int, passing: bool) -> None:
        super().__init__(str(error))
        self.error, self.weight, self.passing = error, weight, passing


class _Bounded(_Http):
    """Reads no more than the beginning of an endless answer; asks for no compression, so that this is its size."""

    async def send(self, request: Any, **options: Any) -> Any:
        request.headers["Accept-Encoding"] = "identity"
        options["stream"] = True
        response = await super().send(request, **options)
        body = bytearray()
        try:
            async for chunk in response.aiter_raw():
                body += chunk
                if len(body) > _LONGEST:
                    break
        finally:
            await response.aclose()
        coded = {"content-encoding", "content-length", "transfer-encoding"}
        headers = [
            (name, value) for name, value in response.headers.multi_items() if name.lower() not in coded
        ]
        content = bytes(body[:_LONGEST])
        if response.headers.get("content-encoding", "").lower() in {"gzip", "x-gzip", "deflate"}:
            with suppress(zlib.error):  # a gateway that compresses unasked
                content = zlib.decompressobj(zlib.MAX_WBITS | 32).decompress(content, _LONGEST)
        return type(response)(response.status_code, headers=headers, content=content, request=request)


@dataclass(frozen=True)
class Host:
    """The server behind an address, and how often and how long it is asked.

    Attributes:
        url: the address without name and password.
        name: the host alone: a server that moves to another port is the same.
    """

    base_url: str
    url: str
    name: str
    key: str
    needs_key: bool
    model: str
    retries: int
    timeout: float

    @classmethod
    def at(cls, base_url: str | None, key: str | None, model: str, retries: int, timeout: float) -> "Host":
        """Return the server at ``base_url``, else at ``$OPENAI_BASE_URL``, else OpenAI's own."""
        address = base_url or os.environ.get("OPENAI_BASE_URL", "").strip()
        key = (key or os.environ.get("OPENAI_API_KEY", "")).strip()
        needs_key = not address  # a server of one's own takes any
        address = address or _OPENAI
        bare = address.rpartition("@")[2].partition("?")[0]
        try:
            parts = urlsplit(address)
            if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0:
                raise ValueError(address)
        except ValueError as error:
            message = (
                f"OPENAI_BASE_URL: {bare!r} is no address of a server; write http://localhost:8000/v1, say"
            )
            raise BadInput(message, value=bare, where="OPENAI_BASE_URL") from error
        url = f"{parts.scheme}://{parts.netloc.rpartition('@')[2].lower()}{parts.path}".rstrip("/")
        name = "127.0.0.1" if parts.hostname in _LOCAL else parts.hostname.rstrip(".")
        return cls(address, url, name, key, needs_key, model, retries, timeout)

    def __repr__(self) -> str:
        return f"Host({self.url!r})"

    def client(self) -> Client:
        """Return a client for one run."""
        if not self.key.isascii() or not self.key.isprintable():
            message = f"OPENAI_API_KEY holds characters that no key for {self.url} can have"
            raise BadInput(message, where="OPENAI_API_KEY")
        if not self.key and self.needs_key:
            remedy = "set OPENAI_API_KEY, or OPENAI_BASE_URL to a server that needs none, as in http://localhost:8000/v1"
            message = f"there is no key for {self.url}; {remedy}"
            raise NotFound(message, value="OPENAI_API_KEY", remedy="OPENAI_API_KEY")
        limits = {"max_retries": self.retries, "timeout": self.timeout}
        return Client(base_url=self.base_url, api_key=self.key or "none", http_client=_Bounded(), **limits)

    def hidden(self, text: str) -> str:
        """Return a server's words without the key, which some repeat."""
        return text.replace(self.key, "***") if len(self.key) >= _SECRET else text

    def failing(
        self,
        line: str,
        kind: type[ReclmError],
        key: str,
        text: str = "",
        weight: int = FAILED,
        status: Any = "",
        passing: bool = True,
    ) -> PassedOverError:
        """Return the error of the prompt called ``key``, which costs no other prompt."""
        error = kind(self._line(line, key, text, status), value=key, where=self.url)
        return PassedOverError(error, weight, passing)

    def _line(self, line: str, key: str, text: str, status: Any) -> str:
        sent = f"{self.retries + 1} times" if self.retries else "once"
        names = {"url": self.url, "model": self.model, "host": self.name, "timeout": self.timeout}
        return line.format(**names, key=key, words=text, sent=sent, status=status)

    async def explain(self, error: Exception, client: Client, key: str) -> NoReturn:
        """Raise what the client raised for the prompt called ``key``, as an error that a user can correct."""
        status, text = getattr(error, "status_code", ""), self.hidden(words_of(error))
        if isinstance(error, openai.NotFoundError):
            raise NotFound(self._not_found(text, await _listed(client)), where=self.url)
        if status == _UNPAID:
            line = "{url} asks for payment (402): {words}; " + _LATER
            raise Busy(self._line(line, key, text, status), value=key, where=self.url)
        for kind, (line, passed_over) in _FAULTS.items():
            if isinstance(error, kind) and not (status == 403 and is_about_the_prompt(text)):
                if passed_over:
                    raise self.failing(line, Busy, key, text, status=status)
                error_class = Busy if kind in _TRANSIENT else BadInput
                raise error_class(self._line(line, key, text, status), value=key, where=self.url)
        if not isinstance(error, openai.APIStatusError):
            line = "{url} answered {key!r} with an error: {words}" if text else _NO_CHAT
            raise self.failing(line, NoAnswers, key, text, 1)
        line = "{url} refuses the prompt of {key!r} ({status}): {words}"
        if is_too_long(all_words_of(error)):
            line = "the prompt of {key!r} is too long for {model} at {host}: {words}; shorten the history or item text"
        else:
            fields = (name for name in DEFAULTS if error.param == name or names_field(name, text))
            if name := next(fields, None):
                line += f"; this model takes {name}={DEFAULTS[name]}: --set {name}={DEFAULTS[name]}"
        raise self.failing(line, NoAnswers, key, text, 0, status, passing=status not in _LASTING)

    def _not_found(self, text: str, listed: list[str]) -> str:
        if not listed:
            return (
                f"{self.url} has no model {self.model!r}, or no chat API there (404): {text}; "
                "OPENAI_BASE_URL must be where the API begins, mostly …/v1"
            )
        if self.model in listed:
            return f"{self.url} lists model {self.model!r} but does not chat with it (404): {text}"
        near = [self.hidden(name)[:80] for name in get_close_matches(self.model, listed, n=8, cutoff=0.0)]
        more = f" and {len(listed) - len(near)} more" if len(listed) > len(near) else ""
        return f"{self.url} has no model {self.model!r}; it has: {', '.join(near)}{more}"


def words_of(error: Exception) -> str:
    """Return the server's own words in an error, one short line."""
    if isinstance(error, NoCompletionError):
        return error.words
    return words(error.body or error.message) if isinstance(error, openai.APIError) else ""


def all_words_of(error: Exception) -> str:
    """Return all that a server says in an error."""
    if isinstance(error, openai.APIError):
        return f"{error.code} {error.type} {error.message[:2000]} {str(error.body)[:2000]}"
    return words_of(error)


def is_refusal(error: Exception) -> bool:
    """Return whether a server refuses a request for what is in it, as far as its status tells."""
    status = getattr(error, "status_code", None)
    if status in {500, 501} and "schema" in all_words_of(error).lower():  # Ollama
        return True
    return status in {400, 422} or bool(getattr(error, "words", ""))


async def _listed(client: Client) -> list[str]:
    """Return the models that the server lists, none where it has no list."""
    try:
        with fail_after(_LISTING):
            raw = await client.with_options(max_retries=0).models.with_raw_response.list()
        models = json.loads(raw.content)["data"]
        return sorted({model["id"] for model in models if isinstance(model["id"], str)})
    except (openai.OpenAIError, ValueError, TypeError, KeyError, RecursionError, TimeoutError):
        return []


_COUNT_LIMIT = 2**31
"""Token counts that a server reports are smaller, or wrong."""
_CUT = {"length", "max_tokens", "max_output_tokens", "token_limit"}
_NO_STOP = {
    *("content_filter", "content-filter", "safety", "refusal", "blocked", "blocklist", "prohibited_content"),
    *("recitation", "spii", "guardrail_intervened", "sensitive", "error", "abort", "cancelled", "timeout"),
    *("insufficient_system_resource", "tool_calls", "tool_use", "function_call", "malformed_function_call"),
}
"""Ends of an answer (``finish_reason``) that make it none, whatever was written before."""
_PASSING = {"error", "abort", "cancelled", "timeout", "insufficient_system_resource"}
"""Those of them that are the server's fault."""
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
    """A chat completion: the text, why there is none in it, whether it was cut, and tokens as far as they are said.

    ``passing``: the fault is the server's.
    """

    text: str
    fault: str
    passing: bool
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
    return Reply(text, fault, reason in _PASSING, reason in _CUT, *map(_count, counts))


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
    if not isinstance(value, int) or isinstance(value, bool):
        return None
    return value if 0 <= value < _COUNT_LIMIT else None


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
