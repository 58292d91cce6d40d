"""SimGCL (Yu et al., "Are Graph Augmentations Necessary?", arXiv 2112.08679).

LightGCN whose two views differ by noise on the features of every layer, in place of damage to the graph (equation 7):

    e^(k+1) = Â e^(k) + Δ        Δ = ε · sign(Â e^(k)) ∘ n/‖n‖,  n uniform in [0, 1]^d

and are contrasted among the nodes of the batch (equation 6). Ranking and contrast leave out layer 0: they use the mean
of layers 1 … K.
"""

import functools

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from reclm.backbones.lightgcn import LightGCN, LightGCNConfig
from reclm.errors import BadInput
from reclm.recommend.base import Inputs
from reclm.recommend.losses import info_nce


class SimGCLConfig(LightGCNConfig):
    """Options of SimGCL."""

    noise: float = Field(default=0.1, ge=0)
    """Length ε of the noise."""
    temperature: float = Field(default=0.2, gt=0)
    """τ. RecLM, arXiv 2412.19302, searches .1, .5, 1."""
    ssl: float = Field(default=0.5, ge=0)
    """Weight λ of the contrastive loss."""


class SimGCL(LightGCN):
    """LightGCN with contrastive learning between noisy features.

    Propagation is linear and ``Δ`` has no gradient, so a view is the plain features plus a constant: one pass with a
    gradient serves the ranking and both views, and what noise adds is propagated beside it without one.
    """

    Config = SimGCLConfig
    config: SimGCLConfig  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(self, config: SimGCLConfig, inputs: Inputs, generator: torch.Generator) -> None:
        super().__init__(config, inputs, generator)
        self._noise: np.random.Generator | None = None

    def begin_epoch(self, generator: torch.Generator) -> None:
        """Seed the epoch's noise: NumPy's SFC64 draws faster than torch's Mersenne Twister."""
        super().begin_epoch(generator)
        seed = int(torch.randint(2**62, (), generator=generator))
        self._noise = np.random.Generator(np.random.SFC64(seed))

    def represent(self, users: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
        """Return representations without noise, ``(U, d)`` and ``(I, d)``."""
        if self.config.items == "text":
            return super().represent(users, items)
        mean = self._mean(self.layers(users, items))
        return mean[0], self.with_new(mean[1])

    def combine(self, first: Tensor, later: Tensor) -> Tensor:
        """Return the mean ``(n, d)`` of layers 1 … K, BadInput without neighbours; with text alone as in LightGCN."""
        if self.config.items == "text":
            return super().combine(first, later)
        if not later.any(dim=1).all():
            message = (
                f"SimGCL with items = {self.config.items!r} ranks by layers 1 … {self.config.layers}, and a user or an "
                "item without interactions has none; train it with --set items=text"
            )
            raise BadInput(message, value=self.config.items, where="items", remedy="--set items=text")
        return later / self.config.layers

    def layers(self, users: Tensor, items: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Return layers 1 … K, each ``(U, d)`` and ``(I, d)``."""
        layers = [(users, items)]
        for _ in range(self.config.layers):
            layers.append((self.graph.users_from(layers[-1][1]), self.graph.items_from(layers[-1][0])))
        return layers[1:]

    def _mean(self, layers: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        """Return the means over the layers, ``(U, d)`` and ``(I, d)``."""
        users, items = (functools.reduce(torch.add, side) / len(layers) for side in zip(*layers, strict=True))
        return users, items

    @torch.no_grad()
    def view_noise(self, layers: list[tuple[Tensor, Tensor]], rows: tuple[Tensor, Tensor]) -> list[Tensor]:
        """Return the noise of two views on the mean of ``layers`` at ``rows``: users ``(n, 2d)``, items ``(m, 2d)``."""
        propagated = [torch.zeros(len(side), 2 * self.config.dim) for side in layers[0]]
        sums = [torch.zeros(len(row), 2 * self.config.dim) for row in rows]
        for number, layer in enumerate(layers, 1):
            if number > 1:
                propagated = [self.graph.users_from(propagated[1]), self.graph.items_from(propagated[0])]
            if number == len(layers):  # no layer comes after it: the rows of the batch are enough
                at_rows = [
                    self._noisy(side[row], noise[row])
                    for side, noise, row in zip(layer, propagated, rows, strict=True)
                ]
            else:
                propagated = [self._noisy(side, noise) for side, noise in zip(layer, propagated, strict=True)]
                at_rows = [side[row] for side, row in zip(propagated, rows, strict=True)]
            sums = [total + noise for total, noise in zip(sums, at_rows, strict=True)]
        return [total / len(layers) for total in sums]

    def _noisy(self, plain: Tensor, noise: Tensor) -> Tensor:
        """Return ``noise`` ``(n, 2d)`` plus ``Δ`` of ``plain (n, d) + noise``, a half for each view."""
        if self._noise is None:
            raise RuntimeError("SimGCL seeds its noise in begin_epoch, which was not called")
        shape = len(plain), -1, self.config.dim
        uniform = torch.from_numpy(self._noise.random(noise.shape, dtype=np.float32)).view(shape)
        sign = (plain.unsqueeze(1) + noise.view(shape)).sign_()
        return noise + F.normalize(uniform, dim=-1).mul_(sign).mul_(self.config.noise).view_as(noise)

    def loss(self, users: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
        """Return LightGCN's loss plus ``λ`` times the InfoNCE of users and of items, ``()``."""
        layer0 = self.user_features(), self.item_features()
        layers = self.layers(*layer0)
        mean = self._mean(layers)
        if self.config.items == "text":
            final = layer0[0] + len(layers) * mean[0], layer0[1]
        else:
            final = mean[0], self.with_new(mean[1])
        loss = self.ranking_loss(layer0, final, users, positives, negatives)
        rows = users.unique(), positives.unique()
        for side, row, noise in zip(mean, rows, self.view_noise(layers, rows), strict=True):
            plain = F.embedding(row, side)
            first, second = (plain + half for half in noise.chunk(2, dim=1))
            loss = loss + self.config.ssl * info_nce(first, second, second, self.config.temperature)
        return loss
