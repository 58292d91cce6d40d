"""BiasMF (Koren, Bell & Volinsky, "Matrix factorization techniques for recommender systems", Computer 42(8), 2009).

``ŷ_uv = x_uᵀ f̂_v + b_v + b_u``. The user bias is constant over a user's candidates: it changes neither a BPR difference
nor a ranking, so it has no parameter here. The item bias is read off the item's features, ``b_v = wᵀ f̂_v``, so that a
cold item has one too; without it the model cannot tell popular items from others.
"""

import torch
from torch import Tensor

from reclm.backbones.base import Backbone, BackboneConfig, Inputs
from reclm.fusion import linear


class BiasMF(Backbone):
    """Matrix factorisation of users' ID embeddings and items' text features."""

    def __init__(self, config: BackboneConfig, inputs: Inputs, generator: torch.Generator) -> None:
        super().__init__(config, inputs, generator)
        self.bias = linear(config.dim, 1, generator)

    def represent(self, users: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """``x_u ‖ 1`` and ``f̂_v ‖ b_v``: users ``(n, d + 1)``, items ``(I, d + 1)``."""
        user, items = self.user_features(users), self.item_features()
        return torch.cat([user, user.new_ones(len(user), 1)], 1), torch.cat([items, self.bias(items)], 1)
