"""What goes wrong at a server is told in one line, and no key is in it."""

import threading

import pytest
from asking import GREEDY, answers, chats, engine, number, told
from fake_server import KEY, PROFILE, SOON, completion, fake_server, fault

from reclm.errors import BadInput, MissingExtra, NotFound
from reclm.llm.engines.server import ServerGenerator


@pytest.fixture(autouse=True)
def no_environment(monkeypatch):
    for name in ("OPENAI_BASE_URL", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)


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
    assert "did not answer 'u0' within 0.2 s" in line


@pytest.mark.parametrize(
    "refusal",
    [
        {"message": "This model's maximum context length is 64 tokens", "code": "context_length_exceeded"},
        {"message": "the request exceeds the available context size", "type": "exceed_context_size_error"},
    ],
)
def test_fault_14_a_prompt_too_long_costs_no_other(server, refusal):
    server.reply = lambda request: fault(400, **refusal) if number(request) == 2 else completion(PROFILE)
    found = answers(engine(server, in_flight=3), chats(40))
    assert len(found) == len(server.asked) == 40
    assert [key for key, one in found.items() if one.fault] == ["u2"]
    assert "the prompt of 'u2' is too long for teacher at 127" in found["u2"].fault
    assert "shorten the history" in found["u2"].fault


def test_a_refused_prompt_is_named(server):
    server.reply = lambda request: fault(400, "the content is not allowed")
    assert told(engine(server)) == (
        f"{server.url} refuses the prompt of 'u0' (400): the content is not allowed"
    )


def test_a_setting_that_a_model_refuses_is_told_with_what_it_takes(server):
    server.reply = lambda request: fault(
        400,
        "Unsupported value: 'temperature' does not support 0.",
        param="temperature",
        code="unsupported_value",
    )
    assert told(engine(server)).endswith("this model takes temperature=1: --set temperature=1")


def test_a_model_that_only_thinks_is_told(server):
    server.reply = lambda request: completion("", finish="length")
    assert "wrote nothing for 'u0' within 80 tokens; it may think" in told(engine(server))


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
    with pytest.raises(BadInput, match=message):
        ServerGenerator(**({"model": "teacher"} | options))


def test_a_key_is_needed_for_the_hosted_service_only_when_something_is_asked():
    generator = ServerGenerator("gpt")
    with pytest.raises(
        NotFound, match=r"there is no key for https://api\.openai\.com/v1; set OPENAI_API_KEY"
    ):
        list(generator.generate(chats(1), GREEDY))
    with pytest.raises(BadInput, match="holds characters that no key"):
        list(ServerGenerator("gpt", api_key="ключ").generate(chats(1), GREEDY))


def test_without_the_package_the_extra_is_named(monkeypatch):
    import importlib
    import sys

    monkeypatch.delitem(sys.modules, "reclm.llm.engines.server")
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(MissingExtra) as error:
        importlib.import_module("reclm.llm.engines.server")
    assert error.value.remedy == "pip install 'reclm-toolkit[openai]'"
