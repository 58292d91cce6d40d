"""Read a profile store as a user who may not write to it: run by test_reading.py, ``python reader.py STORE HOME``."""

import os
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np

from reclm.folders import workspace
from reclm.profiles.profiles import Profiles


class Letters:
    """An encoder that tells how many texts it encodes."""

    name, dim, source = "letters", 3, "letters"

    def encode(self, texts: list[str], batch_size: int = 32, progress: object = None) -> np.ndarray:
        print(f"encoded {len(texts)}")
        return np.array([[text.count(letter) for letter in "abc"] for text in texts], np.float32)


def read(folder: Path) -> None:
    profiles = Profiles.open(folder, encoder=Letters())  # pyright: ignore[reportArgumentType]
    print(profiles.texts()["id"].tolist(), profiles.get("anne").text, len(profiles))
    ids, vectors = profiles.embeddings()
    print(dict(sorted(zip(ids, vectors.tolist(), strict=True))))


if __name__ == "__main__":
    store, home = map(Path, sys.argv[1:])
    workspace(home)
    if (
        os.geteuid() == 0
    ):  # root may write anywhere; whatever is imported late, is imported while it may be read
        with tempfile.TemporaryDirectory() as folder:
            read(shutil.copytree(store, Path(folder) / "copy"))
        os.setgid(65534)
        os.setuid(65534)
    print("now")
    read(store)
