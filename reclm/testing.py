"""Small data sets for tests, the toolkit's own and those of plug-ins."""

import numpy as np
import pyarrow as pa

from reclm.data.dataset import Dataset, Interactions, ProfileKind, Protocol
from reclm.data.id_map import IdMap
from reclm.profiles.matrix import ProfileMatrix


def checkerboard(users: int = 24, items: int = 20, cold: int = 4, seed: int = 0) -> Dataset:
    """Return a data set whose users like the items of their own parity; the last ``cold`` ones are not trained on.

    Titles tell the parity ("even …", "odd …"), so a model that reads text can rank the cold items too.
    """
    rng = np.random.default_rng(seed)
    pairs = np.array([(u, i) for u in range(users) for i in range(items) if (u + i) % 2 == 0])
    is_cold = pairs[:, 1] >= items - cold
    part = rng.choice(3, len(pairs), p=[0.7, 0.1, 0.2])
    for user in range(users):  # everybody keeps something to learn from
        part[np.flatnonzero((pairs[:, 0] == user) & ~is_cold)[:3]] = 0
    part[is_cold] = 2

    def split(which: int) -> Interactions:
        return Interactions(pairs[part == which, 0], pairs[part == which, 1])

    words = ["even calm blue water", "odd loud red fire"]
    titles = [f"{words[i % 2]} {'abcdefghijklmnopqrstuvwxyz'[i % 26]}" for i in range(items)]
    return Dataset(
        "checkerboard",
        IdMap((f"u{u}" for u in range(users)), "user"),
        IdMap((f"i{i}" for i in range(items)), "item"),
        split(0),
        split(1),
        split(2),
        pa.table({"title": titles}),
        (
            Protocol("full-shot", np.arange(items - cold)),
            Protocol("zero-shot", np.arange(items - cold, items)),
        ),
    )


def features(dataset: Dataset, width: int = 8, seed: int = 0) -> np.ndarray:
    """Return text features ``(I, width)`` that tell the parity of an item, with noise."""
    return _parity(len(dataset.items), width, seed)


def profiles(dataset: Dataset, width: int = 8, seed: int = 0) -> dict[ProfileKind, ProfileMatrix]:
    """Return profiles ``(U, width)`` and ``(I, width)`` that tell the parity, with noise; nobody is without."""
    counts: dict[ProfileKind, int] = {"user": len(dataset.users), "item": len(dataset.items)}
    return {
        kind: ProfileMatrix(_parity(count, width, seed + place), np.ones(count, bool))
        for place, (kind, count) in enumerate(counts.items())
    }


def _parity(rows: int, width: int, seed: int) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(0, 0.1, (rows, width)).astype(np.float32)
    vectors[np.arange(rows), np.arange(rows) % 2] += 1
    return vectors
