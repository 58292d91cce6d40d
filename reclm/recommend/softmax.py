"""Cross-entropy over items: the negatives of a batch, and the loss in blocks."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reclm.data.dataset import Interactions

Pairs = tuple[Tensor, Tensor]
"""Rows and columns, ``(m,)`` each."""
PairScore = Callable[[Tensor, Tensor], Tensor]
"""The scores ``(b, N)`` of all pairs of ``(b, f)`` and ``(N, f)``."""


class Negatives:
    """The items that positives are told from: all of the training or, if these are more than ``most``, a sample.

    Half of a sample is drawn uniformly and half by popularity, with replacement; what a user has touched is none of
    its negatives.
    """

    def __init__(self, train: Interactions, users: int, items: int, most: int) -> None:
        matrix = train.matrix(users, items)
        self._starts = torch.from_numpy(matrix.indptr.astype(np.int64))
        self._touched = torch.from_numpy(matrix.indices.astype(np.int64))
        counts = torch.from_numpy(np.bincount(train.item_idx, minlength=items))
        self.pool = counts.nonzero()[:, 0]
        self._place = torch.full((items,), -1)
        self.sampled = most if len(self.pool) > most else 0
        if self.sampled:
            popularity = counts[self.pool].double()
            self._chances = (1 / len(self.pool) + popularity / popularity.sum()) / 2
            self._sums = self._chances.cumsum(0)
        else:
            self._place[self.pool] = torch.arange(len(self.pool))

    def draw(self, users: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor | None, Pairs]:
        """Return for users ``(B,)`` items ``(N,)``, their shift ``(N,)`` and the pairs that are no negatives.

        The shift is ``ln n - ln(most · q)`` of an item drawn ``n`` times at probability ``q``, which makes a sum over
        the sample an unbiased estimate of that over all items; None where all items are there.
        """
        items, shift, place = self.pool, None, self._place
        if self.sampled:
            drawn = torch.rand(self.sampled, generator=generator, dtype=torch.float64) * self._sums[-1]
            columns = torch.searchsorted(self._sums, drawn).clamp(max=len(self.pool) - 1)
            columns, times = columns.unique(return_counts=True)
            items = self.pool[columns]
            shift = (times / (self.sampled * self._chances[columns])).log().float()
            place = self._place.clone()
            place[items] = torch.arange(len(items))
        counts = self._starts[users + 1] - self._starts[users]
        rows = torch.repeat_interleave(torch.arange(len(users)), counts)
        within = torch.arange(len(rows)) - torch.repeat_interleave(counts.cumsum(0) - counts, counts)
        columns = place[self._touched[self._starts[users][rows] + within]]
        there = columns >= 0
        return items, shift, (rows[there], columns[there])


def dot_products(users: Tensor, items: Tensor) -> Tensor:
    """Return scores ``(b, N)`` of ``(b, d)`` and ``(N, d)``."""
    return users @ items.T


def softmax_loss(
    score: PairScore,
    users: Tensor,
    items: Tensor,
    positive: Tensor,
    left_out: Pairs,
    shift: Tensor | None = None,
) -> Tensor:
    """Return ``-mean ln e^s⁺ / (e^s⁺ + Σ_v e^(s_v + shift_v))``, ``()``.

    With ``shift`` it is the sampled softmax of Bengio & Senécal ("Adaptive importance sampling to accelerate training
    of a neural probabilistic language model", 2008), the positive's own term being exact. The scores of ``B`` users and
    ``N`` items are never held at once: a block of them is computed, reduced and differentiated before the next one.

    Args:
        score: of users ``(B, d)`` and items ``(N, d)``, differentiable.
        positive: ``(B,)``, the score of each user's item.
        left_out: pairs of a user and an item that are no negatives, by ascending rows.
        shift: ``(N,)``, added to all scores of an item.
    """
    total: Any = _SoftmaxSum.apply(score, left_out, shift, users, items, positive)
    return total / len(users)


class _SoftmaxSum(torch.autograd.Function):
    """Compute the sum of :func:`softmax_loss` with its gradients, a block of about ``CELLS`` scores at a time.

    A block is some users and all items. Of so many items that a block would have less than ``USERS`` users, where the
    gradients of all items that each block adds would cost more than its scores, it is all users and some items: these
    blocks are computed twice, for the sums of all items and then for the gradients.
    """

    CELLS = 1 << 20
    USERS = 32

    @staticmethod
    def forward(
        ctx: Any,
        score: PairScore,
        left_out: Pairs,
        shift: Tensor | None,
        users: Tensor,
        items: Tensor,
        positive: Tensor,
    ) -> Tensor:
        by_users = len(items) * _SoftmaxSum.USERS <= _SoftmaxSum.CELLS
        compute = _by_users if by_users else _by_items
        total, *ctx.grads = compute(score, left_out, shift, users, items, positive, _SoftmaxSum.CELLS)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, None, *(grad * grads[0] for grad in ctx.grads)


def _by_users(
    score: PairScore,
    left_out: Pairs,
    shift: Tensor | None,
    users: Tensor,
    items: Tensor,
    positive: Tensor,
    cells: int,
) -> tuple[Tensor, ...]:
    """Return the sum of the losses and its gradients by users, items and positive scores, by blocks of users."""
    rows, columns = left_out
    size = max(1, cells // max(len(items), 1))
    ends = torch.searchsorted(rows, torch.arange(0, len(users) + size, size)).tolist()
    of_users, of_items, of_positive = (
        torch.empty_like(users),
        torch.zeros_like(items),
        torch.empty_like(positive),
    )
    total = users.new_zeros(())
    for block, start in enumerate(range(0, len(users), size)):
        part, pairs = slice(start, start + size), slice(ends[block], ends[block + 1])
        leaves = [leaf.detach().requires_grad_() for leaf in (users[part], items)]
        with torch.enable_grad():
            scores = score(*leaves)
        chances = scores.detach().clone() if shift is None else scores.detach() + shift
        chances[rows[pairs] - start, columns[pairs]] = -torch.inf
        mass = torch.logaddexp(chances.logsumexp(1), positive[part])
        total += (mass - positive[part]).sum()
        chances.sub_(mass[:, None]).exp_()
        of_positive[part] = (positive[part] - mass).exp() - 1
        of_users[part], added = torch.autograd.grad(scores, leaves, chances)
        of_items += added
    return total, of_users, of_items, of_positive


def _by_items(
    score: PairScore,
    left_out: Pairs,
    shift: Tensor | None,
    users: Tensor,
    items: Tensor,
    positive: Tensor,
    cells: int,
) -> tuple[Tensor, ...]:
    """Return what :func:`_by_users` does, by blocks of items."""
    columns, order = left_out[1].sort()
    rows, size = left_out[0][order], max(1, cells // max(len(users), 1))
    ends = torch.searchsorted(columns, torch.arange(0, len(items) + size, size)).tolist()

    def exponents(block: int, scores: Tensor) -> Tensor:
        """Make scores ``(B, size)`` the terms of the sum, as exponents of e, in place."""
        start, pairs = block * size, slice(ends[block], ends[block + 1])
        if shift is not None:
            scores += shift[start : start + size]
        scores[rows[pairs], columns[pairs] - start] = -torch.inf
        return scores

    blocks = items.split(size)
    sums = [exponents(block, score(users, part)).logsumexp(1) for block, part in enumerate(blocks)]
    mass = torch.stack([positive, *sums]).logsumexp(0)
    of_users, of_items = torch.zeros_like(users), torch.empty_like(items)
    for block, (part, of_part) in enumerate(zip(blocks, of_items.split(size), strict=True)):
        leaves = [leaf.detach().requires_grad_() for leaf in (users, part)]
        with torch.enable_grad():
            scores = score(*leaves)
        chances = exponents(block, scores.detach().clone()).sub_(mass[:, None]).exp_()
        added, of_part[:] = torch.autograd.grad(scores, leaves, chances)
        of_users += added
    return (mass - positive).sum(), of_users, of_items, (positive - mass).exp() - 1
