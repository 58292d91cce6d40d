"""A small data set, its profiles, and RecBole's own LightGCN as a reference."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy import sparse

from reclm import testing
from reclm.data.dataset import Dataset, ProfileKind
from reclm.profiles.matrix import ProfileMatrix

Settings = Callable[[str], dict[str, Any]]


@pytest.fixture
def settings() -> Settings:
    """``settings(model)``: what RecBole is told where a test says nothing else; small and short."""

    def of(model: str) -> dict[str, Any]:
        own: dict[str, Any] = {"embedding_size": 8}
        if model == "NeuMF":
            own = {
                "mf_embedding_size": 8,
                "mlp_embedding_size": 8,
                "mlp_hidden_size": [8],
                "dropout_prob": 0.0,
            }
        return own | {"epochs": 2, "topk": [5], "valid_metric": "NDCG@5", "train_batch_size": 64}

    return of


@pytest.fixture(autouse=True)
def _with_recbole() -> None:
    pytest.importorskip(
        "recbole.trainer", reason="needs RecBole: pip install reclm-toolkit[recbole]", exc_type=ImportError
    )


@pytest.fixture
def dataset() -> Dataset:
    """24 users, 20 items of which 4 are cold."""
    return testing.checkerboard()


@pytest.fixture
def profiles(dataset: Dataset) -> dict[ProfileKind, ProfileMatrix]:
    """Everybody's parity."""
    return testing.profiles(dataset)


@dataclass(frozen=True, eq=False)
class Reference:
    """RecBole's LightGCN, in the rows of our data set.

    Attributes:
        users, items: the layer-0 embeddings, ``(U, d)`` and ``(I, d)``.
        adjacency: the normalised interactions ``R̂ (U, I)``, from RecBole's adjacency matrix.
        final_users, final_items: after propagation, same shapes.
        scores: RecBole's full-sort scores, ``(U, I)``.
    """

    users: torch.Tensor
    items: torch.Tensor
    adjacency: sparse.csr_array
    final_users: torch.Tensor
    final_items: torch.Tensor
    scores: torch.Tensor


@pytest.fixture
def recbole_lightgcn(tmp_path: Path, settings: Settings) -> Callable[..., Reference]:
    """``recbole_lightgcn(dataset, layers=2, dim=8)``: an untrained LightGCN of RecBole's and what it computes."""

    def reference(dataset: Dataset, layers: int = 2, dim: int = 8) -> Reference:
        from reclm.recbole.bridge import open_recbole

        config = settings("LightGCN") | {"n_layers": layers, "embedding_size": dim}
        one = open_recbole("LightGCN", dataset, tmp_path / f"lightgcn-{layers}-{dim}", config)
        model: Any = one.model
        user_rows, item_rows = one.rows["user"], one.rows["item"]
        everybody = torch.arange(len(dataset.users)), torch.arange(len(dataset.items))
        with torch.no_grad():
            final_users, final_items = model.forward()
            scores = one.scorer()(*everybody)
        matrix = model.norm_adj_matrix.coalesce()
        rows, columns = matrix.indices().numpy()
        whole = sparse.coo_array((matrix.values().numpy(), (rows, columns)), shape=matrix.shape).tocsr()
        return Reference(
            model.user_embedding.weight.detach()[user_rows],
            model.item_embedding.weight.detach()[item_rows],
            whole[user_rows][:, model.n_users + item_rows],
            final_users[user_rows],
            final_items[item_rows],
            scores,
        )

    return reference
