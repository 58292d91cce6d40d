"""Similar users from a LightGCN, similar items from text."""

import numpy as np
import pyarrow as pa
import pytest
import torch

from reclm.data.dataset import Interactions, TrainingView
from reclm.data.idmap import IdMap
from reclm.profilers.reclm.neighbours import (
    NeighbourConfig,
    among_learned,
    similar_items,
    similar_users,
    user_vectors,
)


@pytest.fixture
def camps() -> TrainingView:
    """Users 0 to 5 chose from items 0 to 5, users 6 to 11 from items 6 to 11, all but one each; user 12 nothing."""
    pairs = [
        (user, item) for user in range(12) for item in range(12) if user // 6 == item // 6 and user != item
    ]
    return TrainingView(
        "camps",
        IdMap(range(13), "user"),
        IdMap(range(12), "item"),
        Interactions(*np.array(pairs).T),
        pa.table({"title": [str(at) for at in range(12)]}),
        "",
        "fingerprint",
    )


CONFIG = NeighbourConfig(count=4, epochs=60, dim=8)


def test_similar_users_are_of_the_same_camp(camps):
    found = similar_users(camps, CONFIG, progress=False)
    assert found.shape == (13, 4)
    assert (found[:12] // 6 == np.arange(12)[:, None] // 6).all()
    assert (found[:12] != np.arange(12)[:, None]).all()
    assert (found[12] == -1).all()
    assert 12 not in found
    few = similar_users(camps, CONFIG, among=np.array([0, 1, 7]), progress=False)
    assert set(few[0].tolist()) == {1, 7, -1}


def test_the_seed_alone_decides(camps):
    torch.manual_seed(1)
    first = user_vectors(camps, CONFIG, progress=False)
    torch.manual_seed(2)
    assert np.array_equal(user_vectors(camps, CONFIG, progress=False), first)
    assert not np.array_equal(user_vectors(camps, CONFIG.model_copy(update={"seed": 1}), False), first)


def test_similar_items_by_text():
    text = np.array([[1.0, 0.1], [0, 1], [1, 0], [0.1, 1]])
    assert similar_items(text, NeighbourConfig(count=1))[:, 0].tolist() == [2, 3, 0, 1]
    cold = similar_items(text, NeighbourConfig(count=2), among=np.array([0, 1]), searchers=np.array([3]))
    assert cold.tolist() == [[-1, -1], [-1, -1], [-1, -1], [1, 0]]


def test_neighbours_are_those_that_are_learned_from_however_few():
    vectors = np.random.default_rng(0).normal(size=(40, 4))
    everyone, learned = np.arange(30), np.arange(0, 30, 10)
    near = among_learned(vectors, NeighbourConfig(count=2), everyone, learned)
    assert (near[30:] == -1).all()
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    for row in everyone:
        others = [one for one in learned if one != row]
        assert near[row].tolist() == sorted(others, key=lambda one: -units[one] @ units[row])[:2]
