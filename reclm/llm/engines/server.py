"""A chat model behind an OpenAI-compatible server: a hosted one, vLLM, llama.cpp, Ollama and others."""

import math
import os
import warnings
from collections.abc import Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import Any

from reclm.errors import ReclmError
from reclm.llm.chat import Chat, Generation, SamplingParams, TextGenerator

try:
    import openai
    from anyio.from_thread import start_blocking_portal
except ModuleNotFoundError as error:
    raise ReclmError(
        f"engine 'server' needs the package {error.name}; pip install 'reclm-toolkit[server]'"
    ) from error

from reclm.llm.engines.server_errors import Server, explained, is_refused

_OPENAI = "https://api.openai.com/v1"
# left out where a server refuses them: the limit has a second name, a stop string is cut off here as well, and
# a seed promises nothing at a server
_DISPENSABLE = {"max_tokens", "stop", "seed"}


class ServerGenerator(TextGenerator):
    """Asks the model that a server runs, many prompts at a time.

    The API has no word for three things, which are left out: a pattern (whoever asks must check the answer), a
    repetition penalty, and the begin of an answer (the model begins itself, and its text is taken as it comes).
    ``extensions`` sends them as vLLM understands them.

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
        ReclmError: if the model is not named or the address is none.
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
            raise ReclmError("engine 'server' needs the name that the server gives the model; --model NAME")
        if in_flight < 1:
            raise ReclmError(f"in_flight = {in_flight} prompts at once; it must be 1 or more")
        given = base_url or os.environ.get("OPENAI_BASE_URL", "").strip()
        key = (api_key or os.environ.get("OPENAI_API_KEY", "")).strip()
        self.in_flight, self.extensions = in_flight, extensions
        self.unsupported = frozenset() if extensions else frozenset({"pattern", "repetition_penalty"})
        self._server = Server.at(given or _OPENAI, model.strip(), key, retries, timeout)
        # a server of one's own takes any key
        self._key = key or ("none" if given else "")
        self._base_url = given or _OPENAI
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
        """Prompt tokens of each chat: an estimate, for the server's tokenizer is not here.

        One token for four characters, and after the first answers as many as the server has counted for theirs.
        """
        rate = self._tokens / self._characters if self._characters else 0.25
        return {key: math.ceil(rate * _characters(chat)) for key, chat in chats.items()}

    def _client(self) -> openai.AsyncOpenAI:
        if not self._key.isascii() or not self._key.isprintable():
            raise ReclmError(f"OPENAI_API_KEY holds characters that no key for {self._server.url} can have")
        if not self._key:
            raise ReclmError(
                f"there is no key for {self._server.url}; set OPENAI_API_KEY, or OPENAI_BASE_URL to a server that "
                "needs none, as in http://localhost:8000/v1"
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
        except (openai.OpenAIError, ValueError) as error:
            raise await explained(error, self._server, client, key) from error

    async def _ask(self, client: openai.AsyncOpenAI, chat: Chat, params: SamplingParams) -> Any:
        while True:
            request = self._request(chat, params)
            try:
                return await client.chat.completions.create(**request)
            except openai.APIStatusError as error:
                refused = next((name for name in request if is_refused(name, error)), None)
                if refused not in _DISPENSABLE:
                    raise
                self._refused.add(refused)

    def _request(self, chat: Chat, params: SamplingParams) -> dict[str, Any]:
        messages = [{"role": one.role, "content": one.content} for one in chat.messages]
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
        """The server's answer as a generation.

        Raises:
            ValueError: if it is not one.
            ReclmError: if the tokens ran out before the model wrote anything.
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
            raise ReclmError(
                f"{self.model} wrote nothing for {key!r} within {params.max_new_tokens} tokens; it may think before "
                "it answers: raise max_new_tokens, or have the server switch that off"
            )
        read, new = self._usage(chat, written, getattr(completion, "usage", None))
        return Generation(key, text.strip(), read, new, "length" if cut_off else "stop")

    def _usage(self, chat: Chat, written: str, usage: Any) -> tuple[int, int]:
        """Prompt tokens and new ones, estimated where the server does not say."""
        counts = getattr(usage, "prompt_tokens", None), getattr(usage, "completion_tokens", None)
        match counts:
            case int() as read, int() as new:
                self._characters += _characters(chat)
                self._tokens += read
                return read, new
        return self.count_tokens({"": chat})[""], math.ceil(len(written) / 4)


def _characters(chat: Chat) -> int:
    return sum(len(one.content) for one in chat.messages) + len(chat.answer_start)
