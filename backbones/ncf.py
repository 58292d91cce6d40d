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
from reclm.recommend.base import Inputs
from reclm.recommend.embedding import BackboneConfig, EmbeddingBackbone, table
from reclm.recommend.softmax import PairScore


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
        self._kept: Tensor | None = None

    @classmethod
    def width(cls, config: BackboneConfig) -> int:
        """Return ``2d``: the GMF branch's features, then the MLP branch's."""
        return 2 * config.dim

    def represent(self, users: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
        """Return the features ``(U, 2d)`` and ``(I, 2d)`` as they are; :meth:`pair_scores` takes pairs of them."""
        return users, items

    def pair_scores(self, users: Tensor, items: Tensor) -> Tensor:
        """Return scores ``(…, B)`` of features ``(B, 2d)`` and ``(…, B, 2d)``, without the units that a step drops."""
        (user, user_mlp), (item, item_mlp) = users.chunk(2, dim=-1), items.chunk(2, dim=-1)
        hidden = F.relu(self.from_user(user_mlp) + item_mlp @ self.from_item.T)
        if self._kept is not None:
            hidden = hidden * self._kept
        return torch.linalg.vecdot(user * self.gmf, item) + (hidden @ self.out.T).squeeze(-1)

    def loss(self, users: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
        """Return loss and L2 ``()``; both pairs of a triple, and under softmax all of a batch, lose the same units."""
        drops = self.training and self.config.hidden_dropout
        try:
            if self.negatives is not None:
                self._kept = self._dropout_mask(1) if drops else None
                return super().loss(users, positives, negatives)
            user, items = self.user_features(users), self.item_features(torch.cat([positives, negatives]))
            self._kept = self._dropout_mask(len(users)) if drops else None
            return self.objective(user, items, (user, items))
        finally:
            self._kept = None

    def _dropout_mask(self, rows: int) -> Tensor:
        """Return ``(rows, hidden)``: 0 for a dropped unit, ``1 / (1 - rate)`` for any other."""
        if self.random is None:
            raise RuntimeError("NCF takes its source of dropout in begin_epoch, which was not called")
        keep_rate = 1 - self.config.hidden_dropout
        mask = torch.empty(rows, self.config.hidden).bernoulli_(keep_rate, generator=self.random)
        return mask.div_(keep_rate)

    def factors(self, users: Tensor, items: Tensor, scale: float = 1.0) -> tuple[Tensor, Tensor, PairScore]:
        """Return what all scores are computed from, of features ``(n, 2d)`` and ``(m, 2d)``, and how."""
        weight = self.out.squeeze(0) if self._kept is None else self.out.squeeze(0) * self._kept.squeeze(0)
        (users, user_mlp), (items, item_mlp) = users.chunk(2, dim=1), items.chunk(2, dim=1)
        user_hidden, item_hidden = self.from_user(user_mlp), item_mlp @ self.from_item.T
        # one dot product covers all that is linear in either side
        user_share, item_share = (hidden @ weight[:, None] / 2 for hidden in (user_hidden, item_hidden))
        left = torch.cat([users * self.gmf, user_share, torch.ones_like(user_share)], 1) * scale
        right = torch.cat([items, torch.ones_like(item_share), item_share], 1)
        # the weighted L1 distances, those of positive and of negative weights apart
        signs, size, linear = (weight > 0, weight < 0), weight.abs() * scale / 2, right.shape[1]
        user_sides = [user_hidden[:, sign] * size[sign] for sign in signs]
        item_sides = [-item_hidden[:, sign] * size[sign] for sign in signs]
        widths = [linear, *(int(sign.sum()) for sign in signs)]

        def score(left: Tensor, right: Tensor) -> Tensor:
            (user, *user_sides), (item, *item_sides) = left.split(widths, 1), right.split(widths, 1)
            plus, minus = (torch.cdist(*sides, p=1) for sides in zip(user_sides, item_sides, strict=True))
            return (user @ item.T).add_(plus).sub_(minus)

        return torch.cat([left, *user_sides], 1), torch.cat([right, *item_sides], 1), score
