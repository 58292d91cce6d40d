"""What every backbone shares: features of users and items, with or without profiles, and how they are scored."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from scipy import sparse
from torch import Tensor, nn
from torch.nn import functional as F

from reclm.config import Config
from reclm.data.dataset import Interactions, ProfileKind
from reclm.errors import ReclmError
from reclm.fusion.dual_mlp import DualMLP, transform
from reclm.fusion.profile_fusion import ProfileFusion
from reclm.profiles.matrix import ProfileMatrix
from reclm.recommend.evaluate import Scorer
from reclm.recommend.fold_in import fold_in
from reclm.recommend.losses import bpr_loss, l2_penalty


class BackboneConfig(Config):
    """Options that every backbone has."""

    items: Literal["id", "text", "id+text"] = "text"
    """What an item is known by: an embedding of its own; its text ``f̂_v`` in place of one, the papers' cold-start
    paradigm (RecLM, arXiv 2412.19302, equation 1); or the sum of both."""
    dim: int = Field(default=32, ge=1)
    """Latent width d. RecLM, section 6.1."""
    l2: float = Field(default=1e-4, ge=0)
    """Weight λ of ``λ/2 (‖e_u‖² + ‖e_v⁺‖² + ‖e_v⁻‖²)`` of each triple, on layer-0 features. RecLM searches
    1e-3 … 1e-7."""
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
        item_text: ``(I, t)`` float32, raw text features ``f_v``; not needed where items are known by ID alone.
        user_profiles, item_profiles: profile embeddings; None leaves that side as it is.
    """

    users: int
    items: int
    train: Interactions
    item_text: np.ndarray | None = None
    user_profiles: ProfileMatrix | None = None
    item_profiles: ProfileMatrix | None = None


class Backbone(nn.Module, ABC):
    """A recommender whose users have an ID embedding ``x_u`` and whose items have what ``config.items`` says.

    Where profiles are given both sides go through the dual MLP (RecLM, equation 2): the layer-0 features. Subclasses
    set ``Config`` and write :meth:`represent`; those that score by something else than a dot product write
    :meth:`loss` and :meth:`scorer_of` too, and those whose representation of one depends on others :meth:`new_users`
    and :meth:`new_items`.

    Raises:
        ReclmError: if items are to be known by their text and there is none.
    """

    Config: ClassVar[type[BackboneConfig]] = BackboneConfig
    needs_profiles: ClassVar[ProfileKind | None] = None
    """Whose profiles it cannot do without, where it reads no others: then there is no Base to compare with."""
    history_by: ClassVar[str] = "its own vector fitted to the history by BPR, all else as trained"
    """What :meth:`new_users` makes of a history, in words."""
    item_text: Tensor
    trained_users: Tensor
    trained_items: Tensor

    def __init__(self, config: BackboneConfig, inputs: Inputs, generator: torch.Generator) -> None:
        super().__init__()
        self.config = config
        self.items = inputs.items
        for name, idx in (("trained_users", inputs.train.user_idx), ("trained_items", inputs.train.item_idx)):
            trained = torch.from_numpy(np.flatnonzero(np.bincount(idx)))
            self.register_buffer(name, trained, persistent=False)
        width = self.width(config)
        self.user_embedding = table(inputs.users, width, generator)
        self.item_embedding = self.t_raw = None
        if config.items != "text":
            self.item_embedding = table(inputs.items, width, generator)
        if config.items != "id":
            if inputs.item_text is None:
                raise ReclmError(
                    f"items = {config.items!r} needs item text, and the data has none; use --set items=id"
                )
            self.t_raw = transform(inputs.item_text.shape[1], width, generator)
            text = torch.from_numpy(np.asarray(inputs.item_text, np.float32))
            self.register_buffer("item_text", text, persistent=False)
        sides = [side for side in (inputs.user_profiles, inputs.item_profiles) if side is not None]
        self.user_fusion = self.item_fusion = None
        if sides:
            mlp = DualMLP(sides[0].vectors.shape[1], width, dropout=config.dropout, generator=generator)
            if inputs.user_profiles is not None:
                self.user_fusion = ProfileFusion(inputs.user_profiles, mlp, normalize=True)
            if inputs.item_profiles is not None:
                self.item_fusion = ProfileFusion(inputs.item_profiles, mlp, normalize=False)

    @classmethod
    def width(cls, config: BackboneConfig) -> int:
        """Width of a layer-0 feature: ``d``, or what the model needs for its parts side by side."""
        return config.dim

    def user_features(self, rows: Tensor | None = None) -> Tensor:
        """``x_u``, or ``Ψ(x_u ‖ T_pro(p_u))``: ``(n, d)`` for the given rows, by default all."""
        base = self.user_embedding if rows is None else F.embedding(rows, self.user_embedding)
        return base if self.user_fusion is None else self.user_fusion(base, rows)

    def item_features(self, rows: Tensor | None = None) -> Tensor:
        """``e_v``, ``f̂_v = T_raw(f_v)`` or their sum, fused with the profile: ``(n, d)``, by default of all items."""
        if rows is not None and len(rows) >= self.items:
            return F.embedding(rows, self.item_features())
        parts: list[Tensor] = []
        if self.item_embedding is not None:
            parts.append(self.item_embedding if rows is None else F.embedding(rows, self.item_embedding))
        if self.t_raw is not None:
            parts.append(self.t_raw(self.item_text if rows is None else self.item_text[rows]))
        features = parts[0] if len(parts) == 1 else parts[0] + parts[1]
        if self.item_fusion is not None:
            features = self.item_fusion(features, rows)
        return F.normalize(features, dim=-1) if self.config.normalize else features

    def begin_epoch(self, generator: torch.Generator) -> None:
        """Told by the training loop before each epoch; ``generator`` is what the epoch's random numbers come from."""

    @abstractmethod
    def represent(self, users: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
        """What a dot product scores, ``(U, d')`` and ``(I, d')``, of layer-0 features ``(U, d)`` and ``(I, d)``."""

    def loss(self, users: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
        """The loss ``()`` of a batch of triples, three ``(B,)``: BPR, and L2 of the layer-0 features."""
        layer0 = self.user_features(), self.item_features()
        return self.ranking_loss(layer0, self.represent(*layer0), users, torch.cat([positives, negatives]))

    def ranking_loss(
        self, layer0: tuple[Tensor, Tensor], final: tuple[Tensor, Tensor], users: Tensor, items: Tensor
    ) -> Tensor:
        """BPR of ``final`` and L2 of ``layer0``, at ``(B,)`` users and ``(2B,)`` positives and negatives."""
        own = F.embedding(users, layer0[0]), F.embedding(items, layer0[1])
        return self.objective(F.embedding(users, final[0]), F.embedding(items, final[1]), own)

    def objective(self, users: Tensor, items: Tensor, layer0: tuple[Tensor, Tensor]) -> Tensor:
        """BPR of dot products, and L2.

        Args:
            users: ``(B, d')`` representations.
            items: ``(2B, d')``, of the positives and then of the negatives.
            layer0: the layer-0 features of the same, ``(B, d)`` and ``(2B, d)``.
        """
        loss = bpr_loss(*torch.linalg.vecdot(users, items.view(2, *users.shape)))
        return loss + self.config.l2 * l2_penalty(*layer0)

    def scorer_of(self, users: Tensor, items: Tensor) -> Scorer:
        """Scores of representations ``(n, d')`` and ``(m, d')``, by their rows: dot products."""
        return lambda user_idx, item_idx: users[user_idx] @ items[item_idx].T

    @torch.no_grad()
    def scorer(self) -> Scorer:
        """Scores of the present representations."""
        return self.scorer_of(*self.represent(self.user_features(), self.item_features()))

    def user_prior(self, count: int) -> Tensor:
        """``x_u`` of ``count`` users of whom nothing is known, ``(count, d)``: the mean of the trained users'.

        Where scores are linear in ``x_u``, that ranks by the mean of all users' scores: what most would like.
        """
        return self.user_embedding[self.trained_users].detach().mean(0).expand(count, -1)

    def new_user_features(self, base: Tensor, profiles: ProfileMatrix | None = None) -> Tensor:
        """Layer-0 features ``(n, d)`` of users with ``base (n, d)`` in place of ``x_u``.

        Raises:
            ReclmError: for profiles, if the model was trained without profiles of users.
        """
        return _fused(self.user_fusion, base, profiles, "user")

    def new_item_features(self, text: Tensor, profiles: ProfileMatrix | None = None) -> Tensor:
        """Layer-0 features ``(n, d)`` of items with text ``(n, t)``; for ``e_v`` the mean of the trained items'.

        Raises:
            ReclmError: if items are known by their ID alone, or for profiles if the model was trained without them.
        """
        if self.t_raw is None:
            raise ReclmError(
                "this model knows items by their ID alone, and a new item has none that was trained; train one that "
                "reads text: --set items=text"
            )
        features = self.t_raw(text)
        if self.item_embedding is not None:
            features = features + self.item_embedding[self.trained_items].mean(0)
        features = _fused(self.item_fusion, features, profiles, "item")
        return F.normalize(features, dim=-1) if self.config.normalize else features

    @torch.no_grad()
    def new_users(
        self,
        base: Tensor,
        profiles: ProfileMatrix | None = None,
        histories: sparse.csr_array | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Representations ``(n, d')`` of users that came after training: what :meth:`scorer_of` takes.

        Args:
            base: ``(n, d)`` in place of ``x_u``, e.g. :meth:`user_prior`; fitted to the histories where there are any
                (:func:`~reclm.recommend.fold_in.fold_in`).
            profiles: of the ``n`` users.
            histories: ``(n, I)`` matrix of ones: items they touched.
            generator: of what is drawn for the fit.

        Raises:
            ReclmError: for profiles, if the model was trained without profiles of users.
        """
        if histories is not None:
            base = fold_in(self, base, profiles, histories, generator)
        features = self.new_user_features(base, profiles)
        return self.represent(features, features[:0])[0]

    @torch.no_grad()
    def new_items(self, text: Tensor, profiles: ProfileMatrix | None = None) -> Tensor:
        """Representations ``(n, d')`` of items that came after training, of their text ``(n, t)``.

        Raises:
            ReclmError: as :meth:`new_item_features`.
        """
        features = self.new_item_features(text, profiles)
        return self.represent(features[:0], features)[1]


def table(rows: int, dim: int, generator: torch.Generator) -> nn.Parameter:
    """Xavier-uniform weights ``(rows, dim)``."""
    return nn.Parameter(nn.init.xavier_uniform_(torch.empty(rows, dim), generator=generator))


def _fused(adapter: ProfileFusion | None, base: Tensor, profiles: ProfileMatrix | None, kind: str) -> Tensor:
    """``base (n, d)`` fused with profiles that the adapter was not built with, or with none."""
    if adapter is None:
        if profiles is not None:
            raise ReclmError(
                f"this model was trained without {kind} profiles and cannot take one; train one with: --augment"
            )
        return base
    if profiles is None:
        profiles = ProfileMatrix(
            np.zeros((len(base), adapter.vectors.shape[1]), np.float32), np.zeros(len(base), bool)
        )
    return ProfileFusion(profiles, adapter.mlp, normalize=adapter.normalize)(base)
