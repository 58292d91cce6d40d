"""A run of the embedded model over the first users of ml-100k: started, and killed, by test_kill.py."""

import logging
from pathlib import Path

from reclm.data.catalog import load_dataset
from reclm.folders import workspace
from reclm.profiles.write import write_profiles

FOLDER: Path = globals()["FOLDER"]
LOG: Path = globals()["LOG"]

if __name__ == "__main__":
    workspace(FOLDER.parent / "home")
    data = load_dataset("ml-100k")
    logging.disable()
    profiles = write_profiles(data, kinds=["user"], limit=16, store=FOLDER, progress=False)
    with LOG.open("a") as file:
        file.write(f"finished {profiles.run.generated}\n")
