"""A workspace with the checkerboard, and models trained on it."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fake_encoder import use_encoder

from reclm import plugins
from reclm.data.storage import save
from reclm.folders import Workspace
from reclm.profiles.matrix import ProfileMatrix
from reclm.recommend.base import Inputs
from reclm.recommend.recommender import Recommender
from reclm.recommend.saved import SavedModel, load_model, save_model
from reclm.testing import checkerboard, features, profiles

DATA = checkerboard()
TOLD = profiles(DATA)
PLAIN = Inputs(len(DATA.users), len(DATA.items), DATA.train, features(DATA))
HALF = ProfileMatrix(TOLD["user"].vectors, np.arange(PLAIN.users) % 3 > 0)
AUGMENTED = replace(PLAIN, user_profiles=HALF, item_profiles=TOLD["item"])


class Parity:
    """An encoder that knows two words, in vectors of eight."""

    dim = 8

    def __init__(self, name: str | None = None) -> None:
        self.name = self.source = name or "parity"

    def encode(
        self, texts: Sequence[str], batch_size: int = 32, progress: Callable[[int], None] | None = None
    ) -> np.ndarray:
        rows = [["even" in text, "odd" in text, *[0] * 6] for text in texts]
        return np.array(rows, np.float32).reshape(len(texts), 8)


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """Holds the checkerboard; texts are read by :class:`Parity`."""
    use_encoder(monkeypatch, Parity)
    save(DATA, tmp_path / "home" / "datasets" / "checkerboard")
    return Workspace(tmp_path / "home")


def make(name: str, inputs: Inputs = PLAIN, **options: object) -> Any:
    """A model whose weights are random, those that begin with zeros too."""
    cls = plugins.get("backbone", name)
    generator = torch.Generator().manual_seed(7)
    known = {key: value for key, value in ({"dim": 8} | options).items() if key in cls.Config.model_fields}
    model = cls(cls.Config.build(known), inputs, generator).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) / 3)
    return model


Keep = Callable[..., Path]


@pytest.fixture
def keep(workspace: Workspace) -> Keep:
    """Saves a model of :func:`make`; returns the folder."""

    def keep(name: str, inputs: Inputs = PLAIN, folder: str = "model", **options: object) -> Path:
        model = make(name, inputs, **options)
        about = SavedModel(
            backbone=name,
            config=model.config.model_dump(mode="json"),
            variant="base" if inputs.user_profiles is None else "augment",
            seed=0,
            dataset=DATA.name,
            fingerprint=DATA.fingerprint,
            encoder="parity",
            encoder_source="parity",
        )
        save_model(workspace.root / folder, about, model, inputs)
        return workspace.root / folder

    return keep


@pytest.fixture
def trained(keep: Keep, workspace: Workspace) -> Callable[..., Recommender]:
    """A model with random weights, saved and loaded."""
    return lambda *given, **options: load_model(keep(*given, **options), workspace)
