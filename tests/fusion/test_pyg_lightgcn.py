"""PyG's LightGCN, which keeps users and items in one embedding."""

from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import reclm
from reclm.data.dataset import Dataset
from reclm.fusion.augment import Augmented
from reclm.testing import checkerboard, profiles

U, I = 40, 40  # noqa: E741
SIDES: dict[str, Any] = {"users": "embedding", "items": "embedding"}
ROWS: dict[str, Any] = {"user_rows": np.arange(U), "item_rows": np.arange(U, U + I)}


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return checkerboard(users=U, items=I, cold=12)


@pytest.fixture
def models(pyg_lightgcn: ModuleType, dataset: Dataset) -> tuple[Any, Any]:
    """The same model twice, plain and augmented."""
    plain, model = (pyg_lightgcn.LightGCN(U + I, 8, 2) for _ in range(2))
    model.load_state_dict(plain.state_dict())
    reclm.augment(model, profiles(dataset), data=dataset, **SIDES, **ROWS)
    return plain, model


def dense(table: Tensor, dataset: Dataset) -> Tensor:
    """``1/3 Σ_l (D^-½ A D^-½)^l e`` by a dense matrix: arXiv 2002.02126, equations 3 and 4."""
    touched = torch.zeros(U + I, U + I)
    users, items = torch.tensor(dataset.train.user_idx), torch.tensor(dataset.train.item_idx) + U
    touched[users, items] = touched[items, users] = 1
    scale = touched.sum(1).clamp(min=1).rsqrt()
    graph = scale[:, None] * touched * scale
    return (table + graph @ table + graph @ graph @ table) / 3


def test_the_example_runs(pyg_lightgcn: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    pyg_lightgcn.main()
    assert "40 of 40 items have a profile; 12 are cold, 0 of them without" in capsys.readouterr().out


def test_the_graph_propagates_fused_rows(
    pyg_lightgcn: ModuleType, dataset: Dataset, models: tuple[Any, Any]
) -> None:
    plain, model = models
    edges = pyg_lightgcn.graph(dataset)
    for one in models:
        torch.testing.assert_close(one.get_embedding(edges), dense(one.embedding.weight, dataset))
    with Augmented(model).off():
        assert torch.equal(model(edges), plain(edges))
    assert not torch.allclose(model(edges), plain(edges))


def test_it_trains_and_ranks_items_that_nobody_has_touched(
    pyg_lightgcn: ModuleType, dataset: Dataset, models: tuple[Any, Any]
) -> None:
    plain, model = models
    edges = pyg_lightgcn.graph(dataset)
    losses = pyg_lightgcn.train(model, edges, dataset)
    assert losses[-1] < 0.25 * losses[0]
    assert pyg_lightgcn.recall(model, edges, dataset, "full-shot") > 0.95
    assert pyg_lightgcn.recall(model, edges, dataset, "zero-shot") > 0.95
    pyg_lightgcn.train(plain, edges, dataset)
    assert pyg_lightgcn.recall(plain, edges, dataset, "zero-shot") < 0.75


def test_baked_it_is_pygs_model_again(
    pyg_lightgcn: ModuleType, dataset: Dataset, models: tuple[Any, Any]
) -> None:
    plain, model = models
    edges = pyg_lightgcn.graph(dataset)
    expected = model(edges)
    plain.load_state_dict(reclm.remove(model).state_dict())
    torch.testing.assert_close(plain(edges), expected, rtol=0, atol=1e-6)
