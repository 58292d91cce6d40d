"""A small data set, a profiler that needs no model, an encoder worked by hand."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import pyarrow as pa
import pytest

from reclm.data.dataset import Interactions, ProfileKind, TrainingView
from reclm.data.id_map import IdMap
from reclm.profiles.profile import Known, Profile, Profiler, Subject


def subject(kind: ProfileKind, id: str, text: str) -> Subject:
    return Subject(kind, id, hashlib.sha256(f"{kind} {text}".encode()).hexdigest()[:32], text)


class HistoryProfiler(Profiler):
    """Writes "likes A, B" for users, "A, for those who like B" for items; notes which prompts it answered."""

    needs_model = False

    def __init__(self) -> None:
        super().__init__()
        self.answered: list[str] = []

    def fit(self, view: TrainingView) -> "HistoryProfiler":
        return self

    def subjects(
        self, view: TrainingView, kind: ProfileKind, idx: np.ndarray, known: Known
    ) -> Iterator[Subject]:
        titles = view.item_text.column("title").to_pylist()
        for row, id in zip(idx, view.idmap(kind).ids(idx), strict=True):
            history = view.history(kind, row)
            if not len(history):
                continue
            if kind == "user":
                text = "likes " + ", ".join(titles[item] for item in view.train.item_idx[history])
            else:
                users = view.users.ids(view.train.user_idx[history])
                quoted = [known["user"][user] for user in users if user in known["user"]]
                text = f"{titles[row]}, for: " + "; ".join(quoted)
            yield subject(kind, id, text)

    def write(self, subjects: Iterable[Subject]) -> Iterator[Profile]:
        groups: dict[str, list[Subject]] = {}
        for one in subjects:
            groups.setdefault(one.prompt_hash, []).append(one)
        for key, group in groups.items():
            self.answered.append(key)
            for one in group:
                yield Profile(one.kind, one.id, str(one.source), key, "history", "{}", 7, 3, "stop")


class RoundsProfiler(HistoryProfiler):
    """Writes of items i2 and i3 first, then i1 and i4, "A, near: …", quoting what is known of items."""

    def rounds(self, view: TrainingView, kind: ProfileKind) -> Sequence[np.ndarray]:
        return [np.array([1, 2]), np.array([0, 3])] if kind == "item" else super().rounds(view, kind)

    def subjects(
        self, view: TrainingView, kind: ProfileKind, idx: np.ndarray, known: Known
    ) -> Iterator[Subject]:
        if kind == "user" or idx[0] == 1:
            yield from super().subjects(view, kind, idx, known)
        else:
            near = " | ".join(known["item"].values())
            for row, id in zip(idx, view.items.ids(idx), strict=True):
                yield subject(kind, id, f"{'ABCD'[row]}, near: {near}")


class LetterEncoder:
    """Counts the letters a, b, c of a text; notes the texts it encoded."""

    name = source = "letters/abc"
    dim = 3

    def __init__(self) -> None:
        self.encoded: list[str] = []

    def encode(
        self, texts: Sequence[str], batch_size: int = 32, progress: Callable[[int], None] | None = None
    ) -> np.ndarray:
        self.encoded += texts
        if progress:
            progress(len(texts))
        return np.array([[text.count(letter) for letter in "abc"] for text in texts], np.float32)


def toy() -> TrainingView:
    """u1 and u2 have the same history (A, B), u3 has C, u4 none; nobody has touched item i4."""
    return TrainingView(
        "toy",
        IdMap(["u1", "u2", "u3", "u4"], "user"),
        IdMap(["i1", "i2", "i3", "i4"], "item"),
        Interactions(np.array([0, 0, 1, 1, 2]), np.array([0, 1, 0, 1, 2])),
        pa.table({"title": ["A", "B", "C", "D"]}),
        "",
        "f00d",
    )


@pytest.fixture
def view() -> TrainingView:
    return toy()


@pytest.fixture
def in_rounds() -> RoundsProfiler:
    return RoundsProfiler()


@pytest.fixture
def profiler() -> HistoryProfiler:
    return HistoryProfiler()


@pytest.fixture
def encoder() -> LetterEncoder:
    return LetterEncoder()
