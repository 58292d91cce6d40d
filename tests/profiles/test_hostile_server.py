"""Whatever a server answers: right profiles, or one line and nothing wrong stored; the next run completes."""

import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_server import KEY, PROFILE, FakeServer, completion, fake_server
from hostile_modes import PARTLY, RIGHT, WRONG, Mode

sys.path.insert(0, str(Path(__file__).parent))

from server_run import view

from reclm.errors import ReclmError
from reclm.llm.engines.server import ServerGenerator
from reclm.profilers.zero_shot import ZeroShot
from reclm.profiles.run import ProfileRun, make_profiles
from reclm.profiles.store import ProfileStore

USERS, TIMEOUT = 3, 0.6
MODES = {**RIGHT, **PARTLY, **WRONG}


@pytest.fixture(scope="module", autouse=True)
def quick(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Retries at once, and imports that no mode pays for."""
    import openai._base_client as client

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(client, "INITIAL_RETRY_DELAY", 0.001)
        with fake_server() as warm:
            run(warm, tmp_path_factory.mktemp("warm") / "store")
        yield


def run(server: FakeServer, folder: Path, ask_again: bool = False) -> ProfileRun:
    engine = ServerGenerator("teacher", server.url, KEY, retries=1, timeout=TIMEOUT)
    profiler = ZeroShot(generator=engine)
    with ProfileStore.open(folder, "f00d", profiler.writer, "toy") as store:
        rows: dict[Any, np.ndarray] = {"user": np.arange(USERS)}
        return make_profiles(
            view(), profiler, store, ["user"], progress=False, rows=rows, ask_again=ask_again
        )


def stored(folder: Path) -> dict[str, str]:
    return ProfileStore.read(folder).texts("user") if ProfileStore.at(folder) else {}


def test_there_are_at_least_60_modes() -> None:
    assert len(MODES) == len(RIGHT) + len(PARTLY) + len(WRONG) >= 60


@pytest.mark.parametrize("name", MODES)
def test_fault_13_14_15_37_a_hostile_server(server: FakeServer, tmp_path: Path, name: str) -> None:
    mode: Mode = MODES[name]
    server.reply = mode
    lines: list[str] = []
    begun = time.monotonic()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            run(server, tmp_path / "store")
        except ReclmError as error:
            lines.append(str(error))
    assert time.monotonic() - begun < 20, "some modes would last for ever, others 30 s"
    lines += [str(one.message) for one in caught]
    texts = stored(tmp_path / "store")
    right = {"RIGHT": ["u0", "u1", "u2"], "PARTLY": ["u0", "u2"], "WRONG": []}
    kind = "RIGHT" if name in RIGHT else "PARTLY" if name in PARTLY else "WRONG"
    assert texts == dict.fromkeys(right[kind], PROFILE), lines
    assert kind == "RIGHT" or len(lines) == 1
    assert not any("\n" in line or len(line) > 1000 for line in lines)
    assert "'u1'" in "".join(lines) or kind != "PARTLY"

    server.reply = lambda request: completion(PROFILE)
    assert run(server, tmp_path / "store", ask_again=True).generated == USERS - len(texts)
    assert stored(tmp_path / "store") == dict.fromkeys(right["RIGHT"], PROFILE)
    files = [file.read_bytes() for file in (tmp_path / "store").rglob("*") if file.is_file()]
    assert not any(KEY.encode() in content for content in (*files, *(line.encode() for line in lines)))
