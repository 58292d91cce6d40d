"""SimGCL (Yu et al., "Are Graph Augmentations Necessary?", arXiv 2112.08679).

LightGCN whose two views differ by noise on the features of every layer, in place of damage to the graph (equation 7):

    e^(k+1) = Â e^(k) + Δ        Δ = ε · sign(Â e^(k)) ∘ n/‖n‖,  n uniform in [0, 1]^d

and are drawn to each other among the nodes of the batch (equation 6). What is ranked and what is compared leaves out
layer 0: the mean of layers 1 … K.
"""

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from reclm.backbones.base import Inputs
from reclm.backbones.lightgcn import LightGCN, LightGCNConfig
from reclm.losses import info_nce


class SimGCLConfig(LightGCNConfig):
    """Options of SimGCL."""

    noise: float = Field(default=0.1, ge=0)
    """Length ε of the noise."""
    temperature: float = Field(default=0.2, gt=0)
    """τ. RecLM, arXiv 2412.19302, searches .1, .5, 1."""
    ssl: float = Field(default=0.5, ge=0)
    """Weight λ of the contrastive loss."""


class SimGCL(LightGCN):
    """LightGCN with contrastive learning between noisy features."""

    Config = SimGCLConfig
    config: SimGCLConfig

    def __init__(self, config: SimGCLConfig, inputs: Inputs, generator: torch.Generator) -> None:
        super().__init__(config, inputs, generator)
        self._noise: torch.Generator | None = None

    def begin_epoch(self, generator: torch.Generator) -> None:
        """Take the source of the epoch's noise."""
        self._noise = generator

    def represent(self, users: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
        """What is scored: without noise."""
        if self.config.items == "text":
            return super().represent(users, items)
        return self.layer_means(users, items, views=0)[0]

    def layer_means(self, users: Tensor, items: Tensor, views: int = 2) -> list[tuple[Tensor, Tensor]]:
        """Means of layers 1 … K, ``(U, d)`` and ``(I, d)``: first the plain ones, then those of ``views`` noisy views.

        All go side by side through one product a layer, and share the first one, which no noise precedes.
        """
        width = users.shape[1]
        plain = self.graph.users_from(items), self.graph.items_from(users)
        sides = [self._streams(one, one.repeat(1, views)) for one in plain]
        sums = sides
        for _ in range(1, self.config.layers):
            products = self.graph.users_from(sides[1]), self.graph.items_from(sides[0])
            sides = [self._streams(one[:, :width], one[:, width:]) for one in products]
            sums = [total + side for total, side in zip(sums, sides, strict=True)]
        user, item = ((total / self.config.layers).chunk(1 + views, dim=1) for total in sums)
        return list(zip(user, item, strict=True))

    def _streams(self, plain: Tensor, noisy: Tensor) -> Tensor:
        """``plain (n, d)``, and beside it the views ``(n, views · d)`` with fresh noise on each."""
        if not noisy.shape[1]:
            return plain
        if self._noise is None:
            raise RuntimeError("SimGCL takes its source of noise in begin_epoch, which was not called")
        drawn = torch.rand(noisy.shape, generator=self._noise).view(len(plain), -1, plain.shape[1])
        noise = self.config.noise * F.normalize(drawn, dim=-1).view_as(noisy)
        return torch.cat([plain, noisy + noise.mul_(noisy.detach().sign())], 1)

    def loss(self, users: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
        """LightGCN's loss plus ``λ`` times the users' and the items' InfoNCE.

        Raises:
            RuntimeError: before :meth:`begin_epoch`.
        """
        layer0 = self.user_features(), self.item_features()
        final, first, second = self.layer_means(*layer0)
        if self.config.items == "text":
            final = layer0[0] + self.config.layers * final[0], layer0[1]
        loss = self.ranking_loss(layer0, final, users, torch.cat([positives, negatives]))
        for one, other, rows in zip(first, second, (users.unique(), positives.unique()), strict=True):
            positive = F.embedding(rows, other)
            agreement = info_nce(F.embedding(rows, one), positive, positive, self.config.temperature)
            loss = loss + self.config.ssl * agreement
        return loss
