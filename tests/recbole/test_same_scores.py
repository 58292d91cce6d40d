"""Same weights, same scores: our LightGCN given RecBole's parameters."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from reclm.backbones.lightgcn import LightGCN, LightGCNConfig
from reclm.data.dataset import Dataset
from reclm.recommend.base import Inputs


@pytest.mark.parametrize("layers", [1, 3])
def test_lightgcn_scores_as_recboles(
    recbole_lightgcn: Callable[..., Any], dataset: Dataset, layers: int
) -> None:
    reference = recbole_lightgcn(dataset, layers=layers)
    config = LightGCNConfig.build({"items": "id", "dim": 8, "layers": layers})
    inputs = Inputs(len(dataset.users), len(dataset.items), dataset.train)
    ours = LightGCN(config, inputs, torch.Generator().manual_seed(0))
    with torch.no_grad():
        ours.user_embedding.copy_(reference.users)
        ours.item_embedding.copy_(reference.items)
    scores = ours.scorer()(torch.arange(inputs.users), torch.arange(inputs.items))
    torch.testing.assert_close(scores, reference.scores, rtol=0, atol=1e-5)
    graph = ours.graph.to_users.to_dense()
    # RecBole adds 1e-7 to each degree
    torch.testing.assert_close(graph, torch.from_numpy(reference.adjacency.toarray()), rtol=0, atol=1e-6)
