"""LightGCN (He et al., "LightGCN: Simplifying and Powering Graph Convolution Network", arXiv 2002.02126).

Layers (equation 3), with ``R̂`` the normalised interactions:

    e_u^(k+1) = R̂ e_v^(k)        e_v^(k+1) = R̂ᵀ e_u^(k)

In the cold-start mode of RecLM's release a user is the *sum* of its layers, and an item is scored by its text feature
as it entered the graph, not by a propagated vector: a cold item and a warm one are scored alike.
"""

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from reclm.backbones.base import Backbone, BackboneConfig, Inputs
from reclm.backbones.graph import BipartiteGraph


class LightGCNConfig(BackboneConfig):
    """Options of LightGCN."""

    layers: int = Field(default=2, ge=1)
    """Propagation layers. RecLM, arXiv 2412.19302, section 6.1."""


class LightGCN(Backbone):
    """Linear propagation of the features over the interaction graph."""

    Config = LightGCNConfig
    config: LightGCNConfig

    def __init__(self, config: LightGCNConfig, inputs: Inputs, generator: torch.Generator) -> None:
        super().__init__(config, inputs, generator)
        self.graph = BipartiteGraph(inputs.train, inputs.users, inputs.items)

    def propagate(self, users: Tensor, items: Tensor) -> Tensor:
        """``Σ_{k=0..K} e_u^(k)`` of ``(U, d)`` and ``(I, d)`` features: ``(U, d)``.

        Written as ``e_u^(0) + R̂ Σ_{k<K} e_v^(k)``: K products where layer by layer takes 2K - 1.
        """
        user, item = users, items
        item_sum = items
        for layer in range(1, self.config.layers):
            user, item = (
                self.graph.users_from(item) if layer + 1 < self.config.layers else user,
                self.graph.items_from(user),
            )
            item_sum = item_sum + item
        return users + self.graph.users_from(item_sum)

    def represent(self, users: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Propagated users ``(n, d)`` and the items' features ``(I, d)``."""
        items = self.item_features()
        propagated = self.propagate(self.user_features(), items)
        return propagated if users is None else F.embedding(users, propagated), items
