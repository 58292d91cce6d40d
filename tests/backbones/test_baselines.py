import numpy as np
import torch

from reclm.backbones.baselines import MostPopular, Random
from reclm.benchmarks.trial import Plan, Runner
from reclm.config import Config
from reclm.data.dataset import Interactions
from reclm.recommend.base import Inputs
from reclm.testing import checkerboard

INPUTS = Inputs(3, 4, Interactions(np.array([0, 1, 2, 0]), np.array([2, 2, 2, 1])))


def test_most_popular_counts_interactions_for_everyone_alike() -> None:
    def draw(seed: int) -> torch.Tensor:
        model = MostPopular(Config(), INPUTS, torch.Generator().manual_seed(seed))
        return model.scorer()(torch.arange(2), torch.arange(4))

    drawn = [draw(seed) for seed in range(8)]
    for scores in drawn:
        assert torch.equal(scores[0], scores[1])
        assert torch.equal(scores[0].floor(), torch.tensor([0.0, 1.0, 3.0, 0.0]))
    # who have as many come in an order of the seed's
    assert {bool(scores[0, 0] > scores[0, 3]) for scores in drawn} == {True, False}
    drawn[0][0, 0] = 9  # a scorer's memory is its caller's
    assert drawn[0][1, 0] < 1


def test_random_is_the_seeds_alone() -> None:
    def draw(seed: int, times: int = 1) -> torch.Tensor:
        model = Random(Config(), INPUTS, torch.Generator().manual_seed(seed))
        return [model.scorer()(torch.arange(3), torch.arange(4)) for _ in range(times)][-1]

    assert torch.equal(draw(1), draw(1, times=2))
    assert not torch.equal(draw(1), draw(2))


def test_baselines_are_compared_without_training() -> None:
    data = checkerboard()
    for name in ("popularity", "random"):
        run = Runner(Plan(backbone=name), data).run(Inputs(len(data.users), len(data.items), data.train), 0)
        assert run.fit.history == []
        assert 0 < run.results["full-shot"].mean()["recall@20"] <= 1


def test_fault_11_popularity_breaks_ties_by_the_seed_and_nothing_else() -> None:
    users = torch.zeros(1, dtype=torch.int64)

    def order(seed: int) -> list[int]:
        inputs = Inputs(1, 200, Interactions(np.array([0]), np.array([7])))
        model = MostPopular(Config(), inputs, torch.Generator().manual_seed(seed))
        return model.scorer()(users, torch.arange(200))[0].argsort(descending=True).tolist()

    assert order(3)[0] == 7
    assert order(3) == order(3) != order(4)
