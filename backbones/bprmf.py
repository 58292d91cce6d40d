"""Matrix factorisation with biases (Koren, Bell & Volinsky, "Matrix factorization techniques for recommender
systems", Computer 42(8), 2009).

``ŷ_uv = x_uᵀ e_v + b_v + b_u``. The user bias is constant over a user's candidates: it changes neither a BPR difference
nor a ranking, so it has no parameter here. The item bias is read off the item's features, ``b_v = wᵀ e_v``, so that a
cold item has one too; without it the model cannot tell popular items from others. Together: ``ŷ_uv = (x_u + w)ᵀ e_v``.
"""

import torch
from torch import Tensor

from reclm.recommend.base import Inputs
from reclm.recommend.embedding import BackboneConfig, EmbeddingBackbone, table


class BPRMF(EmbeddingBackbone):
    """Matrix factorisation with an item bias, trained by BPR (Rendle et al., arXiv 1205.2618).

    Commands and tables call it BiasMF, as the papers do; the name here says that it has no user bias.
    """

    def __init__(self, config: BackboneConfig, inputs: Inputs, generator: torch.Generator) -> None:
        super().__init__(config, inputs, generator)
        self.bias = table(1, config.dim, generator)

    def represent(self, users: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``x_u + w`` ``(U, d)`` and ``e_v`` ``(I, d)``."""
        return users + self.bias, items

    def loss(self, users: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
        """Return loss and L2 ``()`` of the rows of a batch, three ``(B,)``; for BPR no other row is computed."""
        if self.negatives is not None:
            return super().loss(users, positives, negatives)
        user, items = self.user_features(users), self.item_features(torch.cat([positives, negatives]))
        return self.objective(*self.represent(user, items), (user, items))
