import math

import pytest
import torch
from torch.nn import functional as F

from reclm.recommend.losses import _MeanLogSumExp, bpr_loss, info_nce, l2_penalty


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_bpr_by_hand() -> None:
    loss = bpr_loss(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 2.0]))
    expected = (math.log(1 + math.exp(-1)) + math.log(1 + math.exp(2))) / 2
    assert loss.item() == pytest.approx(expected)


def test_bpr_stays_finite_and_has_a_slope_where_a_sigmoid_rounds_to_zero() -> None:
    positive = torch.tensor([-200.0], requires_grad=True)
    loss = bpr_loss(positive, torch.tensor([0.0]))
    loss.backward()
    assert loss.item() == pytest.approx(200)
    assert positive.grad.item() == pytest.approx(-1)


def test_l2_by_hand() -> None:
    users = torch.tensor([[1.0, 2.0], [0.0, 1.0]])
    items = torch.tensor([[3.0, 0.0], [0.0, 0.0]])
    assert l2_penalty(users, items).item() == pytest.approx((1 + 4 + 1 + 9) / 2 / 2)


def test_info_nce_by_hand() -> None:
    # cosines: of the first anchor 1 to its own key and 0 to the other; of the second 0.6 and 0.8
    anchors = torch.tensor([[2.0, 0.0], [3.0, 4.0]])
    keys = torch.tensor([[5.0, 0.0], [0.0, 1.0]])
    first = -math.log(math.exp(1 / 0.5) / (math.exp(1 / 0.5) + math.exp(0)))
    second = -math.log(math.exp(0.8 / 0.5) / (math.exp(0.6 / 0.5) + math.exp(0.8 / 0.5)))
    assert info_nce(anchors, keys, keys, 0.5).item() == pytest.approx((first + second) / 2)


@pytest.mark.parametrize(
    "block", [1, 2, 128], ids=["a row a block", "blocks that do not divide", "one block"]
)
def test_info_nce_in_blocks_is_cross_entropy(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(_MeanLogSumExp, "ROWS", block)
    rows = torch.arange(7) * 2
    inputs = [(draw(7, 3).requires_grad_(), draw(15, 3, seed=1).requires_grad_()) for _ in range(2)]
    (anchors, keys), (own_anchors, own_keys) = inputs
    similarities = F.normalize(anchors, dim=1) @ F.normalize(keys, dim=1).T / 0.2
    (3 * F.cross_entropy(similarities, rows)).backward()
    loss = info_nce(own_anchors, own_keys[rows], own_keys, 0.2)
    (3 * loss).backward()
    torch.testing.assert_close(loss, F.cross_entropy(similarities, rows))
    torch.testing.assert_close(own_anchors.grad, anchors.grad)
    torch.testing.assert_close(own_keys.grad, keys.grad)


def test_info_nce_does_not_overflow() -> None:
    anchors = torch.eye(2) * 1e3
    assert info_nce(anchors, anchors, anchors, 1e-3).item() == pytest.approx(0, abs=1e-6)


def test_info_nce_without_a_gradient_keeps_none() -> None:
    with torch.no_grad():
        assert info_nce(draw(4, 2), draw(4, 2, seed=1), draw(9, 2, seed=2), 0.5).grad_fn is None
