"""Losses against values worked by hand."""

from math import exp, log

import pytest
import torch

from reclm.losses import bpr_loss


def test_bpr() -> None:
    # s⁺ - s⁻ = 1 and -2: ln(1 + e^-1) and ln(1 + e^2)
    loss = bpr_loss(torch.tensor([2.0, 0.0]), torch.tensor([1.0, 2.0]))
    assert loss.item() == pytest.approx((log(1 + exp(-1)) + log(1 + exp(2))) / 2)
