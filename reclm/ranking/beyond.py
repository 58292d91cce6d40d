"""What top lists are besides right: how much of the catalogue they reach, and how popular their items are.

All take ``top (n, k)``, the places of each user's best candidates, best first, and -1 where none was left to rank.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from reclm.data.dataset import Interactions

BEYOND = ("coverage", "novelty", "lift")
"""Names of the measures. Coverage is one number of all users together, the others have one a user."""


@dataclass(frozen=True, eq=False)
class Popularity:
    """How many users chose what in training; a user who chose an item twice counts once.

    Attributes:
        candidates: ``(c,)`` float32, training users of each candidate.
        users: how many users have a training interaction.
        history: ``(n,)`` float32, mean training users of the items in each user's history; nan without one.
    """

    candidates: Tensor
    users: int
    history: Tensor

    @classmethod
    def of(
        cls, train: Interactions, candidates: np.ndarray, chosen: np.ndarray, users: int, items: int
    ) -> "Popularity":
        """Count.

        Args:
            train: what the recommender learns from.
            candidates: ``(c,)`` item_idx.
            chosen: ``(n,)`` user_idx whose histories are asked about.
            users, items: sizes of the id maps.
        """
        matrix = train.matrix(users, items)
        counts = np.asarray(matrix.sum(0))
        lengths = np.asarray(matrix.sum(1))
        with np.errstate(invalid="ignore"):
            history = (matrix @ counts)[chosen] / lengths[chosen]
        return cls(
            torch.from_numpy(counts[candidates].astype(np.float32)),
            int((lengths > 0).sum()),
            torch.from_numpy(history.astype(np.float32)),
        )


def coverage(top: Tensor, candidates: int) -> float:
    """Share of the candidates that stand in anyone's top k; nan without users."""
    if not len(top):
        return float("nan")
    often = torch.bincount(top.flatten() + 1, minlength=candidates + 1)[1:]
    return float((often > 0).float().mean())


def novelty(top: Tensor, popularity: Popularity) -> Tensor:
    """Mean over a user's top k of ``-log2`` of the item's share of the training users, in bits: ``(n,)``.

    The self-information of Zhou et al., "Solving the apparent diversity-accuracy dilemma of recommender systems"
    (PNAS 2010, arXiv 0808.2670). An item that nobody chose counts as half a user's: one bit more than an item of one.
    """
    share = popularity.candidates.clamp(min=0.5) / popularity.users
    return _mean(-share.log2(), top)


def lift(top: Tensor, popularity: Popularity) -> Tensor:
    """Mean training users of the top k's items over the same mean of the user's history, less 1: ``(n,)``.

    0: as popular as what the user chose before; 1: twice. nan for a user without history. The popularity lift of
    Abdollahpouri et al., "The Connection Between Popularity Bias, Calibration, and Fairness in Recommendation" (RecSys
    2020, arXiv 2008.09273), of single users where theirs is of groups.
    """
    return _mean(popularity.candidates, top) / popularity.history - 1


def _mean(values: Tensor, top: Tensor) -> Tensor:
    """Mean of the candidates' ``values`` ``(c,)`` over each top list; nan for an empty one."""
    some = top >= 0
    # the place -1 is that of the added 0
    return torch.cat([values, values.new_zeros(1)])[top].sum(1) / some.sum(1)
