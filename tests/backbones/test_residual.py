"""The residual term: nothing at first, nothing without a profile, and something once it is trained."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from reclm import plugins
from reclm.profiles.matrix import ProfileMatrix
from reclm.recommend.base import Inputs
from reclm.recommend.recipes import RECIPES
from reclm.testing import checkerboard, features, profiles

DATA = checkerboard()
PLAIN = Inputs(len(DATA.users), len(DATA.items), DATA.train, features(DATA))
TOLD = profiles(DATA)
EVERYBODY = replace(PLAIN, user_profiles=TOLD["user"], item_profiles=TOLD["item"], fusion="residual")
EVEN = {kind: ProfileMatrix(told.vectors, np.arange(len(told)) % 2 == 0) for kind, told in TOLD.items()}
SOME = replace(EVERYBODY, user_profiles=EVEN["user"], item_profiles=EVEN["item"])
LEARNED = [name for name in plugins.names("backbone") if plugins.get("backbone", name).trains]
ALL = torch.arange(PLAIN.users), torch.arange(PLAIN.items)


def build(name: str, inputs: Inputs, **options: Any) -> Any:
    cls = plugins.get("backbone", name)
    recipe = {key: value for key, value in RECIPES["default"].model.items() if key in cls.Config.model_fields}
    config = cls.Config.build(recipe | {"dim": 8} | options)
    return cls(config, inputs, torch.Generator().manual_seed(3)).eval()


def opened(model: Any) -> Any:
    """The model with gates that are open."""
    with torch.no_grad():
        for fusion in (model.user_fusion, model.item_fusion):
            fusion.mlp.gate.add_(1.0)
    return model


@pytest.mark.parametrize("name", LEARNED)
@pytest.mark.parametrize("items", ["id", "text", "id+text"])
def test_a_model_begins_as_the_plain_one(name: str, items: str) -> None:
    plain, residual = build(name, PLAIN, items=items), build(name, EVERYBODY, items=items)
    assert torch.equal(residual.scorer()(*ALL), plain.scorer()(*ALL))
    assert not torch.equal(opened(residual).scorer()(*ALL), plain.scorer()(*ALL))
    for weight, own in plain.state_dict().items():
        assert torch.equal(residual.state_dict()[weight], own), weight


def test_users_and_items_without_a_profile_are_those_of_the_plain_model() -> None:
    plain, model = build("biasmf", PLAIN), opened(build("biasmf", SOME))
    for side in ("user_features", "item_features"):
        own, without = getattr(model, side)(), getattr(plain, side)()
        assert torch.equal(own[1::2], without[1::2])
        assert (own[::2] != without[::2]).any(dim=1).all()
        rows = torch.tensor([5, 0, 5, 3])
        torch.testing.assert_close(getattr(model, side)(rows), own[rows])
    text = torch.from_numpy(features(DATA))
    assert torch.equal(model.add_items(text), plain.add_items(text))
    none = ProfileMatrix(np.ones_like(TOLD["item"].vectors), np.zeros(len(text), bool))
    assert torch.equal(model.add_items(text, none), plain.add_items(text))
    assert not torch.equal(model.add_items(text, TOLD["item"]), plain.add_items(text))


def test_the_term_is_the_gate_times_a_linear_map() -> None:
    model = opened(build("biasmf", EVERYBODY))
    term, vectors = model.user_fusion.mlp, torch.from_numpy(TOLD["user"].vectors)
    expected = model.user_embedding + term.gate * (vectors @ term.tower.weight.T)
    torch.testing.assert_close(model.user_features(), expected)
    edited = {4: TOLD["user"].vectors[1]}
    torch.testing.assert_close(
        model.representations(edited)[0][4],
        model.user_embedding[4] + term.gate * (vectors[1] @ term.tower.weight.T) + model.bias[0],
    )


@pytest.mark.parametrize("name", LEARNED)
def test_a_step_opens_the_gate_and_a_second_one_turns_the_map(name: str) -> None:
    model = build(name, EVERYBODY).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    model.begin_epoch(torch.Generator().manual_seed(0))
    drawn = model.item_fusion.mlp.tower.weight.detach().clone()
    batch = torch.tensor([0, 1, 2]), torch.tensor([0, 1, 2]), torch.tensor([1, 2, 3])
    for _ in range(2):
        optimizer.zero_grad()
        model.loss(*batch).backward()
        optimizer.step()
    for fusion in (model.user_fusion, model.item_fusion):
        assert fusion.mlp.gate.abs().min() > 0
    assert not torch.allclose(model.item_fusion.mlp.tower.weight, drawn * (1 - 2e-4), atol=1e-3)


def test_profiles_are_dropped_out_as_text_is_by_the_generator_of_the_epoch() -> None:
    model = opened(build("biasmf", EVERYBODY, text_dropout=0.5)).train()

    def drawn(seed: int) -> torch.Tensor:
        torch.manual_seed(seed + 5)
        model.begin_epoch(torch.Generator().manual_seed(seed))
        return model.user_features()

    assert torch.equal(drawn(0), drawn(0))
    assert not torch.equal(drawn(0), drawn(1))
    assert not torch.equal(drawn(0), model.eval().user_features())
