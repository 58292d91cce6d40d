"""The bases of all recommenders, and the features of users and items that most of them share."""

from abc import ABC, abstractmethod
from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from scipy import sparse
from torch import Tensor, nn
from torch.nn import functional as F

from reclm.config import Config as BaseConfig
from reclm.data.dataset import Dataset, Interactions, ProfileKind
from reclm.errors import BadInput, NotFound
from reclm.fusion.dual_mlp import DualMLP, ProfileFusion, transform
from reclm.profiles.matrix import ProfileMatrix
from reclm.recommend.evaluate import Scorer
from reclm.recommend.losses import bpr_loss, l2_penalty

FOLD_IN_STEPS, FOLD_IN_LR = 50, 0.02
"""Steps of Adam and its learning rate in :meth:`EmbeddingBackbone.new_users`: chosen on ml-100k, so that users fitted
from the mean rank like trained ones."""
FOLD_IN_NEGATIVES = 64
"""Drawn for each user at each step, and shared by the items of its history."""


@dataclass(frozen=True, eq=False)
class Inputs:
    """The arguments that every backbone is built from.

    Attributes:
        users, items: their numbers, ``U`` and ``I``.
        item_text: ``(I, t)`` float32, raw text features ``f_v``; zeros for an item without text.
        user_profiles, item_profiles: None leaves that side as it is.
    """

    users: int
    items: int
    train: Interactions
    item_text: np.ndarray | None = None
    user_profiles: ProfileMatrix | None = None
    item_profiles: ProfileMatrix | None = None


class Backbone(nn.Module, ABC):
    """The base of every recommender, the ones without parameters included.

    A subclass declares its options as ``Config``, is built from ``(config, inputs, generator)`` and writes
    :meth:`scorer`, or :meth:`representations` that are scored by dot products. One that is trained sets ``trains`` and
    writes :meth:`loss`; one that serves users and items that came after training sets ``serves_new`` and writes
    :meth:`add_users` and :meth:`add_items`. Every random number comes from a generator that it is passed.
    """

    Config: ClassVar[Any] = BaseConfig
    trains: ClassVar[bool] = False
    """True if it has parameters to train; if not, it is ready once it is built."""
    needs_profiles: ClassVar[ProfileKind | None] = None
    """The kind of profiles without which it cannot rank: it reads no others, and has no Base to compare with."""
    serves_new: ClassVar[bool] = False
    """True if it can rank for users, and rank items, that came after training."""
    baseline: ClassVar[bool] = False
    """True if it learns nothing about the user: tables name the rows that do not beat it."""
    config: Any

    def __init__(self, config: Any, inputs: Inputs, generator: torch.Generator) -> None:
        super().__init__()
        self.config = config
        self.n_items = inputs.items

    @classmethod
    def reads_text(cls, config: Any) -> bool:
        """Return whether a model with these options needs the items' text."""
        return False

    @classmethod
    def needs_text(cls, config: Any, data: Dataset, name: str) -> bool:
        """Return whether a model with these options :meth:`reads_text`; NotFound where the data set has none."""
        needed = cls.reads_text(config)
        if needed and not data.has_item_text:
            remedy = "--set items=id"
            message = f"data set {data.name!r} has no item text, which backbone {name!r} reads"
            message += f"; give it items='id' ({remedy}), if it has that option"
            raise NotFound(message, value=data.name, where="item_text", remedy=remedy)
        return needed

    @classmethod
    def check_profiles(cls, kinds: Container[ProfileKind], name: str) -> None:
        """Raise NotFound if the kind of profiles that it cannot do without is not among ``kinds``."""
        kind = cls.needs_profiles
        if kind is not None and kind not in kinds:
            remedy = f"--augment --kind {kind}"
            message = f"backbone {name!r} ranks by {kind} profiles, and there are none; add {remedy}"
            raise NotFound(message, value=kind, where=name, remedy=remedy)

    def representations(self, profile_of: Mapping[int, np.ndarray] | None = None) -> tuple[Tensor, Tensor]:
        """Return the vectors scored, ``(U, d')`` and ``(I, d')``, with the present weights.

        ``profile_of`` holds profile embeddings ``(t,)`` of some user_idx, in place of their own; BadInput if the model
        reads no profiles of users.
        """
        raise NotImplementedError(f"{type(self).__name__} scores without representations")

    def scorer_of(self, users: Tensor, items: Tensor) -> Scorer:
        """Return the scorer of representations ``(n, d')`` and ``(m, d')``, by their rows: dot products."""
        return lambda user_idx, item_idx: users[user_idx] @ items[item_idx].T

    def scorer(self) -> Scorer:
        """Return the scorer of the present representations."""
        with torch.no_grad():
            return self.scorer_of(*self.representations())

    def rankable(self) -> Tensor:
        """Return the item_idx ``(n,)`` that can be ranked, ascending: by default all."""
        return torch.arange(self.n_items)

    def begin_epoch(self, generator: torch.Generator) -> None:
        """Draw whatever is drawn once an epoch; the training loop calls it before each."""

    def loss(self, users: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
        """Return the loss ``()`` of a batch of triples, three ``(B,)``."""
        raise NotImplementedError(f"{type(self).__name__} is not trained")

    def add_users(
        self, profiles: ProfileMatrix | None, histories: sparse.csr_array | None, generator: torch.Generator
    ) -> Tensor:
        """Return representations ``(n, d')`` of users that came after training, for :meth:`scorer_of`.

        Args:
            profiles: of the ``n`` users; BadInput if the model cannot rank by them.
            histories: ``(n, I)`` matrix of ones at the items they touched.
            generator: of the draws.
        """
        raise NotImplementedError(f"{type(self).__name__} serves no new users")

    def add_items(self, text: Tensor, profiles: ProfileMatrix | None = None) -> Tensor:
        """Return representations ``(n, d')`` of items that came after training, of their text ``(n, t)``."""
        raise NotImplementedError(f"{type(self).__name__} serves no new items")


class BackboneConfig(BaseConfig):
    """Options of every :class:`EmbeddingBackbone`."""

    items: Literal["id", "text", "id+text"] = "text"
    """An item's own feature: an embedding ``e_v``; its text ``f̂_v`` in place of one, the papers' cold-start paradigm
    (RecLM, arXiv 2412.19302, equation 1); or the sum of both."""
    dim: int = Field(default=32, ge=1)
    """Latent width d. RecLM, section 6.1."""
    l2: float = Field(default=1e-4, ge=0)
    """Weight λ of ``λ/2 (‖e_u‖² + ‖e_v⁺‖² + ‖e_v⁻‖²)`` of each triple, on layer-0 features. RecLM searches
    1e-3 … 1e-7."""
    normalize: bool = False
    """Scale item features to length one before they are scored and before they enter a graph. RecLM's release does
    so for fused features only; here Base and Augment are treated alike, so that they differ by the profiles alone."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout on the transformed profiles. RecLM's release: 0."""


class EmbeddingBackbone(Backbone):
    """A recommender of learned features: users have an embedding ``x_u``, items what ``config.items`` names.

    With profiles both sides go through the dual MLP (RecLM, equation 2); the results are the layer-0 features. A
    subclass writes :meth:`represent`; one that scores by something else than a dot product also :meth:`loss` and
    :meth:`scorer_of`; one whose representations depend on other users or items also :meth:`new_users` and
    :meth:`add_items`.

    Raises:
        NotFound: if the items' text is needed and the data has none.
    """

    Config: ClassVar[type[BackboneConfig]] = BackboneConfig
    config: BackboneConfig
    trains = True
    serves_new = True
    history_by: ClassVar[str] = "its own vector fitted to the history by BPR, all else as trained"
    """The use of a history by :meth:`new_users`, in words."""
    item_text: Tensor
    trained_users: Tensor
    trained_items: Tensor

    def __init__(self, config: BackboneConfig, inputs: Inputs, generator: torch.Generator) -> None:
        super().__init__(config, inputs, generator)
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
                message = f"items={config.items!r} needs item text, and the data has none; use --set items=id"
                raise NotFound(message, value=config.items, where="items", remedy="--set items=id")
            self.t_raw = transform(inputs.item_text.shape[1], width, generator)
            text = torch.from_numpy(np.asarray(inputs.item_text, np.float32))
            self.register_buffer("item_text", text, persistent=False)
        users, items = inputs.user_profiles, inputs.item_profiles
        self.user_fusion = self.item_fusion = None
        profiles = items if users is None else users
        if profiles is not None:
            mlp = DualMLP(profiles.vectors.shape[1], width, dropout=config.dropout, generator=generator)
            self.user_fusion = None if users is None else ProfileFusion(users, mlp, normalize=True)
            self.item_fusion = None if items is None else ProfileFusion(items, mlp, normalize=False)

    @classmethod
    def reads_text(cls, config: BackboneConfig) -> bool:
        """Return whether items have a text feature."""
        return config.items != "id"

    @classmethod
    def width(cls, config: BackboneConfig) -> int:
        """Return the width of a layer-0 feature: ``d``, or more where a model has several parts side by side."""
        return config.dim

    def user_features(self, rows: Tensor | None = None) -> Tensor:
        """Return ``x_u``, or ``Ψ(x_u ‖ T_pro(p_u))``, ``(n, d)`` of the given rows, by default all."""
        base = self.user_embedding if rows is None else F.embedding(rows, self.user_embedding)
        return base if self.user_fusion is None else self.user_fusion(base, rows)

    def item_features(self, rows: Tensor | None = None) -> Tensor:
        """Return ``e_v``, ``f̂_v = T_raw(f_v)`` or their sum, fused with the profile, ``(n, d)``, by default of all."""
        if rows is not None and len(rows) >= self.n_items:
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

    @abstractmethod
    def represent(self, users: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
        """Return the vectors scored, ``(U, d')`` and ``(I, d')``, of layer-0 features ``(U, d)`` and ``(I, d)``."""

    def loss(self, users: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
        """Return BPR of a batch of triples plus L2 of the layer-0 features, ``()``."""
        layer0 = self.user_features(), self.item_features()
        return self.ranking_loss(layer0, self.represent(*layer0), users, torch.cat([positives, negatives]))

    def ranking_loss(
        self, layer0: tuple[Tensor, Tensor], final: tuple[Tensor, Tensor], users: Tensor, items: Tensor
    ) -> Tensor:
        """Return BPR of ``final`` and L2 of ``layer0``, at ``(B,)`` users and ``(2B,)`` items."""
        features = F.embedding(users, layer0[0]), F.embedding(items, layer0[1])
        return self.objective(F.embedding(users, final[0]), F.embedding(items, final[1]), features)

    def objective(self, users: Tensor, items: Tensor, layer0: tuple[Tensor, Tensor]) -> Tensor:
        """Return BPR of dot products of ``(B, d')`` and ``(2B, d')``, positives first, and L2 of their features."""
        loss = bpr_loss(*torch.linalg.vecdot(users, items.view(2, *users.shape)))
        return loss + self.config.l2 * l2_penalty(*layer0)

    @torch.no_grad()
    def representations(self, profile_of: Mapping[int, np.ndarray] | None = None) -> tuple[Tensor, Tensor]:
        """Return :meth:`represent` of all layer-0 features, ``(U, d')`` and ``(I, d')``."""
        users = self.user_features()
        if profile_of:
            rows = torch.tensor(list(profile_of))
            edited = ProfileMatrix(np.stack(list(profile_of.values())), np.ones(len(rows), bool))
            users = users.index_copy(0, rows, self.new_user_features(self.user_embedding[rows], edited))
        return self.represent(users, self.item_features())

    def rankable(self) -> Tensor:
        """Return all items; where items are known by ID alone, those that were trained."""
        return self.trained_items if self.config.items == "id" else super().rankable()

    def user_prior(self, count: int) -> Tensor:
        """Return ``x_u`` of ``count`` unknown users, ``(count, d)``: the mean of the trained users'.

        Where scores are linear in ``x_u``, that ranks by the mean of all users' scores.
        """
        return self.user_embedding[self.trained_users].detach().mean(0).expand(count, -1)

    def new_user_features(self, base: Tensor, profiles: ProfileMatrix | None = None) -> Tensor:
        """Return layer-0 features ``(n, d)`` of users with ``base (n, d)`` in place of ``x_u``."""
        return _fused(self.user_fusion, base, profiles, "user")

    def new_item_features(self, text: Tensor, profiles: ProfileMatrix | None = None) -> Tensor:
        """Return layer-0 features ``(n, d)`` of items with text ``(n, t)``; ``e_v`` is the mean of the trained."""
        if self.t_raw is None:
            message = "this model knows items by their ID alone; for new ones train with --set items=text"
            raise BadInput(message, value="id", where="items", remedy="--set items=text")
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
        """Return representations of users that came after training as :meth:`add_users`, with ``base`` as ``x_u``.

        The base ``(n, d)``, e.g. :meth:`user_prior`, is fitted to the histories where there are any.
        """
        if histories is not None:
            base = self._fold_in(base, profiles, histories, generator)
        features = self.new_user_features(base, profiles)
        return self.represent(features, features[:0])[0]

    def _fold_in(
        self,
        base: Tensor,
        profiles: ProfileMatrix | None,
        histories: sparse.csr_array,
        generator: torch.Generator | None,
    ) -> Tensor:
        """Return ``x_u`` ``(n, d)`` fitted to histories ``(n, I)``, from ``base``, while the model stays as it is.

        The loss is that of the training: BPR over the history's items, each against trained items that the user has not
        touched, and the L2 of the user's features. A user without a history is returned as it came.
        """
        rows, columns = (torch.from_numpy(part).long() for part in histories.nonzero())
        fitted = base.detach().clone().requires_grad_()
        optimizer = torch.optim.Adam([fitted], lr=FOLD_IN_LR)
        items = self.represent(self.user_features(), self.item_features())[1]
        chances = torch.zeros(len(fitted), len(items))
        chances[:, self.trained_items] = 1.0
        chances[rows, columns] = 0.0
        chances[chances.sum(1) == 0] = 1.0  # a user who touched everything: all items alike
        all_users, all_items = torch.arange(len(fitted)), torch.arange(len(items))
        for _ in range(FOLD_IN_STEPS if len(rows) else 0):
            with torch.enable_grad():
                features = self.new_user_features(fitted, profiles)
                users = self.represent(features, features[:0])[0]
                scores = self.scorer_of(users, items)(all_users, all_items)
                drawn = torch.multinomial(chances, FOLD_IN_NEGATIVES, replacement=True, generator=generator)
                loss = bpr_loss(scores[rows, columns][:, None], scores.gather(1, drawn)[rows])
                loss = loss + self.config.l2 * l2_penalty(features[rows])
                (fitted.grad,) = torch.autograd.grad(loss, [fitted])
            optimizer.step()
        return fitted.detach()

    def add_users(
        self, profiles: ProfileMatrix | None, histories: sparse.csr_array | None, generator: torch.Generator
    ) -> Tensor:
        """Return :meth:`new_users` with the :meth:`user_prior` as their base."""
        count = len(profiles) if profiles is not None else histories.shape[0]  # pyright: ignore
        return self.new_users(self.user_prior(count), profiles, histories, generator)

    @torch.no_grad()
    def add_items(self, text: Tensor, profiles: ProfileMatrix | None = None) -> Tensor:
        """Return representations ``(n, d')`` of items that came after training, of their text ``(n, t)``."""
        features = self.new_item_features(text, profiles)
        return self.represent(features[:0], features)[1]


def table(rows: int, dim: int, generator: torch.Generator) -> nn.Parameter:
    """Return Xavier-uniform weights ``(rows, dim)``."""
    return nn.Parameter(nn.init.xavier_uniform_(torch.empty(rows, dim), generator=generator))


def _fused(fusion: ProfileFusion | None, base: Tensor, profiles: ProfileMatrix | None, kind: str) -> Tensor:
    """Return ``base (n, d)`` fused with other profiles than those of ``fusion``, or with none."""
    if fusion is None:
        if profiles is not None:
            message = (
                f"this model was trained without {kind} profiles; fit one with them: reclm bench --augment"
            )
            raise BadInput(message, value=kind, where="profiles", remedy="--augment")
        return base
    if profiles is None:
        vectors = np.zeros((len(base), fusion.vectors.shape[1]), np.float32)
        profiles = ProfileMatrix(vectors, np.zeros(len(base), bool))
    return ProfileFusion(profiles, fusion.mlp, normalize=fusion.normalize)(base)
