"""A server is asked for JSON of a schema, and in steps for less; what it answers is stored as text."""

import json
import re
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_server import KEY, PROFILE, FakeServer, completion, fake_server, fault
from hostile_modes import JSON

sys.path.insert(0, str(Path(__file__).parent))

from server_run import view

from reclm.errors import BadInput, Busy
from reclm.llm.chat import Generation, NoAnswers, TextGenerator
from reclm.llm.engines.server import ServerGenerator
from reclm.profilers.profile_format import PAPERS
from reclm.profilers.zero_shot import ZeroShot, ZeroShotConfig
from reclm.profiles.run import ProfileRun, make_profiles
from reclm.profiles.store import ProfileStore

USERS = 3
CUT = '{"identity": ["film fan", "night owl", "home cook"], "interests": ["Alien", "space ships", "robots"'


def profiler(server: FakeServer, extensions: bool = False, **settings: Any) -> ZeroShot:
    engine = ServerGenerator("teacher", server.url, KEY, retries=0, extensions=extensions)
    return ZeroShot(ZeroShotConfig.build(settings), generator=engine)


def run(zero_shot: ZeroShot, folder: Path, users: int = USERS, **options: Any) -> ProfileRun:
    with ProfileStore.open(folder, "f00d", zero_shot.writer, "toy") as store:
        rows: dict[Any, np.ndarray] = {"user": np.arange(users)}
        return make_profiles(view(), zero_shot, store, ["user"], progress=False, rows=rows, **options)


def number(request: dict[str, Any]) -> int:
    """The number of the user whom a request is about."""
    return int(request["messages"][-1]["content"].rpartition(" ")[2])


def form(request: dict[str, Any]) -> str | None:
    """The form that a request asks for; ``patterns`` are in a schema."""
    asked = request.get("response_format", {})
    return "patterns" if "'pattern'" in str(asked) else asked.get("type")


def formats(server: FakeServer) -> list[str | None]:
    return [form(request) for request in server.asked]


def test_a_schema_is_sent_and_the_answer_is_stored_as_text(server: FakeServer, tmp_path: Path) -> None:
    server.reply = lambda request: completion(JSON)
    run(profiler(server, phrases=3), tmp_path / "store")
    for request in server.asked:
        schema = request["response_format"]["json_schema"]
        assert (schema["name"], schema["strict"]) == ("profile", True)
        assert (
            list(schema["schema"]["properties"]) == schema["schema"]["required"] == ["identity", "interests"]
        )
        assert schema["schema"]["properties"]["identity"]["maxItems"] == 3
        assert schema["schema"]["properties"]["interests"]["minItems"] == 4, "one may be a repetition"
        assert request["max_tokens"] == 120, "JSON takes more than the text"
        assert "stop" not in request
        examples = [
            json.loads(turn["content"]) for turn in request["messages"] if turn["role"] == "assistant"
        ]
        assert {tuple(example) for example in examples} == {("identity", "interests")}
    assert set(ProfileStore.read(tmp_path / "store").texts("user").values()) == {PROFILE}


def test_the_schema_belongs_to_the_hash_of_the_prompt(server: FakeServer) -> None:
    def hashes(**settings: Any) -> set[str]:
        zero_shot = profiler(server, **settings)
        return {one.prompt_hash for one in zero_shot.subjects(view(), "user", np.arange(USERS), {})}

    assert len(hashes() | hashes(phrases=4) | hashes(constrain=False) | hashes(extensions=True)) == 4 * USERS
    assert hashes() == hashes()


@pytest.mark.parametrize(
    ("phrase", "fits"),
    [
        ("film fan", True),
        ("Terminator 2: Judgment Day", True),
        ("映画ファン", True),
        ("ΔEATH (Δ)", True),
        ("The Old Lady Who Walked In The Sea", False),
        ("a, b", False),
        ("a; b", False),
        ("fantasy" * 9, False),
        ("a  b", False),
        (" ", False),
        ("a\nb", False),
        ('a"b', False),
        ("a\\b", False),
    ],
)
def test_phrases_of_the_schema_end(phrase: str, fits: bool) -> None:
    properties = PAPERS.schema(3)["properties"]
    pattern = properties["interests"]["items"]["pattern"]
    assert bool(re.fullmatch(pattern, phrase)) == fits
    assert not re.fullmatch(properties["identity"]["items"]["pattern"], "one two three four five")


def test_an_engine_of_grammars_takes_the_schema() -> None:
    matcher = pytest.importorskip("llguidance").LLMatcher
    assert not matcher.validate_grammar(matcher.grammar_from_json_schema(PAPERS.schema(3, 1)))


def test_a_cut_answer_with_all_phrases_is_a_profile(server: FakeServer, tmp_path: Path) -> None:
    server.reply = lambda request: completion(CUT + ', "endless end', finish="length")
    (users,) = run(profiler(server), tmp_path / "store").kinds
    assert (users.in_format, users.cut) == (USERS, USERS)
    assert set(ProfileStore.read(tmp_path / "store").texts("user").values()) == {PROFILE}


def test_a_cut_answer_is_asked_once_more_at_random(server: FakeServer, tmp_path: Path) -> None:
    def reply(request: dict[str, Any]) -> Any:
        cut = request["messages"][-1]["content"].endswith("number 7") and not request["temperature"]
        return completion(CUT[:60], finish="length") if cut else completion(PROFILE)

    server.reply = reply
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (users,) = run(profiler(server), tmp_path / "store", 20).kinds
    assert (users.in_format, len(users.faults)) == (20, 0)
    (again,) = (request for request in server.asked if request["temperature"])
    assert (again["temperature"], again["seed"]) == (0.7, 1)


def test_a_model_that_keeps_no_format_is_not_paid_twice(server: FakeServer, tmp_path: Path) -> None:
    server.reply = lambda request: completion("I am ready to help.")
    assert run(profiler(server), tmp_path / "store", 20).generated == len(server.asked) == 20


def test_free_text_and_a_pattern_send_no_schema(server: FakeServer, tmp_path: Path) -> None:
    run(profiler(server, constrain=False), tmp_path / "free")
    server.reply = lambda request: completion(PROFILE.removeprefix("User identity:"))
    run(profiler(server, extensions=True), tmp_path / "pattern")
    assert formats(server) == [None] * 2 * USERS
    assert "structured_outputs" in server.asked[-1]
    assert set(ProfileStore.read(tmp_path / "pattern").texts("user").values()) == {PROFILE}


@pytest.mark.parametrize(
    ("takes", "steps"),
    [
        ({"json_schema", None}, ["patterns", "json_schema", "json_schema", "json_schema"]),
        ({"json_object", None}, ["patterns", "json_schema", "json_object", "json_object", "json_object"]),
        ({None}, ["patterns", "json_schema", "json_object", None, None, None]),
    ],
)
@pytest.mark.parametrize(
    "refusal",
    [
        fault(
            400,
            "Invalid parameter: 'response_format' of type 'json_schema' is not supported",
            param="response_format",
        ),
        fault(400, "json_schema and json_object are not available for this model"),
        fault(422, "Bad request"),
        (400, b"", {}),
        (200, {"error": {"message": "structured outputs are off (response_format)"}}, {}),
    ],
)
def test_the_format_falls_back_in_steps_and_each_is_said(
    server: FakeServer, tmp_path: Path, refusal: Any, takes: set[str | None], steps: list[str | None]
) -> None:
    server.reply = lambda request: completion(PROFILE) if form(request) in takes else refusal
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert run(profiler(server), tmp_path / "store").generated == USERS
    assert formats(server) == steps, "learnt with the first"
    assert len(caught) == len(steps) - USERS
    assert all("teacher@127.0.0.1 does not take" in str(one.message) for one in caught)


@pytest.mark.parametrize(
    "words",
    [
        "Argument not supported on this model: {}",
        "Unrecognized request argument supplied: {}",
        "unexpected keyword argument '{}'",
        "`{}`: Extra inputs are not permitted",
        'Unknown name \\"{}\\": cannot find field',
        "{} wird von diesem Modell nicht unterstützt",
        "Bad request",
        "",
    ],
)
@pytest.mark.parametrize("status", [400, 422])
def test_fault_15_refused_parameters_are_left_out_one_after_the_other(
    server: FakeServer, tmp_path: Path, words: str, status: int
) -> None:
    refused = ["seed", "top_p", "presence_penalty", "max_tokens"]

    def reply(request: dict[str, Any]) -> Any:
        for name in refused:
            if name in request:
                return fault(status, words.format(name))
        return completion(PROFILE)

    server.reply = reply
    with pytest.warns(UserWarning, match="does not take top_p"):
        done = run(profiler(server, temperature=0.7), tmp_path / "store")
    assert done.generated == USERS, "within one run"
    last = server.asked[-1]
    assert not {*refused} & last.keys()
    assert last["max_completion_tokens"] > 0
    assert last["temperature"] == 0.7
    assert len(server.asked) <= USERS + len(refused) + 3


def test_fault_14_a_refused_prompt_is_counted_named_and_asked_again(
    server: FakeServer, tmp_path: Path
) -> None:
    def filtered(request: dict[str, Any]) -> Any:
        if request["messages"][-1]["content"].endswith("number 7"):
            return fault(400, "The response was filtered", code="content_filter")
        return completion(PROFILE)

    server.reply = filtered
    zero_shot = profiler(server)
    with pytest.warns(UserWarning, match="no profile of 1 of 60 users: 'u7': .*filtered"):
        (users,) = run(zero_shot, tmp_path / "store", 60).kinds
    assert (users.generated, users.in_store, [*users.faults]) == (59, 59, ["u7"])
    asked = len(server.asked)
    with pytest.warns(UserWarning, match="no profile of 1 of 1 users: 'u7': .*filtered; --ask-again"):
        (users,) = run(profiler(server), tmp_path / "store", 60).kinds
    assert (users.generated, users.stored, users.passed_over, len(server.asked)) == (0, 59, 1, asked)
    with pytest.warns(UserWarning, match="no profile of 1 of 1 users"):
        run(profiler(server), tmp_path / "store", 60, ask_again=True)
    assert len(server.asked) == asked + 1
    server.reply = lambda request: completion(PROFILE)
    assert run(profiler(server), tmp_path / "store", 60, ask_again=True).kinds[0].in_store == 60
    assert not run(profiler(server), tmp_path / "store", 60).kinds[0].faults


@pytest.mark.parametrize(
    ("reply", "asked"),
    [
        (fault(400, "content filter"), False),
        (fault(413, "too large"), False),
        (fault(400, "maximum context length is 64 tokens"), False),
        (completion(""), False),
        (completion("I'm sorry, but I can't help with that."), False),
        (completion("<think>hm"), False),
        (completion(CUT[:40], finish="length"), False),
        (fault(500, "oh"), True),
        (fault(409, "conflict"), True),
        (completion("User", finish="error"), True),
        ((200, {"error": {"message": "the provider is away"}}, {}), True),
        ((200, b"<html>", {}), True),
    ],
)
def test_what_the_prompt_is_to_blame_for_is_remembered_and_what_the_server_is_is_not(
    server: FakeServer, tmp_path: Path, reply: Any, asked: bool
) -> None:
    server.reply = lambda request: reply if number(request) == 1 else completion(PROFILE)
    with pytest.warns(UserWarning, match="no profile of 1 of 3 users"):
        run(profiler(server, second_penalty=None), tmp_path / "store")
    server.asked.clear()
    with pytest.warns(UserWarning, match="no profile of 1 of 1 users: 'u1'"):
        run(profiler(server, second_penalty=None), tmp_path / "store")
    assert bool(server.asked) == asked


def test_a_server_that_asks_for_payment_ends_the_run(server: FakeServer, tmp_path: Path) -> None:
    server.reply = lambda request: (
        fault(402, "out of credit") if len(server.asked) > 3 else completion(PROFILE)
    )
    with pytest.raises(Busy, match="payment"):
        run(profiler(server), tmp_path / "store", 60)
    assert len(server.asked) < 25
    assert ProfileStore.read(tmp_path / "store").count() == 3


def test_refusals_outlive_changes_of_the_data_and_damage(server: FakeServer, tmp_path: Path) -> None:
    server.reply = lambda request: completion("" if number(request) == 1 else PROFILE)
    with pytest.warns(UserWarning, match="'u1'"):
        run(profiler(server), tmp_path / "store")
    with (tmp_path / "store" / "refused.jsonl").open("a") as file:
        file.write('[1]\n{"prompt_hash": 7}\n\udc00{"prom'.encode(errors="replace").decode())
    server.asked.clear()
    writer = profiler(server).writer
    with ProfileStore.open(tmp_path / "store", "beef", writer, "toy", carry_over=True) as store:
        rows: dict[Any, np.ndarray] = {"user": np.arange(USERS)}
        with pytest.warns(UserWarning, match="'u1'"):
            done = make_profiles(view(), profiler(server), store, ["user"], progress=False, rows=rows)
        assert (done.kinds[0].copied, done.kinds[0].passed_over, server.asked) == (2, 1, [])


def test_forty_prompts_side_by_side_without_an_answer_do_not_end_a_run(
    server: FakeServer, tmp_path: Path
) -> None:
    server.reply = lambda request: completion("" if number(request) < 40 else PROFILE)
    with pytest.warns(UserWarning, match="no profile of 40 of 60 users"):
        (users,) = run(profiler(server), tmp_path / "store", 60).kinds
    assert (users.written, users.refused) == (20, 40)


def test_a_model_that_answers_no_more_is_not_asked_about_everybody(
    server: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reclm.profiles.run.BATCH", 10)
    run(profiler(server), tmp_path / "store", 3)
    server.asked.clear()
    server.reply = lambda request: completion("")
    with pytest.raises(NoAnswers):
        run(profiler(server), tmp_path / "store", 60)
    assert len(server.asked) == 20, "two batches"
    server.reply = lambda request: completion(PROFILE)
    with pytest.warns(UserWarning, match="--ask-again"):
        run(profiler(server), tmp_path / "store", 60)
    assert run(profiler(server), tmp_path / "store", 60, ask_again=True).kinds[0].in_store == 60


def test_fault_14_prompts_that_are_refused_at_the_head_of_an_empty_store_end_no_later_run(
    server: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run begins with prompts that were not tried yet, else each would stop where the first one did."""
    monkeypatch.setattr("reclm.profiles.run.BATCH", 10)
    server.reply = lambda request: (
        fault(400, "content filter") if number(request) < 25 else completion(PROFILE)
    )
    for _ in range(2):
        server.asked.clear()
        with pytest.raises(NoAnswers):
            run(profiler(server), tmp_path / "store", 60)
        assert len(server.asked) == 10
    with pytest.warns(UserWarning, match="no profile of 25 of 60 users.*--ask-again"):
        (users,) = run(profiler(server), tmp_path / "store", 60).kinds
    assert (users.written, users.refused) == (35, 25)
    server.asked.clear()
    with pytest.warns(UserWarning, match="--ask-again"):
        run(profiler(server), tmp_path / "store", 60)
    assert server.asked == []
    server.reply = lambda request: completion(PROFILE)
    assert run(profiler(server), tmp_path / "store", 60, ask_again=True).kinds[0].in_store == 60


def test_fault_13_nothing_is_stored_of_a_model_that_thinks(server: FakeServer, tmp_path: Path) -> None:
    server.reply = lambda request: completion("<think>\n", finish="stop")
    with pytest.raises(BadInput, match="user 'u0'") as error:
        run(profiler(server), tmp_path / "store", 20)
    assert "\n" not in str(error.value)
    assert not ProfileStore.read(tmp_path / "store").count()
    server.reply = lambda request: completion(f"<think>\nhm\n</think>\n\n{PROFILE}")
    (users,) = run(profiler(server), tmp_path / "store", 20).kinds
    assert (users.stored, users.generated, users.in_format) == (0, 20, 20)


def test_fault_13_a_server_that_gives_nothing_is_not_asked_about_everybody(
    server: FakeServer, tmp_path: Path
) -> None:
    server.reply = lambda request: completion(None, finish="content_filter")
    with pytest.raises(BadInput):
        run(profiler(server), tmp_path / "store", 60)
    assert len(server.asked) < 40


def test_fault_30_a_server_on_another_port_is_asked_nothing_again(server: FakeServer, tmp_path: Path) -> None:
    run(profiler(server), tmp_path / "store")
    with fake_server() as moved:
        for address in (moved.url, moved.url.replace("127.0.0.1", "localhost")):
            engine = ServerGenerator("teacher", address, KEY)
            (users,) = run(ZeroShot(generator=engine), tmp_path / "store").kinds
            assert (users.stored, users.generated) == (USERS, 0)
        assert moved.asked == []


class Scripted(TextGenerator):
    """A model of this machine that gives these answers."""

    model = "scripted"

    def __init__(self, *answers: str, end: Any = "stop") -> None:
        self.answers, self.end = answers, end

    def generate(self, chats: Any, params: Any) -> Any:
        for key, text in zip(chats, self.answers, strict=True):
            yield Generation(key, text, 9, 9, self.end)

    def count_tokens(self, chats: Any) -> dict[str, int]:
        return dict.fromkeys(chats, 9)


def test_fault_13_an_answer_of_any_engine_is_no_profile_where_it_says_nothing(tmp_path: Path) -> None:
    generator = Scripted(f"<think>a</think>{PROFILE}", "User identity:", "<think>film fan")
    with pytest.warns(
        UserWarning, match="no profile of 2 of 3 users: 'u1': the answer is empty; 'u2': .*thought"
    ):
        run(ZeroShot(ZeroShotConfig(second_penalty=None), generator=generator), tmp_path / "store")
    assert ProfileStore.read(tmp_path / "store").texts("user") == {"u0": PROFILE}


def test_fault_14_what_was_refused_before_the_first_answer_is_remembered_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reclm.profiles.run.BATCH", 2)

    class Late(Scripted):
        asked = 0

        def generate(self, chats: Any, params: Any) -> Any:
            for key, chat in chats.items():
                self.asked += 1
                late = int(chat.messages[-1].content.rpartition(" ")[2]) > 4
                yield Generation(key, PROFILE if late else "", 9, 9, "stop")

    late = Late()
    for asked in (6, 0):
        late.asked = 0
        with pytest.warns(UserWarning, match="no profile of 5 of"):
            run(ZeroShot(ZeroShotConfig(second_penalty=None), generator=late), tmp_path / "store", 6)
        assert late.asked == asked


def test_a_cut_answer_of_a_model_of_this_machine_is_a_profile_if_no_phrase_is_missing(tmp_path: Path) -> None:
    cut = PROFILE.rstrip(".")
    generator = Scripted(f"{cut}, endl", cut.rpartition(",")[0], "I am happy to", end="length")
    settings = ZeroShotConfig(second_penalty=None, constrain=False)
    with pytest.warns(UserWarning, match="no profile of 2 of 3 users: 'u1': .*cut.*; 'u2': .*cut"):
        run(ZeroShot(settings, generator=generator), tmp_path / "store")
    assert ProfileStore.read(tmp_path / "store").texts("user") == {"u0": PROFILE}
