"""LightGCN (He et al., "LightGCN: Simplifying and Powering Graph Convolution Network", arXiv 2002.02126).

Layers (equation 3), with ``R̂`` the normalised interactions, and their combination (equation 4, α = 1/(K+1)):

    e_u^(k+1) = R̂ e_v^(k)        e_v^(k+1) = R̂ᵀ e_u^(k)        e = 1/(K+1) Σ_k e^(k)

Where items are known by their text alone it is the cold-start mode of RecLM's release: a user is the *sum* of its
layers, and an item is scored by its feature as it entered the graph: a cold item and a warm one are scored alike.
"""

from collections.abc import Sequence

import torch
from pydantic import Field
from scipy import sparse
from torch import Tensor

from reclm.backbones.graph import BipartiteGraph
from reclm.profiles.matrix import ProfileMatrix
from reclm.recommend.base import BackboneConfig, EmbeddingBackbone, Inputs


class LightGCNConfig(BackboneConfig):
    """Options of LightGCN."""

    layers: int = Field(default=2, ge=1)
    """Propagation layers K. RecLM, arXiv 2412.19302, section 6.1."""


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
        self.graph = BipartiteGraph.of(inputs.train, inputs.users, inputs.items)

    def represent(self, users: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
        """Return what is scored, ``(U, d)`` and ``(I, d)``, of layer-0 features of the same shapes."""
        if self.config.items == "text":
            return self.combine(users, self.graph.users_from(self._item_layers(users, items))), items
        graphs = [self.graph] * self.config.layers
        user, item = layer_sum(graphs, users, items)
        return user / (self.config.layers + 1), item / (self.config.layers + 1)

    def combine(self, first: Tensor, later: Tensor) -> Tensor:
        """Return representations ``(n, d)``, of layer 0 and of the sum of layers 1 … K."""
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

        The items' layers and degrees stay those of training: a new user changes nobody else. See the base class.
        """
        features = self.new_user_features(base, profiles)
        if histories is None:
            return self.combine(features, torch.zeros_like(features))
        sent = self._item_layers(self.user_features(), self.item_features())
        return self.combine(features, self.graph.rows(histories) @ sent)

    @torch.no_grad()
    def new_items(self, text: Tensor, profiles: ProfileMatrix | None = None) -> Tensor:
        """Return representations of items without neighbours: their layers 1 … K are zero. See the base class."""
        features = self.new_item_features(text, profiles)
        return features if self.config.items == "text" else self.combine(features, torch.zeros_like(features))

    def _item_layers(self, users: Tensor, items: Tensor) -> Tensor:
        """Return ``Σ_{k<K} e_v^(k)``.

        ``Σ_k e_u^(k) = e_u^(0) + R̂`` times it: K products, where layer by layer takes 2K - 1.
        """
        user, item = users, items
        item_sum = items
        for layer in range(1, self.config.layers):
            user, item = (
                self.graph.users_from(item) if layer + 1 < self.config.layers else user,
                self.graph.items_from(user),
            )
            item_sum = item_sum + item
        return item_sum
