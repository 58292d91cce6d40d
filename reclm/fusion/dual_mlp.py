"""Profile text in a recommender's features: the dual MLP (RecLM, arXiv 2412.19302, equations 1 and 2), and a term
that is added, with nothing at first."""

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reclm.profiles.matrix import ProfileMatrix


def linear(n_in: int, n_out: int, generator: torch.Generator | None) -> nn.Linear:
    """Return a linear map with Xavier-uniform weights drawn from ``generator`` and zero bias."""
    layer: nn.Linear = nn.utils.skip_init(nn.Linear, n_in, n_out)  # pyright: ignore[reportAssignmentType]
    nn.init.xavier_uniform_(layer.weight, generator=generator)
    nn.init.zeros_(layer.bias)
    return layer


def transform(
    text_dim: int, dim: int, generator: torch.Generator | None, layers: Literal[1, 2] = 2
) -> nn.Module:
    """Return ``T_raw`` or ``T_pro``: text ``(…, text_dim)`` to latent ``(…, dim)``, two layers with a ReLU between.

    One layer is a matrix without bias.
    """
    if layers == 1:
        matrix: nn.Linear = nn.utils.skip_init(nn.Linear, text_dim, dim, bias=False)  # pyright: ignore
        nn.init.xavier_uniform_(matrix.weight, generator=generator)
        return matrix
    return nn.Sequential(linear(text_dim, dim, generator), nn.ReLU(), linear(dim, dim, generator))


class DualMLP(nn.Module):
    """Compute ``Ψ(x ‖ T_pro(p))``, alike for users and items (equation 2).

    ``Ψ`` is one linear layer with a ReLU, as in the paper's release; ``dropout`` is on ``T_pro(p)``.
    """

    def __init__(
        self, text_dim: int, dim: int, *, dropout: float = 0.0, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        self.t_pro = transform(text_dim, dim, generator)
        self.psi = linear(2 * dim, dim, generator)
        self.dropout = nn.Dropout(dropout)

    def encode(self, profile: Tensor) -> Tensor:
        """Return ``T_pro(p)``: ``(n, text_dim) -> (n, dim)``, dropout included."""
        return self.dropout(self.t_pro(profile))

    def fuse(self, base: Tensor, encoded: Tensor, index: Tensor | None = None) -> Tensor:
        """Return ``Ψ(base ‖ encoded[index])`` ``(n, dim)``; each half of ``Ψ`` is applied where it is smallest.

        Args:
            base, encoded: ``(n, dim)`` and, of profiles, ``(m, dim)``.
            index: ``(n,)``; by default ``m = n`` and one follows the other.
        """
        of_base, of_profile = self.psi.weight.chunk(2, dim=1)
        shift = F.linear(encoded, of_profile, self.psi.bias)
        if index is not None:
            shift = F.embedding(index, shift)
        return F.relu(shift + F.linear(base, of_base))

    def forward(self, base: Tensor, profile: Tensor) -> Tensor:
        """Return fused features ``(n, dim)`` of base features ``(n, dim)`` and profile embeddings ``(n, text_dim)``."""
        return self.fuse(base, self.encode(profile))


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


class ProfileFusion(nn.Module):
    """Fuse a side's profiles into its base features: ``Ψ(x ‖ T_pro(p))``, or ``x + g ∘ W p``.

    The papers call it the profile *adapter*. Equal profiles are held, and transformed, once: of MIND's 57,128 users
    only about a quarter differ. A row without a profile is fused with zeros in place of what a profile is encoded to.

    Args:
        mlp: the dual MLP (hand the same one to both sides to share it, as the paper does), or a
            :class:`ResidualTerm`.
        normalize: scale ``T_pro(p)`` to length one first (the release does so for users, not for items).
    """

    index: Tensor
    vectors: Tensor

    def __init__(self, profiles: ProfileMatrix, mlp: DualMLP | ResidualTerm, *, normalize: bool) -> None:
        super().__init__()
        self.mlp: Any = mlp
        self.normalize = normalize
        vectors, place = _distinct_rows(profiles.vectors[profiles.present].astype(np.float32))
        # rows without a profile point at a row of zeros behind the transformed profiles
        index = np.full(len(profiles), len(vectors))
        index[profiles.present] = place
        self.complete = bool(profiles.present.all())
        self.register_buffer("vectors", torch.from_numpy(vectors), persistent=False)
        self.register_buffer("index", torch.from_numpy(index), persistent=False)

    def forward(self, base: Tensor, rows: Tensor | None = None) -> Tensor:
        """Return fused features ``(n, d)`` of ``base`` ``(n, d)``: of ``rows`` ``(n,)`` int64, or of all."""
        index = self.index if rows is None else self.index[rows]
        vectors = self.vectors
        if rows is not None and len(index) <= len(vectors):
            # fewer rows than profiles: transform theirs alone
            needed, index = torch.unique(index, return_inverse=True)
            if not self.complete and len(needed) and needed[-1] == len(vectors):
                needed = needed[:-1]
            vectors = vectors[needed]
        encoded = self.mlp.encode(vectors)
        if self.normalize:
            encoded = F.normalize(encoded, dim=-1)
        if not self.complete:
            encoded = torch.cat([encoded, encoded.new_zeros(1, encoded.shape[1])])
        return self.mlp.fuse(base, encoded, index)


def _distinct_rows(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the distinct rows ``(m, t)`` in order of first occurrence, and each row's place among them ``(n,)``."""
    row = np.dtype((np.void, matrix.dtype.itemsize * matrix.shape[1]))
    raw = np.ascontiguousarray(matrix).view(row).ravel()
    _, first, inverse = np.unique(raw, return_index=True, return_inverse=True)
    order = np.argsort(first)
    return matrix[first[order]], np.argsort(order)[inverse]
