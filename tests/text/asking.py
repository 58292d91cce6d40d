"""How the tests of the server engine ask."""

from typing import Any

import pytest
from fake_server import KEY, FakeServer

from reclm.errors import ReclmError
from reclm.llm.chat import Chat, Message, SamplingParams
from reclm.llm.engines.server import ServerGenerator

GREEDY = SamplingParams(max_new_tokens=80)


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
