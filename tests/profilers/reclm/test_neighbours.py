"""Similar users from a LightGCN, similar items from text."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors.numpy import save_file
from tiny_tuning import Letters  # pyright: ignore[reportMissingImports]

from reclm.data.dataset import Interactions, TrainingView
from reclm.data.id_map import IdMap
from reclm.profilers.reclm.config import NeighbourConfig
from reclm.profilers.reclm.neighbours import UserNeighbours, _cached, similar_items, user_vectors


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


def histories(view: TrainingView) -> np.ndarray:
    lists = np.full((len(view.users), 5), -1)
    for user in range(12):
        lists[user] = view.train.item_idx[view.train.user_idx == user]
    return lists


def test_similar_users_are_of_the_same_camp(camps):
    neighbours = UserNeighbours(camps, histories(camps), CONFIG, None, progress=False)
    found = neighbours.nearest
    assert found.shape == (13, 4)
    assert (found[:12] // 6 == np.arange(12)[:, None] // 6).all()
    assert (found[:12] != np.arange(12)[:, None]).all()
    assert (found[12] == -1).all()
    assert 12 not in found
    few = neighbours.among(np.array([0, 1, 7]), np.arange(12))
    assert set(few[0].tolist()) == {1, 7, -1}


def among(vectors: np.ndarray, lists: np.ndarray, count: int, *rows: np.ndarray) -> np.ndarray:
    view: Any = None
    neighbours = UserNeighbours(view, lists, CONFIG.model_copy(update={"count": count}), None)
    neighbours.vectors = vectors
    return neighbours.among(*rows)


def test_who_has_the_same_history_is_no_neighbour():
    vectors = np.array([[1.0, 0], [1, 0.01], [1, 0.02], [1, 0.03], [0, 1]])
    lists = np.array([[5, -1], [5, -1], [7, 5], [5, 7], [9, -1]])
    found = among(vectors, lists, 3)
    # 2 and 3 have the same two items: one of them is enough
    assert found.tolist() == [[2, 4, -1], [2, 4, -1], [0, 4, -1], [0, 4, -1], [2, 0, -1]]
    few = among(vectors, lists, 3, np.array([1, 3, 4]), np.array([0, 2]))
    assert few.tolist() == [[3, 4, -1], [-1] * 3, [1, 4, -1], [-1] * 3, [-1] * 3]


def test_the_seed_alone_decides(camps):
    torch.manual_seed(1)
    first = user_vectors(camps, CONFIG, progress=False)
    torch.manual_seed(2)
    assert np.array_equal(user_vectors(camps, CONFIG, progress=False), first)
    assert not np.array_equal(user_vectors(camps, CONFIG.model_copy(update={"seed": 1}), False), first)


def test_similar_items_by_text_which_is_encoded_once(camps, tmp_path):
    encoder: Any = Letters()
    titles = ["aab", "b", "a", "abb"]
    view = replace(camps, item_text=pa.table({"title": [*titles, *["" for _ in range(8)]]}))
    texts: list[str] = []
    once = encoder.encode
    encoder.encode = lambda some: texts.extend(some) or once(some)

    def similar(view: TrainingView, folder: Path | None = tmp_path) -> list[list[int]]:
        every = np.arange(12)
        return similar_items(view, encoder, folder, 1, every, every)[:, 0].tolist()

    for _ in range(2):
        assert similar(view) == [2, 3, 0, 1] + [-1] * 8
    assert len(texts) == 12
    cold = similar_items(view, encoder, tmp_path, 2, np.array([0, 1]), np.array([3]))
    assert cold[:4].tolist() == [[-1, -1], [-1, -1], [-1, -1], [1, 0]]
    other = replace(camps, item_text=pa.table({"title": [f"{at}!" for at in range(12)]}))
    similar(other)
    encoder.name = "another"
    similar(other)
    assert len(texts) == 36
    similar(other, None)
    assert len(texts) == 48


def test_neighbours_are_those_that_are_learned_from_however_few():
    vectors = np.random.default_rng(0).normal(size=(40, 4))
    everyone, learned = np.arange(30), np.arange(0, 30, 10)
    near = among(vectors, np.arange(40)[:, None], 2, learned, everyone)
    assert (near[30:] == -1).all()
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    for row in everyone:
        others = [one for one in learned if one != row]
        assert near[row].tolist() == sorted(others, key=lambda one: -units[one] @ units[row])[:2]


@pytest.mark.parametrize(
    "cached",
    [
        {"values": np.full((13, 3), 13)},
        {"values": np.zeros((12, 3), np.int64)},
        {"values": np.full((13, 3), np.nan)},
        {"values": np.zeros(13, np.int64)},
        {"values": np.zeros((13, 3), np.uint8)},
        {},
    ],
)
def test_a_cache_that_cannot_be_of_these_subjects_is_made_again(
    tmp_path: Path, cached: dict[str, np.ndarray]
) -> None:
    def wanted() -> np.ndarray:
        return np.tile(np.arange(3), (13, 1))

    assert np.array_equal(_cached(tmp_path, "nearest", "of", 13, wanted), wanted())
    save_file(cached, tmp_path / "nearest.safetensors", metadata={"of": "of"})
    assert np.array_equal(_cached(tmp_path, "nearest", "of", 13, wanted), wanted())
    assert np.array_equal(
        _cached(tmp_path, "nearest", "of", 13, lambda: np.zeros((13, 3), np.int64)), wanted()
    )
