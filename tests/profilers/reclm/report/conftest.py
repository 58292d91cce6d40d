from collections.abc import Sequence

import numpy as np
import pytest

from reclm.profilers.tuning.quality import Comparison, HeldOut, Vectors, compare_stages


class TableEncoder:
    """Vectors by text, and what it was asked to encode."""

    def __init__(self, vectors: dict[str, Sequence[float]]) -> None:
        self.vectors = vectors
        self.asked: list[str] = []

    def encode(self, texts, *, progress=None):
        self.asked += texts
        if progress:
            progress(len(texts))
        return np.array([self.vectors[text] for text in texts], np.float32)


def profile(*words: str) -> str:
    """A profile of one identity and one interest, or of as many as there are pairs of words."""
    half = len(words) // 2
    return f"User identity: {', '.join(words[:half])}; User interests: {', '.join(words[half:])}."


# a's and b's directions; c and d lie between them
ANN, BOB, CYD, DAN = (1.0, 0.0), (0.0, 2.0), (3.0, 4.0), (0.8, 0.6)


@pytest.fixture
def encoder() -> TableEncoder:
    """Profiles, histories and teacher's profiles of Ann, Bob, Cyd and Dan; lengths do not matter."""
    return TableEncoder(
        {
            profile("x", "a"): ANN,
            profile("x", "b"): BOB,
            profile("x", "c"): CYD,
            "no profile": DAN,
            "Alien\nHeat": (1.0, 0.0),
            "Up": (0.0, 1.0),
            "Heat": (1.0, 1.0),
            "Show | <b>": (0.0, -1.0),
            "teacher of ann": (1.0, 0.0),
            "teacher of bob": (0.6, 0.8),
            "teacher of cyd": (0.0, 1.0),
        }
    )


@pytest.fixture
def held_out() -> HeldOut:
    """Ann's neighbours are Bob and Cyd; Bob's are Cyd, named twice, himself and somebody unknown."""
    return HeldOut(
        "user",
        subjects=("ann", "bob", "dan"),
        teacher={
            "ann": "teacher of ann",
            "bob": "teacher of bob",
            "cyd": "teacher of cyd",
            "eve": "of whom nobody wrote",
        },
        histories={"ann": "Alien\nHeat", "bob": "Up", "cyd": "Heat", "dan": "Show | <b>"},
        neighbours={"ann": ["bob", "cyd"], "bob": ["cyd", "who?", "bob", "cyd"]},
        phrases=1,
    )


@pytest.fixture
def texts() -> dict[str, str]:
    """Of the held-out ones, and of Cyd, who is only a neighbour."""
    return {
        "ann": profile("x", "a"),
        "bob": profile("x", "b"),
        "cyd": profile("x", "c"),
        "dan": "no profile",
    }


@pytest.fixture
def comparison(encoder, held_out, texts) -> Comparison:
    """Two stages: before, with nothing in the format, and kd."""
    before = dict.fromkeys(texts, "no profile")
    return compare_stages({"before": before, "kd": texts}, held_out, Vectors(encoder, progress=False))


@pytest.fixture
def vectors_of():
    """Makes ``Vectors`` of the texts that are given, and of no other."""

    def make(vectors: dict[str, Sequence[float]] | None = None) -> Vectors:
        return Vectors(TableEncoder(vectors or {}), progress=False)

    return make
