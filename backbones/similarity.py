"""Ranking by text alone: how near an item's text is to what the user's profile says."""

from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reclm.data.dataset import ProfileKind
from reclm.errors import ReclmError
from reclm.recommend.base import BackboneConfig, Inputs
from reclm.recommend.evaluate import Scorer

TIE = 1e-6
"""Cosines that differ by no more count as equal."""


class Similarity(nn.Module):
    """``ŷ_uv = cos(p_u, f_v)``: LangPTune's text recommender σ (arXiv 2410.18870, section 3), without parameters.

    Profile ``p_u`` and item text ``f_v`` must be vectors of one encoder; nothing else is read, so that items that
    training never saw are ranked like any other. A user without a profile, and an item without text, scores 0; items
    of equal scores stand in a random order, always the same one: that of the rows may tell of popularity.

    Raises:
        ReclmError: if there are no user profiles or no item text, or both are not of one width.
    """

    Config: ClassVar[type[BackboneConfig]] = BackboneConfig
    needs_profiles: ClassVar[ProfileKind | None] = "user"
    users: Tensor
    items: Tensor
    ties: Tensor

    def __init__(self, config: BackboneConfig, inputs: Inputs, generator: torch.Generator) -> None:
        super().__init__()
        self.config = config
        profiles, text = inputs.user_profiles, inputs.item_text
        if profiles is None or not profiles.present.any():
            raise ReclmError(
                "backbone 'similarity' ranks by user profiles, and there are none; add --augment"
            )
        if text is None or not text.any():
            raise ReclmError("backbone 'similarity' ranks items by their text, and there is none")
        if profiles.vectors.shape[1] != text.shape[1]:
            raise ReclmError(
                f"user profiles are vectors of {profiles.vectors.shape[1]} and item texts of {text.shape[1]}; "
                "encode both with the same encoder"
            )
        vectors = np.where(profiles.present[:, None], profiles.vectors, 0)
        for name, one in (("users", vectors), ("items", text)):
            unit = F.normalize(torch.from_numpy(np.asarray(one, np.float32)), dim=-1)
            self.register_buffer(name, unit, persistent=False)
        ties = torch.rand(len(text), generator=torch.Generator().manual_seed(0))
        self.register_buffer("ties", TIE * ties, persistent=False)

    def scorer(self) -> Scorer:
        """Cosines, from -1 to 1, and less than :data:`TIE` to part equal ones."""
        return lambda user_idx, item_idx: self.users[user_idx] @ self.items[item_idx].T + self.ties[item_idx]
