"""A chat model behind an OpenAI-compatible server: a hosted one, vLLM, llama.cpp, Ollama and others."""

import math
import warnings
from collections.abc import Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from itertools import chain
from typing import Annotated, Any

from pydantic import Field

from reclm.errors import BadInput, Busy, ReclmError, needs_extra
from reclm.llm.chat import (
    Chat,
    Generation,
    NoAnswers,
    SamplingParams,
    TextGenerator,
    cut_at_stop,
    encodable,
    no_answer,
    without_thinking,
)
from reclm.llm.engines import Count
from reclm.llm.engines.host import (
    DEFAULTS,
    FAILED,
    TIMEOUT,
    Client,
    Host,
    PassedOverError,
    Reply,
    all_words_of,
    is_about_the_prompt,
    is_refusal,
    names_field,
    read_reply,
)

with needs_extra("engine 'server'"):
    import openai
    from anyio import fail_after
    from anyio.from_thread import start_blocking_portal

_LEFT_OUT = ("seed", "presence_penalty", "top_p", "max_tokens", "max_completion_tokens", "temperature")
"""Fields that a request can do without, those first that matter least; ``max_tokens`` has a second name."""
_FORMATS = ("patterns in a JSON schema", "a JSON schema", "JSON without a schema", "plain text")
"""What a server is asked for, step by step, where it refuses a ``response_format``."""
_STRIDE = 16
_PATIENCE = 32
"""Prompts in a row that were answered with nothing: so many may be odd, but cost no less than the others."""


class ServerGenerator(TextGenerator):
    """Asks the model that a server runs, many prompts at a time; it goes by ``NAME@HOST``.

    The answer is held to a JSON schema where the server can do that. The API has no field for a pattern (the caller
    must check the answer), a repetition penalty, and the start of an answer (the model starts it itself): they are left
    out, or sent as ``extensions``. Stop strings are cut off here: a server would look for them in thoughts, too. Token
    counts are the server's.

    Args:
        model: the server's name of it.
        base_url: where the API begins, as in ``http://localhost:8000/v1``; by default ``$OPENAI_BASE_URL``, else
            OpenAI's own.
        api_key: by default ``$OPENAI_API_KEY``; not needed where ``base_url`` is that of a server without keys.
        in_flight: most prompts asked at once.
        retries: how often a request is sent again that comes too early, fails at the server or finds none; the
            waits grow from half a second to eight, or are those that the server asks for.
        timeout: seconds that a prompt may take, all its requests together.
        extensions: also send fields that vLLM takes beyond the API, a pattern in place of the schema.
    """

    local = False
    neutral = frozenset({"in_flight", "retries", "timeout"})

    def __init__(
        self,
        model: str | None,
        base_url: str | None = None,
        api_key: str | None = None,
        in_flight: Count = 16,
        retries: Annotated[int, Field(ge=0)] = 4,
        timeout: Annotated[float, Field(gt=0, le=1e9, allow_inf_nan=False)] = 600.0,
        extensions: bool = False,
    ) -> None:
        if not isinstance(model, str) or not model.strip():
            message = "engine 'server' needs the name that the server gives the model; --model NAME"
            raise BadInput(message, value=model)
        for name, value, least in (
            ("in_flight", in_flight, 1),
            ("retries", retries, 0),
            ("timeout", timeout, 0.001),
        ):
            if not least <= value < math.inf:
                raise BadInput(f"{name} = {value}; it must be {least:g} or more", value=value, where=name)
        self._host = Host.at(base_url, api_key, model.strip(), retries, timeout)
        self.model = f"{self._host.model}@{self._host.name}"
        self.in_flight, self.extensions, self.structured = in_flight, extensions, not extensions
        self.unsupported = frozenset() if extensions else frozenset({"pattern", "repetition_penalty"})
        self._refused: set[str] = set()
        self._format = 0
        self._trials = 2
        """Prompts that may find out which fields a server refuses without naming them."""
        self._reached = False
        self._said: set[str] = set()
        self._in_row = 0
        self._error: ReclmError | None = None
        self._characters = self._tokens = 0

    def generate(self, chats: Mapping[str, Chat], params: SamplingParams) -> Iterator[Generation]:
        """Answer every chat, each once and as soon as it is done; at most ``in_flight`` are asked at once.

        A prompt that is refused or gets no answer has a generation with a ``fault``. After an error that would meet
        every prompt nothing more is asked; answers under way have been paid for, and are yielded before it is raised.
        An iterator that is closed cancels its requests.
        """
        if not chats:
            return
        if params.repetition_penalty != 1 and not self.extensions:
            self._say(f"the OpenAI API knows no repetition penalty; {self.model} is asked without")
        client = self._host.client()
        waiting = _apart(chats)
        failed: ReclmError | None = None
        running: set[Future[Generation]] = set()
        self._in_row, answered = 0, False
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
                        error = future.exception()
                        if isinstance(error, ReclmError):
                            failed = failed or error
                            continue
                        answer = future.result()
                        answered = answered or not answer.fault
                        yield answer
                    if self._in_row >= _PATIENCE:
                        failed = failed or self._error
            finally:
                for future in running:
                    future.cancel()
        few = len(chats) * FAILED < _PATIENCE and failed is self._error
        if not answered and (failed is None or few):
            failed = NoAnswers(str(self._error), where=self._host.url)
        if failed is not None:
            raise failed

    def count_tokens(self, chats: Mapping[str, Chat]) -> dict[str, int]:
        """Estimate the prompt tokens of each chat: one for four characters, or as the server counted for others."""
        rate = self._tokens / self._characters if self._characters else 0.25
        return {key: math.ceil(rate * _characters(chat)) for key, chat in chats.items()}

    async def _answer(self, client: Client, key: str, chat: Chat, params: SamplingParams) -> Generation:
        """Return the answer to a chat, or what stands for it; raise an error that would meet every prompt."""
        try:
            try:
                with fail_after(self._host.timeout):
                    answer = await self._ask(client, key, chat, params)
            except TimeoutError as error:
                # a server that has not answered yet is not waited for once more
                weight = FAILED if self._reached else _PATIENCE
                raise self._host.failing(TIMEOUT, Busy, key, weight=weight) from error
        except PassedOverError as passed:
            self._error = self._error if self._in_row and self._error else passed.error
            self._in_row += passed.weight
            return Generation.failed(key, str(passed.error), passed.passing)
        self._in_row, self._reached = 0, True
        return answer

    async def _ask(self, client: Client, key: str, chat: Chat, params: SamplingParams) -> Generation:
        """Ask, without the fields that the server refuses, one after the other."""
        first: Exception | None = None
        less: list[str] = []
        """Fields left out at a venture: the server does not say which it refuses."""
        while True:
            request = self._request(chat, params, less)
            try:
                raw = await client.chat.completions.with_raw_response.create(**request)
                reply = read_reply(raw.content)
            except ReclmError:  # some are ValueErrors, too
                raise
            except (openai.OpenAIError, ValueError) as error:
                if self._gives_way(error, request) or self._request(chat, params, less) != request:
                    continue
                first = first or error
                if self._may_be_a_field(error) and (name := _next(request)):
                    less.append(name)
                    continue
                self._trials -= bool(less)
                await self._host.explain(first, client, key)
            else:
                for name in less:
                    self._leave_out(name)
                return self._read(key, chat, reply, params)

    def _request(self, chat: Chat, params: SamplingParams, less: list[str]) -> dict[str, Any]:
        messages = [{"role": one.role, "content": encodable(one.content)} for one in chat.messages]
        left_out = self._refused | set(less)
        # newer models know one name of the limit, older servers only the other
        limit = "max_completion_tokens" if "max_tokens" in left_out else "max_tokens"
        request: dict[str, Any] = {
            "model": self._host.model,
            "messages": messages,
            limit: params.max_new_tokens,
            "temperature": params.temperature,
        }
        if params.temperature > 0:
            request |= {"top_p": params.top_p, "seed": params.seed}
        if params.presence_penalty:
            request["presence_penalty"] = params.presence_penalty
        step = self._format + less.count("response_format")
        if params.json_schema and step < len(_FORMATS) - 1:
            schema = params.json_schema if step == 0 else _without_patterns(params.json_schema)
            named = {"name": "profile", "strict": True, "schema": schema}
            whole = {"type": "json_schema", "json_schema": named}
            request["response_format"] = whole if step < 2 else {"type": "json_object"}
        if self.extensions:
            extra: dict[str, Any] = {"repetition_penalty": params.repetition_penalty}
            if params.pattern is not None:
                extra["structured_outputs"] = {"regex": params.pattern}
            if chat.answer_start:
                messages.append({"role": "assistant", "content": chat.answer_start})
                extra |= {"add_generation_prompt": False, "continue_final_message": True}
            request["extra_body"] = extra
        return {
            name: value
            for name, value in request.items()
            if name == "response_format" or name not in left_out
        }

    def _gives_way(self, error: Exception, request: Mapping[str, Any]) -> bool:
        """Return whether the server refuses a field by name, which is left out from now on."""
        text = all_words_of(error)
        param = getattr(error, "param", None)
        if getattr(error, "code", None) == "unsupported_value" or not (param or is_refusal(error)):
            return False
        if is_about_the_prompt(text) and param not in request:
            return False
        fields = [name for name in ("response_format", *_LEFT_OUT) if name in request]
        named = [name for name in fields if name == param] or [
            name for name in fields if names_field(name, text)
        ]
        if not named or (self._reached and named[0] != param):
            return False
        self._leave_out(named[0])
        return True

    def _leave_out(self, name: str) -> None:
        """Leave a field out of all further requests, and say so where that changes answers."""
        if name == "response_format":
            self._format += 1
            self._say(
                f"{self.model} does not take {_FORMATS[self._format - 1]}; it is asked for {_FORMATS[self._format]}"
            )
            return
        self._refused.add(name)
        if name in DEFAULTS:
            self._say(f"{self.model} does not take {name}; it is asked without")

    def _may_be_a_field(self, error: Exception) -> bool:
        """Return whether a server that has not answered yet may have refused a field without naming it."""
        return (
            not self._reached
            and self._trials > 0
            and is_refusal(error)
            and not is_about_the_prompt(all_words_of(error))
        )

    def _read(self, key: str, chat: Chat, reply: Reply, params: SamplingParams) -> Generation:
        """Return the server's reply as a generation, if there is an answer in it."""
        begun = chat.answer_start if self.extensions else ""
        written = self._host.hidden(reply.text)
        space = written[: len(written) - len(written.lstrip())] if begun else ""
        text, stopped = cut_at_stop(without_thinking(written), params)
        fault, line = (
            self._host.hidden(reply.fault) or no_answer(text, written),
            "{model} gave {key!r} no answer: {words}",
        )
        cut = reply.cut and not stopped
        if cut and not text:
            fault = f"within {params.max_new_tokens} tokens; it may think before it answers"
            line = "{model} wrote nothing for {key!r} {words}: raise max_new_tokens, or have the server switch that off"
        elif not fault and len(text) > 64 * params.max_new_tokens + 4096:
            fault = f"{len(text):,} characters where {params.max_new_tokens} tokens were asked for"
        if fault:
            raise self._host.failing(line, NoAnswers, key, fault, 1, passing=reply.passing)
        read, new = self._usage(chat, written, reply)
        return Generation(key, (begun + space + text).strip(), read, new, "length" if cut else "stop")

    def _usage(self, chat: Chat, written: str, reply: Reply) -> tuple[int, int]:
        """Return the numbers of prompt tokens and new ones, estimated where the server does not report them."""
        if reply.prompt_tokens is None or reply.new_tokens is None:
            return self.count_tokens({"": chat})[""], math.ceil(len(written) / 4)
        self._characters += _characters(chat)
        self._tokens += reply.prompt_tokens
        return reply.prompt_tokens, reply.new_tokens

    def _say(self, line: str) -> None:
        """Warn of something once."""
        if line not in self._said:
            self._said.add(line)
            warnings.warn(line, stacklevel=3)


def _apart(chats: Mapping[str, Chat]) -> Iterator[tuple[str, Chat]]:
    """Yield every sixteenth chat, then their neighbours: what is refused of many side by side does not end a run."""
    items = list(chats.items())
    return chain.from_iterable(items[first::_STRIDE] for first in range(_STRIDE))


def _characters(chat: Chat) -> int:
    return sum(len(message.content) for message in chat.messages) + len(chat.answer_start)


def _without_patterns(schema: Any) -> Any:
    """Return a JSON schema for servers that check types and lists alone."""
    if isinstance(schema, Mapping):
        return {name: _without_patterns(value) for name, value in schema.items() if name != "pattern"}
    return schema


def _next(request: Mapping[str, Any]) -> str | None:
    """Return the field that a request can do without best."""
    return next((name for name in ("response_format", *_LEFT_OUT) if name in request), None)
