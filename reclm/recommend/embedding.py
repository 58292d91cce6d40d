"""The base of recommenders that learn: users and items as vectors, of IDs, text and profiles, and their losses."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from scipy import sparse
from torch import Tensor, nn
from torch.nn import functional as F

from reclm.config import Config
from reclm.errors import BadInput, NotFound
from reclm.fusion.dual_mlp import DualMLP, ProfileFusion, ResidualTerm, transform
from reclm.profiles.matrix import ProfileMatrix
from reclm.recommend.base import Backbone, Inputs
from reclm.recommend.evaluate import Scorer
from reclm.recommend.losses import bpr_loss, l2_penalty
from reclm.recommend.softmax import Negatives, PairScore, dot_products, softmax_loss

FOLD_IN_STEPS, FOLD_IN_LR = 50, 0.02
"""Steps of Adam and its learning rate in :meth:`EmbeddingBackbone.new_users`: chosen on ml-100k, so that users fitted
from the mean rank like trained ones."""
FOLD_IN_NEGATIVES = 64
"""Drawn for each user at each step, and shared by the items of its history."""


class BackboneConfig(Config):
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
    """Dropout on the profiles that the dual MLP transformed. RecLM's release: 0."""
    loss: Literal["bpr", "softmax"] = "bpr"
    """``bpr``, the papers': an item before one that the user has not touched; ``softmax``: before all of them
    (cross-entropy)."""
    score_temperature: float = Field(default=1.0, gt=0)
    """Divides the scores in the loss."""
    softmax_items: int = Field(default=20_000, ge=1)
    """Most items that a step of ``softmax`` ranks; of more, a sample of so many stands for all."""
    unit: bool = False
    """Score by the cosine: what is multiplied is scaled to length one."""
    id_dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of the items whose embedding a step leaves out, so that their text stands alone, as a new item's does
    (``items=id+text``)."""
    text_dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout on the text features, and on the profiles of a residual term."""
    text_layers: Literal[1, 2] = 2
    """Layers of ``T_raw``: the papers' two with a ReLU between, or one without bias."""


class EmbeddingBackbone(Backbone):
    """A recommender of learned features: users have an embedding ``x_u``, items what ``config.items`` names.

    With profiles both sides go through the dual MLP (RecLM, equation 2), or get a residual term each
    (:data:`~reclm.recommend.base.Fusion`); the results are the layer-0 features. A subclass writes :meth:`represent`;
    one that scores by something else than a dot product also :meth:`pair_scores` and :meth:`factors`; one whose
    representations depend on other users or items also :meth:`new_users` and :meth:`add_items`.

    Raises:
        NotFound: if the items' text is needed and the data has none.
    """

    Config: ClassVar[type[BackboneConfig]] = BackboneConfig
    config: BackboneConfig
    trains = True
    serves_new = True
    history_by: ClassVar[str] = (
        "its own vector fitted to the history by the loss of the training, all else as trained"
    )
    """The use of a history by :meth:`new_users`, in words."""
    item_text: Tensor
    trained_users: Tensor
    trained_items: Tensor
    known: Tensor
    """``(I, 1)``: 1 for an item that was trained, else 0."""
    random: torch.Generator | None = None
    """The source of an epoch's draws."""

    def __init__(self, config: BackboneConfig, inputs: Inputs, generator: torch.Generator) -> None:
        super().__init__(config, inputs, generator)
        for name, idx in (("trained_users", inputs.train.user_idx), ("trained_items", inputs.train.item_idx)):
            trained = torch.from_numpy(np.flatnonzero(np.bincount(idx)))
            self.register_buffer(name, trained, persistent=False)
        known = torch.zeros(inputs.items, 1).index_fill_(0, self.trained_items, 1.0)
        self.register_buffer("known", known, persistent=False)
        self.negatives = None
        if config.loss == "softmax":
            self.negatives = Negatives(inputs.train, inputs.users, inputs.items, config.softmax_items)
        width = self.width(config)
        self.user_embedding = table(inputs.users, width, generator)
        self.item_embedding = self.t_raw = None
        if config.items != "text":
            self.item_embedding = table(inputs.items, width, generator)
        if config.items != "id":
            if inputs.item_text is None:
                message = f"items={config.items!r} needs item text, and the data has none; use --set items=id"
                raise NotFound(message, value=config.items, where="items", remedy="--set items=id")
            self.t_raw = transform(inputs.item_text.shape[1], width, generator, config.text_layers)
            text = torch.from_numpy(np.asarray(inputs.item_text, np.float32))
            self.register_buffer("item_text", text, persistent=False)
        users, items = inputs.user_profiles, inputs.item_profiles
        self.user_fusion = self.item_fusion = None
        profiles = items if users is None else users
        if profiles is not None and inputs.fusion == "dual-mlp":
            mlp = DualMLP(profiles.vectors.shape[1], width, dropout=config.dropout, generator=generator)
            self.user_fusion = None if users is None else ProfileFusion(users, mlp, normalize=True)
            self.item_fusion = None if items is None else ProfileFusion(items, mlp, normalize=False)
        elif profiles is not None:
            self.user_fusion, self.item_fusion = (self._added(side, generator) for side in (users, items))

    def _added(self, profiles: ProfileMatrix | None, generator: torch.Generator) -> ProfileFusion | None:
        """Return the fusion that adds a side's profiles as a residual term."""
        if profiles is None:
            return None
        sizes = profiles.vectors.shape[1], self.width(self.config)
        term = ResidualTerm(*sizes, generator=generator, drop=self._drop)
        return ProfileFusion(profiles, term, normalize=False)

    @classmethod
    def reads_text(cls, config: BackboneConfig) -> bool:
        """Return whether items have a text feature."""
        return config.items != "id"

    @classmethod
    def width(cls, config: BackboneConfig) -> int:
        """Return the width of a layer-0 feature: ``d``, or more where a model has several parts side by side."""
        return config.dim

    def user_features(self, rows: Tensor | None = None) -> Tensor:
        """Return ``x_u``, or that fused with its profile, ``(n, d)`` of the given rows, by default all."""
        base = self.user_embedding if rows is None else F.embedding(rows, self.user_embedding)
        return base if self.user_fusion is None else self.user_fusion(base, rows)

    def begin_epoch(self, generator: torch.Generator) -> None:
        """Set the source of the epoch's draws."""
        self.random = generator

    @property
    def forgets_ids(self) -> bool:
        """Return whether it was trained for items without an ID: a new one has none, not the mean of the others."""
        return self.config.id_dropout > 0

    def item_features(self, rows: Tensor | None = None, *, ids: bool = True) -> Tensor:
        """Return ``e_v``, ``f̂_v = T_raw(f_v)`` or their sum, fused with the profile, ``(n, d)``, by default of all.

        ``ids=False`` leaves ``e_v`` out.
        """
        if rows is not None and len(rows) >= self.n_items:
            return F.embedding(rows, self.item_features(ids=ids))
        parts: list[Tensor] = []
        if self.item_embedding is not None and ids:
            embedding = self.item_embedding if rows is None else F.embedding(rows, self.item_embedding)
            parts.append(embedding * self._id_mask(rows) if self.forgets_ids else embedding)
        if self.t_raw is not None:
            parts.append(self.t_raw(self._drop(self.item_text if rows is None else self.item_text[rows])))
        features = parts[0] if len(parts) == 1 else parts[0] + parts[1]
        if self.item_fusion is not None:
            features = self.item_fusion(features, rows)
        return F.normalize(features, dim=-1) if self.config.normalize else features

    def _id_mask(self, rows: Tensor | None) -> Tensor:
        """Return ``(n, 1)``: 0 for items without training and, while training, for a random share of the others."""
        known = self.known if rows is None else self.known[rows]
        return known * (self.draw(len(known), 1) >= self.config.id_dropout) if self.training else known

    def _drop(self, text: Tensor) -> Tensor:
        """Return text features ``(n, t)`` with dropout."""
        rate = self.config.text_dropout
        if not rate or not self.training:
            return text
        return text * (self.draw(*text.shape) >= rate).float().mul_(1 / (1 - rate))

    def draw(self, *shape: int) -> Tensor:
        """Return uniform draws of a shape from the epoch's generator."""
        if self.random is None:
            raise RuntimeError(
                f"{type(self).__name__} draws by the generator of begin_epoch, which was not called"
            )
        return torch.rand(shape, generator=self.random)

    @abstractmethod
    def represent(self, users: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
        """Return the vectors scored, ``(U, d')`` and ``(I, d')``, of layer-0 features ``(U, d)`` and ``(I, d)``."""

    def loss(self, users: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
        """Return the ranking loss of a batch of triples plus L2 of the layer-0 features, ``()``."""
        layer0 = self.user_features(), self.item_features()
        return self.ranking_loss(layer0, self.represent(*layer0), users, positives, negatives)

    def ranking_loss(
        self,
        layer0: tuple[Tensor, Tensor],
        final: tuple[Tensor, Tensor],
        users: Tensor,
        positives: Tensor,
        negatives: Tensor,
    ) -> Tensor:
        """Return ``config.loss`` of all representations ``final``, and L2 of all ``layer0``, at three ``(B,)``."""
        if self.negatives is not None:
            features = F.embedding(users, layer0[0]), F.embedding(positives, layer0[1])
            return self.softmax(F.embedding(users, final[0]), final[1], users, positives, features)
        items = torch.cat([positives, negatives])
        features = F.embedding(users, layer0[0]), F.embedding(items, layer0[1])
        return self.objective(F.embedding(users, final[0]), F.embedding(items, final[1]), features)

    def objective(self, users: Tensor, items: Tensor, layer0: tuple[Tensor, Tensor]) -> Tensor:
        """Return BPR of the scores of ``(B, d')`` and ``(2B, d')``, positives first, and L2 of their features."""
        users, items = self.scaled(users), self.scaled(items)
        scores = self.pair_scores(users, items.view(2, *users.shape))
        return bpr_loss(*scores / self.config.score_temperature) + self._l2(*layer0)

    def softmax(
        self, users: Tensor, items: Tensor, user_idx: Tensor, positives: Tensor, layer0: tuple[Tensor, Tensor]
    ) -> Tensor:
        """Return the cross-entropy of users ``(B, d')`` over all items ``(I, d')``, and L2 of their features."""
        assert self.negatives is not None
        rows, shift, touched = self.negatives.draw(user_idx, self.random)
        users, items = self.scaled(users), self.scaled(items)
        others = items if len(rows) == len(items) else F.embedding(rows, items)
        scale = 1 / self.config.score_temperature
        positive = self.pair_scores(users, F.embedding(positives, items)) * scale
        left, right, score = self.factors(users, others, scale)
        return softmax_loss(score, left, right, positive, touched, shift) + self._l2(*layer0)

    def _l2(self, *layer0: Tensor) -> Tensor:
        """Return the L2 ``()`` of a batch's layer-0 features; without weight they get no gradient, not one of zeros."""
        return self.config.l2 * l2_penalty(*layer0) if self.config.l2 else torch.zeros(())

    def scaled(self, vectors: Tensor) -> Tensor:
        """Return vectors as they are multiplied: of length one if the configuration says so."""
        return F.normalize(vectors, dim=-1) if self.config.unit else vectors

    def pair_scores(self, users: Tensor, items: Tensor) -> Tensor:
        """Return the scores ``(…, B)`` of pairs, users ``(B, d')`` and items ``(…, B, d')``: dot products."""
        return torch.linalg.vecdot(users, items)

    def factors(self, users: Tensor, items: Tensor, scale: float = 1.0) -> tuple[Tensor, Tensor, PairScore]:
        """Return what all scores are computed from, ``(n, f)`` and ``(m, f)``, and the function that does it.

        The scores of :meth:`pair_scores`, times ``scale``, are ``score(left, right)``, ``(n, m)``.
        """
        return users if scale == 1 else users * scale, items, dot_products

    def scorer_of(self, users: Tensor, items: Tensor) -> Scorer:
        """Return the scorer of representations ``(n, d')`` and ``(m, d')``, by their rows."""
        left, right, score = self.factors(self.scaled(users), self.scaled(items))
        return lambda user_idx, item_idx: score(left[user_idx], right[item_idx])

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
        """Return layer-0 features ``(n, d)`` of items with text ``(n, t)``; ``e_v`` is the mean of the trained.

        A model that was trained without IDs has no ``e_v`` here.
        """
        if self.t_raw is None:
            message = "this model knows items by their ID alone; for new ones train with --set items=text"
            raise BadInput(message, value="id", where="items", remedy="--set items=text")
        features = self.t_raw(text)
        if self.item_embedding is not None and not self.forgets_ids:
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

        The loss is that of the training, over the history's items, each against trained items that the user has not
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
                scores = self.scorer_of(users, items)(all_users, all_items) / self.config.score_temperature
                positive = scores[rows, columns]
                if self.negatives is None:
                    drawn = torch.multinomial(
                        chances, FOLD_IN_NEGATIVES, replacement=True, generator=generator
                    )
                    loss = bpr_loss(positive[:, None], scores.gather(1, drawn)[rows])
                else:
                    others = scores.masked_fill(chances == 0, -torch.inf).logsumexp(1)[rows]
                    loss = (torch.logaddexp(others, positive) - positive).mean()
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
