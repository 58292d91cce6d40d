"""A run of 300 users with a generator that takes its time: started, and killed, by test_kill.py.

Run by ``runpy`` with ``FOLDER`` (of the store), ``LOG`` (a file) and ``DIES`` among its globals: ``(n, seconds)``,
so many seconds after the n-th line it logs, the run kills itself.
"""

import itertools
import os
import random
import signal
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from reclm.data.dataset import Interactions, ProfileKind, TrainingView
from reclm.data.id_map import IdMap
from reclm.profiles.profile import Known, Profile, Profiler, Subject
from reclm.profiles.run import make_profiles
from reclm.profiles.store import ProfileStore

USERS, IN_FLIGHT = 300, 8
FOLDER: Path = globals()["FOLDER"]
LOG: Path = globals()["LOG"]
DIES: tuple[int, float] | None = globals()["DIES"]
logged = itertools.count(1)


def log(line: str) -> None:
    with LOG.open("a", buffering=1) as file:
        file.write(line + "\n")
    if DIES and next(logged) == DIES[0]:
        if not DIES[1]:
            die()
        threading.Timer(DIES[1], die).start()


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class SlowProfiler(Profiler):
    """Takes up ``IN_FLIGHT`` prompts at a time, answers them in any order; one user in three asks what another asks."""

    needs_model = False

    def fit(self, view: TrainingView) -> "SlowProfiler":
        return self

    def subjects(
        self, view: TrainingView, kind: ProfileKind, idx: np.ndarray, known: Known
    ) -> Iterator[Subject]:
        for row in idx:
            prompt = row - 1 if row % 3 == 1 else row
            yield Subject(kind, f"u{row}", f"h{prompt}", f"likes film {prompt}")

    def write(self, subjects: Iterable[Subject]) -> Iterator[Profile]:
        groups: dict[str, list[Subject]] = {}
        for one in subjects:
            groups.setdefault(one.prompt_hash, []).append(one)
        keys = list(groups)
        for start in range(0, len(keys), IN_FLIGHT):
            flight = keys[start : start + IN_FLIGHT]
            for key in flight:
                log(f"begun {key}")
            for key in random.sample(flight, len(flight)):
                time.sleep(0.002)
                for one in groups[key]:
                    yield Profile(one.kind, one.id, str(one.source), key, "slow")
                log(f"taken {key}")


if __name__ == "__main__":
    ProfileStore.flush_rows = 20  # so that kills hit writes to the table, too
    view = TrainingView(
        "toy",
        IdMap([f"u{row}" for row in range(USERS)], "user"),
        IdMap(["i"], "item"),
        Interactions(np.arange(USERS), np.zeros(USERS, np.int64)),
        pa.table({"title": ["A"]}),
        "",
        "f00d",
    )
    with ProfileStore.open(FOLDER, view.fingerprint, "slow", "toy") as store:
        make_profiles(view, SlowProfiler(), store, kinds=["user"], progress=False)
    log("finished")
