"""The ranker of items by the cosine of their text to a profile."""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reclm.errors import BadInput, NotFound

TIE = 1e-6
"""Cosines that differ by no more count as equal."""
NO_TEXT = -2.0
"""Score of an item without text: below every cosine."""


class TextRanker(nn.Module):
    """Rank items by ``cos(p, f_v)``, the cosine of a profile ``p`` and the item's text ``f_v``.

    An item without text (zeros in ``item_text``) ranks after all others. Items of equal scores stand in a random order
    drawn from ``generator``, the same for everybody: the order of the rows may tell of popularity. Both come from an
    ``offset`` ``(I,)`` of the cosine: less than :data:`TIE`, plus :data:`NO_TEXT` where there is no text.
    """

    text: Tensor
    offset: Tensor

    def __init__(self, item_text: np.ndarray, generator: torch.Generator) -> None:
        super().__init__()
        if not item_text.any():
            raise NotFound("no item has a text to rank by", where="item_text")
        vectors = item_vectors(torch.from_numpy(np.asarray(item_text, np.float32)), generator)
        self.register_buffer("text", vectors[:, :-1].contiguous(), persistent=False)
        self.register_buffer("offset", vectors[:, -1].clone())  # drawn, so it belongs to what is saved

    @property
    def items(self) -> Tensor:
        """The items' factor of the score, ``(I, t + 1)``: texts of length one, and the offset."""
        return torch.cat([self.text, self.offset[:, None]], dim=1)

    def profiles(self, vectors: np.ndarray | Tensor) -> Tensor:
        """Return the factor ``(n, t + 1)`` of profiles ``(n, t)``: of length one, and 1; zeros rank by chance."""
        vectors = torch.as_tensor(vectors, dtype=torch.float32)
        width = self.text.shape[1]
        if vectors.shape[1] != width:
            message = f"profiles are vectors of {vectors.shape[1]} and item texts of {width}"
            remedy = "encode both with the same encoder"
            raise BadInput(f"{message}; {remedy}", value=vectors.shape[1], where="profiles", remedy=remedy)
        return torch.cat([F.normalize(vectors, dim=-1), torch.ones(len(vectors), 1)], dim=1)

    def scores(self, vectors: np.ndarray | Tensor) -> Tensor:
        """Return the scores ``(n, I)`` of profile vectors ``(n, t)``."""
        return self.profiles(vectors) @ self.items.T


def item_vectors(text: Tensor, generator: torch.Generator) -> Tensor:
    """Return ``(n, t + 1)`` of item texts ``(n, t)``, as :attr:`TextRanker.items`."""
    offset = TIE * torch.rand(len(text), generator=generator) + torch.where(text.any(dim=1), 0.0, NO_TEXT)
    return torch.cat([F.normalize(text, dim=-1), offset[:, None]], dim=1)
