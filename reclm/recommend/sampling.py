"""Training triples for pairwise losses."""

import numpy as np
import torch
from torch import Tensor

from reclm.data.dataset import Interactions
from reclm.errors import BadInput


class TripleSampler:
    """Draw ``(user, positive, negative)`` triples: every distinct interaction once an epoch, with a uniform negative.

    A negative is drawn uniformly from the items of the training part that the user has *not* touched, exactly and
    without rejection: rank r among the untouched items is turned into the item by one binary search, since the
    j-th touched item p_j has ``p_j - j`` untouched items before it.

    Args:
        train: the interactions; users who touched every training item are left out.
        users, items: sizes of the id maps.

    Raises:
        BadInput: if that leaves none.
    """

    def __init__(self, train: Interactions, users: int, items: int) -> None:
        self.pool = np.unique(train.item_idx)
        place = np.zeros(items, np.int64)
        place[self.pool] = np.arange(len(self.pool))
        keys = np.unique(train.user_idx * len(self.pool) + place[train.item_idx])
        user, column = np.divmod(keys, len(self.pool))
        degree = np.bincount(user, minlength=users)
        start = np.cumsum(degree) - degree
        # untouched items before each touched one, made ascending over users by a stride
        self._stride = len(self.pool) + 1
        self._before = torch.from_numpy(user * self._stride + column - (np.arange(len(keys)) - start[user]))
        usable = degree[user] < len(self.pool)
        if not usable.any():
            raise BadInput(
                f"every user has touched all {len(self.pool)} items of the training part: there is nothing to "
                "rank below an item that was chosen"
            )
        self.users = torch.from_numpy(user[usable])
        self.positives = torch.from_numpy(self.pool[column[usable]])
        self._free = torch.from_numpy(len(self.pool) - degree[user[usable]])
        self._start = torch.from_numpy(start[user[usable]])
        self._pool = torch.from_numpy(self.pool)

    def __len__(self) -> int:
        return len(self.users)

    def epoch(self, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Return users, positives and fresh negatives, each ``(n,)`` item_idx or user_idx, in a fresh random order."""
        order = torch.randperm(len(self), generator=generator)
        users = self.users[order]
        # float64 keeps 53 bits: the bias of floor(u·m) against a true uniform is below m / 2^53
        rank = (torch.rand(len(self), generator=generator, dtype=torch.float64) * self._free[order]).long()
        touched = (
            torch.searchsorted(self._before, users * self._stride + rank, right=True) - self._start[order]
        )
        return users, self.positives[order], self._pool[rank + touched]
