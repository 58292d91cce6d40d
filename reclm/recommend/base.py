"""The base of all recommenders, and what they are built from."""

from abc import ABC
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from scipy import sparse
from torch import Tensor, nn

from reclm.config import Config as BaseConfig
from reclm.data.dataset import Dataset, Interactions, ProfileKind
from reclm.errors import NotFound
from reclm.profiles.matrix import ProfileMatrix
from reclm.recommend.evaluate import Scorer, Task, evaluate


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
    reference: ClassVar[bool] = False
    """True if it learns in seconds: what another recommender is worth shows beside it."""
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

    def choose(self, valid: Task, metric: str) -> None:
        """Choose options that are not given on validation; called once, where the model is not trained."""

    def choose_option(self, valid: Task, metric: str, **values: Sequence[Any]) -> None:
        """Take the value of one option that does best by ``metric`` on validation, unless the option is given.

        The option is a buffer of its name, so that it is saved with the model.
        """
        ((name, tried),) = values.items()
        if name in self.config.model_fields_set:
            return
        found: dict[Any, float] = {}
        for value in tried:
            self._set(name, value)
            found[value] = evaluate(self.scorer(), valid, [metric]).mean()[metric]
        self._set(name, max(found, key=lambda value: found[value]))

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
