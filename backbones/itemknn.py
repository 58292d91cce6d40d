"""Nearest neighbours among items (Sarwar et al., "Item-based collaborative filtering recommendation algorithms", WWW
2001): an item scores by its similarity to the items of a user's history.

    ŷ_uv = Σ_{i ∈ history(u) ∩ N_k(v)} s_iv        s_iv = n_iv / (√(n_i n_v) + shrinkage)

``n_i`` counts the users of an item and ``n_iv`` those of both. By text, ``s_iv`` is the cosine of the items' texts, so
that items which nobody has touched are ranked, too.
"""

from typing import ClassVar

import numpy as np
import torch
from pydantic import Field
from scipy import sparse
from torch import Tensor
from torch.nn import functional as F

from reclm.config import Config
from reclm.errors import NotFound
from reclm.recommend.base import Backbone, Inputs
from reclm.recommend.evaluate import Scorer, Task

CELLS = 1 << 25
"""Similarities held at a time."""


class NeighbourConfig(Config):
    """Options of TextKNN."""

    neighbours: int = Field(default=200, ge=1)
    """k; where it is not given, the best on validation."""


class ItemKNNConfig(NeighbourConfig):
    """Options of ItemKNN."""

    shrinkage: float = Field(default=10.0, ge=0)
    """Discounts similarities that rest on few users; where it is not given, the best on validation."""


class Neighbours(Backbone):
    """The base of both: a subclass writes :meth:`similarities`."""

    config: NeighbourConfig
    neighbours: Tensor
    reference = True
    seeded = False
    NUMBERS = (20, 50, 100, 200, 500)

    def __init__(self, config: NeighbourConfig, inputs: Inputs, generator: torch.Generator) -> None:
        super().__init__(config, inputs, generator)
        self.histories = inputs.train.matrix(inputs.users, inputs.items)
        self.register_buffer("neighbours", torch.tensor(config.neighbours))
        self._weights: sparse.csr_array | None = None

    def similarities(self, items: np.ndarray) -> Tensor:
        """Return those of some items to all, ``(n, I)``, 0 where there is none."""
        raise NotImplementedError

    def choose(self, valid: Task, metric: str) -> None:
        """Take the number of neighbours that does best on validation, unless it is given."""
        self.choose_option(valid, metric, neighbours=self.NUMBERS)

    def changed(self) -> None:
        """Forget the neighbours of other options."""
        self._weights = None

    @torch.no_grad()
    def weights(self) -> sparse.csr_array:
        """Return the similarities ``(I, I)`` of each item (column) to its neighbours (rows)."""
        if self._weights is None:
            count, block = min(int(self.neighbours), self.n_items), max(1, CELLS // self.n_items)
            parts = []
            for start in range(0, self.n_items, block):
                items = np.arange(start, min(start + block, self.n_items))
                values, columns = self.similarities(items).topk(count, dim=1, sorted=False)
                pointers = np.arange(len(items) + 1) * count
                shape = (len(items), self.n_items)
                parts.append(
                    sparse.csr_array(
                        (values.flatten().numpy(), columns.flatten().numpy(), pointers), shape=shape
                    )
                )
            weights = sparse.vstack(parts).T.tocsr()
            weights.eliminate_zeros()
            self._weights = weights
        return self._weights

    def scorer(self) -> Scorer:
        """Score by the similarities to a user's items."""
        weights = self.weights()

        def score(user_idx: Tensor, item_idx: Tensor) -> Tensor:
            scores = (self.histories[user_idx.numpy()] @ weights).toarray()
            return torch.from_numpy(scores[:, item_idx.numpy()])

        return score


class ItemKNN(Neighbours):
    """Nearest neighbours by the users that items share."""

    Config: ClassVar[type[ItemKNNConfig]] = ItemKNNConfig
    config: ItemKNNConfig  # pyright: ignore[reportIncompatibleVariableOverride]
    shrinkage: Tensor
    SHRINKAGES = (0.0, 10.0, 50.0)

    def __init__(self, config: ItemKNNConfig, inputs: Inputs, generator: torch.Generator) -> None:
        super().__init__(config, inputs, generator)
        self.register_buffer("shrinkage", torch.tensor(config.shrinkage))
        self._of_items = self.histories.T.tocsr()
        self._norms = torch.from_numpy(np.sqrt(self.histories.sum(0)).astype(np.float32))

    def choose(self, valid: Task, metric: str) -> None:
        """Take the shrinkage, then the number of neighbours, that do best on validation, unless they are given."""
        self.choose_option(valid, metric, shrinkage=self.SHRINKAGES)
        super().choose(valid, metric)

    def rankable(self) -> Tensor:
        """Return the items with training data."""
        return self._norms.nonzero()[:, 0]

    def similarities(self, items: np.ndarray) -> Tensor:
        """Return ``n_iv / (√(n_i n_v) + shrinkage)`` of some items to all others, ``(n, I)``."""
        shared = torch.from_numpy((self._of_items[items] @ self.histories).toarray())
        norms = self._norms[items][:, None] * self._norms + self.shrinkage
        shared.div_(norms.clamp_(min=1e-9))
        shared[np.arange(len(items)), items] = 0.0
        return shared


class TextKNN(Neighbours):
    """Nearest neighbours by the cosine of the items' texts; NotFound where there are none."""

    Config: ClassVar[type[NeighbourConfig]] = NeighbourConfig
    NUMBERS = (5, 10, 20, 50, 100)

    def __init__(self, config: NeighbourConfig, inputs: Inputs, generator: torch.Generator) -> None:
        super().__init__(config, inputs, generator)
        if inputs.item_text is None or not inputs.item_text.any():
            message = "backbone 'textknn' finds neighbours by the items' texts, and there are none"
            raise NotFound(message, where="item_text")
        self._text = F.normalize(torch.from_numpy(np.asarray(inputs.item_text, np.float32)), dim=1)
        self._touched = torch.from_numpy(self.histories.sum(0) > 0)

    @classmethod
    def reads_text(cls, config: Config) -> bool:
        """Return True: items are their text."""
        return True

    def similarities(self, items: np.ndarray) -> Tensor:
        """Return the cosines, from 0, of some items' texts to those of the other items with training data."""
        cosines = (self._text[items] @ self._text.T).clamp_(min=0).mul_(self._touched)
        cosines[np.arange(len(items)), items] = 0.0
        return cosines
