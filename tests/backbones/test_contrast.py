"""SGL and SimGCL agree with their equations written out densely."""

import numpy as np
import pytest
import torch
from scipy import sparse
from torch.nn import functional as F

from reclm.backbones.lightgcn import BipartiteGraph, LightGCN, LightGCNConfig
from reclm.backbones.sgl import SGL, SGLConfig
from reclm.backbones.simgcl import SimGCL, SimGCLConfig
from reclm.recommend.base import Inputs
from reclm.testing import checkerboard, features

DATA = checkerboard()
INPUTS = Inputs(len(DATA.users), len(DATA.items), DATA.train, features(DATA))
TRIPLES = torch.tensor([0, 1, 1, 5]), torch.tensor([2, 3, 3, 4]), torch.tensor([1, 0, 2, 7])


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def dense(graph: BipartiteGraph) -> torch.Tensor:
    """The ``(U + I)`` square adjacency with its normalisation, from the edges alone."""
    edges = torch.from_numpy(graph.interactions.toarray())
    users, items = edges.shape
    adjacency = torch.zeros(users + items, users + items)
    adjacency[:users, users:], adjacency[users:, :users] = edges, edges.T
    degree = adjacency.sum(1).clamp(min=1)
    return adjacency / (degree[:, None] * degree).sqrt()


def contrast(
    first: torch.Tensor, second: torch.Tensor, rows: torch.Tensor, tau: float, all_keys: bool
) -> torch.Tensor:
    first, second = F.normalize(first, dim=1), F.normalize(second, dim=1)
    keys = second if all_keys else second[rows]
    target = rows if all_keys else torch.arange(len(rows))
    return F.cross_entropy(first[rows] @ keys.T / tau, target)


@pytest.mark.parametrize("negatives", ["all", "batch"])
@pytest.mark.parametrize("damage", ["edge-dropout", "node-dropout", "random-walk"])
def test_sgl_loss_is_its_equation(damage: str, negatives: str) -> None:
    config = SGLConfig.build(
        {"items": "id", "dim": 4, "damage": damage, "drop_rate": 0.3, "ssl": 0.7, "negatives": negatives}
    )
    model = SGL(config, INPUTS, seeded())
    model.begin_epoch(seeded(1))
    plain = LightGCN(LightGCNConfig(items="id", dim=4), INPUTS, seeded())
    layer0 = torch.cat([model.user_features(), model.item_features()])
    views = []
    assert model.views is not None
    for view in model.views:
        layers = [layer0]
        for graph in view:
            layers.append(dense(graph) @ layers[-1])
        views.append(torch.stack(layers).mean(0).split([INPUTS.users, INPUTS.items]))
    (user_1, item_1), (user_2, item_2) = views
    expected = plain.loss(*TRIPLES) + 0.7 * (
        contrast(user_1, user_2, torch.tensor([0, 1, 5]), 0.2, negatives == "all")
        + contrast(item_1, item_2, torch.tensor([2, 3, 4]), 0.2, negatives == "all")
    )
    torch.testing.assert_close(model.loss(*TRIPLES), expected)


def differ(one: BipartiteGraph, other: BipartiteGraph) -> bool:
    return not np.array_equal(one.interactions.toarray(), other.interactions.toarray())


def test_random_walk_damages_each_layer_anew_and_the_others_do_not() -> None:
    for damage, distinct in (("random-walk", 2), ("edge-dropout", 1), ("node-dropout", 1)):
        model = SGL(SGLConfig.build({"damage": damage, "drop_rate": 0.5}), INPUTS, seeded())
        model.begin_epoch(seeded(1))
        assert model.views is not None
        first, second = model.views
        assert len({id(graph) for graph in first}) == distinct
        assert differ(first[0], second[0])
        model.begin_epoch(seeded(2))
        assert differ(first[0], model.views[0][0]), "a new epoch, new views"


def test_dropped_edges_and_nodes_have_the_rate_that_was_asked_for() -> None:
    rng = np.random.default_rng(0)
    full = sparse.csr_array((rng.random((400, 300)) < 0.3).astype(np.float32))
    graph = BipartiteGraph(full)
    edges = graph.without_edges(0.25, seeded()).interactions
    assert edges.nnz / full.nnz == pytest.approx(0.75, abs=0.01)
    assert (full.toarray() >= edges.toarray()).all(), "no new edge"
    nodes = graph.without_nodes(0.25, seeded()).interactions
    gone_users, gone_items = nodes.sum(1) == 0, nodes.sum(0) == 0
    assert gone_users.mean() == pytest.approx(0.25, abs=0.06)
    assert gone_items.mean() == pytest.approx(0.25, abs=0.07)
    kept = np.ix_(~gone_users, ~gone_items)
    assert np.array_equal(nodes.toarray()[kept], full.toarray()[kept]), "what is between kept nodes stays"


@pytest.mark.parametrize("items", ["id", "text"])
@pytest.mark.parametrize("layers", [1, 3])
def test_simgcl_loss_is_its_equation(items: str, layers: int) -> None:
    config = SimGCLConfig.build({"items": items, "dim": 4, "layers": layers, "ssl": 0.7, "l2": 0.3})
    model = SimGCL(config, INPUTS, seeded())
    model.begin_epoch(seeded(1))
    loss = model.loss(*TRIPLES)

    # the same noise again: a layer draws for users, then for items, both views beside each other; the last layer for
    # the rows of the batch alone
    model.begin_epoch(seeded(1))
    rows = torch.tensor([0, 1, 5]), torch.tensor([2, 3, 4])
    random = model._noise
    assert random is not None
    adjacency = dense(model.graph)
    layer0 = torch.cat([model.user_features(), model.item_features()])
    plain, views = layer0, [layer0, layer0]
    plain_sum, view_sums = torch.zeros_like(layer0), [torch.zeros_like(layer0)] * 2
    for layer in range(1, layers + 1):
        plain = adjacency @ plain
        views = [adjacency @ view for view in views]
        drawn = torch.zeros(INPUTS.users + INPUTS.items, 2, 4)
        for start, count, some in ((0, INPUTS.users, rows[0]), (INPUTS.users, INPUTS.items, rows[1])):
            at = start + (some if layer == layers else torch.arange(count))
            drawn[at] = torch.from_numpy(random.random((len(at), 8), dtype=np.float32)).view(-1, 2, 4)
        for k in range(2):
            views[k] = views[k] + 0.1 * views[k].sign() * F.normalize(drawn[:, k], dim=1)
        plain_sum = plain_sum + plain
        view_sums = [total + view for total, view in zip(view_sums, views, strict=True)]
    user, item = plain_sum.split([INPUTS.users, INPUTS.items])
    if items == "id":
        user, item = user / layers, item / layers
    else:
        user, item = user + layer0[: INPUTS.users], layer0[INPUTS.users :]
    users, positives, negatives = TRIPLES
    x, y = layer0.split([INPUTS.users, INPUTS.items])
    difference = (user[users] * (item[positives] - item[negatives])).sum(1)
    squares = sum(rows.square().sum() for rows in (x[users], y[positives], y[negatives]))
    expected = -F.logsigmoid(difference).mean() + 0.3 * squares / 2 / len(users)
    for start, some in zip((0, INPUTS.users), rows, strict=True):
        expected = expected + 0.7 * contrast(view_sums[0][start:], view_sums[1][start:], some, 0.2, False)
    torch.testing.assert_close(loss, expected)
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    for own, theirs in zip(gradients, torch.autograd.grad(expected, list(model.parameters())), strict=True):
        torch.testing.assert_close(own, theirs)


def test_simgcl_noise_has_its_length_and_the_sign_of_what_it_joins() -> None:
    model = SimGCL(SimGCLConfig(dim=4, noise=0.3), INPUTS, seeded())
    model.begin_epoch(seeded(1))
    plain = torch.tensor([[1.0, -2.0, 3.0, -4.0], [0.0, 0.0, 0.0, 0.0]])
    carried = torch.zeros(2, 8)
    carried[0, 4] = -5.0  # turns the sign of the second view's first place
    first, second = (model._noisy(plain, carried) - carried).chunk(2, dim=1)
    for added, sign in ((first, [1, -1, 1, -1]), (second, [-1, -1, 1, -1])):
        assert added[0].norm().item() == pytest.approx(0.3)
        assert added[0].sign().tolist() == sign
        assert torch.equal(added[1], torch.zeros(4)), "a node without neighbours stays at zero"
    assert not torch.equal(first.abs(), second.abs())


@pytest.mark.parametrize(("cls", "config"), [(SGL, SGLConfig), (SimGCL, SimGCLConfig)])
def test_a_loss_before_the_epoch_begins_says_so(cls: type[LightGCN], config: type[LightGCNConfig]) -> None:
    with pytest.raises(RuntimeError, match="begin_epoch"):
        cls(config(dim=4), INPUTS, seeded()).loss(*TRIPLES)
