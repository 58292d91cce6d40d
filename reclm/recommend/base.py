"""The base of all recommenders, and what they are built from."""

from abc import ABC
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import torch
from scipy import sparse
from torch import Tensor, nn

from reclm.config import Config as BaseConfig
from reclm.data.dataset import Dataset, Interactions, ProfileKind
from reclm.errors import BadInput, NotFound, unknown
from reclm.profiles.matrix import ProfileMatrix
from reclm.recommend.evaluate import Scorer, Task, evaluate

Fusion = Literal["dual-mlp", "residual", "text", "auto"]
"""How profiles enter a recommender.

- ``dual-mlp``: the papers': ``Ψ(x ‖ T_pro(p))`` in place of the feature ``x`` (RecLM, arXiv 2412.19302, equation 2);
- ``residual``: ``x + g ∘ W p``, nothing at first (:class:`~reclm.fusion.dual_mlp.ResidualTerm`), with the options that
  item text has (``text_dropout``) and the training's weight decay;
- ``text``: an item's profile joins its text before that is encoded; a user has no text, and its profile is the
  residual term;
- ``auto``: none of them, ``residual`` or ``text``, by validation (:mod:`reclm.recommend.auto_fusion`).
"""


def check_fusion(fusion: str) -> None:
    """Raise NotFound for an unknown fusion."""
    if fusion not in get_args(Fusion):
        raise unknown("fusion", fusion, get_args(Fusion))


def joins_text(fusion: str, kinds: Container[ProfileKind]) -> bool:
    """Return whether a fusion joins profiles of items to their texts."""
    return fusion in ("text", "auto") and "item" in kinds


@dataclass(frozen=True, eq=False)
class Inputs:
    """The arguments that every backbone is built from.

    Attributes:
        users, items: their numbers, ``U`` and ``I``.
        item_text: ``(I, t)`` float32, raw text features ``f_v``; zeros for an item without text.
        user_profiles, item_profiles: None leaves that side as it is.
        fusion: how profiles enter; a backbone is built with one that is no choice (:meth:`by`).
        joined: ``(I, t)`` features of the items' texts joined with their profiles; ``present`` tells who has one.
    """

    users: int
    items: int
    train: Interactions
    item_text: np.ndarray | None = None
    user_profiles: ProfileMatrix | None = None
    item_profiles: ProfileMatrix | None = None
    fusion: Fusion = "dual-mlp"
    joined: ProfileMatrix | None = None

    def by(self, fusion: Fusion | None) -> "Inputs":
        """Return the inputs of a model that profiles enter by ``fusion``; None: that they do not enter."""
        if fusion == "text" and self.joined is not None:
            text: dict[str, Any] = {"item_text": self.joined.vectors, "item_profiles": None}
            return replace(self, **text, fusion="text", joined=None)
        if fusion is None:
            return replace(self, user_profiles=None, item_profiles=None, fusion="dual-mlp", joined=None)
        return replace(self, fusion=fusion, joined=None)


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
    reference: ClassVar[bool] = False
    """True if it learns in seconds: what another recommender is worth shows beside it."""
    seeded: ClassVar[bool] = True
    """False if it draws nothing, so that all seeds give the same."""
    config: Any

    def __init__(self, config: Any, inputs: Inputs, generator: torch.Generator) -> None:
        super().__init__()
        self.config = config
        self.n_items = inputs.items
        self.chosen: dict[str, Any] = {}

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

    @classmethod
    def check_fusion(cls, fusion: str, config: Any, kinds: Container[ProfileKind], name: str) -> None:
        """Raise BadInput where profiles of ``kinds`` cannot enter a model with these options by a fusion."""
        reason, remedy = "", "residual"
        if cls.needs_profiles and fusion != "dual-mlp":
            reason = (
                f"backbone {name!r} ranks by profiles themselves, and fuses nothing; leave the fusion out"
            )
            remedy = "dual-mlp"
        elif fusion == "text" and "item" not in kinds:
            reason = "profiles of items join their texts, and there are none; write some, or take 'residual'"
        elif fusion == "text" and not cls.reads_text(config):
            reason = f"backbone {name!r} reads no item text here; give it items='id+text', or take 'residual'"
        if reason:
            raise BadInput(f"fusion = {fusion!r}: {reason}", value=fusion, where="fusion", remedy=remedy)

    @classmethod
    def row_name(cls, name: str, data: Dataset) -> str:
        """Return what a table calls it on a data set."""
        return name

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

    def choose(self, valid: Task, metric: str) -> None:
        """Choose options that are not given on validation; called once, where the model is not trained."""

    def choose_option(self, valid: Task, metric: str, **values: Sequence[Any]) -> None:
        """Take the value of one option that does best by ``metric`` on validation, unless the option is given.

        The option is a buffer of its name, so that it is saved with the model; ``chosen`` names it and the value.
        """
        ((name, tried),) = values.items()
        if name in self.config.model_fields_set:
            return
        found: dict[Any, float] = {}
        for value in tried:
            self._set(name, value)
            found[value] = evaluate(self.scorer(), valid, [metric]).mean()[metric]
        self.chosen[name] = best = max(found, key=lambda value: found[value])
        if best != tried[-1]:
            self._set(name, best)

    def _set(self, name: str, value: Any) -> None:
        self.get_buffer(name).fill_(value)
        self.changed()

    def changed(self) -> None:
        """Forget what was computed with other options."""

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
