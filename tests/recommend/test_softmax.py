"""Cross-entropy over items, in blocks and by samples."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from reclm.data.dataset import Interactions
from reclm.recommend import softmax
from reclm.recommend.softmax import Negatives, dot_products, softmax_loss

NONE = torch.empty(0, dtype=torch.long), torch.empty(0, dtype=torch.long)


def draw(*shape: int, seed: int = 0) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=random, dtype=torch.float64).requires_grad_()


def test_by_hand() -> None:
    users, items = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    # the first user's item scores 1 and the other one 0, the second's 2 against 0
    own = (torch.tensor([0, 1]), torch.tensor([0, 1]))
    loss = softmax_loss(dot_products, users, items, torch.tensor([1.0, 2.0]), own)
    expected = -(math.log(math.e / (math.e + 1)) + math.log(math.e**2 / (math.e**2 + 1))) / 2
    assert loss.item() == pytest.approx(expected)


@pytest.mark.parametrize("least_users", [1, 8], ids=["by-users", "by-items"])
@pytest.mark.parametrize("cells", [11, 11 * 3])
@pytest.mark.parametrize("shifted", [False, True])
def test_it_and_its_gradients_are_those_of_cross_entropy_whatever_the_blocks(
    monkeypatch, least_users, cells, shifted
) -> None:
    monkeypatch.setattr(softmax._SoftmaxSum, "CELLS", cells)
    monkeypatch.setattr(softmax._SoftmaxSum, "USERS", least_users)
    users, items = draw(7, 3), draw(11, 3, seed=1)
    own = torch.tensor([3, 0, 10, 3, 5, 6, 7])
    others = torch.tensor([0, 0, 2, 6]), torch.tensor([1, 2, 4, 0])
    rows = torch.cat([torch.arange(7), others[0]])
    order = rows.argsort(stable=True)
    left_out = rows[order], torch.cat([own, others[1]])[order]
    positive = torch.linalg.vecdot(users, items[own])
    shift = draw(11, seed=2).detach() if shifted else None
    loss = softmax_loss(dot_products, users, items, positive, left_out, shift)
    scores = users @ items.T + (0 if shift is None else shift)
    scores = scores.index_put(others, torch.tensor(-math.inf).double())
    scores = scores.index_put((torch.arange(7), own), positive)  # its own term has no shift
    expected = F.cross_entropy(scores, own)
    torch.testing.assert_close(loss, expected)
    grads = (torch.autograd.grad(one, [users, items], retain_graph=True) for one in (loss, expected))
    for grad, wanted in zip(*grads, strict=True):
        torch.testing.assert_close(grad, wanted)


@pytest.mark.parametrize("least_users", [1, 1 << 20], ids=["by-users", "by-items"])
def test_a_user_with_no_negative_costs_nothing(monkeypatch, least_users) -> None:
    monkeypatch.setattr(softmax._SoftmaxSum, "USERS", least_users)
    users, items = draw(1, 3), draw(2, 3, seed=1)
    all_left_out = torch.tensor([0, 0]), torch.tensor([0, 1])
    loss = softmax_loss(dot_products, users, items, torch.linalg.vecdot(users, items[:1]), all_left_out)
    loss.backward()
    assert loss.item() == 0
    assert users.grad is not None
    assert not users.grad.any()


TRAIN = Interactions(np.array([0, 0, 1, 2, 2, 2]), np.array([1, 4, 4, 0, 4, 5]))


def test_without_a_sample_negatives_are_all_trained_items_but_the_users_own() -> None:
    items, shift, (rows, columns) = Negatives(TRAIN, 3, 7, most=10).draw(torch.tensor([2, 0, 2]), None)
    assert items.tolist() == [0, 1, 4, 5]
    assert shift is None
    assert list(zip(rows.tolist(), items[columns].tolist(), strict=True)) == [
        *((0, item) for item in (0, 4, 5)),
        *((1, item) for item in (1, 4)),
        *((2, item) for item in (0, 4, 5)),
    ]


def test_a_samples_sum_is_on_average_that_over_all_items() -> None:
    rng = np.random.default_rng(0)
    train = Interactions(rng.integers(0, 30, 400), (rng.random(400) ** 3 * 50).astype(int))
    scores = torch.from_numpy(rng.normal(size=50)).float()
    negatives, random = Negatives(train, 30, 50, most=10), torch.Generator().manual_seed(0)
    users = torch.tensor([4])
    sums = []
    for _ in range(4000):
        items, shift, (_, columns) = negatives.draw(users, random)
        assert shift is not None
        weighted = (scores[items] + shift).exp()
        weighted[columns] = 0
        sums.append(float(weighted.sum()))
    touched = train.item_idx[train.user_idx == 4]
    wanted = float(scores[np.setdiff1d(np.unique(train.item_idx), touched)].exp().sum())
    assert np.mean(sums) == pytest.approx(wanted, abs=4 * float(np.std(sums)) / math.sqrt(len(sums)))


def test_a_sample_leaves_out_what_its_users_have_touched() -> None:
    negatives, random = Negatives(TRAIN, 3, 7, most=2), torch.Generator().manual_seed(0)
    for _ in range(20):
        items, _, (rows, columns) = negatives.draw(torch.tensor([2, 1]), random)
        found = set(zip(rows.tolist(), items[columns].tolist(), strict=True))
        assert found == {(0, item) for item in {0, 4, 5} & set(items.tolist())} | {
            (1, item) for item in {4} & set(items.tolist())
        }
