"""The command line in a folder of its own, on a data set of three users."""

import hashlib
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from fake_encoder import use_encoder

from reclm import plugins
from reclm.cli import main
from reclm.config import Config
from reclm.data.dataset import Dataset, Interactions, ProfileKind, Protocol, TrainingView
from reclm.data.id_map import IdMap
from reclm.data.storage import save
from reclm.folders import Workspace
from reclm.profiles.profile import Known, Profile, Profiler, Subject

Run = Callable[..., tuple[int, str, str]]


class TitlesConfig(Config):
    """How many titles."""

    titles: int = 2


class Titles(Profiler):
    """The newest titles of a history as a user's profile, the title as an item's."""

    needs_model = False
    Config = TitlesConfig
    config: TitlesConfig

    def fit(self, view: TrainingView) -> "Titles":
        return self

    def subjects(
        self, view: TrainingView, kind: ProfileKind, idx: np.ndarray, known: Known
    ) -> Iterator[Subject]:
        titles = view.item_text.column("title").to_pylist()
        for row, id in zip(idx, view.idmap(kind).ids(idx), strict=True):
            rows = view.train.item_idx[view.history("user", row)] if kind == "user" else [row]
            text = ", ".join(titles[item] for item in rows[-self.config.titles :])
            yield Subject(kind, id, hashlib.sha256(text.encode()).hexdigest()[:32], text)

    def write(self, subjects: Iterable[Subject]) -> Iterator[Profile]:
        for one in subjects:
            yield Profile(one.kind, one.id, str(one.source), one.prompt_hash, "titles")


class Letters:
    """An encoder that counts letters."""

    name = source = "letters"
    dim = 26

    def __init__(self, name: str | None = None, device: str | None = None) -> None:
        pass

    def encode(
        self, texts: Sequence[str], batch_size: int = 32, progress: Callable[[int], None] | None = None
    ) -> np.ndarray:
        return np.array([[text.lower().count(chr(97 + n)) for n in range(26)] for text in texts], np.float32)

    def truncated(self, texts: Sequence[str]) -> float:
        return 0.0


class Found:
    """An entry point."""

    value = f"{Titles.__module__}:Titles"

    @staticmethod
    def load() -> type[Titles]:
        return Titles


def dataset(titles: list[str]) -> Dataset:
    return Dataset(
        "films",
        IdMap(["anne", "ben", "cleo"], "user"),
        IdMap(["i1", "i2", "i3"], "item"),
        Interactions(np.array([0, 0, 1, 2]), np.array([0, 1, 2, 1])),
        Interactions.empty(),
        Interactions.empty(),
        pa.table({"title": titles}),
        (Protocol("full-shot", np.arange(3)),),
    )


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace with the data set ``films``; a profiler ``titles`` and an encoder that need no model."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RECLM_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "160")
    save(dataset(["Alien", "[bold]Heat[/bold]", "Jaws\x1b[31m"]), Workspace.at().dataset("films"))
    points = plugins._points
    extra = {"profiler": {"titles": Found}}
    monkeypatch.setattr(plugins, "_points", lambda kind: points(kind) | extra.get(kind, {}))
    use_encoder(monkeypatch, Letters)
    return tmp_path / "home"


@pytest.fixture
def run(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs ``reclm …`` and returns exit code, stdout and stderr."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["reclm", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        output = capsys.readouterr()
        return int(ended.value.code or 0), output.out, output.err

    return run


@pytest.fixture
def other_films(home: Path) -> None:
    """Another data set in the place of ``films``."""
    save(dataset(["Alien", "Heat", "Brazil"]), Workspace.at().dataset("films"))
