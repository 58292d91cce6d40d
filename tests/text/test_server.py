"""The engine that asks a server: what it sends, what it reads, and in which order."""

import asyncio
import threading
import time
from collections.abc import Generator
from typing import cast

import pytest
from asking import GREEDY, answers, chats, engine, number
from fake_server import KEY, PROFILE, SOON, completion, fault

from reclm.llm.chat import SamplingParams, prompt_hash
from reclm.llm.engines.server import ServerGenerator
from reclm.llm.models import open_generator


@pytest.fixture(autouse=True)
def no_environment(monkeypatch):
    for name in ("OPENAI_BASE_URL", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)


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
        }
    ], "a server would look for stop strings in thoughts, too"
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


def test_limit_and_seed_give_way_where_a_model_refuses_them(server):
    def reply(request):
        for name in ("max_tokens", "seed"):
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
    assert len(server.asked) == 2 + 5, "learnt with the first"
    assert server.asked[-1].keys() == {"model", "messages", "max_completion_tokens", "temperature", "top_p"}


def test_text_comes_as_it_is(server):
    server.reply = lambda request: completion("\n Sure! User identity: a; b\nmore", finish="length")
    (answer,) = engine(server).generate(chats(1), SamplingParams(stop=("\n",)))
    assert (answer.text, answer.finish_reason) == ("Sure! User identity: a; b", "stop")
    (answer,) = engine(server).generate(chats(1), SamplingParams())
    assert answer.finish_reason == "length"
    server.reply = lambda request: (
        completion(None, finish="content_filter") if number(request) else completion("a")
    )
    answer = answers(engine(server), chats(2))["u1"]
    assert (answer.text, "content_filter" in answer.fault) == ("", True)


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
    assert generator.model == "teacher@127.0.0.1"
    assert ServerGenerator("gpt").model == "gpt@api.openai.com"
    assert KEY not in repr(generator)
    other = engine(server, api_key="another")
    assert prompt_hash(chats(1)["u0"], generator.model, GREEDY) == prompt_hash(
        chats(1)["u0"], other.model, GREEDY
    )


def test_address_and_key_come_from_the_environment(server, monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    answers(open_generator("teacher", "server"), chats(1))
    monkeypatch.setenv("OPENAI_API_KEY", f" {KEY}\n")
    answers(open_generator("teacher", "server"), chats(1))
    assert server.keys == ["Bearer none", f"Bearer {KEY}"]
