"""SGL (Wu et al., "Self-supervised Graph Learning for Recommendation", arXiv 2010.10783).

LightGCN, with a contrastive loss added to its own between two corrupted views of the graph, drawn anew at every epoch
(equation 10):

    L_ssl^user = -mean_u ln exp(cos(z'_u, z''_u)/τ) / Σ_{v ∈ U} exp(cos(z'_u, z''_v)/τ)
    L = L_bpr + λ (L_ssl^user + L_ssl^item)

A view lacks some nodes (equation 5) or edges (equation 6), or other edges at every layer (random walk, equation 7).
"""

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from reclm.backbones.lightgcn import BipartiteGraph, LightGCN, LightGCNConfig, layer_sum
from reclm.recommend.base import Inputs
from reclm.recommend.losses import info_nce

View = Sequence[BipartiteGraph]
"""A graph for each layer."""


class SGLConfig(LightGCNConfig):
    """Options of SGL."""

    damage: Literal["edge-dropout", "node-dropout", "random-walk"] = "edge-dropout"
    """Corruption of a view. SGL, table 4: edge dropout is best on most data sets."""
    drop_rate: float = Field(default=0.1, ge=0, lt=1)
    """Probability ρ of dropping each edge or node."""
    temperature: float = Field(default=0.2, gt=0)
    """τ. RecLM, arXiv 2412.19302, searches .1, .5, 1."""
    ssl: float = Field(default=0.1, ge=0)
    """Weight λ of the contrastive loss."""
    negatives: Literal["all", "batch"] = "all"
    """Negatives of a node: all others of its side, as in equation 10, or those of the batch, which costs less."""


class SGL(LightGCN):
    """LightGCN with contrastive learning on corrupted graphs."""

    Config = SGLConfig
    config: SGLConfig  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(self, config: SGLConfig, inputs: Inputs, generator: torch.Generator) -> None:
        super().__init__(config, inputs, generator)
        self.views: tuple[View, View] | None = None

    def begin_epoch(self, generator: torch.Generator) -> None:
        """Draw the epoch's two views."""
        super().begin_epoch(generator)
        self.views = self._view(generator), self._view(generator)

    def _view(self, generator: torch.Generator) -> View:
        damage, rate, layers = self.config.damage, self.config.drop_rate, self.config.layers
        if damage == "random-walk":
            return [self.graph.without_edges(rate, generator) for _ in range(layers)]
        drop = self.graph.without_edges if damage == "edge-dropout" else self.graph.without_nodes
        return [drop(rate, generator)] * layers

    def loss(self, users: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
        """Return LightGCN's loss plus ``λ`` times the InfoNCE of users and of items, ``()``."""
        if self.views is None:
            raise RuntimeError("SGL draws its views in begin_epoch, which was not called")
        layer0 = self.user_features(), self.item_features()
        loss = self.ranking_loss(layer0, self.represent(*layer0), users, positives, negatives)
        (user_1, item_1), (user_2, item_2) = (layer_sum(view, *layer0) for view in self.views)
        of_users = self._contrast(user_1, user_2, users.unique())
        of_items = self._contrast(item_1, item_2, positives.unique())
        return loss + self.config.ssl * (of_users + of_items)

    def _contrast(self, first: Tensor, second: Tensor, rows: Tensor) -> Tensor:
        positives = F.embedding(rows, second)
        keys = second if self.config.negatives == "all" else positives
        return info_nce(F.embedding(rows, first), positives, keys, self.config.temperature)
