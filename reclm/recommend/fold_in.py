"""Fold-in: fit users that came after training to their histories, while the model stays as it is.

A model without a graph knows a user by the vector ``x_u`` alone. It is fitted by the loss that the model was trained
with: BPR over the history's items, each against items the user has not touched, and the L2 of the
user's features. Full-batch steps of Adam.
"""

from typing import TYPE_CHECKING

import torch
from scipy import sparse
from torch import Tensor

from reclm.profiles.matrix import ProfileMatrix
from reclm.recommend.losses import bpr_loss, l2_penalty

if TYPE_CHECKING:
    from reclm.recommend.base import EmbeddingBackbone

STEPS = 50
LR = 0.02
"""Steps and their size were chosen on ml-100k, so that users fitted anew from the mean rank like trained ones."""
NEGATIVES = 64
"""Drawn for each user at each step, and shared by the items of its history."""


def fold_in(
    model: "EmbeddingBackbone",
    base: Tensor,
    profiles: ProfileMatrix | None,
    histories: sparse.csr_array,
    generator: torch.Generator | None,
) -> Tensor:
    """Return ``x_u`` ``(n, d)`` of new users; that of a user without a history is returned as it came.

    Args:
        model: in evaluation mode; nothing of it changes.
        base: ``(n, d)`` to begin with.
        profiles: of the users; fused, as in the model, with what is fitted.
        histories: ``(n, I)`` matrix of ones.
        generator: of the negatives: trained items that are not in the history.
    """
    rows, columns = (torch.from_numpy(part).long() for part in histories.nonzero())
    own = base.detach().clone().requires_grad_()
    optimizer = torch.optim.Adam([own], lr=LR)
    with torch.no_grad():
        items = model.represent(model.user_features(), model.item_features())[1]
    chances = torch.zeros(len(own), len(items))
    chances[:, model.trained_items] = 1.0
    chances[rows, columns] = 0.0
    chances[chances.sum(1) == 0] = 1.0  # a user who touched everything: all items alike
    everybody, everything = torch.arange(len(own)), torch.arange(len(items))
    with torch.enable_grad():
        for _ in range(STEPS if len(rows) else 0):
            features = model.new_user_features(own, profiles)
            users = model.represent(features, features[:0])[0]
            scores = model.scorer_of(users, items)(everybody, everything)
            negatives = torch.multinomial(chances, NEGATIVES, replacement=True, generator=generator)
            loss = bpr_loss(scores[rows, columns][:, None], scores.gather(1, negatives)[rows])
            loss = loss + model.config.l2 * l2_penalty(features[rows])
            (own.grad,) = torch.autograd.grad(loss, [own])
            optimizer.step()
    return own.detach()
