"""Profiles of 60 users by a server, in a process of its own: started, and killed, by test_server.py.

``python server_run.py FOLDER`` (of the store); address and key are in the environment.
"""

import sys
from pathlib import Path

import numpy as np
import pyarrow as pa

from reclm.data.dataset import Interactions, TrainingView
from reclm.data.id_map import IdMap
from reclm.profiles.run import ProfileRun, make_profiles
from reclm.profiles.store import ProfileStore
from reclm.profiles.write import open_profiler

USERS = 60


def view() -> TrainingView:
    """Everybody has chosen one item, each another."""
    everybody = np.arange(USERS)
    return TrainingView(
        "toy",
        IdMap([f"u{row}" for row in everybody], "user"),
        IdMap([f"i{row}" for row in everybody], "item"),
        Interactions(everybody, everybody),
        pa.table({"title": [f"Film number {row}" for row in everybody]}),
        "",
        "f00d",
    )


def run(folder: Path) -> ProfileRun:
    """Write what the store in ``folder`` lacks."""
    profiler, writer = open_profiler("zero-shot", {}, "big/teacher", "server")
    with ProfileStore.open(folder, view().fingerprint, writer, "toy") as store:
        return make_profiles(view(), profiler.fit(view()), store, kinds=["user"], progress=False)


if __name__ == "__main__":
    run(Path(sys.argv[1]))
