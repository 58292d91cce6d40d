"""Same weights, same scores as PyTorch Geometric's LightGCN; the same loss."""

import numpy as np
import pytest
import torch

from reclm.backbones.lightgcn import LightGCN, LightGCNConfig
from reclm.recommend.base import Inputs
from reclm.recommend.losses import bpr_loss
from reclm.testing import checkerboard

DATA = checkerboard()
INPUTS = Inputs(len(DATA.users), len(DATA.items), DATA.train)
theirs = pytest.importorskip("torch_geometric.nn.models.lightgcn")


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_lightgcn_scores_as_pytorch_geometrics(layers: int) -> None:
    config = LightGCNConfig.build({"items": "id", "dim": 8, "layers": layers, "l2": 0.0})
    ours = LightGCN(config, INPUTS, torch.Generator().manual_seed(0))
    other = theirs.LightGCN(INPUTS.users + INPUTS.items, 8, num_layers=layers)
    assert ours.item_embedding is not None
    with torch.no_grad():
        other.embedding.weight.copy_(torch.cat([ours.user_embedding, ours.item_embedding]))
    edges = torch.from_numpy(np.stack([DATA.train.user_idx, DATA.train.item_idx + INPUTS.users]))
    edges = torch.cat([edges, edges.flip(0)], 1)
    every = torch.cartesian_prod(torch.arange(INPUTS.users), INPUTS.users + torch.arange(INPUTS.items)).T
    with torch.no_grad():
        expected = other(edges, every).view(INPUTS.users, INPUTS.items)
    scores = ours.scorer()(torch.arange(INPUTS.users), torch.arange(INPUTS.items))
    torch.testing.assert_close(scores, expected, rtol=0, atol=1e-5)

    users, positives, negatives = torch.tensor([0, 3, 5]), torch.tensor([2, 1, 3]), torch.tensor([1, 4, 0])
    rows = torch.arange(3)
    own = ours.loss(users, positives, negatives)
    chosen = expected[users]
    torch.testing.assert_close(
        own, other.recommendation_loss(chosen[rows, positives], chosen[rows, negatives], lambda_reg=0.0)
    )


def test_bpr_equals_pytorch_geometrics() -> None:
    positive, negative = torch.randn(2, 50, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(bpr_loss(positive, negative), theirs.BPRLoss(0)(positive, negative))
