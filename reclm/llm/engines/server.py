"""A chat model behind an OpenAI-compatible server: a hosted one, vLLM, llama.cpp, Ollama and others."""

import math
import os
import re
import warnings
from collections.abc import Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, Self
from urllib.parse import urlsplit

from reclm.errors import BadInput, Busy, NotFound, ReclmError, needs_extra
from reclm.llm.chat import Chat, Generation, SamplingParams, TextGenerator

with needs_extra("engine 'server'"):
    import openai
    from anyio.from_thread import start_blocking_portal

_OPENAI = "https://api.openai.com/v1"
# left out where a server refuses them: the limit has a second name, a stop string is cut off here as well, and
# a seed promises nothing at a server
_DISPENSABLE = {"max_tokens", "stop", "seed"}
_DEFAULTS = {"temperature": 1, "top_p": 1, "presence_penalty": 0}
_TOO_LONG = re.compile(
    r"context[ _](length|size|window)|maximum context|prompt is too long|too many tokens", re.IGNORECASE
)


class ServerGenerator(TextGenerator):
    """Asks the model that a server runs, many prompts at a time.

    The API has no field for three things, which are left out: a pattern (the caller must check the answer), a
    repetition penalty, and the start of an answer (the model starts it itself). ``extensions`` sends them as vLLM
    understands them.

    Token counts are those that the server reports, the token that ends an answer perhaps among them.

    Args:
        model: what the server calls it.
        base_url: where the API begins, as in ``http://localhost:8000/v1``; by default ``$OPENAI_BASE_URL``, else
            OpenAI's own.
        api_key: by default ``$OPENAI_API_KEY``; not needed where ``base_url`` is that of a server without keys.
        in_flight: most prompts asked at once.
        retries: how often a request is sent again that comes too early, fails at the server or finds none; the
            waits grow from half a second to eight, or are those that the server asks for.
        timeout: seconds to wait for one answer.
        extensions: also send what vLLM takes beyond the API.

    Attributes:
        model: ``NAME@HOST:PORT``. Whether the weights stay the same behind it, only the server knows.

    Raises:
        BadInput: if the model is not named, or the address is none.
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
            raise BadInput(
                "engine 'server' needs the name that the server gives the model; --model NAME", value=model
            )
        if in_flight < 1:
            raise BadInput(f"in_flight = {in_flight} prompts at once; it must be 1 or more", value=in_flight)
        address = base_url or os.environ.get("OPENAI_BASE_URL", "").strip()
        key = (api_key or os.environ.get("OPENAI_API_KEY", "")).strip()
        self.in_flight, self.extensions = in_flight, extensions
        self.unsupported = frozenset() if extensions else frozenset({"pattern", "repetition_penalty"})
        self._server = Server.at(address or _OPENAI, model.strip(), key, retries, timeout)
        # a server of one's own takes any key
        self._key = key or ("none" if address else "")
        self._base_url = address or _OPENAI
        self.model = f"{self._server.model}@{self._server.host}"
        self._refused: set[str] = set()
        self._reached = self._warned = False
        self._characters = self._tokens = 0

    def generate(self, chats: Mapping[str, Chat], params: SamplingParams) -> Iterator[Generation]:
        """Answer every chat, each once and as soon as it is done; at most ``in_flight`` are asked at once.

        After an error nothing more is asked, and what is being answered is waited for and yielded before it is
        raised: it has been paid for. An iterator that is closed cancels what it has asked.

        Raises:
            ReclmError: if the server cannot be reached, refuses key, model or prompt (which one), still fails after
                all retries, or answers with something else than a chat completion.
        """
        if not chats:
            return
        self._warn(params)
        client = self._client()
        waiting = iter(chats.items())
        failed: ReclmError | None = None
        running: set[Future[Generation]] = set()
        # the event loop has a thread of its own, so that this works where one is running already, as in a notebook
        with start_blocking_portal() as portal, portal.wrap_async_context_manager(client):
            try:
                while True:
                    # the first one alone: a wrong address, key or model is told once, and not asked about again
                    room = self.in_flight if self._reached else 1
                    while failed is None and len(running) < room and (one := next(waiting, None)):
                        running.add(portal.start_task_soon(self._answer, client, *one, params))
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
        """Estimate the prompt tokens of each chat: the server's tokenizer is not known.

        One token for four characters, and after the first answers as many as the server has counted for theirs.
        """
        rate = self._tokens / self._characters if self._characters else 0.25
        return {key: math.ceil(rate * _characters(chat)) for key, chat in chats.items()}

    def _client(self) -> openai.AsyncOpenAI:
        if not self._key.isascii() or not self._key.isprintable():
            raise BadInput(
                f"OPENAI_API_KEY holds characters that no key for {self._server.url} can have",
                where="OPENAI_API_KEY",
            )
        if not self._key:
            raise NotFound(
                f"there is no key for {self._server.url}; set OPENAI_API_KEY, or OPENAI_BASE_URL to a server that "
                "needs none, as in http://localhost:8000/v1",
                value="OPENAI_API_KEY",
                remedy="OPENAI_API_KEY",
            )
        server = self._server
        return openai.AsyncOpenAI(
            base_url=self._base_url, api_key=self._key, max_retries=server.retries, timeout=server.timeout
        )

    def _warn(self, params: SamplingParams) -> None:
        if params.repetition_penalty != 1 and not self.extensions and not self._warned:
            self._warned = True
            warnings.warn(
                f"the OpenAI API knows no repetition penalty; {self.model} is asked without", stacklevel=3
            )

    async def _answer(
        self, client: openai.AsyncOpenAI, key: str, chat: Chat, params: SamplingParams
    ) -> Generation:
        try:
            completion = await self._ask(client, chat, params)
            return self._read(key, chat, completion, params)
        except ReclmError:  # some are ValueErrors, too
            raise
        except (openai.OpenAIError, ValueError) as error:
            raise await _explained(error, self._server, client, key) from error

    async def _ask(self, client: openai.AsyncOpenAI, chat: Chat, params: SamplingParams) -> Any:
        while True:
            request = self._request(chat, params)
            try:
                return await client.chat.completions.create(**request)
            except openai.APIStatusError as error:
                refused = next((name for name in request if _is_refused(name, error)), None)
                if refused not in _DISPENSABLE:
                    raise
                self._refused.add(refused)

    def _request(self, chat: Chat, params: SamplingParams) -> dict[str, Any]:
        messages = [{"role": message.role, "content": message.content} for message in chat.messages]
        # newer models know one name of the limit, older servers only the other
        limit = "max_completion_tokens" if "max_tokens" in self._refused else "max_tokens"
        request: dict[str, Any] = {
            "model": self._server.model,
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
        """Return the server's answer as a generation.

        Raises:
            ValueError: if it is not one.
            BadInput: if the tokens ran out before the model wrote anything.
        """
        choices = getattr(completion, "choices", None)
        message = getattr(choices[0], "message", None) if choices else None
        written = getattr(message, "content", "")
        if not choices or message is None or not isinstance(written, str | None):
            raise ValueError("no chat completion")
        begun = chat.answer_start if self.extensions else ""
        written = written or "" if begun else (written or "").lstrip()
        cuts = [at for at in (written.find(stop) for stop in params.stop) if at >= 0]
        text = begun + (written[: min(cuts)] if cuts else written)
        cut_off = choices[0].finish_reason == "length" and not cuts
        if cut_off and not written.strip():
            raise BadInput(
                f"{self.model} wrote nothing for {key!r} within {params.max_new_tokens} tokens; it may think before "
                "it answers: raise max_new_tokens, or have the server switch that off",
                value=key,
                remedy="max_new_tokens",
            )
        read, new = self._usage(chat, written, getattr(completion, "usage", None))
        return Generation(key, text.strip(), read, new, "length" if cut_off else "stop")

    def _usage(self, chat: Chat, written: str, usage: Any) -> tuple[int, int]:
        """Return the numbers of prompt tokens and new ones, estimated where the server does not report them."""
        counts = getattr(usage, "prompt_tokens", None), getattr(usage, "completion_tokens", None)
        match counts:
            case int() as read, int() as new:
                self._characters += _characters(chat)
                self._tokens += read
                return read, new
        return self.count_tokens({"": chat})[""], math.ceil(len(written) / 4)


def _characters(chat: Chat) -> int:
    return sum(len(message.content) for message in chat.messages) + len(chat.answer_start)


@dataclass(frozen=True)
class Server:
    """A model at a server, as messages name it.

    Attributes:
        url: where the API begins, without name and password.
        host: ``HOST:PORT``, the port where it is given.
        model: what the server calls it.
        retries, timeout: of a request.
    """

    url: str
    host: str
    model: str
    retries: int
    timeout: float
    _key: str = field(repr=False)

    @classmethod
    def at(cls, address: str, model: str, key: str, retries: int, timeout: float) -> Self:
        """Parse ``address``.

        Raises:
            BadInput: if that is no address.
        """
        shown = address.rpartition("@")[2].partition("?")[0]
        try:
            parts = urlsplit(address)
            if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0:
                raise ValueError(address)
        except ValueError as error:
            raise BadInput(
                f"OPENAI_BASE_URL: {shown!r} is no address of a server; write one as in http://localhost:8000/v1",
                value=shown,
                where="OPENAI_BASE_URL",
            ) from error
        host = parts.netloc.rpartition("@")[2].lower()
        url = f"{parts.scheme}://{host}{parts.path}".rstrip("/")
        return cls(url, host, model, retries, timeout, key)

    def words(self, error: openai.APIError) -> str:
        """Return the server's own words: one short line, the key taken out."""
        body = error.body
        message = (body.get("message") or body.get("detail")) if isinstance(body, dict) else body
        text = " ".join(str(message or error.message).split())
        return (text.replace(self._key, "***") if self._key else text)[:200].rstrip(".")


async def _explained(error: Exception, server: Server, client: openai.AsyncOpenAI, key: str) -> ReclmError:
    """Return the error as one that a user can mend.

    Args:
        error: what the client raised for the prompt called ``key``, or a ValueError of reading the answer.
        client: asked which models there are, if the server does not know this one.
    """
    url, sent = server.url, f"{server.retries + 1} times" if server.retries else "once"
    match error:
        case openai.APITimeoutError():
            line = (
                f"{url} did not answer {key!r} within {server.timeout:g} s, asked {sent}; "
                "ask less at once, or run again later"
            )
        case openai.APIConnectionError():
            line = (
                f"cannot reach {url}, tried {sent}; start the server, or set OPENAI_BASE_URL to where it is"
            )
        case openai.AuthenticationError():
            line = f"{url} does not accept the key (401); set OPENAI_API_KEY to a valid one"
        case openai.PermissionDeniedError():
            line = (
                f"{url} does not permit {server.model!r} (403): {server.words(error)}; check OPENAI_API_KEY"
            )
        case openai.NotFoundError():
            line = _not_found(server, error, await _listed(client))
        case openai.RateLimitError():
            line = (
                f"{url} allows no more requests now (429), asked {sent}: {server.words(error)}; "
                "run again later, it goes on where it stopped"
            )
        case openai.InternalServerError():
            line = (
                f"{url} fails ({error.status_code}), asked {sent}: {server.words(error)}; "
                "run again later, it goes on where it stopped"
            )
        case openai.APIStatusError():
            line = _refusal(server, error, key)
        case _:
            line = (
                f"{url} answered {key!r} with something else than a chat completion; "
                "OPENAI_BASE_URL must be where the API begins, mostly …/v1"
            )
    return _class(error)(line, where=url)


def _class(error: Exception) -> type[ReclmError]:
    match error:
        case openai.NotFoundError():
            return NotFound
        case openai.RateLimitError() | openai.InternalServerError() | openai.APIConnectionError():
            return Busy
    return BadInput


def _is_refused(name: str, error: openai.APIStatusError) -> bool:
    """Whether the server refuses a request because it does not support its field ``name``."""
    line = f"{error.code} {error.message}"
    return "unsupported" in line.lower() and (error.param == name or f"'{name}'" in line)


def _refusal(server: Server, error: openai.APIStatusError, key: str) -> str:
    words = server.words(error)
    if _TOO_LONG.search(f"{error.code} {error.type} {words}"):
        return (
            f"the prompt of {key!r} is too long for {server.model} at {server.host}: {words}; "
            "shorten the history or the item text"
        )
    line = f"{server.url} refuses the prompt of {key!r} ({error.status_code}): {words}"
    name = next((name for name in _DEFAULTS if _is_refused(name, error)), None)
    return (
        f"{line}; this model takes {name}={_DEFAULTS[name]}: --set {name}={_DEFAULTS[name]}" if name else line
    )


def _not_found(server: Server, error: openai.NotFoundError, listed: list[str]) -> str:
    if not listed:
        return (
            f"{server.url} has no model {server.model!r}, or no chat API there (404): {server.words(error)}; "
            "OPENAI_BASE_URL must be where the API begins, mostly …/v1"
        )
    if server.model in listed:
        return f"{server.url} lists model {server.model!r} but does not chat with it (404): {server.words(error)}"
    near = get_close_matches(server.model, listed, n=8, cutoff=0.0)
    more = f" and {len(listed) - len(near)} more" if len(listed) > len(near) else ""
    return f"{server.url} has no model {server.model!r}; it has: {', '.join(near)}{more}"


async def _listed(client: openai.AsyncOpenAI) -> list[str]:
    """Return the models that the server lists, if it lists any."""
    try:
        page = await client.with_options(max_retries=0).models.list()
        return sorted(model.id for model in page.data or [])
    except (openai.OpenAIError, ValueError, AttributeError):
        return []  # not every server has a list; the message does without
