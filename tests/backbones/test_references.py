"""EASE, nearest neighbours and iALS: against their equations, written another way."""

from typing import Any

import numpy as np
import pytest
import torch

from reclm import plugins
from reclm.backbones.ease import Ease, EaseConfig
from reclm.backbones.ials import Ials
from reclm.backbones.itemknn import ItemKNN, TextKNN
from reclm.data.dataset import Interactions
from reclm.errors import NotFound
from reclm.recommend.base import Backbone, Inputs
from reclm.recommend.evaluate import evaluate, validation_task
from reclm.recommend.training import TrainConfig, train_backbone
from reclm.testing import checkerboard, features

DATA = checkerboard()
INPUTS = Inputs(len(DATA.users), len(DATA.items), DATA.train, features(DATA))
X = DATA.train.matrix(INPUTS.users, INPUTS.items).toarray()
EVERYBODY, EVERYTHING = torch.arange(INPUTS.users), torch.arange(INPUTS.items)
REFERENCES = ("ease", "itemknn", "ials", "textknn")


def build(cls: type[Backbone], inputs: Inputs = INPUTS, **options: object) -> Backbone:
    return cls(cls.Config.build(options), inputs, torch.Generator().manual_seed(0))


def scores(model: Backbone) -> np.ndarray:
    return model.scorer()(EVERYBODY, EVERYTHING).numpy()


def test_ease_is_the_best_linear_map_without_a_diagonal() -> None:
    found = scores(build(Ease, l2=2.0))
    for item in np.flatnonzero(X.sum(0)):  # ridge regression of each item on all others
        others = np.flatnonzero((np.arange(X.shape[1]) != item) & (X.sum(0) > 0))
        part = X[:, others]
        weights = np.linalg.solve(part.T @ part + 2.0 * np.eye(len(others)), part.T @ X[:, item])
        np.testing.assert_allclose(found[:, item], part @ weights, atol=1e-4)
    assert not found[:, X.sum(0) == 0].any()


def test_ease_keeps_the_most_popular_items() -> None:
    model = build(Ease, most_items=5)
    kept = np.flatnonzero(scores(model).any(0))
    assert len(kept) == 5
    assert X.sum(0)[kept].min() >= np.sort(X.sum(0))[-5]


def test_ease_searches_on_few_items_and_ranks_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Ease, "SEARCHED", 5)
    model = build(Ease)
    model.choose(validation_task(DATA), "ndcg@20")
    assert scores(model).any(0).sum() == (X.sum(0) > 0).sum()


@pytest.mark.parametrize("shrinkage", [0.0, 3.0])
def test_itemknn_by_a_loop(shrinkage: float) -> None:
    found = scores(build(ItemKNN, neighbours=3, shrinkage=shrinkage))
    counts, shared = X.sum(0), X.T @ X
    for item in range(X.shape[1]):
        near = shared[item] / np.maximum(np.sqrt(counts * counts[item]) + shrinkage, 1e-9)
        near[item] = 0
        kept = np.where(near >= np.sort(near)[-3], near, 0)
        if (kept > 0).sum() <= 3:  # no tie at the third place
            np.testing.assert_allclose(found[:, item], X @ kept, rtol=1e-5)


def test_textknn_ranks_items_that_nobody_touched_by_their_nearest_texts() -> None:
    found = scores(build(TextKNN, neighbours=4))
    text = features(DATA) / np.linalg.norm(features(DATA), axis=1, keepdims=True)
    cosines = np.maximum(text @ text.T, 0) * (X.sum(0) > 0)
    np.fill_diagonal(cosines, 0)
    for item in range(X.shape[1]):
        kept = np.where(cosines[item] >= np.sort(cosines[item])[-4], cosines[item], 0)
        if (kept > 0).sum() <= 4:
            np.testing.assert_allclose(found[:, item], X @ kept, rtol=1e-4, atol=1e-6)
    assert found[:, X.sum(0) == 0].any()


def test_textknn_without_text_is_not_found() -> None:
    with pytest.raises(NotFound) as raised:
        build(TextKNN, Inputs(INPUTS.users, INPUTS.items, DATA.train))
    assert raised.value.where == "item_text"


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = scores(build(ItemKNN))
    monkeypatch.setattr("reclm.backbones.itemknn.CELLS", 3 * INPUTS.items)
    np.testing.assert_allclose(scores(build(ItemKNN)), whole, rtol=1e-6)


def test_ials_factors_solve_their_own_least_squares() -> None:
    """At the fixed point each user's factors are the weighted ridge solution, given the items'."""
    model = build(Ials, dim=4, l2=1.0, weight=3.0, iterations=200)
    users, items = (part.double().numpy() for part in model.representations())
    for user in range(5):
        weights = np.where(X[user] > 0, 3.0, 1.0)[:, None]
        normal = items.T @ (weights * items) + np.eye(4)
        wanted = np.linalg.solve(normal, items.T @ (weights[:, 0] * X[user]))
        np.testing.assert_allclose(users[user], wanted, atol=2e-2)


@pytest.mark.parametrize("name", REFERENCES)
def test_what_is_not_given_is_chosen_on_validation(name: str) -> None:
    cls, task = plugins.get("backbone", name), validation_task(DATA)
    assert cls.reference
    model: Any
    model, result = train_backbone(cls, cls.Config(), INPUTS, None, {"valid": task}, TrainConfig(), 0)
    assert not result.history
    option, tried = ("neighbours", cls.NUMBERS) if "knn" in name else ("l2", cls.GRID)
    values = {}
    others = {"shrinkage": model.shrinkage.item()} if name == "itemknn" else {}
    for value in tried:
        fixed = {option: value, **others}
        values[value] = evaluate(build(cls, **fixed).scorer(), task, ["ndcg@20"]).mean()["ndcg@20"]
    assert values[getattr(model, option).item()] == max(values.values())
    given, _ = train_backbone(
        cls, cls.Config.build({option: tried[0]}), INPUTS, None, {"valid": task}, TrainConfig(), 0
    )
    assert getattr(given, option) == tried[0]


def test_an_item_of_two_users_by_hand() -> None:
    # x = (1, 1): G = 1, so B = 1 - P / diag(P) of P = ((1 + λ, 1), (1, 1 + λ))^-1, whose off-diagonal is 1 / (1 + λ)
    one = Inputs(1, 2, Interactions(np.array([0, 0]), np.array([0, 1])))
    model = Ease(EaseConfig(l2=3.0), one, torch.Generator())
    torch.testing.assert_close(
        model.scorer()(torch.tensor([0]), torch.arange(2)), torch.full((1, 2), 1 / 4), check_dtype=False
    )
