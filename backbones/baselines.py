"""Baselines without learning: a recommender that is not above them has learnt nothing."""

import torch
from torch import Tensor

from reclm.config import Config
from reclm.recommend.base import Backbone, Inputs
from reclm.recommend.evaluate import Scorer


class MostPopular(Backbone):
    """Rank items by their number of training interactions, equal ones in a random order, alike for everyone.

    New items have none: their order is random, and not that of the rows, in which popularity may hide.
    """

    baseline = True
    counts: Tensor

    def __init__(self, config: Config, inputs: Inputs, generator: torch.Generator) -> None:
        super().__init__(config, inputs, generator)
        counts = torch.bincount(torch.from_numpy(inputs.train.item_idx.copy()), minlength=inputs.items)
        self.register_buffer("counts", counts + torch.rand(inputs.items, generator=generator) / 2)

    def scorer(self) -> Scorer:
        """Score an item by its training interactions, plus a random fraction that orders equal ones."""
        return lambda user_idx, item_idx: self.counts[item_idx].repeat(len(user_idx), 1)


class Random(Backbone):
    """Rank items in a random order for each user."""

    baseline = True
    seed: Tensor

    def __init__(self, config: Config, inputs: Inputs, generator: torch.Generator) -> None:
        super().__init__(config, inputs, generator)
        self.register_buffer("seed", torch.randint(2**62, (), generator=generator))

    def scorer(self) -> Scorer:
        """Score by uniform draws, block after block; every scorer of one model draws the same."""
        generator = torch.Generator().manual_seed(int(self.seed))
        return lambda user_idx, item_idx: torch.rand(len(user_idx), len(item_idx), generator=generator)
