"""Every backbone keeps to the contract, and computes its equations."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from reclm import plugins
from reclm.backbones.lightgcn import BipartiteGraph, LightGCN, LightGCNConfig
from reclm.data.dataset import Interactions
from reclm.profiles.matrix import ProfileMatrix
from reclm.recommend.base import Inputs
from reclm.recommend.embedding import EmbeddingBackbone
from reclm.recommend.training import TrainConfig, TripleSampler, make_optimizer
from reclm.testing import checkerboard, features

DATA = checkerboard()
PLAIN = Inputs(len(DATA.users), len(DATA.items), DATA.train, features(DATA))


def profiles(count: int) -> ProfileMatrix:
    vectors = np.random.default_rng(1).normal(size=(count, 6)).astype(np.float32)
    return ProfileMatrix(vectors, np.ones(count, bool))


AUGMENTED = replace(PLAIN, user_profiles=profiles(PLAIN.users), item_profiles=profiles(PLAIN.items))


def build(name: str, inputs: Inputs = PLAIN, **options: object) -> EmbeddingBackbone:
    cls = plugins.get("backbone", name)
    model = cls(cls.Config.build({"dim": 4, **options}), inputs, torch.Generator().manual_seed(0))
    model.begin_epoch(torch.Generator().manual_seed(1))
    return model


def triples(n: int = 16) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    users, positives, negatives = TripleSampler(DATA.train, PLAIN.users, PLAIN.items).epoch(
        torch.Generator().manual_seed(0)
    )
    return users[:n], positives[:n], negatives[:n]


LEARNERS = [name for name in plugins.names("backbone") if plugins.get("backbone", name).trains]


@pytest.mark.parametrize("name", LEARNERS)
@pytest.mark.parametrize("items", ["id", "text", "id+text"])
@pytest.mark.parametrize("inputs", [PLAIN, AUGMENTED], ids=["base", "augment"])
class TestEveryBackbone:
    @pytest.mark.parametrize("unit", [False, True])
    def test_scores_are_what_softmax_ranks(self, name: str, items: str, inputs: Inputs, unit: bool) -> None:
        options = {"ssl": 0.0} if name in ("sgl", "simgcl") else {}
        options |= {"loss": "softmax", "l2": 0.0, "unit": unit, "score_temperature": 0.5}
        model = build(name, inputs, items=items, **options).eval()
        users, positives, negatives = triples()
        trained = torch.from_numpy(np.unique(DATA.train.item_idx))
        touched = torch.from_numpy(DATA.train.matrix(PLAIN.users, PLAIN.items).toarray() > 0)[users]
        touched[torch.arange(len(users)), positives] = False
        scores = model.scorer()(users, torch.arange(PLAIN.items)) / 0.5
        scores = scores.masked_fill(touched, -torch.inf)[:, trained]
        expected = F.cross_entropy(scores, torch.searchsorted(trained, positives))
        torch.testing.assert_close(model.loss(users, positives, negatives).detach(), expected)

    def test_every_parameter_gets_a_gradient_of_softmax(self, name: str, items: str, inputs: Inputs) -> None:
        graph = {"as_new": 0.3} if name in ("lightgcn", "sgl", "simgcl") else {}
        modern = {"loss": "softmax", "unit": True, "id_dropout": 0.3, "text_dropout": 0.2, "text_layers": 1}
        model = build(name, inputs, items=items, **graph, **modern)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1)
        model.loss(*triples()).backward()
        for label, parameter in model.named_parameters():
            assert parameter.grad is not None, label
            assert parameter.grad.abs().sum() > 0, label

    def test_scores_are_what_the_loss_ranks(self, name: str, items: str, inputs: Inputs) -> None:
        plain = {"ssl": 0.0} if name in ("sgl", "simgcl") else {}
        model = build(name, inputs, items=items, l2=0.0, **plain).eval()
        users, positives, negatives = triples()
        scores = model.scorer()(users, torch.arange(PLAIN.items))
        rows = torch.arange(len(users))
        expected = -torch.log(torch.sigmoid(scores[rows, positives] - scores[rows, negatives])).mean()
        torch.testing.assert_close(model.loss(users, positives, negatives).detach(), expected)

    def test_l2_is_of_the_layer_0_features_of_the_triples(
        self, name: str, items: str, inputs: Inputs
    ) -> None:
        users, positives, negatives = triples()
        with_l2, without = (build(name, inputs, items=items, l2=l2) for l2 in (0.5, 0.0))
        x, y = without.user_features(), without.item_features()
        squares = sum(one.square().sum() for one in (x[users], y[positives], y[negatives]))
        difference = with_l2.loss(users, positives, negatives) - without.loss(users, positives, negatives)
        torch.testing.assert_close(difference, 0.5 * 0.5 * squares / len(users), rtol=1e-4, atol=1e-5)

    def test_candidates_are_scored_in_the_order_given(self, name: str, items: str, inputs: Inputs) -> None:
        scorer = build(name, inputs, items=items).scorer()
        some = torch.tensor([7, 0, 3])
        everything = scorer(torch.arange(5), torch.arange(PLAIN.items))
        torch.testing.assert_close(scorer(torch.arange(5), some), everything[:, some])

    def test_every_parameter_gets_a_gradient(self, name: str, items: str, inputs: Inputs) -> None:
        model = build(name, inputs, items=items)
        with torch.no_grad():  # ReLUs that are all off at the start would hide a missing path
            for parameter in model.parameters():
                parameter.add_(0.1)
        model.loss(*triples()).backward()
        for label, parameter in model.named_parameters():
            assert parameter.grad is not None, label
            assert parameter.grad.abs().sum() > 0, label

    def test_equal_seeds_give_equal_weights_whatever_the_global_state(
        self, name: str, items: str, inputs: Inputs
    ) -> None:
        states = []
        for seed in (1, 2):
            torch.manual_seed(seed)
            model = build(name, inputs, items=items)
            model.loss(*triples()).backward()
            states.append({key: (one.detach(), one.grad) for key, one in model.named_parameters()})
        for key, (weight, gradient) in states[0].items():
            assert torch.equal(weight, states[1][key][0])
            assert torch.equal(gradient, states[1][key][1])

    def test_permuting_users_with_their_rows_permutes_scores(
        self, name: str, items: str, inputs: Inputs
    ) -> None:
        model = build(name, inputs, items=items)
        order = torch.randperm(PLAIN.users, generator=torch.Generator().manual_seed(3))
        back = torch.argsort(order)
        moved = replace(
            inputs,
            train=Interactions(back.numpy()[DATA.train.user_idx], DATA.train.item_idx),
            user_profiles=inputs.user_profiles
            and ProfileMatrix(inputs.user_profiles.vectors[order.numpy()], inputs.user_profiles.present),
        )
        other = build(name, moved, items=items)
        with torch.no_grad():
            other.user_embedding.copy_(model.user_embedding[order])
        every = torch.arange(PLAIN.items)
        torch.testing.assert_close(
            other.scorer()(torch.arange(PLAIN.users), every),
            model.scorer()(order, every),
            rtol=1e-4,
            atol=1e-6,
        )


@pytest.mark.parametrize("name", LEARNERS)
def test_one_step_by_hand(name: str) -> None:
    """Adam's first step moves each weight by lr against the sign of its gradient."""
    model = build(name)
    before = {key: value.detach().clone() for key, value in model.named_parameters()}
    loss = build(name).loss(*triples())
    twin = build(name)
    gradients = dict(
        zip(before, torch.autograd.grad(twin.loss(*triples()), list(twin.parameters())), strict=True)
    )
    optimizer = make_optimizer(model, TrainConfig(lr=0.01))
    own = model.loss(*triples())
    torch.testing.assert_close(own, loss)
    own.backward()
    optimizer.step()
    for key, value in model.named_parameters():
        expected = before[key] - 0.01 * gradients[key] / (gradients[key].abs() + 1e-8)
        torch.testing.assert_close(value.detach(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("layers", [1, 2, 3, 4])
def test_lightgcn_sums_the_layers_of_its_equation(layers: int) -> None:
    model = LightGCN(LightGCNConfig(dim=4, layers=layers), PLAIN, torch.Generator().manual_seed(0))
    matrix = torch.from_numpy(DATA.train.matrix(PLAIN.users, PLAIN.items).toarray())
    norm = (
        matrix / (matrix.sum(1, keepdim=True).clamp(min=1) * matrix.sum(0, keepdim=True).clamp(min=1)).sqrt()
    )
    user, item = model.user_features(), model.item_features()
    total = user
    for _ in range(layers):
        user, item = norm @ item, norm.T @ user
        total = total + user
    torch.testing.assert_close(model.represent(model.user_features(), model.item_features())[0], total)


def test_lightgcn_layer_equals_pytorch_geometrics() -> None:
    lg_conv = pytest.importorskip("torch_geometric.nn").LGConv()
    graph = BipartiteGraph(DATA.train.matrix(PLAIN.users, PLAIN.items))
    x = torch.randn(PLAIN.users + PLAIN.items, 4, generator=torch.Generator().manual_seed(0))
    edges = torch.from_numpy(np.stack([DATA.train.user_idx, DATA.train.item_idx + PLAIN.users]))
    theirs = lg_conv(x, torch.cat([edges, edges.flip(0)], 1))
    torch.testing.assert_close(graph.users_from(x[PLAIN.users :]), theirs[: PLAIN.users])
    torch.testing.assert_close(graph.items_from(x[: PLAIN.users]), theirs[PLAIN.users :])


def test_graph_gradient_is_the_transposed_product() -> None:
    graph = BipartiteGraph(DATA.train.matrix(PLAIN.users, PLAIN.items))
    x = torch.randn(PLAIN.items, 3, requires_grad=True)
    graph.users_from(x).square().sum().backward()
    dense = graph.to_users.to_dense()
    torch.testing.assert_close(x.grad, 2 * dense.T @ (dense @ x.detach()))
