"""What every backbone shares: features of users and items, with or without profiles, and how they are scored."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from reclm.adapter import ProfileAdapter, ProfileMatrix
from reclm.config import Config
from reclm.data.dataset import Interactions
from reclm.fusion import DualMLP, transform
from reclm.losses import bpr_loss
from reclm.ranking.evaluate import Scorer


class BackboneConfig(Config):
    """Options that every backbone has."""

    dim: int = Field(default=32, ge=1)
    """Latent width d. RecLM, arXiv 2412.19302, section 6.1."""
    normalize: bool = False
    """Scale item features to length one before they are scored and before they enter a graph. RecLM's release does
    so for fused features only; here Base and Augment are always treated alike, so that they differ by the profiles
    and nothing else."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout on the transformed profiles. RecLM's release: 0."""


@dataclass(frozen=True, eq=False)
class Inputs:
    """What a backbone is built from.

    Attributes:
        users, items: how many there are, ``U`` and ``I``.
        train: the training interactions (graph backbones build their graph from them).
        item_text: ``(I, t)`` float32, raw text features ``f_v``.
        user_profiles, item_profiles: profile embeddings; None leaves that side as it is.
    """

    users: int
    items: int
    train: Interactions
    item_text: np.ndarray
    user_profiles: ProfileMatrix | None = None
    item_profiles: ProfileMatrix | None = None


class Backbone(nn.Module, ABC):
    """A recommender whose items are known by their text, so that items unseen in training can be scored.

    Users have an ID embedding ``x_u``; an item's is replaced by ``f̂_v = T_raw(f_v)`` (RecLM, equation 1). Where
    profiles are given both go through the dual MLP (equation 2).

    Subclasses set ``Config`` and write :meth:`represent`; those that score by something else than a dot product
    write :meth:`scorer` and :meth:`loss` too.
    """

    Config: ClassVar[type[BackboneConfig]] = BackboneConfig
    item_text: Tensor

    def __init__(self, config: BackboneConfig, inputs: Inputs, generator: torch.Generator) -> None:
        super().__init__()
        self.config = config
        self.user_embedding = nn.Parameter(torch.empty(inputs.users, config.dim))
        nn.init.xavier_uniform_(self.user_embedding, generator=generator)
        text_dim = inputs.item_text.shape[1]
        self.t_raw = transform(text_dim, config.dim, generator)
        self.register_buffer(
            "item_text", torch.from_numpy(np.asarray(inputs.item_text, np.float32)), persistent=False
        )
        sides = [side for side in (inputs.user_profiles, inputs.item_profiles) if side is not None]
        self.user_adapter = self.item_adapter = None
        if sides:
            mlp = DualMLP(sides[0].vectors.shape[1], config.dim, dropout=config.dropout, generator=generator)
            if inputs.user_profiles is not None:
                self.user_adapter = ProfileAdapter(inputs.user_profiles, mlp, normalize=True)
            if inputs.item_profiles is not None:
                self.item_adapter = ProfileAdapter(inputs.item_profiles, mlp, normalize=False)

    def user_features(self, rows: Tensor | None = None) -> Tensor:
        """``x_u``, or ``Ψ(x_u ‖ T_pro(p_u))``: ``(n, d)`` for the given rows, by default all."""
        base = self.user_embedding if rows is None else F.embedding(rows, self.user_embedding)
        return base if self.user_adapter is None else self.user_adapter(base, rows)

    def item_features(self) -> Tensor:
        """``f̂_v``, or ``Ψ(f̂_v ‖ T_pro(p_v))``: ``(I, d)``."""
        features = self.t_raw(self.item_text)
        if self.item_adapter is not None:
            features = self.item_adapter(features)
        return F.normalize(features, dim=-1) if self.config.normalize else features

    @abstractmethod
    def represent(self, users: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """What a dot product scores: users ``(n, d)`` (the given rows, by default all) and all items ``(I, d)``."""

    def loss(self, users: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
        """BPR of the batch: three ``(B,)`` to ``()``."""
        user, items = self.represent(users)
        return bpr_loss(
            (user * F.embedding(positives, items)).sum(-1), (user * F.embedding(negatives, items)).sum(-1)
        )

    @torch.no_grad()
    def scorer(self) -> Scorer:
        """Dot products of the present representations."""
        users, items = self.represent()
        return lambda user_idx, item_idx: users[user_idx] @ items[item_idx].T
