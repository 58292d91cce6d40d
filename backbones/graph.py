"""The user-item graph and products with it."""

import warnings
from typing import Any

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from reclm.data.dataset import Interactions


class _Product(torch.autograd.Function):
    """Compute ``A x``, and ``Aᵀ g`` in the backward pass with the transpose built once, not at every step."""

    @staticmethod
    def forward(ctx: Any, matrix: Tensor, transposed: Tensor, dense: Tensor) -> Tensor:
        ctx.transposed = transposed
        return matrix @ dense

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, None, Tensor]:
        return None, None, ctx.transposed @ grads[0]


class BipartiteGraph(torch.nn.Module):
    """Hold ``R̂ = D_u^-½ R D_v^-½``, the symmetric normalisation of LightGCN (He et al., arXiv 2002.02126, equation 3).

    Only the ``U × I`` block and its transpose are held: the full adjacency holds each of them once and nothing else.

    Args:
        interactions: ``(U, I)`` CSR matrix of ones.
    """

    to_users: Tensor
    to_items: Tensor

    def __init__(self, interactions: sparse.csr_array) -> None:
        super().__init__()
        self.interactions = interactions
        matrix = _normalised(interactions, interactions.sum(0))
        self.register_buffer("to_users", csr_tensor(matrix), persistent=False)
        self.register_buffer("to_items", csr_tensor(matrix.T.tocsr()), persistent=False)

    @classmethod
    def of(cls, train: Interactions, users: int, items: int) -> "BipartiteGraph":
        """Return the graph of the training interactions."""
        return cls(train.matrix(users, items))

    def without_edges(self, rate: float, generator: torch.Generator) -> "BipartiteGraph":
        """Return a copy without each edge with probability ``rate`` (SGL, arXiv 2010.10783, equation 6)."""
        kept = torch.rand(self.interactions.nnz, generator=generator).numpy() >= rate
        return BipartiteGraph(self._with_edges(kept))

    def without_nodes(self, rate: float, generator: torch.Generator) -> "BipartiteGraph":
        """Return a copy without each user and item, and its edges, with probability ``rate`` (SGL, equation 5)."""
        rows, columns = self.interactions.shape  # pyright: ignore[reportGeneralTypeIssues]
        users, items = (torch.rand(n, generator=generator).numpy() >= rate for n in (rows, columns))
        matrix = self.interactions
        return BipartiteGraph(
            self._with_edges(np.repeat(users, np.diff(matrix.indptr)) & items[matrix.indices])
        )

    def _with_edges(self, kept: np.ndarray) -> sparse.csr_array:
        matrix = self.interactions
        before = np.concatenate([[0], np.cumsum(kept)])
        return sparse.csr_array(
            (matrix.data[kept], matrix.indices[kept], before[matrix.indptr]), shape=matrix.shape
        )

    def rows(self, histories: sparse.csr_array) -> Tensor:
        """Return the rows ``(n, I)`` that ``R̂`` would have for new users; the items' degrees stay those of training."""
        return csr_tensor(_normalised(histories, self.interactions.sum(0)))

    def users_from(self, items: Tensor) -> Tensor:
        """Return ``R̂ x``, what users receive from their items, ``(I, d) -> (U, d)``."""
        return _Product.apply(self.to_users, self.to_items, items)  # pyright: ignore[reportReturnType]

    def items_from(self, users: Tensor) -> Tensor:
        """Return ``R̂ᵀ x``, what items receive from their users, ``(U, d) -> (I, d)``."""
        return _Product.apply(self.to_items, self.to_users, users)  # pyright: ignore[reportReturnType]


def _normalised(interactions: sparse.csr_array, item_degree: np.ndarray) -> sparse.csr_array:
    scale_user, scale_item = (
        1 / np.sqrt(np.maximum(degree, 1)) for degree in (interactions.sum(1), item_degree)
    )
    return (sparse.diags_array(scale_user) @ interactions @ sparse.diags_array(scale_item)).tocsr()


def csr_tensor(matrix: sparse.csr_array) -> Tensor:
    """Return the matrix as a float32 tensor."""
    rows, columns = matrix.shape  # pyright: ignore[reportGeneralTypeIssues]
    index = np.int32 if max(rows, columns, matrix.nnz) < 2**31 else np.int64
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
        # check_invariants: SciPy keeps them already
        return torch.sparse_csr_tensor(
            torch.from_numpy(matrix.indptr.astype(index)),
            torch.from_numpy(matrix.indices.astype(index)),
            torch.from_numpy(matrix.data.astype(np.float32)),
            size=matrix.shape,
            check_invariants=False,
        )
