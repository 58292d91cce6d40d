"""A look-up fuses the rows asked for; switched off it is the plain model's."""

from typing import Any

import numpy as np
import pytest
import torch
from made import DIM, EVERYONE, EVERYTHING, ITEMS, MF, USERS, augment, augmented, mlp_of
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

import reclm
from reclm.fusion.augment import Augmented
from reclm.fusion.parametrization import base_table


def step(model: MF, look_up: bool) -> dict[str, Tensor]:
    """Gradients of a loss that reads rows (some twice) by look-up, or from whole tables."""
    users, items = torch.tensor([[3, 5], [3, 0]]), torch.tensor([[1, 1], [4, 19]])
    if look_up:
        scores = model(users, items)
    else:
        rows = F.embedding(items + model.offset, model.item_embedding.weight, 0 if model.offset else None)
        scores = (model.user_embedding.weight[users] * rows).sum(-1)
    model.zero_grad()
    (scores.square() + scores).sum().backward()
    gradients = {name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None}
    return gradients | {"scores": scores.detach()}


@pytest.mark.parametrize("missing", ["zeros", "plain"])
@pytest.mark.parametrize("offset", [0, 2])
@pytest.mark.filterwarnings("ignore:.*without")
def test_a_look_up_equals_the_whole_table(matrices: Any, offset: int, missing: Any) -> None:
    matrices["item"].present[[1, 7]] = False
    model = augmented(matrices, offset, missing=missing, cold={"item": np.array([4, 1])})
    found, expected = step(model, True), step(model, False)
    assert len(found) == 2 + 6 + 1  # two tables, six tensors of the MLP, the scores
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, msg=name)
    more_than_the_table = torch.arange(1000) % (ITEMS + offset)
    rows = model.item_embedding(more_than_the_table)
    torch.testing.assert_close(rows, model.item_embedding.weight[more_than_the_table])
    assert model.item_embedding(torch.empty(0, dtype=torch.long)).shape == (0, DIM)


def test_a_look_up_transforms_the_rows_asked_for_once_and_no_others(
    matrices: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = augmented(matrices)
    mlp = mlp_of(model)
    seen: list[int] = []
    fuse = mlp.fuse
    monkeypatch.setattr(mlp, "fuse", lambda base, *rest: seen.append(len(base)) or fuse(base, *rest))
    assert model.user_embedding(torch.tensor([[5, 5], [2, 5]])).shape == (2, 2, DIM)
    assert seen == [2]


def test_a_cached_table_is_fused_once_for_all_its_look_ups(
    matrices: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = augmented(matrices, offset=1)
    expected = model.item_embedding(EVERYTHING)
    mlp = mlp_of(model)
    seen: list[int] = []
    fuse = mlp.fuse
    monkeypatch.setattr(mlp, "fuse", lambda base, *rest: seen.append(len(base)) or fuse(base, *rest))
    with parametrize.cached():
        for id in EVERYTHING:
            torch.testing.assert_close(model.item_embedding(id), expected[id])
    assert seen == [ITEMS]


def test_padding_gets_no_gradient_and_stays_as_it_is(matrices: Any) -> None:
    model = augmented(matrices, offset=1)
    rows = model.item_embedding(torch.tensor([0, 3, 0]))
    assert torch.equal(rows[0], torch.zeros(DIM))
    rows.sum().backward()
    grad = base_table(model.item_embedding).grad
    assert torch.equal(grad[0], torch.zeros(DIM))
    assert grad[3].abs().sum() > 0
    assert torch.equal(model.item_embedding(torch.zeros(2, 1, dtype=torch.long)), torch.zeros(2, 1, DIM))


def test_off_is_the_plain_model_to_the_bit(matrices: Any) -> None:
    plain, model = MF(), augmented(matrices)
    handle = Augmented(model)
    before = model.scores()
    with handle.off():
        assert not handle.enabled
        assert torch.equal(model.scores(), plain.scores())
        assert torch.equal(model(EVERYTHING, EVERYTHING), plain(EVERYTHING, EVERYTHING))
        expected, off = step(plain, True), step(model, True)
    assert torch.equal(off["scores"], expected["scores"])
    for table in ("user_embedding", "item_embedding"):
        gradient = off.pop(f"{table}.parametrizations.weight.original")
        assert torch.equal(gradient, expected[f"{table}.weight"])
    assert list(off) == ["scores"]  # the MLP has no gradient at all
    assert torch.equal(model.scores(), before)


def test_sparse_gradients_stay_sparse(matrices: Any) -> None:
    model, dense = MF(sparse=True), MF()
    for one in (model, dense):
        augment(one, matrices)
        one(EVERYTHING, EVERYTHING).square().sum().backward()
    grad, expected = (base_table(one.item_embedding).grad for one in (model, dense))
    assert grad.is_sparse
    torch.testing.assert_close(grad.to_dense(), expected)


def test_gradients_scaled_by_frequency(matrices: Any) -> None:
    model = MF(scale_grad_by_freq=True)
    augment(model, matrices)
    original = base_table(model.item_embedding)
    gradients = []
    for ids in (torch.tensor([3, 3, 3, 4]), torch.tensor([3, 4])):
        original.grad = None
        model.item_embedding(ids).sum().backward()
        gradients.append(original.grad)
    torch.testing.assert_close(*gradients)


def test_an_embedding_that_looks_up_in_its_own_way_keeps_it(matrices: Any) -> None:
    class Scaled(nn.Embedding):
        def forward(self, input: Tensor) -> Tensor:
            return 10 * super().forward(input)

    model = MF()
    model.user_embedding = Scaled(USERS, DIM)
    augment(model, matrices)
    torch.testing.assert_close(model.user_embedding(EVERYONE), 10 * model.user_embedding.weight)
    reclm.remove(model)
    assert type(model.user_embedding) is Scaled
