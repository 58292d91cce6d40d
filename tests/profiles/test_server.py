"""Profiles by a model behind a server: a run that is killed, or refused, pays for nothing twice."""

import subprocess
import sys
import threading
import time
from collections import Counter
from itertools import count
from pathlib import Path

import pytest
from fake_server import KEY, PROFILE, FakeServer, completion, fault

sys.path.insert(0, str(Path(__file__).parent))

from server_run import USERS, run

from reclm.errors import BadInput
from reclm.profiles.store import ProfileStore

IN_FLIGHT = 16


@pytest.fixture(autouse=True)
def environment(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


def questions(server: FakeServer) -> Counter[str]:
    return Counter(request["messages"][-1]["content"] for request in server.asked)


def test_a_killed_run_goes_on_and_asks_nothing_again_that_is_stored(
    server: FakeServer, tmp_path: Path
) -> None:
    folder, released, number = tmp_path / "store", threading.Event(), count(1)

    def reply(request):
        if next(number) > 25:
            released.wait(30)
        return completion(PROFILE)

    server.reply = reply
    script = str(Path(__file__).parent / "server_run.py")
    process = subprocess.Popen([sys.executable, script, str(folder)])
    journal = folder / "journal.jsonl"
    deadline = time.monotonic() + 60
    while len(server.asked) < 25 + IN_FLIGHT or len(journal.read_bytes().splitlines()) < 25:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.wait()
    released.set()
    with ProfileStore.read(folder) as store:
        assert store.count() == 25
    before = questions(server)
    assert before.total() == 25 + IN_FLIGHT

    assert run(folder).generated == USERS - 25
    assert questions(server).total() == USERS + IN_FLIGHT, "only what was in flight is asked twice"
    assert len(questions(server)) == USERS
    assert run(folder).generated == 0
    assert questions(server).total() == USERS + IN_FLIGHT, "and a third run asks nothing"


def test_profiles_name_the_model_and_its_server_and_hold_no_key(server: FakeServer, tmp_path: Path) -> None:
    done = run(tmp_path / "store").kinds[0]
    assert (done.generated, done.in_format) == (USERS, USERS)
    assert (done.prompt_tokens, done.new_tokens) == (100 * USERS, 20 * USERS)
    with ProfileStore.read(tmp_path / "store") as store:
        assert store.info.writer == "zero-shot-big/teacher@127.0.0.1"
        assert {row["model"] for row in store.rows().to_pylist()} == {"big/teacher@127.0.0.1"}
    for file in (tmp_path / "store").rglob("*"):
        assert not file.is_file() or KEY.encode() not in file.read_bytes()


def test_what_was_answered_before_an_error_is_kept(server: FakeServer, tmp_path: Path) -> None:
    number = count(1)
    server.reply = lambda request: completion(PROFILE) if next(number) <= 30 else fault(403, "no more")
    with pytest.raises(BadInput, match="does not permit 'big/teacher' \\(403\\): no more"):
        run(tmp_path / "store")
    with ProfileStore.read(tmp_path / "store") as store:
        assert store.count() == 30
    server.reply = lambda request: completion(PROFILE)
    assert run(tmp_path / "store").generated == USERS - 30


def test_a_poor_profile_is_not_asked_again_in_the_same_words(server: FakeServer, tmp_path: Path) -> None:
    server.reply = lambda request: completion("I am ready to help.")
    done = run(tmp_path / "store").kinds[0]
    assert (done.generated, done.in_format) == (USERS, 0)
    assert set(questions(server).values()) == {1}
