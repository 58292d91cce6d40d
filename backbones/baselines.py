"""Floors: what anyone gets without learning. A recommender that is not above them has learnt nothing."""

from typing import ClassVar

import torch
from torch import Tensor, nn

from reclm.recommend.base import BackboneConfig, Inputs
from reclm.recommend.evaluate import Scorer


class _Floor(nn.Module):
    """A backbone without parameters: nothing of it is trained, and profiles change nothing."""

    Config: ClassVar[type[BackboneConfig]] = BackboneConfig

    def __init__(self, config: BackboneConfig, inputs: Inputs, generator: torch.Generator) -> None:
        super().__init__()
        self.config = config


class MostPopular(_Floor):
    """The same list for everyone: items by their number of training interactions, equal ones in random order.

    Zero-shot all have none: it is a random order there, and not that of the rows, in which popularity may hide.
    """

    def __init__(self, config: BackboneConfig, inputs: Inputs, generator: torch.Generator) -> None:
        super().__init__(config, inputs, generator)
        counts = torch.bincount(torch.from_numpy(inputs.train.item_idx.copy()), minlength=inputs.items)
        self.register_buffer("counts", counts + torch.rand(inputs.items, generator=generator) / 2)

    counts: Tensor

    def scorer(self) -> Scorer:
        """Training interactions of each item, and less than one that parts equal ones."""
        return lambda user_idx, item_idx: self.counts[item_idx].repeat(len(user_idx), 1)


class Random(_Floor):
    """A random order for each user."""

    def __init__(self, config: BackboneConfig, inputs: Inputs, generator: torch.Generator) -> None:
        super().__init__(config, inputs, generator)
        self.register_buffer("seed", torch.randint(2**62, (), generator=generator))

    seed: Tensor

    def scorer(self) -> Scorer:
        """Uniform draws, block after block; every scorer of one model draws the same."""
        generator = torch.Generator().manual_seed(int(self.seed))
        return lambda user_idx, item_idx: torch.rand(len(user_idx), len(item_idx), generator=generator)
