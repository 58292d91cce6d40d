"""A matrix factorisation of ten lines, as users have one."""

import copy
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

import reclm
from reclm.data.dataset import Dataset, ProfileKind
from reclm.fusion.augment import Augmented
from reclm.profiles.matrix import ProfileMatrix
from reclm.profiles.profile import Profile
from reclm.profiles.profiles import Profiles
from reclm.profiles.store import ProfileStore
from reclm.testing import checkerboard, profiles


class ParityEncoder:
    """ "even" and "odd" as vectors."""

    name, dim = "parity", 2

    def encode(self, texts: list[str], batch_size: int = 32, progress: Any = None) -> np.ndarray:
        return np.array([["even" in text, "odd" in text] for text in texts], np.float32)


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return checkerboard(users=40, items=40, cold=12)


def store_of(folder: Path, dataset: Dataset, fingerprint: str) -> ProfileStore:
    """Everybody's profile tells the parity; users 30 … 39 have none."""
    with ProfileStore.open(folder, fingerprint, "hand") as store:
        everybody: dict[ProfileKind, list[str]] = {
            "user": dataset.users.ids()[:30],
            "item": dataset.items.ids(),
        }
        for kind, ids in everybody.items():
            texts = [("even", "odd")[row % 2] for row in range(len(ids))]
            store.add(Profile(kind, id, text, "h", "m") for id, text in zip(ids, texts, strict=True))
    return store


def test_the_example_runs(plain_mf: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    plain_mf.main()
    said = capsys.readouterr().out
    assert "12 are cold, 0 of them without" in said
    assert "baked     zero-shot recall@6 1.000, Embedding(40, 8)" in said


def test_it_trains_and_ranks_items_that_nobody_has_touched(plain_mf: ModuleType, dataset: Dataset) -> None:
    torch.manual_seed(3)
    plain, model = (plain_mf.MF(40, 40, 8) for _ in range(2))
    reclm.augment(model, profiles(dataset), data=dataset)
    losses = plain_mf.train(model, dataset)
    assert losses[-1] < 0.25 * losses[0]
    assert plain_mf.recall(model, dataset, "full-shot") > 0.95
    # six of the twelve cold items are each user's own: chance is a half
    assert plain_mf.recall(model, dataset, "zero-shot") > 0.95
    plain_mf.train(plain, dataset)
    assert plain_mf.recall(plain, dataset, "zero-shot") < 0.75


def test_switched_off_it_trains_as_the_plain_model_to_the_bit(plain_mf: ModuleType, dataset: Dataset) -> None:
    trained = []
    for augmented in (False, True):
        torch.manual_seed(3)
        model = plain_mf.MF(40, 40, 8)
        if augmented:
            reclm.augment(model, profiles(dataset), data=dataset).enabled = False
        plain_mf.train(model, dataset, epochs=2)
        trained.append((model.user_embedding.weight, model.item_embedding.weight))
    assert all(torch.equal(before, after) for before, after in zip(*trained, strict=True))


def test_profiles_know_their_data_set(plain_mf: ModuleType, dataset: Dataset, tmp_path: Path) -> None:
    store = store_of(tmp_path / "store", dataset, dataset.fingerprint)
    given = Profiles.open(store.folder, dataset, encoder=ParityEncoder())  # pyright: ignore[reportArgumentType]
    torch.manual_seed(0)
    model = plain_mf.MF(40, 40, 8)
    expected = copy.deepcopy(model)
    with pytest.warns(UserWarning, match="30 of 40 users have a profile; 10 without"):
        reclm.augment(model, given, users="user_embedding", items="item_embedding", generator=seeded())
    parity = np.eye(2, dtype=np.float32)[np.arange(40) % 2]
    by_hand: Any = {
        "user": ProfileMatrix(parity, np.arange(40) < 30),
        "item": ProfileMatrix(parity, np.ones(40, bool)),
    }
    with pytest.warns(UserWarning, match="10 without"):
        reclm.augment(expected, by_hand, generator=seeded(), data=dataset)
    for name in ("user_embedding", "item_embedding"):
        assert torch.equal(getattr(model, name).weight, getattr(expected, name).weight)
    assert [one.with_profile for one in Augmented(model).coverage] == [30, 40]
    assert "30 of 40 users" in repr(Augmented(model))


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(1)
