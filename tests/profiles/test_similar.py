"""Nearest neighbours against every product computed."""

import numpy as np
import pytest

from reclm.profilers.reclm.neighbours import similar


def brute(vectors: np.ndarray, k: int) -> np.ndarray:
    """The whole matrix of cosines in float64, sorted by score and then by row."""
    units = vectors.astype(np.float64) / np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    scores = np.einsum("nd,md->nm", units, units)
    np.fill_diagonal(scores, -np.inf)
    rows = np.broadcast_to(np.arange(len(vectors)), scores.shape)
    return np.lexsort((rows, -scores), axis=1)[:, :k]


@pytest.mark.parametrize("block", [None, 1, 7, 300])
def test_equal_to_brute_force_in_blocks_of_any_size(block):
    vectors = np.random.default_rng(0).normal(size=(300, 16)).astype(np.float32)
    assert np.array_equal(similar(vectors, 6, block), brute(vectors, 6))


def test_nearly_equal_directions_are_told_apart():
    # differences far below what float32 products resolve
    angles = np.random.default_rng(1).permutation(200) * 1e-6
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    indices = similar(vectors, 3, block=13)
    gaps = np.abs(angles[indices] - angles[:, None])
    exact = np.abs(angles[None] - angles[:, None])
    np.fill_diagonal(exact, np.inf)
    assert np.allclose(gaps, np.sort(exact, axis=1)[:, :3], atol=1e-12)


def test_equally_near_rows_come_in_their_order_and_never_oneself():
    vectors = np.array([[1.0, 0], [2, 0], [0, 3], [3, 0], [1, 0]])
    indices = similar(vectors, 3, block=2)
    assert indices.tolist() == [[1, 3, 4], [0, 3, 4], [0, 1, 3], [0, 1, 4], [0, 1, 3]]


def test_zero_rows_and_rows_not_asked_for_are_nobodys_neighbours():
    vectors = np.array([[1.0, 0], [0, 0], [1, 1], [1, 2]])
    assert similar(vectors, 3).tolist() == [[2, 3, -1], [-1, -1, -1], [3, 0, -1], [2, 0, -1]]
    indices = similar(vectors, 2, among=np.array([0, 3]))
    assert indices.tolist() == [[3, -1], [-1, -1], [-1, -1], [0, -1]]
    assert similar(vectors[:1], 2).tolist() == [[-1, -1]]


@pytest.mark.parametrize("block", [None, 1, 7])
@pytest.mark.parametrize("k", [1, 6, 50])
def test_those_who_search_and_those_who_are_found_may_be_others(block, k):
    vectors = np.random.default_rng(2).normal(size=(90, 8)).astype(np.float32)
    among, searchers = np.arange(0, 60, 2), np.arange(40, 90)
    indices = similar(vectors, k, block, among, searchers)
    ranked = brute(vectors, 89)
    for row in range(90):
        expected = [one for one in ranked[row] if one in among][:k] if row in searchers else []
        assert indices[row].tolist() == expected + [-1] * (k - len(expected))
    none = np.zeros(0, np.int64)
    assert (similar(vectors, 2, among=none, searchers=searchers) == -1).all()
    assert (similar(vectors, 2, searchers=none) == -1).all()
    assert similar(vectors[:2], 2, among=np.array([0]), searchers=np.array([0, 1])).tolist() == [
        [-1, -1],
        [0, -1],
    ]
