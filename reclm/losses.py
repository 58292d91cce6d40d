"""Losses of recommenders, pure functions of tensors; means over the batch."""

from torch import Tensor
from torch.nn import functional as F


def bpr_loss(positive: Tensor, negative: Tensor) -> Tensor:
    """``-mean ln σ(s⁺ - s⁻)``: two ``(B,)`` of scores to ``()``. Rendle et al., arXiv 1205.2618, section 4."""
    return F.softplus(negative - positive).mean()
