"""NCF (He et al., "Neural Collaborative Filtering", arXiv 1708.05031).

NeuMF, the fusion of its two branches (equation 12), with features of each branch's own:

    ŷ_uv = gᵀ(x_u^G ∘ e_v^G)  +  hᵀ ReLU(W [x_u^M ‖ e_v^M] + b)
           GMF                   MLP with one hidden layer

It begins as plain matrix factorisation, ``g = 1`` and ``h = 0`` (the paper gets there by pre-training), and drops
hidden units while it trains: without, the second branch learns the training pairs by heart.

Since ``W [x ‖ e] = W_u x + W_v e``, each side is projected once. Of all pairs the hidden layer is never written down:
``ReLU(z) = (z + |z|)/2`` makes ``hᵀ ReLU(a + c)`` a linear part and a weighted L1 distance between ``a`` and ``-c``.
"""

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from reclm.fusion.dual_mlp import linear
from reclm.recommend.base import BackboneConfig, EmbeddingBackbone, Inputs, table
from reclm.recommend.evaluate import Scorer
from reclm.recommend.losses import bpr_loss, l2_penalty


class NCFConfig(BackboneConfig):
    """Options of NCF."""

    hidden: int = Field(default=8, ge=1)
    """Width of the MLP branch's hidden layer. NCF, section 4.1, has 8 to 64 of these "predictive factors"."""
    hidden_dropout: float = Field(default=0.5, ge=0, lt=1)
    """Dropout on the hidden layer."""


class NCF(EmbeddingBackbone):
    """Add the scores of two branches, generalised matrix factorisation (GMF) and an MLP."""

    Config = NCFConfig
    config: NCFConfig

    def __init__(self, config: NCFConfig, inputs: Inputs, generator: torch.Generator) -> None:
        super().__init__(config, inputs, generator)
        self.gmf = nn.Parameter(torch.ones(1, config.dim))
        self.from_user = linear(config.dim, config.hidden, generator)
        self.from_item = table(config.hidden, config.dim, generator)
        self.out = nn.Parameter(torch.zeros(1, config.hidden))
        self._random: torch.Generator | None = None

    @classmethod
    def width(cls, config: BackboneConfig) -> int:
        """Return ``2d``: the GMF branch's features, then the MLP branch's."""
        return 2 * config.dim

    def begin_epoch(self, generator: torch.Generator) -> None:
        """Set the generator of the epoch's dropout."""
        self._random = generator

    def represent(self, users: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
        """Return the features ``(U, 2d)`` and ``(I, 2d)`` as they are; :meth:`score` takes pairs of them."""
        return users, items

    def score(self, users: Tensor, items: Tensor, dropout: Tensor | None = None) -> Tensor:
        """Return scores ``(…, B)`` of features ``(B, 2d)`` and ``(…, B, 2d)``; ``dropout (B, hidden)`` scales units."""
        (user, user_mlp), (item, item_mlp) = users.chunk(2, dim=-1), items.chunk(2, dim=-1)
        hidden = F.relu(self.from_user(user_mlp) + item_mlp @ self.from_item.T)
        if dropout is not None:
            hidden = hidden * dropout
        return torch.linalg.vecdot(user * self.gmf, item) + (hidden @ self.out.T).squeeze(-1)

    def loss(self, users: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
        """Return BPR and L2 ``()`` of the rows of a batch; both pairs of a triple lose the same hidden units."""
        user, items = self.user_features(users), self.item_features(torch.cat([positives, negatives]))
        dropout = self._dropout_mask(len(users)) if self.training and self.config.hidden_dropout else None
        loss = bpr_loss(*self.score(user, items.view(2, *user.shape), dropout))
        return loss + self.config.l2 * l2_penalty(user, items)

    def _dropout_mask(self, rows: int) -> Tensor:
        """Return ``(rows, hidden)``: 0 for a dropped unit, ``1 / (1 - rate)`` for any other."""
        if self._random is None:
            raise RuntimeError("NCF takes its source of dropout in begin_epoch, which was not called")
        keep_rate = 1 - self.config.hidden_dropout
        mask = torch.empty(rows, self.config.hidden).bernoulli_(keep_rate, generator=self._random)
        return mask.div_(keep_rate)

    def scorer_of(self, users: Tensor, items: Tensor) -> Scorer:
        """Return the scorer of features ``(n, 2d)`` and ``(m, 2d)``, by rows; a block takes ``b·c`` memory."""
        weight = self.out.squeeze(0)
        (users, user_mlp), (items, item_mlp) = users.chunk(2, dim=1), items.chunk(2, dim=1)
        user_hidden, item_hidden = self.from_user(user_mlp), item_mlp @ self.from_item.T
        # one dot product covers all that is linear in either side
        user_share, item_share = (hidden @ self.out.T / 2 for hidden in (user_hidden, item_hidden))
        left = torch.cat([users * self.gmf, user_share, torch.ones_like(user_share)], 1)
        right = torch.cat([items, torch.ones_like(item_share), item_share], 1)
        # the weighted L1 distances, those of positive and of negative weights apart
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
