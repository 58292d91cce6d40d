import numpy as np
import pytest
import torch

from reclm.backbones.ncf import NCF, NCFConfig
from reclm.data.dataset import Interactions
from reclm.recommend.base import Inputs

INPUTS = Inputs(9, 14, Interactions(np.arange(9), np.arange(9)))


@pytest.mark.parametrize("hidden", [1, 5])
def test_all_pairs_equal_the_pairs_one_by_one(hidden: int) -> None:
    model = NCF(NCFConfig(items="id", dim=6, hidden=hidden), INPUTS, torch.Generator().manual_seed(0))
    with torch.no_grad():
        model.from_user.bias.add_(0.3)
        model.out.copy_(torch.linspace(-1, 2, hidden))  # of both signs
        users, items = model.user_features(), model.item_features()
        expected = torch.stack([model.pair_scores(user.expand(14, -1), items) for user in users])
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
    # GMF 2·5·1 + 3·1·(-2) = 4; hidden ReLU(1 - 1 + .5) = .5 and ReLU(2 + 3 - 9) = 0
    user, item = torch.tensor([[5.0, 1.0, 1.0, 2.0]]), torch.tensor([[1.0, -2.0, 3.0, -1.0]])
    assert model.pair_scores(user, item).item() == pytest.approx(4 - 4 * 0.5)
    model._kept = torch.tensor([[2.0, 2.0]])
    assert model.pair_scores(user, item).item() == pytest.approx(4 - 4 * 0.5 * 2)


def test_it_begins_as_matrix_factorisation() -> None:
    model = NCF(NCFConfig(items="id", dim=6), INPUTS, torch.Generator().manual_seed(0))
    users, items = model.user_embedding[:, :6], model.item_embedding[:, :6]
    scores = model.scorer()(torch.arange(9), torch.arange(14))
    torch.testing.assert_close(scores, (users @ items.T).detach())


def test_dropout_is_drawn_from_the_epochs_generator_while_training_only() -> None:
    model = NCF(NCFConfig(items="id", dim=6, hidden_dropout=0.4), INPUTS, torch.Generator().manual_seed(0))
    model.begin_epoch(torch.Generator().manual_seed(1))
    kept = model._dropout_mask(2000)
    assert kept.unique().tolist() == pytest.approx([0, 1 / 0.6])
    assert (kept == 0).float().mean().item() == pytest.approx(0.4, abs=0.02)
    with torch.no_grad():
        model.out.fill_(1.0)
    triples = torch.arange(4), torch.arange(4), torch.arange(4, 8)
    losses = []
    for _ in range(2):
        model.begin_epoch(torch.Generator().manual_seed(2))
        losses.append(model.train().loss(*triples).item())
    assert losses[0] == losses[1]
    assert model.eval().loss(*triples).item() != losses[0]
    model.random = None
    with pytest.raises(RuntimeError, match="begin_epoch"):
        model.train().loss(*triples)
