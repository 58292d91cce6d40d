"""Users and items that came after training."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import sparse

from reclm import plugins
from reclm.backbones.lightgcn import LightGCN, LightGCNConfig
from reclm.errors import BadInput
from reclm.profiles.matrix import ProfileMatrix
from reclm.recommend.base import Inputs
from reclm.recommend.embedding import EmbeddingBackbone
from reclm.recommend.training import TrainConfig, TripleSampler, train
from reclm.testing import checkerboard, features, profiles

DATA = checkerboard()
PLAIN = Inputs(len(DATA.users), len(DATA.items), DATA.train, features(DATA))
TOLD = profiles(DATA)
HALF = ProfileMatrix(TOLD["user"].vectors, np.arange(PLAIN.users) % 3 > 0)
AUGMENTED = replace(PLAIN, user_profiles=HALF, item_profiles=TOLD["item"])
HISTORIES = DATA.train.matrix(PLAIN.users, PLAIN.items)
GRAPHS = ["lightgcn", "sgl", "simgcl"]
LEARNERS = [*GRAPHS, "biasmf", "ncf"]
TEXT = torch.from_numpy(features(DATA))


def build(name: str, inputs: Inputs = PLAIN, **options: object) -> EmbeddingBackbone:
    cls = plugins.get("backbone", name)
    model = cls(cls.Config.build({"dim": 4, **options}), inputs, torch.Generator().manual_seed(0))
    return model.eval()


def history(*rows: list[int]) -> sparse.csr_array:
    dense = np.zeros((len(rows), PLAIN.items), np.float32)
    for row, items in enumerate(rows):
        dense[row, items] = 1
    return sparse.csr_array(dense)


@torch.no_grad()
def represented(model: EmbeddingBackbone) -> tuple[torch.Tensor, torch.Tensor]:
    return model.represent(model.user_features(), model.item_features())


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("items", ["id", "text", "id+text"])
@pytest.mark.parametrize("inputs", [PLAIN, AUGMENTED], ids=["base", "augment"])
@pytest.mark.parametrize("name", GRAPHS)
def test_with_a_trained_users_history_vector_and_profile_a_new_user_is_that_user(
    name: str, inputs: Inputs, items: str, layers: int
) -> None:
    model = build(name, inputs, items=items, layers=layers)
    new = model.new_users(model.user_embedding, inputs.user_profiles, HISTORIES)
    torch.testing.assert_close(new, represented(model)[0])


@pytest.mark.parametrize("inputs", [PLAIN, AUGMENTED], ids=["base", "augment"])
@pytest.mark.parametrize("name", ["biasmf", "ncf"])
def test_without_a_history_a_trained_users_vector_and_profile_make_that_user(
    name: str, inputs: Inputs
) -> None:
    model = build(name, inputs)
    new = model.new_users(model.user_embedding, inputs.user_profiles)
    torch.testing.assert_close(new, represented(model)[0])


@pytest.mark.parametrize("inputs", [PLAIN, AUGMENTED], ids=["base", "augment"])
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("name", LEARNERS)
def test_with_a_known_items_text_and_profile_a_new_item_is_that_item(
    name: str, normalize: bool, inputs: Inputs
) -> None:
    model = build(name, inputs, items="text", normalize=normalize)
    new = model.add_items(TEXT, inputs.item_profiles)
    users, items = represented(model)
    torch.testing.assert_close(new, items)
    everybody, everything = torch.arange(PLAIN.users), torch.arange(PLAIN.items)
    torch.testing.assert_close(
        model.scorer_of(users, new)(everybody, everything), model.scorer()(everybody, everything)
    )


def test_an_item_nobody_trained_on_scores_by_its_mean_layer_as_it_does_in_the_catalogue() -> None:
    model = build("lightgcn", items="id+text", layers=2)
    with torch.no_grad():
        mean = model.item_embedding[np.unique(DATA.train.item_idx)].mean(0)
        assert model.t_raw is not None
        expected = (mean + model.t_raw(TEXT[:2])) / 3
    torch.testing.assert_close(model.add_items(TEXT[:2]), expected)
    with torch.no_grad():
        model.item_embedding[-1] = mean  # cold: it has no neighbours
    torch.testing.assert_close(model.add_items(TEXT[-1:])[0], represented(model)[1][-1])


def test_lightgcn_of_a_history_by_hand() -> None:
    model = LightGCN(LightGCNConfig(dim=3, items="id", layers=1), PLAIN, torch.Generator().manual_seed(0))
    degree = np.bincount(DATA.train.item_idx, minlength=PLAIN.items)
    base = torch.tensor([[1.0, 2.0, 3.0]])
    e = model.item_embedding.detach()
    received = (e[0] / np.sqrt(2 * degree[0]) + e[4] / np.sqrt(2 * degree[4])).float()
    torch.testing.assert_close(model.new_users(base, None, history([0, 4]))[0], (base[0] + received) / 2)
    torch.testing.assert_close(model.new_users(base)[0], base[0] / 2)


@pytest.mark.parametrize("name", ["biasmf", "lightgcn"])
def test_who_has_no_profile_is_fused_with_none(name: str) -> None:
    model = build(name, AUGMENTED)
    base = model.user_prior(3)
    nobody = ProfileMatrix(HALF.vectors[:3], np.zeros(3, bool))
    torch.testing.assert_close(model.new_users(base, nobody), model.new_users(base))
    somebody = model.new_users(base, ProfileMatrix(HALF.vectors[:3], np.array([False, True, False])))
    torch.testing.assert_close(somebody[[0, 2]], model.new_users(base)[[0, 2]])
    assert not torch.allclose(somebody[1], somebody[0])


def test_the_prior_is_the_mean_of_the_users_that_were_trained() -> None:
    first = DATA.train.take(DATA.train.user_idx < 2)
    model = build("biasmf", replace(PLAIN, train=first))
    torch.testing.assert_close(model.user_prior(5)[4], model.user_embedding[:2].detach().mean(0))


def trained(name: str, **options: object) -> EmbeddingBackbone:
    # so little data is learnt sooner without contrast and dropout
    plain = {"sgl": {"ssl": 0.0}, "simgcl": {"ssl": 0.0}, "ncf": {"hidden_dropout": 0.0}}
    model = build(name, PLAIN, **{"dim": 8, **plain.get(name, {}), **options})
    config = TrainConfig(epochs=40, lr=0.05, batch_size=128, patience=40)
    train(
        model,
        TripleSampler(DATA.train, PLAIN.users, PLAIN.items),
        {},
        config,
        torch.Generator().manual_seed(1),
    )
    return model


@pytest.mark.parametrize("items", ["id", "text", "id+text"])
@pytest.mark.parametrize("name", LEARNERS)
def test_three_items_tell_a_new_users_parity(name: str, items: str) -> None:
    model = trained(name, items=items)
    users = model.new_users(
        model.user_prior(2), None, history([0, 2, 4], [1, 3, 5]), torch.Generator().manual_seed(0)
    )
    rest = torch.arange(
        6, PLAIN.items if items == "text" else PLAIN.items - 4
    )  # of IDs, those that were trained
    with torch.no_grad():
        scores = model.scorer_of(users, represented(model)[1])(torch.arange(2), rest)
    order = rest[scores.argsort(dim=1, descending=True)] % 2
    half = len(rest) // 2
    assert order.tolist() == [[0] * half + [1] * half, [1] * half + [0] * half]


@pytest.mark.parametrize("inputs", [PLAIN, AUGMENTED], ids=["base", "augment"])
@pytest.mark.parametrize("name", ["biasmf", "ncf"])
def test_fold_in_fits_the_new_users_vector_and_nothing_else(name: str, inputs: Inputs) -> None:
    model = build(name, inputs)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    asked = history([0, 2], [], [1])
    users = []
    for seed in (1, 2):  # of the global state
        torch.manual_seed(seed)
        users.append(model.new_users(model.user_prior(3), None, asked, torch.Generator().manual_seed(0)))
    assert torch.equal(*users)
    torch.testing.assert_close(users[0][1], model.new_users(model.user_prior(1))[0])
    assert not torch.allclose(users[0][0], users[0][1])
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]), key
    assert all(parameter.grad is None for parameter in model.parameters())


def test_what_a_model_cannot_take_is_said() -> None:
    base = torch.zeros(1, 4)
    with pytest.raises(BadInput, match="without user profiles"):
        build("biasmf").new_users(base, ProfileMatrix(np.zeros((1, 8), np.float32), np.ones(1, bool)))
    with pytest.raises(BadInput, match="by their ID alone"):
        build("ncf", items="id").add_items(TEXT[:1])
    with pytest.raises(BadInput, match="without item profiles"):
        build("ncf").add_items(TEXT[:1], ProfileMatrix(np.zeros((1, 8), np.float32), np.ones(1, bool)))
    with pytest.raises(BadInput, match="item without interactions has none"):
        build("simgcl", items="id").new_users(base.repeat(2, 1), None, history([0], []))
    with pytest.raises(BadInput, match="item without interactions has none"):
        build("simgcl", items="id+text").add_items(TEXT[:1])
