"""A run of the embedded model over the first users of ml-100k: started, and killed, by test_kill.py."""

import logging
from pathlib import Path

import reclm.data
from reclm.folders import Workspace
from reclm.profiles.ensure import ProfilerChoice, ensure_profiles

FOLDER: Path = globals()["FOLDER"]
LOG: Path = globals()["LOG"]

if __name__ == "__main__":
    workspace = Workspace.at(FOLDER.parent / "home")
    view = reclm.data.load("ml-100k", workspace).view()
    logging.disable()
    store, run = ensure_profiles(
        view, workspace, ProfilerChoice(), ["user"], limit=16, store_path=FOLDER, progress=False
    )
    with LOG.open("a") as file:
        file.write(f"finished {run.generated}\n")
