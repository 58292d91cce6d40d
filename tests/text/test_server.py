"""The engine that asks a server: what it sends, what it reads, what it says when something is wrong."""

import asyncio
import threading
import time
from collections.abc import Generator
from typing import Any, cast

import pytest
from fake_server import KEY, PROFILE, SOON, FakeServer, completion, fake_server, fault

from reclm.errors import ReclmError
from reclm.text.chat import Chat, Message, SamplingParams, prompt_hash
from reclm.text.engines.server import ServerGenerator
from reclm.text.models import load_generator

GREEDY = SamplingParams(max_new_tokens=80)


@pytest.fixture(autouse=True)
def no_environment(monkeypatch):
    for name in ("OPENAI_BASE_URL", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)


def engine(server: FakeServer, **options: Any) -> ServerGenerator:
    given: dict[str, Any] = {"base_url": server.url, "api_key": KEY} | options
    return ServerGenerator("teacher", **given)


def chats(count=7):
    task = Message("system", "Describe the user.")
    return {f"u{n}": Chat((task, Message("user", f"film {n}")), "User identity:") for n in range(count)}


def number(request):
    return int(request["messages"][1]["content"].split()[1])


def answers(generator, chats, params=GREEDY):
    return {one.key: one for one in generator.generate(chats, params)}


def told(generator, count=1, params=GREEDY):
    """The one line of an error, which must not hold the key."""
    with pytest.raises(ReclmError) as caught:
        list(generator.generate(chats(count), params))
    line = str(caught.value)
    assert "\n" not in line
    assert KEY not in line
    return line


def test_a_question_is_sent_as_the_api_words_it(server):
    params = SamplingParams(
        max_new_tokens=9,
        temperature=0.7,
        top_p=0.9,
        presence_penalty=1.5,
        stop=("\n",),
        seed=3,
        pattern="[a-z]+",
    )
    (answer,) = engine(server).generate(chats(1), params)
    assert server.asked == [
        {
            "model": "teacher",
            "messages": [
                {"role": "system", "content": "Describe the user."},
                {"role": "user", "content": "film 0"},
            ],
            "max_tokens": 9,
            "temperature": 0.7,
            "top_p": 0.9,
            "seed": 3,
            "presence_penalty": 1.5,
            "stop": ["\n"],
        }
    ]
    assert server.keys == [f"Bearer {KEY}"]
    assert (answer.key, answer.text, answer.finish_reason) == ("u0", PROFILE, "stop")
    assert (answer.prompt_tokens, answer.new_tokens) == (100, 20)


def test_what_the_api_has_no_word_for_is_left_out_and_a_penalty_is_mentioned(server):
    params = SamplingParams(repetition_penalty=1.3, pattern="[a-z]+")
    generator = engine(server)
    with pytest.warns(UserWarning, match="no repetition penalty; teacher@127"):
        answers(generator, chats(1), params)
    assert answers(generator, chats(1), params), "said once"
    assert all(
        request.keys() == {"model", "messages", "max_tokens", "temperature"} for request in server.asked
    )


def test_extensions_send_pattern_penalty_and_the_begun_answer(server):
    server.reply = lambda request: completion(" a cook.")
    params = SamplingParams(repetition_penalty=1.3, pattern=" [a-z]+")
    (answer,) = engine(server, extensions=True).generate(chats(1), params)
    (request,) = server.asked
    assert request["messages"][-1] == {"role": "assistant", "content": "User identity:"}
    assert request["structured_outputs"] == {"regex": " [a-z]+"}
    assert request["repetition_penalty"] == 1.3
    assert (request["add_generation_prompt"], request["continue_final_message"]) == (False, True)
    assert answer.text == "User identity: a cook."


def test_many_are_asked_at_once_and_no_more_than_allowed(server):
    together = threading.Barrier(4)

    def reply(request):
        if number(request):  # the first one comes alone
            together.wait(5)
        return completion(PROFILE)

    server.reply = reply
    assert len(answers(engine(server, in_flight=4), chats(13))) == 13
    assert server.peak == 4


def test_each_answer_comes_as_soon_as_it_is_done(server):
    last_come = threading.Event()

    def reply(request):
        if number(request) == 1:
            assert last_come.wait(5)
        return completion(f"{number(request)}", usage=(number(request), 1))

    server.reply = reply
    keys = []
    for one in engine(server, in_flight=3).generate(chats(5), GREEDY):
        assert one.text == one.key[1:] == str(one.prompt_tokens), "each has its own answer"
        keys.append(one.key)
        if len(keys) == 4:
            last_come.set()
    assert keys[0] == "u0"
    assert keys[-1] == "u1"
    assert sorted(keys) == ["u0", "u1", "u2", "u3", "u4"]


def test_no_chats_ask_nothing(server):
    assert list(engine(server).generate({}, GREEDY)) == []
    assert server.asked == []


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_request_that_comes_too_early_or_fails_is_sent_again(server, status):
    left = dict.fromkeys(range(3), 2)

    def reply(request):
        left[number(request)] -= 1
        return completion(PROFILE) if left[number(request)] < 0 else fault(status, "later", SOON)

    server.reply = reply
    assert len(answers(engine(server, retries=2), chats(3))) == 3
    assert len(server.asked) == 9


def test_after_all_retries_it_is_told(server):
    server.reply = lambda request: fault(429, f"quota of {KEY}\nused up.", SOON)
    line = told(engine(server, retries=1))
    assert line == (
        f"{server.url} allows no more requests now (429), asked 2 times: quota of *** used up; "
        "run again later, it goes on where it stopped"
    )
    server.reply = lambda request: fault(500, "out of memory", SOON)
    assert f"{server.url} fails (500), asked 2 times: out of memory" in told(engine(server, retries=1))


def test_a_wrong_key_is_asked_about_once(server):
    server.reply = lambda request: fault(401, f"Incorrect API key provided: {KEY}", code="invalid_api_key")
    line = told(engine(server), count=9)
    assert line == f"{server.url} does not accept the key (401); set OPENAI_API_KEY to a valid one"
    assert len(server.asked) == 1


def test_an_unknown_model_is_told_with_those_there_are(server):
    server.reply = lambda request: fault(404, "The model `teacher` does not exist.", code="model_not_found")
    server.models = ["teacher-7b", *(f"x{n}" for n in range(30))]
    line = told(engine(server), count=3)
    assert line.startswith(f"{server.url} has no model 'teacher'; it has: teacher-7b, ")
    assert line.endswith(" and 23 more")
    server.models = None
    assert "or no chat API there (404): The model `teacher` does not exist; OPENAI_BASE_URL" in told(
        engine(server)
    )


def test_words_of_other_frameworks_are_shown(server):
    server.reply = lambda request: (422, {"detail": [{"loc": ["body", "seed"], "msg": "Extra inputs"}]}, {})
    assert "refuses the prompt of 'u0' (422): [{'loc': ['body', 'seed'], 'msg': 'Extra inputs'}]" in told(
        engine(server)
    )


def test_an_address_without_the_api_is_told(server):
    assert "mostly …/v1" in told(engine(server, base_url=server.url.removesuffix("/v1")))
    for body, kind in (
        (b"<html>hello</html>", "text/html"),
        (b"{", "application/json"),
        (b"[]", "application/json"),
    ):
        server.reply = lambda request, body=body, kind=kind: (200, body, {"Content-Type": kind})
        assert told(engine(server)) == (
            f"{server.url} answered 'u0' with something else than a chat completion; "
            "OPENAI_BASE_URL must be where the API begins, mostly …/v1"
        )


@pytest.mark.parametrize("choices", [None, [], [{"index": 0}], [{"message": {"content": 3}}]])
def test_a_malformed_answer_is_told(server, choices):
    server.reply = lambda request: (200, {"choices": choices}, {})
    assert "answered 'u0' with something else than a chat completion" in told(engine(server))


def test_a_server_that_is_not_there_is_told():
    with fake_server() as gone:
        pass
    line = told(engine(gone, retries=0))
    assert line == (
        f"cannot reach {gone.url}, tried once; start the server, or set OPENAI_BASE_URL to where it is"
    )


def test_a_server_that_does_not_answer_is_told(server):
    released = threading.Event()
    server.reply = lambda request: (released.wait(5), completion(PROFILE))[1]
    line = told(engine(server, retries=0, timeout=0.2))
    released.set()
    assert "did not answer 'u0' within 0.2 s, asked once" in line


@pytest.mark.parametrize(
    "refusal",
    [
        {"message": "This model's maximum context length is 64 tokens", "code": "context_length_exceeded"},
        {"message": "the request exceeds the available context size", "type": "exceed_context_size_error"},
    ],
)
def test_a_prompt_too_long_is_named_and_the_others_are_kept(server, refusal):
    held = threading.Event()

    def reply(request):
        if number(request) == 2:
            return fault(400, **refusal)
        if number(request) == 3:
            held.wait(0.2)
        return completion(PROFILE)

    server.reply = reply
    found = []
    told_of = r"the prompt of 'u2' is too long for teacher at 127.*shorten the history"
    with pytest.raises(ReclmError, match=told_of):
        found.extend(one.key for one in engine(server, in_flight=3).generate(chats(40), GREEDY))
    assert len(found) == len(server.asked) - 1, "all that was asked beside it is handed over"
    assert "u3" in found
    assert len(found) < 10, "and nothing is asked afterwards"


def test_a_refused_prompt_is_named(server):
    server.reply = lambda request: fault(400, "the content is not allowed")
    assert told(engine(server)) == (
        f"{server.url} refuses the prompt of 'u0' (400): the content is not allowed"
    )


def test_limit_stop_and_seed_give_way_where_a_model_refuses_them(server):
    def reply(request):
        for name in ("max_tokens", "stop", "seed"):
            if name in request:
                return fault(
                    400,
                    f"Unsupported parameter: '{name}' is not supported with this model.",
                    param=name,
                    code="unsupported_parameter",
                )
        return completion("\none line\nanother", usage=None)

    server.reply = reply
    params = SamplingParams(max_new_tokens=80, temperature=1, stop=("\n",))
    found = answers(engine(server), chats(5), params)
    assert {one.text for one in found.values()} == {"one line"}, "cut here"
    assert len(server.asked) == 3 + 5, "learnt with the first"
    assert server.asked[-1].keys() == {"model", "messages", "max_completion_tokens", "temperature", "top_p"}


def test_a_setting_that_a_model_refuses_is_told_with_what_it_takes(server):
    server.reply = lambda request: fault(
        400,
        "Unsupported value: 'temperature' does not support 0.",
        param="temperature",
        code="unsupported_value",
    )
    assert told(engine(server)).endswith("this model takes temperature=1: --set temperature=1")


def test_text_comes_as_it_is(server):
    server.reply = lambda request: completion("\n Sure! User identity: a; b\nmore", finish="length")
    (answer,) = engine(server).generate(chats(1), SamplingParams(stop=("\n",)))
    assert (answer.text, answer.finish_reason) == ("Sure! User identity: a; b", "stop")
    (answer,) = engine(server).generate(chats(1), SamplingParams())
    assert answer.finish_reason == "length"
    server.reply = lambda request: completion(None, finish="content_filter")
    (answer,) = engine(server).generate(chats(1), GREEDY)
    assert (answer.text, answer.finish_reason) == ("", "stop")


def test_a_model_that_only_thinks_is_told(server):
    server.reply = lambda request: completion("", finish="length")
    assert "wrote nothing for 'u0' within 80 tokens; it may think" in told(engine(server))


def test_token_counts_are_estimates_that_learn(server):
    generator = engine(server)
    (chat,) = chats(1).values()
    characters = len("Describe the user.film 0User identity:")
    assert generator.count_tokens({"a": chat}) == {"a": -(-characters // 4)}
    server.reply = lambda request: completion(PROFILE, usage=None)
    (answer,) = generator.generate(chats(1), GREEDY)
    assert (answer.prompt_tokens, answer.new_tokens) == (-(-characters // 4), -(-len(PROFILE) // 4))
    server.reply = lambda request: completion(PROFILE, usage=(characters * 2, 20))
    answers(generator, chats(1))
    assert generator.count_tokens({"a": chat}) == {"a": characters * 2}


def test_an_iterator_that_is_left_leaves_nothing_behind(server):
    released = threading.Event()

    def reply(request):
        if number(request) > 1:
            released.wait(5)
        return completion(PROFILE)

    server.reply = reply
    generator = engine(server, in_flight=5)
    left = cast(Generator, generator.generate(chats(20), GREEDY))
    assert {next(left).key, next(left).key} == {"u0", "u1"}
    portals = [one for one in threading.enumerate() if "portal" in one.name]
    assert portals
    start = time.monotonic()
    left.close()
    assert time.monotonic() - start < 1, "nobody waits for what was cancelled"
    assert not any(one.is_alive() for one in portals)
    released.set()
    assert len(answers(generator, chats(3))) == 3


def test_it_works_inside_a_running_event_loop(server):
    async def notebook():
        return answers(engine(server), chats(3))

    assert len(asyncio.run(notebook())) == 3


def test_names_hold_host_and_model_and_nothing_secret(server):
    generator = engine(server, base_url=f"http://me:{KEY}@{server.host}/v1?key={KEY}")
    assert generator.model == f"teacher@{server.host}"
    assert ServerGenerator("gpt").model == "gpt@api.openai.com"
    assert KEY not in repr(vars(generator)["_server"])
    other = engine(server, api_key="another")
    assert prompt_hash(chats(1)["u0"], generator.model, GREEDY) == prompt_hash(
        chats(1)["u0"], other.model, GREEDY
    )


def test_address_and_key_come_from_the_environment(server, monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    answers(load_generator("teacher", "server"), chats(1))
    monkeypatch.setenv("OPENAI_API_KEY", f" {KEY}\n")
    answers(load_generator("teacher", "server", in_flight=2), chats(1))
    assert server.keys == ["Bearer none", f"Bearer {KEY}"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": None}, "needs the name that the server gives the model; --model NAME"),
        ({"model": " "}, "needs the name"),
        ({"in_flight": 0}, "in_flight = 0"),
        ({"base_url": "localhost:8000"}, "'localhost:8000' is no address of a server"),
        ({"base_url": f"ftp://me:{KEY}@host/v1"}, "OPENAI_BASE_URL: 'host/v1' is no address"),
        ({"base_url": "http://host:port/v1"}, "no address"),
    ],
)
def test_bad_options_are_told(options, message):
    with pytest.raises(ReclmError, match=message):
        ServerGenerator(**({"model": "teacher"} | options))


def test_a_key_is_needed_for_the_hosted_service_only_when_something_is_asked():
    generator = ServerGenerator("gpt")
    with pytest.raises(
        ReclmError, match=r"there is no key for https://api\.openai\.com/v1; set OPENAI_API_KEY"
    ):
        list(generator.generate(chats(1), GREEDY))
    with pytest.raises(ReclmError, match="holds characters that no key"):
        list(ServerGenerator("gpt", api_key="ключ").generate(chats(1), GREEDY))


def test_without_the_package_the_extra_is_named(monkeypatch):
    import importlib
    import sys

    monkeypatch.delitem(sys.modules, "reclm.text.engines.server")
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(ReclmError, match=r"needs the package openai; pip install 'reclm-toolkit\[server\]'"):
        importlib.import_module("reclm.text.engines.server")
