"""``reclm profile --engine server``, through the command line."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from fake_server import KEY, PROFILE, FakeServer, completion, fault

from reclm import plugins
from reclm.llm.engines.server import ServerGenerator
from reclm.profilers.zero_shot import ZeroShot
from reclm.profiles.store import ProfileStore

ASKED = ("--dataset", "films", "--engine", "server", "--model", "org/teacher")


class Found:
    """An entry point."""

    def __init__(self, plugin: type) -> None:
        self.plugin, self.value = plugin, f"{plugin.__module__}:{plugin.__qualname__}"

    def load(self) -> type:
        return self.plugin


@pytest.fixture(autouse=True)
def environment(home: Path, server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    found = {"profiler": {"zero-shot": Found(ZeroShot)}, "generator": {"server": Found(ServerGenerator)}}
    monkeypatch.setattr(plugins, "_points", lambda kind: found.get(kind, {}))


def cells(out: str) -> list[list[str]]:
    """The cells of tables, line by line."""
    return [re.split(r"\s{2,}", line.strip()) for line in out.splitlines()]


def test_profiles_are_written_and_found_again(run: Any, home: Path, server: FakeServer) -> None:
    code, out, err = run("profile", *ASKED)
    assert code == 0, err
    assert ["prompts answered", "3", "3"] in cells(out)
    assert ["tokens read", "300", "300"] in cells(out)
    assert ["in the profile format", "100.0%", "100.0%"] in cells(out)
    assert {request["model"] for request in server.asked} == {"org/teacher"}
    (store,) = (home / "profiles" / "films").iterdir()
    assert store.name == "zero-shot-org-teacher-127.0.0.1"
    (hint,) = [line for line in out.splitlines() if "reclm profiles show" in line]
    code, out, _ = run(*hint.split()[1:])
    assert code == 0
    assert "org/teacher@127.0.0.1" in out
    assert KEY not in out + err


def test_stored_profiles_are_found_without_key_and_server(
    run: Any, server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("profile", *ASKED)
    asked = len(server.asked)
    monkeypatch.delenv("OPENAI_API_KEY")
    server.reply = lambda request: fault(401, "no")
    code, out, _ = run("profile", *ASKED)
    assert code == 0
    assert ["stored before", "3", "3"] in cells(out)
    assert len(server.asked) == asked


def test_a_dry_run_prints_tokens_as_the_server_counts_them_and_stores_nothing(
    run: Any, home: Path, server: FakeServer
) -> None:
    def tokens(request: Any) -> int:
        return sum(len(message["content"]) for message in request["messages"]) // 3

    server.reply = lambda request: completion(PROFILE, usage=(tokens(request), 20))
    code, out, _ = run("profile", *ASKED, "--dry-run")
    assert code == 0
    printed = {row[0]: row[1:] for row in cells(out) if row}
    users = {request["messages"][-1]["content"]: tokens(request) for request in server.asked[:3]}
    assert int(printed["tokens to read (estimate)"][0].replace(",", "")) == pytest.approx(
        sum(users.values()), rel=0.01
    )
    assert printed["tokens to write (estimate)"] == ["60", "60"]
    assert not (home / "profiles").exists()
    assert "--engine server" in out


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (
            ("--engine", "server"),
            "engine 'server' needs the name that the server gives the model; --model NAME",
        ),
        (("--engine", "sever", "--model", "m"), "unknown generator 'sever'; did you mean 'server'?"),
        (("--engine", "server", "--model", "gpt"), "has no model 'gpt'; it has: teacher"),
    ],
)
def test_mistakes_are_told_in_one_line(
    run: Any, server: FakeServer, options: tuple[str, ...], told: str
) -> None:
    server.reply = lambda request: fault(404, "no such model")
    code, _, err = run("profile", "--dataset", "films", *options)
    assert code == 2
    assert err.splitlines()[-1].startswith("error: ")
    assert told in err.splitlines()[-1]
    assert KEY not in err


def test_fault_27_engine_options_are_taken_by_the_command_line(run: Any, server: FakeServer) -> None:
    code, out, err = run("profile", *ASKED, "--engine-set", "in_flight=1", "--engine-set", "timeout=5")
    assert code == 0, err
    assert server.peak == 1
    assert "--engine-set in_flight=1 --engine-set timeout=5" in out, "the next command has them, too"
    for wrong, told in (("in_fligth=1", "did you mean 'in_flight'?"), (f"api_key={KEY}", "OPENAI_API_KEY")):
        code, out, err = run("profile", *ASKED, "--engine-set", wrong)
        assert (code, told in err, KEY in err) == (2, True, False)


def test_fault_14_a_run_that_leaves_some_out_says_whom(run: Any, server: FakeServer) -> None:
    def reply(request: Any) -> Any:
        return (
            fault(400, "content filter")
            if "Jaws" in request["messages"][-1]["content"]
            else completion(PROFILE)
        )

    server.reply = reply
    code, out, err = run("profile", *ASKED)
    assert code == 0
    assert ["left without a profile", "1", "1"] in cells(out)
    warnings = [line for line in err.splitlines() if line.startswith("warning: no profile of 1 of 3")]
    assert len(warnings) == 2
    assert KEY not in out + err
    asked = len(server.asked)
    code, out, err = run("profile", *ASKED)
    assert (code, len(server.asked)) == (0, asked), err
    assert ["not asked, refused before", "1", "1"] in cells(out)
    server.reply = lambda request: completion(PROFILE)
    code, out, err = run("profile", *ASKED, "--ask-again", "--dry-run")
    assert ["prompts to write", "1", "1"] in cells(out)
    assert "--ask-again" in out
    code, out, err = run("profile", *ASKED, "--ask-again")
    assert ["left without a profile", "0", "0"] in cells(out)


def test_each_form_of_profiles_has_a_store_of_its_own(run: Any, home: Path, server: FakeServer) -> None:
    run("profile", *ASKED)
    asked = len(server.asked)
    lists = {
        "themes": ["space", "fear"],
        "mood": ["dark"],
        "audience": ["adults"],
        "similar": ["Aliens", "The Thing"],
    }
    server.reply = lambda request: completion(json.dumps(lists))
    code, out, err = run("profile", *ASKED, "--set", "form=describe")
    assert code == 0, err
    assert ["prompts answered", "3", "3"] in cells(out)
    assert ["in the profile format", "100.0%", "100.0%"] in cells(out)
    assert "--profiler-set form=describe" in out, "the next step reads the same profiles"
    assert len(server.asked) == asked + 6, "nothing was taken from the other form"
    for request in server.asked[asked:]:
        assert list(request["response_format"]["json_schema"]["schema"]["properties"]) == list(lists)
    papers, described = sorted(
        (home / "profiles" / "films").iterdir(), key=lambda store: "describe" in store.name
    )
    assert described.name == "zero-shot-describe-org-teacher-127.0.0.1"
    assert set(ProfileStore.read(papers).texts("item").values()) == {PROFILE}, "nothing was written over"
    described_as = "Themes: space, fear; Mood: dark; Audience: adults; Similar items: Aliens, The Thing."
    assert set(ProfileStore.read(described).texts("item").values()) == {described_as}
    code, _, err = run("profile", *ASKED, "--set", "form=describe", "--store", str(papers))
    assert code == 2
    assert str(papers) in err
