"""A chat model behind an OpenAI-compatible server: a hosted one, vLLM, llama.cpp, Ollama and others."""

import math
import os
import re
import warnings
from collections.abc import Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from difflib import get_close_matches
from typing import Any
from urllib.parse import urlsplit

from reclm.errors import BadInput, Busy, NotFound, ReclmError, needs_extra
from reclm.llm.chat import Chat, Generation, SamplingParams, TextGenerator, cut_at_stop

with needs_extra("engine 'server'"):
    import openai
    from anyio.from_thread import start_blocking_portal
    from openai import AsyncOpenAI as _Client

_OPENAI = "https://api.openai.com/v1"
# left out where a server refuses them: the limit has a second name, a stop string is cut off here as well, a seed
# promises nothing at a server
_DISPENSABLE = {"max_tokens", "stop", "seed"}
_DEFAULTS = {"temperature": 1, "top_p": 1, "presence_penalty": 0}
_TOO_LONG = re.compile(
    r"context[ _](length|size|window)|maximum context|prompt is too long|too many tokens", re.I
)


class ServerGenerator(TextGenerator):
    """Asks the model that a server runs, many prompts at a time; it goes by ``NAME@HOST:PORT``.

    The API has no field for a pattern (the caller must check the answer), a repetition penalty, and the start of an
    answer (the model starts it itself): they are left out, or sent as ``extensions``. Token counts are the server's.

    Args:
        model: the server's name of it.
        base_url: where the API begins, as in ``http://localhost:8000/v1``; by default ``$OPENAI_BASE_URL``, else
            OpenAI's own.
        api_key: by default ``$OPENAI_API_KEY``; not needed where ``base_url`` is that of a server without keys.
        in_flight: most prompts asked at once.
        retries: how often a request is sent again that comes too early, fails at the server or finds none; the
            waits grow from half a second to eight, or are those that the server asks for.
        timeout: seconds to wait for one answer.
        extensions: also send fields that vLLM takes beyond the API.
    """

    local = False

    def __init__(
        self,
        model: str | None,
        base_url: str | None = None,
        api_key: str | None = None,
        in_flight: int = 16,
        retries: int = 4,
        timeout: float = 600.0,
        extensions: bool = False,
    ) -> None:
        if not isinstance(model, str) or not model.strip():
            message = "engine 'server' needs the name that the server gives the model; --model NAME"
            raise BadInput(message, value=model)
        if in_flight < 1:
            raise BadInput(f"in_flight = {in_flight} prompts at once; it must be 1 or more", value=in_flight)
        address = base_url or os.environ.get("OPENAI_BASE_URL", "").strip()
        self._base_url = address or _OPENAI
        self._key = (api_key or os.environ.get("OPENAI_API_KEY", "")).strip()
        self._needs_key = not address  # a server of one's own takes any
        self._url, self._host = _parsed(self._base_url)
        self._name, self._retries, self._timeout = model.strip(), retries, timeout
        self.model = f"{self._name}@{self._host}"
        self.in_flight, self.extensions = in_flight, extensions
        self.unsupported = frozenset() if extensions else frozenset({"pattern", "repetition_penalty"})
        self._refused: set[str] = set()
        self._reached = self._warned = False
        self._characters = self._tokens = 0

    def generate(self, chats: Mapping[str, Chat], params: SamplingParams) -> Iterator[Generation]:
        """Answer every chat, each once and as soon as it is done; at most ``in_flight`` are asked at once.

        After an error nothing more is asked; answers under way have been paid for, and are yielded before it is raised.
        An iterator that is closed cancels its requests.
        """
        if not chats:
            return
        if params.repetition_penalty != 1 and not self.extensions and not self._warned:
            self._warned = True
            message = f"the OpenAI API knows no repetition penalty; {self.model} is asked without"
            warnings.warn(message, stacklevel=2)
        client = self._client()
        waiting = iter(chats.items())
        failed: ReclmError | None = None
        running: set[Future[Generation]] = set()
        # the event loop has a thread of its own, so that this works where one is running already, as in a notebook
        with start_blocking_portal() as portal, portal.wrap_async_context_manager(client):
            try:
                while True:
                    # the first one alone: a wrong address, key or model fails once
                    room = self.in_flight if self._reached else 1
                    while failed is None and len(running) < room and (item := next(waiting, None)):
                        running.add(portal.start_task_soon(self._answer, client, *item, params))
                    if not running:
                        break
                    done, running = wait(running, return_when=FIRST_COMPLETED)
                    for future in done:
                        try:
                            answer = future.result()
                        except ReclmError as error:
                            failed = failed or error
                        else:
                            self._reached = True
                            yield answer
            finally:
                for future in running:
                    future.cancel()
        if failed is not None:
            raise failed

    def count_tokens(self, chats: Mapping[str, Chat]) -> dict[str, int]:
        """Estimate the prompt tokens of each chat: one for four characters, or as the server counted for others."""
        rate = self._tokens / self._characters if self._characters else 0.25
        return {key: math.ceil(rate * _characters(chat)) for key, chat in chats.items()}

    def _client(self) -> _Client:
        if not self._key.isascii() or not self._key.isprintable():
            message = f"OPENAI_API_KEY holds characters that no key for {self._url} can have"
            raise BadInput(message, where="OPENAI_API_KEY")
        if not self._key and self._needs_key:
            remedy = "set OPENAI_API_KEY, or OPENAI_BASE_URL to a server that needs none, as in http://localhost:8000/v1"
            message = f"there is no key for {self._url}; {remedy}"
            raise NotFound(message, value="OPENAI_API_KEY", remedy="OPENAI_API_KEY")
        limits = {"max_retries": self._retries, "timeout": self._timeout}
        return _Client(base_url=self._base_url, api_key=self._key or "none", **limits)

    async def _answer(self, client: _Client, key: str, chat: Chat, params: SamplingParams) -> Generation:
        while True:
            request = self._request(chat, params)
            try:
                return self._read(key, chat, await client.chat.completions.create(**request), params)
            except ReclmError:  # some are ValueErrors, too
                raise
            except (openai.OpenAIError, ValueError) as error:
                refused = next((name for name in request if _is_refused(name, error)), None)
                if refused not in _DISPENSABLE:
                    raise await self._explained(error, client, key) from error
                self._refused.add(refused)

    def _request(self, chat: Chat, params: SamplingParams) -> dict[str, Any]:
        messages = [{"role": message.role, "content": message.content} for message in chat.messages]
        # newer models know one name of the limit, older servers only the other
        limit = "max_completion_tokens" if "max_tokens" in self._refused else "max_tokens"
        request: dict[str, Any] = {
            "model": self._name,
            "messages": messages,
            limit: params.max_new_tokens,
            "temperature": params.temperature,
        }
        if params.temperature > 0:
            request |= {"top_p": params.top_p, "seed": params.seed}
        if params.presence_penalty:
            request["presence_penalty"] = params.presence_penalty
        if params.stop:
            request["stop"] = list(params.stop)
        if self.extensions:
            extra: dict[str, Any] = {"repetition_penalty": params.repetition_penalty}
            if params.pattern is not None:
                extra["structured_outputs"] = {"regex": params.pattern}
            if chat.answer_start:
                messages.append({"role": "assistant", "content": chat.answer_start})
                extra |= {"add_generation_prompt": False, "continue_final_message": True}
            request["extra_body"] = extra
        return {name: value for name, value in request.items() if name not in self._refused}

    def _read(self, key: str, chat: Chat, completion: Any, params: SamplingParams) -> Generation:
        """Return the server's answer as a generation; a ValueError if it is none."""
        choices = getattr(completion, "choices", None)
        message = getattr(choices[0], "message", None) if choices else None
        written = getattr(message, "content", "")
        if not choices or message is None or not isinstance(written, str | None):
            raise ValueError("no chat completion")
        begun = chat.answer_start if self.extensions else ""
        written = written or "" if begun else (written or "").lstrip()
        text, stopped = cut_at_stop(written, params)
        cut_off = choices[0].finish_reason == "length" and not stopped
        if cut_off and not written.strip():
            message = (
                f"{self.model} wrote nothing for {key!r} within {params.max_new_tokens} tokens; it may think before "
                "it answers: raise max_new_tokens, or have the server switch that off"
            )
            raise BadInput(message, value=key, remedy="max_new_tokens")
        read, new = self._usage(chat, written, getattr(completion, "usage", None))
        return Generation(key, (begun + text).strip(), read, new, "length" if cut_off else "stop")

    def _usage(self, chat: Chat, written: str, usage: Any) -> tuple[int, int]:
        """Return the numbers of prompt tokens and new ones, estimated where the server does not report them."""
        read, new = getattr(usage, "prompt_tokens", None), getattr(usage, "completion_tokens", None)
        if not isinstance(read, int) or not isinstance(new, int):
            return self.count_tokens({"": chat})[""], math.ceil(len(written) / 4)
        self._characters += _characters(chat)
        self._tokens += read
        return read, new

    async def _explained(self, error: Exception, client: _Client, key: str) -> ReclmError:
        """Return what the client raised for the prompt called ``key`` as an error that a user can correct."""
        words = self._words(error) if isinstance(error, openai.APIError) else ""
        if isinstance(error, openai.NotFoundError):
            return NotFound(self._not_found(words, await _listed(client)), where=self._url)
        line = next((line for kind, line in _FAULTS.items() if isinstance(error, kind)), None)
        if line is None:
            line = self._refusal(error, words, key) if isinstance(error, openai.APIStatusError) else _NO_CHAT
        sent = f"{self._retries + 1} times" if self._retries else "once"
        names = {"url": self._url, "model": self._name, "timeout": self._timeout, "key": key, "words": words}
        message = line.format(**names, host=self._host, sent=sent, status=getattr(error, "status_code", ""))
        return (Busy if isinstance(error, _TRANSIENT) else BadInput)(message, where=self._url)

    def _words(self, error: openai.APIError) -> str:
        """Return the server's own words: one short line, the key taken out."""
        body = error.body
        message = (body.get("message") or body.get("detail")) if isinstance(body, dict) else body
        text = " ".join(str(message or error.message).split())
        return (text.replace(self._key, "***") if self._key else text)[:200].rstrip(".")

    def _refusal(self, error: openai.APIStatusError, words: str, key: str) -> str:
        if _TOO_LONG.search(f"{error.code} {error.type} {words}"):
            return "the prompt of {key!r} is too long for {model} at {host}: {words}; shorten the history or item text"
        line = "{url} refuses the prompt of {key!r} ({status}): {words}"
        for name, value in _DEFAULTS.items():
            if _is_refused(name, error):
                return f"{line}; this model takes {name}={value}: --set {name}={value}"
        return line

    def _not_found(self, words: str, listed: list[str]) -> str:
        if not listed:
            return (
                f"{self._url} has no model {self._name!r}, or no chat API there (404): {words}; "
                "OPENAI_BASE_URL must be where the API begins, mostly …/v1"
            )
        if self._name in listed:
            return f"{self._url} lists model {self._name!r} but does not chat with it (404): {words}"
        near = get_close_matches(self._name, listed, n=8, cutoff=0.0)
        more = f" and {len(listed) - len(near)} more" if len(listed) > len(near) else ""
        return f"{self._url} has no model {self._name!r}; it has: {', '.join(near)}{more}"


def _characters(chat: Chat) -> int:
    return sum(len(message.content) for message in chat.messages) + len(chat.answer_start)


_LATER = "run again later, it goes on where it stopped"
_FAULTS = {
    openai.APITimeoutError: "{url} did not answer {key!r} within {timeout:g} s, asked {sent}; "
    "ask less at once, or run again later",
    openai.APIConnectionError: "cannot reach {url}, tried {sent}; start the server, or set OPENAI_BASE_URL to where "
    "it is",
    openai.AuthenticationError: "{url} does not accept the key (401); set OPENAI_API_KEY to a valid one",
    openai.PermissionDeniedError: "{url} does not permit {model!r} (403): {words}; check OPENAI_API_KEY",
    openai.RateLimitError: "{url} allows no more requests now (429), asked {sent}: {words}; " + _LATER,
    openai.InternalServerError: "{url} fails ({status}), asked {sent}: {words}; " + _LATER,
}
"""Messages for errors of the client; a timeout is a connection error too, and comes first."""
_NO_CHAT = (
    "{url} answered {key!r} with something else than a chat completion; "
    "OPENAI_BASE_URL must be where the API begins, mostly …/v1"
)
_TRANSIENT = (openai.RateLimitError, openai.InternalServerError, openai.APIConnectionError)


def _parsed(address: str) -> tuple[str, str]:
    """Return an address without name and password, and its ``HOST:PORT``."""
    bare = address.rpartition("@")[2].partition("?")[0]
    try:
        parts = urlsplit(address)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0:
            raise ValueError(address)
    except ValueError as error:
        message = f"OPENAI_BASE_URL: {bare!r} is no address of a server; write http://localhost:8000/v1, say"
        raise BadInput(message, value=bare, where="OPENAI_BASE_URL") from error
    host = parts.netloc.rpartition("@")[2].lower()
    return f"{parts.scheme}://{host}{parts.path}".rstrip("/"), host


def _is_refused(name: str, error: Exception) -> bool:
    """Return whether the server refuses a request because it does not support its field ``name``."""
    if not isinstance(error, openai.APIStatusError):
        return False
    line = f"{error.code} {error.message}"
    return "unsupported" in line.lower() and (error.param == name or f"'{name}'" in line)


async def _listed(client: _Client) -> list[str]:
    """Return the models that the server lists, none where it has no list."""
    try:
        page = await client.with_options(max_retries=0).models.list()
        return sorted(model.id for model in page.data or [])
    except (openai.OpenAIError, ValueError, AttributeError):
        return []
