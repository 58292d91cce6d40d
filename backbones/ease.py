"""EASE (Steck, "Embarrassingly Shallow Autoencoders for Sparse Data", arXiv 1905.03375): a linear model in closed form.

ŷ = x B        B = I - P diag(P)^-1        P = (XᵀX + λ I)^-1
"""

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from reclm.config import Config
from reclm.data.dataset import Dataset
from reclm.recommend.base import Backbone, Inputs
from reclm.recommend.evaluate import Scorer, Task


class EaseConfig(Config):
    """Options of EASE."""

    l2: float = Field(default=300.0, gt=0)
    """λ; where it is not given, the best on validation of ``GRID``."""
    most_items: int = Field(default=20_000, ge=1)
    """Items beyond the so many most popular have no score: memory grows by the square (3.2 GB at 20,000)."""


class Ease(Backbone):
    """Predict a user's items from each other, by the weights that do so best in the training data.

    Items that were not trained score 0. With more than ``SEARCHED`` items, λ is chosen on so many of them.
    """

    Config = EaseConfig
    config: EaseConfig
    l2: Tensor
    reference = True
    seeded = False
    GRID = (30.0, 100.0, 200.0, 500.0, 1000.0, 3000.0)
    SEARCHED = 5_000

    def __init__(self, config: EaseConfig, inputs: Inputs, generator: torch.Generator) -> None:
        super().__init__(config, inputs, generator)
        self.histories = inputs.train.matrix(inputs.users, inputs.items)
        counts = torch.from_numpy(np.asarray(self.histories.sum(0)))
        order = counts.argsort(descending=True, stable=True)
        self.items = order[: min(config.most_items, int((counts > 0).sum()))]
        self.register_buffer("l2", torch.tensor(config.l2))
        self._weights: Tensor | None = None

    @classmethod
    def row_name(cls, name: str, data: Dataset) -> str:
        """Name the items that it is limited to."""
        most, items = EaseConfig().most_items, len(np.unique(data.train.item_idx))
        return f"{name} ({most:,} most popular items)" if items > most else name

    def choose(self, valid: Task, metric: str) -> None:
        """Take the λ that does best on validation, unless it is given."""
        kept, self.items = self.items, self.items[: self.SEARCHED]
        self.choose_option(valid, metric, l2=self.GRID)
        if len(kept) > len(self.items):
            self.items, self._weights = kept, None

    def rankable(self) -> Tensor:
        """Return the items kept, ascending."""
        return self.items.sort().values

    def changed(self) -> None:
        """Forget the weights of other options."""
        self._weights = None

    @torch.no_grad()
    def weights(self) -> Tensor:
        """Return ``B`` of the items kept, ``(k, k)``; at most two such matrices are held at once."""
        if self._weights is None:
            chosen = self.histories[:, self.items.numpy()].astype(np.float32)
            gram = torch.from_numpy((chosen.T @ chosen).toarray())
            gram.diagonal().add_(self.l2)
            torch.linalg.cholesky(gram, out=gram)
            inverse = torch.cholesky_inverse(gram, out=gram)
            self._weights = inverse.div_(-inverse.diagonal().clone()).fill_diagonal_(0)
        return self._weights

    def scorer(self) -> Scorer:
        """Score by the weights of a user's items."""
        weights, place = self.weights(), torch.full((self.n_items,), -1)
        place[self.items] = torch.arange(len(self.items))
        histories = self.histories[:, self.items.numpy()]

        def score(user_idx: Tensor, item_idx: Tensor) -> Tensor:
            scores = torch.from_numpy(histories[user_idx.numpy()] @ weights.numpy())
            columns = place[item_idx]
            return torch.where(columns >= 0, scores[:, columns.clamp(min=0)], 0.0)

        return score
