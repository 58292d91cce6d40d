"""Triples: every interaction once, negatives uniform over what the user has not touched."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reclm.data.dataset import Interactions
from reclm.errors import BadInput
from reclm.recommend.training import TripleSampler


@settings(deadline=None, max_examples=60)
@given(st.sets(st.tuples(st.integers(0, 5), st.integers(0, 7)), min_size=1), st.integers(0, 99))
def test_negatives_are_never_positives_and_stay_in_the_training_items(pairs: set, seed: int) -> None:
    users, items = np.array(sorted(pairs)).T
    full = {user for user in users if {i for u, i in pairs if u == user} == set(items)}
    kept = sorted((u, i) for u, i in pairs if u not in full)
    if not kept:
        with pytest.raises(BadInput, match="every user has touched all"):
            TripleSampler(Interactions(users, items), users=6, items=8)
        return
    sampler = TripleSampler(Interactions(users, items), users=6, items=8)
    drawn, positives, negatives = sampler.epoch(torch.Generator().manual_seed(seed))
    assert sorted(zip(drawn.tolist(), positives.tolist(), strict=True)) == kept
    assert not {(u, i) for u, i in zip(drawn.tolist(), negatives.tolist(), strict=True)} & pairs
    assert set(negatives.tolist()) <= set(items.tolist())


def test_negatives_are_uniform() -> None:
    # user 0 touched items 1, 2 and 5 of eight: each other item has probability 1/5
    users, items = np.array([0, 0, 0, *[1] * 8]), np.array([1, 2, 5, *range(8)])
    sampler = TripleSampler(Interactions(users, items), users=2, items=8)
    generator = torch.Generator().manual_seed(0)
    counts = np.zeros(8)
    for _ in range(4000):
        np.add.at(counts, sampler.epoch(generator)[2].numpy(), 1)
    assert counts[[1, 2, 5]].tolist() == [0, 0, 0]
    # 12,000 draws, expected 2,400 each with standard deviation 44
    assert counts[[0, 3, 4, 6, 7]] == pytest.approx(2400, abs=4 * 44)


def test_equal_seeds_give_equal_triples_whatever_the_global_state() -> None:
    data = Interactions(np.arange(50) % 7, np.arange(50) % 11)
    sampler = TripleSampler(data, 7, 11)
    torch.manual_seed(1)
    first = sampler.epoch(torch.Generator().manual_seed(3))
    torch.manual_seed(2)
    second = sampler.epoch(torch.Generator().manual_seed(3))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
