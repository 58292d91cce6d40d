"""Losses of recommenders, pure functions of tensors; means over the batch."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


def bpr_loss(positive: Tensor, negative: Tensor) -> Tensor:
    """Return ``-mean ln σ(s⁺ - s⁻)``: two ``(B,)`` of scores to ``()``. Rendle et al., arXiv 1205.2618, section 4."""
    return F.softplus(negative - positive).mean()


def l2_penalty(*rows: Tensor) -> Tensor:
    """Return ``½ Σ ‖row‖²`` over the rows of all tensors, divided by the number of the first one's: ``()``.

    Of layer-0 rows of a batch's users, and of its items, it is LightGCN's regulariser (arXiv 2002.02126, equation 15).
    """
    squares = (torch.dot(part.flatten(), part.flatten()) for part in rows)
    return sum(squares, torch.zeros(())) / (2 * len(rows[0]))


def info_nce(anchors: Tensor, positives: Tensor, keys: Tensor, temperature: float) -> Tensor:
    """Return ``-mean ln exp(cos(a, p)/τ) / Σ_k exp(cos(a, k)/τ)`` (SGL, arXiv 2010.10783, equation 10).

    Args:
        anchors, positives: ``(B, d)``, paired by row.
        keys: ``(N, d)``, the positive and those it is compared with.
        temperature: ``τ``.
    """
    anchors, positives, keys = (F.normalize(vectors, dim=-1) for vectors in (anchors, positives, keys))
    attraction = (anchors * positives).sum(-1).mean() / temperature
    repulsion: Tensor = _MeanLogSumExp.apply(anchors / temperature, keys)  # pyright: ignore[reportAssignmentType]
    return repulsion - attraction


class _MeanLogSumExp(torch.autograd.Function):
    """Compute ``mean_b ln Σ_n exp(a_b · k_n)`` of ``(B, d)`` and ``(N, d)``, with its gradients.

    The ``B × N`` similarities are never held at once: a block of ``ROWS`` anchors is multiplied, reduced and
    differentiated, and stays in the processor's cache, before the next one.
    """

    ROWS = 128

    @staticmethod
    def forward(ctx: Any, anchors: Tensor, keys: Tensor) -> Tensor:
        wanted = any(ctx.needs_input_grad)
        grad_anchors = torch.empty_like(anchors) if wanted else anchors
        grad_keys = torch.zeros_like(keys)
        total = anchors.new_zeros(())
        for start in range(0, len(anchors), _MeanLogSumExp.ROWS):
            rows = anchors[start : start + _MeanLogSumExp.ROWS]
            similarity = rows @ keys.T
            largest = similarity.amax(1, keepdim=True)
            chances = similarity.sub_(largest).exp_()
            mass = chances.sum(1, keepdim=True)
            total += (mass.log() + largest).sum()
            if wanted:
                chances /= mass
                grad_anchors[start : start + len(rows)] = chances @ keys
                grad_keys.addmm_(chances.T, rows)
        ctx.grads = (grad_anchors, grad_keys)
        return total / len(anchors)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        grad_anchors, grad_keys = ctx.grads
        scale = grads[0] / len(grad_anchors)
        return grad_anchors * scale, grad_keys * scale
