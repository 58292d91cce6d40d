"""NCF (He et al., "Neural Collaborative Filtering", arXiv 1708.05031).

NeuMF, the fusion of its two branches (equation 12), over one pair of features as in RecLM's release:

    ŷ_uv = hᵀ(x_u ∘ e_v)  +  gᵀ ReLU(W[x_u ‖ e_v] + b)
            GMF              MLP with one hidden layer

Since ``W [x ‖ e] = W_u x + W_v e``, each side is projected once. Of all pairs the hidden layer is never written down:
``ReLU(z) = (z + |z|)/2`` makes ``gᵀ ReLU(a + c)`` a linear part and a weighted L1 distance between ``a`` and ``-c``.
"""

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from reclm.backbones.base import Backbone, BackboneConfig, Inputs, table
from reclm.fusion import linear
from reclm.losses import bpr_loss, l2_penalty
from reclm.ranking.evaluate import Scorer


class NCFConfig(BackboneConfig):
    """Options of NCF."""

    hidden: int = Field(default=32, ge=1)
    """Width of the MLP branch's hidden layer."""


class NCF(Backbone):
    """Neural matrix factorisation: GMF and MLP branches, added."""

    Config = NCFConfig
    config: NCFConfig

    def __init__(self, config: NCFConfig, inputs: Inputs, generator: torch.Generator) -> None:
        super().__init__(config, inputs, generator)
        self.gmf = table(1, config.dim, generator)
        self.from_user = linear(config.dim, config.hidden, generator)
        self.from_item = table(config.hidden, config.dim, generator)
        self.out = table(1, config.hidden, generator)

    def represent(self, users: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
        """The features as they are: pairs of them are scored by :meth:`score`."""
        return users, items

    def score(self, users: Tensor, items: Tensor) -> Tensor:
        """Scores ``(B,)`` of pairs of features ``(B, d)``."""
        hidden = F.relu(self.from_user(users) + items @ self.from_item.T)
        return ((users * items) @ self.gmf.T + hidden @ self.out.T).squeeze(1)

    def loss(self, users: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
        """BPR and L2 of the batch's own rows."""
        user, items = self.user_features(users), self.item_features(torch.cat([positives, negatives]))
        positive, negative = items.chunk(2)
        loss = bpr_loss(self.score(user, positive), self.score(user, negative))
        return loss + self.config.l2 * l2_penalty(user, positive, negative)

    def scorer_of(self, users: Tensor, items: Tensor) -> Scorer:
        """Scores of features ``(n, d)`` and ``(m, d)``, by their rows: all pairs of a block in ``b·c`` memory."""
        weight = self.out.squeeze(0)
        user_hidden, item_hidden = self.from_user(users), items @ self.from_item.T
        # one dot product holds all that is linear in either side
        user_share, item_share = (hidden @ self.out.T / 2 for hidden in (user_hidden, item_hidden))
        left = torch.cat([users * self.gmf, user_share, torch.ones_like(user_share)], 1)
        right = torch.cat([items, torch.ones_like(item_share), item_share], 1)
        signed = [
            (sign, user_hidden[:, chosen] * size, -item_hidden[:, chosen] * size)
            for sign, chosen in ((1.0, weight > 0), (-1.0, weight < 0))
            for size in [weight[chosen].abs() / 2]
        ]

        def score(user_idx: Tensor, item_idx: Tensor) -> Tensor:
            scores = left[user_idx] @ right[item_idx].T
            for sign, user, item in signed:
                scores.add_(torch.cdist(user[user_idx], item[item_idx], p=1), alpha=sign)
            return scores

        return score
