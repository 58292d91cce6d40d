"""A run in two rounds that kills itself after so many prompts: started by test_kill.py.

Run by ``runpy`` with ``FOLDER`` (of the store), ``LOG`` (a file) and ``DIES`` (0: not at all) among its globals.
"""

import os
import runpy
import signal
from collections.abc import Iterable, Iterator
from pathlib import Path

from reclm.profiles.profile import Profile, Subject
from reclm.profiles.run import make_profiles
from reclm.profiles.store import ProfileStore

FOLDER: Path = globals()["FOLDER"]
LOG: Path = globals()["LOG"]
DIES: int = globals()["DIES"]
SHARED = runpy.run_path(str(Path(__file__).with_name("conftest.py")))


class Mortal(SHARED["RoundsProfiler"]):
    """Notes each profile that the store has taken."""

    def write(self, subjects: Iterable[Subject]) -> Iterator[Profile]:
        for profile in super().write(subjects):
            yield profile
            with LOG.open("a") as file:
                file.write(f"{profile.id}\n")
            if len(self.answered) == DIES:
                os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    view = SHARED["toy"]()
    with ProfileStore.open(FOLDER, view.fingerprint, "rounds", "toy") as store:
        make_profiles(view, Mortal(), store, progress=False)
