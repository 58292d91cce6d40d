"""A run that is killed again and again ends as one that was not, and repeats no more than what was in flight."""

import multiprocessing
import random
import runpy
import signal
import time
from collections import Counter
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path

import pytest

from reclm.data.dataset import ProfileKind
from reclm.profiles.store import ProfileStore

USERS, DISTINCT, IN_FLIGHT, KILLS = 300, 200, 8, 10


@pytest.fixture(scope="module")
def context() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["reclm.profiles.run"])  # imported once, not once a run
    return context


def started(
    context: ForkServerContext, folder: Path, log: Path, script: str = "slow_run.py", dies: object = None
) -> ForkServerProcess:
    given = {"init_globals": {"FOLDER": folder, "LOG": log, "DIES": dies}, "run_name": "__main__"}
    path = str(Path(__file__).parent / script)
    process = context.Process(target=runpy.run_path, args=(path,), kwargs=given)
    process.start()
    return process


def lines(log: Path) -> list[str]:
    return log.read_text().splitlines() if log.exists() else []


def stored(folder: Path, kind: ProfileKind = "user") -> list[tuple[str, str, str]]:
    rows = ProfileStore.read(folder).rows(kind, ["id", "text", "prompt_hash"]).to_pylist()
    return sorted((row["id"], row["text"], row["prompt_hash"]) for row in rows)


def test_ten_kills_change_nothing(context: ForkServerContext, tmp_path: Path) -> None:
    unbroken = started(context, tmp_path / "unbroken", tmp_path / "unbroken.log")
    unbroken.join()
    assert lines(tmp_path / "unbroken.log")[-1] == "finished"

    moments, log = random.Random(7), tmp_path / "killed.log"
    for kill in range(KILLS):  # every other one amid a flight, the rest wherever the run is some time later
        later = kill % 2 * (0.001 + moments.random() * 0.02)
        process = started(context, tmp_path / "killed", log, dies=(moments.randrange(1, 15), later))
        process.join()
        assert process.exitcode == -signal.SIGKILL
    assert "finished" not in lines(log), "else the kills came too late"
    last = started(context, tmp_path / "killed", log)
    last.join()
    assert lines(log)[-1] == "finished"

    assert len(stored(tmp_path / "killed")) == USERS, "each profile exactly once"
    assert stored(tmp_path / "killed") == stored(tmp_path / "unbroken")
    begun = Counter(line.split()[1] for line in lines(log) if line.startswith("begun"))
    assert len(begun) == DISTINCT
    assert KILLS // 2 <= begun.total() - DISTINCT <= KILLS * IN_FLIGHT
    taken = [line for line in lines(log) if line.startswith("taken")]
    assert len(taken) == len(set(taken)), "what the store has taken is never generated again"


def test_a_kill_in_either_round_changes_nothing(context: ForkServerContext, tmp_path: Path) -> None:
    def run(name: str, dies: int = 0) -> list[str]:
        log = tmp_path / f"{name}.log"
        process = started(context, tmp_path / name, log, "rounds_run.py", dies)
        process.join()
        assert process.exitcode == (-signal.SIGKILL if dies else 0)
        return lines(log)

    whole = run("unbroken")
    assert whole == ["u1", "u2", "u3", "i2", "i3", "i1", "i4"]
    assert run("killed", dies=3) == whole[:4], "two prompts of users, and the first of two in round one"
    assert run("killed", dies=2) == whole[:6], "the other one, and the first of two in round two"
    assert run("killed") == whole
    assert stored(tmp_path / "killed", "item") == stored(tmp_path / "unbroken", "item")
    assert run("killed") == whole, "nothing is left to do"


@pytest.mark.real_model
def test_a_kill_changes_no_word_of_the_embedded_model(context: ForkServerContext, tmp_path: Path) -> None:
    log = tmp_path / "log"
    unbroken = started(context, tmp_path / "unbroken", log, "real_run.py")
    unbroken.join()
    assert lines(log) == ["finished 16"]
    process = started(context, tmp_path / "killed", log, "real_run.py")
    journal = tmp_path / "killed" / "journal.jsonl"
    while not journal.exists() or len(journal.read_bytes().splitlines()) < 3:
        time.sleep(0.01)
        assert process.is_alive()
    process.kill()
    process.join()
    kept = len(stored(tmp_path / "killed"))
    assert 3 <= kept < 16
    last = started(context, tmp_path / "killed", log, "real_run.py")
    last.join()
    assert lines(log)[-1] == f"finished {16 - kept}"
    assert stored(tmp_path / "killed") == stored(tmp_path / "unbroken")
