"""The fusion of profiles into a recommender's features."""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reclm.fusion.dual_mlp import DualMLP
from reclm.profiles.matrix import ProfileMatrix


class ProfileFusion(nn.Module):
    """Fuse a side's profiles into its base features: ``Ψ(x ‖ T_pro(p))``.

    The papers call it the profile *adapter*. Equal profiles are held, and transformed, once: of MIND's 57,128 users
    only about a quarter differ. A row without a profile is fused with zeros in place of ``T_pro(p)``.

    Args:
        profiles: the side's profile embeddings, ``(n, t)``.
        mlp: the dual MLP; hand the same one to both sides to share it, as the paper does.
        normalize: scale ``T_pro(p)`` to length one first (the release does so for users, not for items).
    """

    index: Tensor
    vectors: Tensor

    def __init__(self, profiles: ProfileMatrix, mlp: DualMLP, *, normalize: bool) -> None:
        super().__init__()
        self.mlp = mlp
        self.normalize = normalize
        vectors, place = _distinct_rows(profiles.vectors[profiles.present].astype(np.float32))
        # rows without a profile point at a row of zeros behind the transformed profiles
        index = np.full(len(profiles), len(vectors))
        index[profiles.present] = place
        self.complete = bool(profiles.present.all())
        self.register_buffer("vectors", torch.from_numpy(vectors), persistent=False)
        self.register_buffer("index", torch.from_numpy(index), persistent=False)

    def forward(self, base: Tensor, rows: Tensor | None = None) -> Tensor:
        """Return fused features ``(n, d)``.

        Args:
            base: base features ``(n, d)`` of ``rows``, or of all rows.
            rows: ``(n,)`` int64; only these rows' profiles are transformed.
        """
        index = self.index if rows is None else self.index[rows]
        vectors = self.vectors
        if rows is not None and len(index) <= len(vectors):
            # fewer rows than profiles: theirs alone
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
    raw = (
        np.ascontiguousarray(matrix)
        .view(np.dtype((np.void, matrix.dtype.itemsize * matrix.shape[1])))
        .ravel()
    )
    _, first, inverse = np.unique(raw, return_index=True, return_inverse=True)
    order = np.argsort(first)
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    return matrix[first[order]], place[inverse]
