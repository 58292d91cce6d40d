import numpy as np
import pytest
import torch

from reclm.backbones.base import Inputs
from reclm.backbones.ncf import NCF, NCFConfig
from reclm.data.dataset import Interactions

INPUTS = Inputs(9, 14, Interactions(np.arange(9), np.arange(9)))


@pytest.mark.parametrize("hidden", [1, 5])
def test_all_pairs_equal_the_pairs_one_by_one(hidden: int) -> None:
    model = NCF(NCFConfig(items="id", dim=6, hidden=hidden), INPUTS, torch.Generator().manual_seed(0))
    with torch.no_grad():
        model.from_user.bias.add_(0.3)
        users, items = model.user_features(), model.item_features()
        expected = torch.stack([model.score(user.expand(14, -1), items) for user in users])
        some = torch.tensor([3, 0, 11])
        torch.testing.assert_close(model.scorer()(torch.arange(9), torch.arange(14)), expected)
        torch.testing.assert_close(model.scorer()(torch.tensor([8, 2]), some), expected[[8, 2]][:, some])


def test_a_pair_by_hand() -> None:
    model = NCF(NCFConfig(items="id", dim=2, hidden=2), INPUTS, torch.Generator().manual_seed(0))
    with torch.no_grad():
        model.gmf.copy_(torch.tensor([[2.0, 3.0]]))
        model.from_user.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
        model.from_user.bias.copy_(torch.tensor([0.5, -9.0]))
        model.from_item.copy_(torch.tensor([[0.0, 1.0], [1.0, 0.0]]))
        model.out.copy_(torch.tensor([[-4.0, 7.0]]))
    # GMF 2·1·3 + 3·2·(-1) = 0; hidden ReLU(1 - 1 + .5) = .5 and ReLU(2 + 3 - 9) = 0
    score = model.score(torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, -1.0]]))
    assert score.item() == pytest.approx(-4 * 0.5)
