"""LightGCN (He et al., "LightGCN: Simplifying and Powering Graph Convolution Network", arXiv 2002.02126).

Layers (equation 3), with ``R̂`` the normalised interactions, and their combination (equation 4, α = 1/(K+1)):

    e_u^(k+1) = R̂ e_v^(k)        e_v^(k+1) = R̂ᵀ e_u^(k)        e = 1/(K+1) Σ_k e^(k)

Where items are known by their text alone it is the cold-start mode of RecLM's release: a user is the *sum* of its
layers, and an item is scored by its feature as it entered the graph: a cold item and a warm one are scored alike.
"""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from pydantic import Field
from scipy import sparse
from torch import Tensor

from reclm.profiles.matrix import ProfileMatrix
from reclm.recommend.base import Inputs
from reclm.recommend.embedding import BackboneConfig, EmbeddingBackbone


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
    """Hold ``R̂ = D_u^-½ R D_v^-½``, the normalisation of LightGCN (equation 3), of a ``(U, I)`` matrix of ones.

    Only ``R̂`` and its transpose are held: the full adjacency holds each of them once and nothing else.
    """

    to_users: Tensor
    to_items: Tensor

    def __init__(self, interactions: sparse.csr_array) -> None:
        super().__init__()
        self.interactions = interactions
        matrix = _normalised(interactions, interactions.sum(0))
        self.register_buffer("to_users", csr_tensor(matrix), persistent=False)
        self.register_buffer("to_items", csr_tensor(matrix.T.tocsr()), persistent=False)

    def without_edges(self, rate: float, generator: torch.Generator) -> "BipartiteGraph":
        """Return a copy without each edge with probability ``rate`` (SGL, arXiv 2010.10783, equation 6)."""
        return self._with_edges(torch.rand(self.interactions.nnz, generator=generator).numpy() >= rate)

    def without_nodes(self, rate: float, generator: torch.Generator) -> "BipartiteGraph":
        """Return a copy without each user and item, and its edges, with probability ``rate`` (SGL, equation 5)."""
        matrix = self.interactions
        users, items = (torch.rand(n, generator=generator).numpy() >= rate for n in matrix.shape)  # pyright: ignore
        return self._with_edges(np.repeat(users, np.diff(matrix.indptr)) & items[matrix.indices])

    def _with_edges(self, mask: np.ndarray) -> "BipartiteGraph":
        """Return a copy with the edges where ``mask`` ``(nnz,)`` is True."""
        matrix = self.interactions
        pointers = np.concatenate([[0], np.cumsum(mask)])[matrix.indptr]
        edges = matrix.data[mask], matrix.indices[mask], pointers
        return BipartiteGraph(sparse.csr_array(edges, shape=matrix.shape))

    def rows(self, histories: sparse.csr_array) -> Tensor:
        """Return the rows ``(n, I)`` that ``R̂`` would have for new users; the items' degrees stay those of training."""
        return csr_tensor(_normalised(histories, self.interactions.sum(0)))

    def users_from(self, items: Tensor) -> Tensor:
        """Return ``R̂ x``, the messages of items to their users, ``(I, d) -> (U, d)``."""
        return _Product.apply(self.to_users, self.to_items, items)  # pyright: ignore[reportReturnType]

    def items_from(self, users: Tensor) -> Tensor:
        """Return ``R̂ᵀ x``, the messages of users to their items, ``(U, d) -> (I, d)``."""
        return _Product.apply(self.to_items, self.to_users, users)  # pyright: ignore[reportReturnType]


def _normalised(interactions: sparse.csr_array, item_degree: np.ndarray) -> sparse.csr_array:
    """Return ``D_u^-½ R D_v^-½`` of interactions ``(n, I)``, ``D_v`` being ``item_degree`` ``(I,)``."""
    degrees = interactions.sum(1), item_degree
    users, items = (sparse.diags_array(1 / np.sqrt(np.maximum(degree, 1))) for degree in degrees)
    return (users @ interactions @ items).tocsr()


def csr_tensor(matrix: sparse.csr_array) -> Tensor:
    """Return the matrix as a sparse CSR tensor, float32."""
    rows, columns = matrix.shape  # pyright: ignore[reportGeneralTypeIssues]
    index = np.int32 if max(rows, columns, matrix.nnz) < 2**31 else np.int64
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
        # SciPy holds the invariants already, so they are not checked again
        return torch.sparse_csr_tensor(
            torch.from_numpy(matrix.indptr.astype(index)),
            torch.from_numpy(matrix.indices.astype(index)),
            torch.from_numpy(matrix.data.astype(np.float32)),
            size=matrix.shape,
            check_invariants=False,
        )


class LightGCNConfig(BackboneConfig):
    """Options of LightGCN."""

    layers: int = Field(default=2, ge=1)
    """Propagation layers K. RecLM, arXiv 2412.19302, section 6.1."""
    as_new: float = Field(default=0.0, ge=0, lt=1)
    """Share of the items that a step ranks as new ones, by their text alone and without neighbours, so that new items
    live in the same space as the others (``items=id+text``)."""


def layer_sum(graphs: Sequence[BipartiteGraph], users: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``Σ_{k=0..K} e^(k)``, layer k by the k-th graph: ``(U, d)`` and ``(I, d)`` to the same shapes."""
    user, item = user_sum, item_sum = users, items
    for graph in graphs:
        user, item = graph.users_from(item), graph.items_from(user)
        user_sum, item_sum = user_sum + user, item_sum + item
    return user_sum, item_sum


class LightGCN(EmbeddingBackbone):
    """Propagate the features over the interaction graph, without weights and without a nonlinearity."""

    Config = LightGCNConfig
    config: LightGCNConfig
    history_by = "features of its items propagated to it, as to a trained user"

    def __init__(self, config: LightGCNConfig, inputs: Inputs, generator: torch.Generator) -> None:
        super().__init__(config, inputs, generator)
        self.graph = BipartiteGraph(inputs.train.matrix(inputs.users, inputs.items))

    def represent(self, users: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
        """Return the combined layers, ``(U, d)`` and ``(I, d)``; of items known by their text alone, layer 0."""
        if self.config.items == "text":
            return self.combine(users, self.graph.users_from(self._item_layers(users, items))), items
        user, item = layer_sum([self.graph] * self.config.layers, users, items)
        return user / (self.config.layers + 1), self.with_new(item / (self.config.layers + 1))

    @property
    def ranks_new(self) -> bool:
        """Return whether it is trained to rank items by their text alone beside propagated ones."""
        return self.config.as_new > 0 and self.config.items == "id+text"

    @property
    def forgets_ids(self) -> bool:
        """Return whether it was trained for items without an ID."""
        return super().forgets_ids or self.ranks_new

    def with_new(self, items: Tensor) -> Tensor:
        """Return representations ``(I, d)`` in which those of new items are their features without ID.

        New are the items that were not trained and, while training, a random share of the others.
        """
        if not self.ranks_new:
            return items
        new = self.known == 0
        if self.training:
            new = new | (self.draw(len(items), 1) < self.config.as_new)
        return torch.where(new, self.item_features(ids=False), items)

    def combine(self, first: Tensor, later: Tensor) -> Tensor:
        """Return representations ``(n, d)``, of layer 0 and of the sum of layers 1 … K (zeros without neighbours)."""
        total = first + later
        return total if self.config.items == "text" else total / (self.config.layers + 1)

    @torch.no_grad()
    def new_users(
        self,
        base: Tensor,
        profiles: ProfileMatrix | None = None,
        histories: sparse.csr_array | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Return ``Σ_k e_u^(k) = e_u^(0) + R̂ Σ_{k<K} e_v^(k)``, with ``R̂`` the normalised histories.

        The items' layers and degrees stay those of training: a new user changes nobody else.
        """
        features = self.new_user_features(base, profiles)
        if histories is None:
            return self.combine(features, torch.zeros_like(features))
        sent = self._item_layers(self.user_features(), self.item_features())
        return self.combine(features, self.graph.rows(histories) @ sent)

    @torch.no_grad()
    def add_items(self, text: Tensor, profiles: ProfileMatrix | None = None) -> Tensor:
        """Return representations ``(n, d)`` of items without neighbours: their layers 1 … K are zero."""
        features = self.new_item_features(text, profiles)
        if self.ranks_new or self.config.items == "text":
            return features
        return self.combine(features, torch.zeros_like(features))

    def _item_layers(self, users: Tensor, items: Tensor) -> Tensor:
        """Return ``Σ_{k<K} e_v^(k)``.

        ``Σ_k e_u^(k) = e_u^(0) + R̂`` times it: K products, where layer by layer takes 2K - 1.
        """
        graph, last = self.graph, self.config.layers - 1
        user, item = users, items
        item_sum = items
        for layer in range(1, last + 1):
            below = user
            if layer < last:  # the users' last layer enters no sum
                user = graph.users_from(item)
            item = graph.items_from(below)
            item_sum = item_sum + item
        return item_sum
