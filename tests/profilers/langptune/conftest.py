import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from reclm.data.dataset import TrainingView
from reclm.folders import workspace
from reclm.text.encoder import TextEncoder

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "reclm"))

import tiny_langptune
import tiny_tuning  # pyright: ignore[reportMissingImports]


@dataclass(frozen=True)
class Place:
    """Where ``model`` and ``encoder`` lie."""

    folder: Path
    view: TrainingView
    encoder: TextEncoder

    @property
    def model(self) -> str:
        return str(self.folder / "model")


@pytest.fixture(autouse=True)
def home(tmp_path) -> None:
    """A workspace of the test's own."""
    workspace(tmp_path / "home")


@pytest.fixture(scope="session")
def place(tmp_path_factory) -> Place:
    """A data set, a model and an encoder with which everything takes seconds."""
    folder = tmp_path_factory.mktemp("langptune")
    tiny_tuning.model(folder / "model")
    return Place(folder, tiny_langptune.view(), tiny_langptune.encoder(folder / "encoder"))


@pytest.fixture(scope="session")
def tuned(place) -> Path:
    """A folder in which the full variant was trained without a break. Tests copy it before they change it."""
    tiny_langptune.tune(place.folder, place.folder / "out")
    return place.folder / "out"
