"""Ranking by text alone: the cosine of an item's text to the user's profile."""

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from reclm.config import Config
from reclm.data.dataset import ProfileKind
from reclm.errors import BadInput, NotFound
from reclm.profiles.matrix import ProfileMatrix
from reclm.recommend.base import Backbone, Inputs
from reclm.recommend.text_ranking import TextRanker, item_vectors


class Similarity(Backbone):
    """``ŷ_uv = cos(p_u, f_v)``: LangPTune's text recommender (arXiv 2410.18870, section 3), without parameters.

    Profile ``p_u`` and item text ``f_v`` must be vectors of one encoder; nothing else is read, so that items that
    training never saw are ranked like any other. An item without text ranks after all items with text; items of equal
    scores, and all items of a user without a profile, stand in a random order, drawn by the seed.
    """

    needs_profiles: ClassVar[ProfileKind | None] = "user"
    serves_new = True
    users: Tensor

    def __init__(self, config: Config, inputs: Inputs, generator: torch.Generator) -> None:
        super().__init__(config, inputs, generator)
        profiles, text = inputs.user_profiles, inputs.item_text
        if profiles is None or not profiles.present.any():
            self.check_profiles((), "similarity")
        assert profiles is not None
        if text is None or not text.any():
            message = "backbone 'similarity' ranks items by their text, and there is none"
            raise NotFound(message, where="item_text")
        self.ranker = TextRanker(text, generator)
        users = self.ranker.profiles(np.where(profiles.present[:, None], profiles.vectors, 0))
        self.register_buffer("users", users, persistent=False)

    @classmethod
    def reads_text(cls, config: Config) -> bool:
        """Return True: items are their text."""
        return True

    def representations(self, profile_of: Mapping[int, np.ndarray] | None = None) -> tuple[Tensor, Tensor]:
        """Return profiles ``(U, t + 1)`` and item texts ``(I, t + 1)``, the factors of :class:`TextRanker`'s scores."""
        users = self.users
        if profile_of:
            edited = self.ranker.profiles(np.stack(list(profile_of.values())))
            users = users.index_copy(0, torch.tensor(list(profile_of)), edited)
        return users, self.ranker.items

    def add_users(
        self, profiles: ProfileMatrix | None, histories: sparse.csr_array | None, generator: torch.Generator
    ) -> Tensor:
        """Return the profiles ``(n, t + 1)``; histories are not read, and BadInput without profiles."""
        if profiles is None:
            message = "backbone 'similarity' reads profiles and no histories; give a profile"
            raise BadInput(message, where="history")
        return self.ranker.profiles(np.where(profiles.present[:, None], profiles.vectors, 0))

    def add_items(self, text: Tensor, profiles: ProfileMatrix | None = None) -> Tensor:
        """Return the items' texts ``(n, t + 1)``; their profiles are not read."""
        return item_vectors(text, torch.Generator().manual_seed(0))
