"""The residual term: profile text added to a recommender's features, with nothing at first."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reclm.fusion.dual_mlp import transform


class ResidualTerm(nn.Module):
    """Compute ``x + g ∘ W p``, the gate ``g`` ``(d,)`` being zero before training.

    ``W`` ``(d, t)`` is drawn apart, alike for users and items: all that ``generator`` draws later is what a model
    without profiles draws.

    Args:
        drop: dropout on the profiles ``p``; by default none.
    """

    def __init__(
        self,
        text_dim: int,
        dim: int,
        *,
        generator: torch.Generator,
        drop: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        apart = torch.Generator().manual_seed(generator.initial_seed() ^ 2**32)
        self.tower = transform(text_dim, dim, apart, layers=1)
        self.gate = nn.Parameter(torch.zeros(dim))
        self.drop = drop

    def encode(self, profile: Tensor) -> Tensor:
        """Return ``g ∘ W p``, ``(n, text_dim) -> (n, dim)``, dropout included."""
        return self.gate * self.tower(self.drop(profile) if self.drop else profile)

    def fuse(self, base: Tensor, encoded: Tensor, index: Tensor | None = None) -> Tensor:
        """Return ``base + encoded[index]`` ``(n, dim)``, the encoded profiles being ``(m, dim)``."""
        return base + (encoded if index is None else F.embedding(index, encoded))
