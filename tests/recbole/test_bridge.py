"""RecBole's models on our data: trained by its own trainer, with and without profiles, measured by both."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import logsigmoid

from reclm.data.dataset import Dataset, Interactions
from reclm.data.id_map import IdMap
from reclm.errors import BadInput, NotFound, ReclmError
from reclm.fusion.augment import remove
from reclm.profiles.matrix import ProfileMatrix
from reclm.recbole.bridge import RecBole, open_recbole, recbole_run
from reclm.recommend.evaluate import Task, evaluate
from reclm.recommend.losses import bpr_loss, info_nce

MODELS = ["BPR", "NeuMF", "LightGCN", "SGL"]
METRICS = [f"{metric}@5" for metric in ("recall", "ndcg", "mrr", "precision", "hit")]


def all_items(dataset: Dataset) -> Task:
    """Return the task that RecBole ranks: every item, but for those of train and valid."""
    everything = np.arange(len(dataset.items))
    sizes = len(dataset.users), len(dataset.items)
    return Task.of(dataset.test, dataset.joined(["train", "valid"]), everything, *sizes)


def scores(one: RecBole) -> torch.Tensor:
    """``(U, I)`` in rows of our data set."""
    with torch.no_grad():
        return one.scorer()(torch.arange(len(one.dataset.users)), torch.arange(len(one.dataset.items)))


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("augmented", [False, True], ids=["plain", "profiles"])
def test_a_model_trains_and_both_metrics_agree(model, augmented, dataset, profiles, tmp_path, settings):
    one = open_recbole(model, dataset, tmp_path, settings(model))
    if augmented:
        one.augment(profiles)
    before = {name: weight.detach().clone() for name, weight in one.model.named_parameters()}
    found = one.train()
    for name, weight in one.model.named_parameters():
        assert not torch.equal(weight, before[name]), f"{name} was not trained"
    assert any("t_pro" in name for name in before) == augmented
    assert len(one.trainer.train_loss_dict) == 2
    ours = evaluate(one.scorer(), all_items(dataset), METRICS).mean()
    for metric in METRICS:
        assert found[metric] == pytest.approx(ours[metric], abs=1e-6)
    by_protocol = one.evaluate(METRICS)
    assert list(by_protocol) == ["full-shot", "zero-shot"]
    assert by_protocol["full-shot"].values["ndcg@5"].shape == by_protocol["full-shot"].users.shape


@pytest.mark.parametrize("model", MODELS)
def test_augmentation_off_is_the_plain_model_to_the_bit(model, dataset, profiles, tmp_path, settings):
    plain = open_recbole(model, dataset, tmp_path / "plain", settings(model))
    one = open_recbole(model, dataset, tmp_path / "augmented", settings(model))
    assert torch.equal(scores(one), scores(plain))
    handle = one.augment(profiles)
    assert not torch.equal(scores(one), scores(plain))
    handle.enabled = False
    assert torch.equal(scores(one), scores(plain))


@pytest.mark.parametrize("model", MODELS)
def test_a_trained_model_can_be_handed_on_without_reclm(model, dataset, profiles, tmp_path, settings):
    one = open_recbole(model, dataset, tmp_path / "a", settings(model))
    one.augment(profiles)
    one.train()
    fused = scores(one)
    remove(one.model)
    torch.testing.assert_close(scores(one), fused)
    plain = open_recbole(model, dataset, tmp_path / "b", settings(model))
    plain.model.load_state_dict(one.model.state_dict())
    torch.testing.assert_close(scores(plain), fused)


def test_padding_stays_as_it_is_and_one_side_may_be_left_out(dataset, profiles, tmp_path, settings):
    one = open_recbole("BPR", dataset, tmp_path, settings("BPR"))
    model: Any = one.model
    padding, users = model.item_embedding.weight[0].clone(), model.user_embedding.weight.clone()
    one.augment({"item": profiles["item"]})
    assert torch.equal(model.item_embedding.weight[0], padding)
    assert torch.equal(model.user_embedding.weight, users)
    assert one.rows["item"].min() == 1


def test_fused_rows_train_as_fused_tables_do(dataset, profiles, tmp_path, settings):
    losses = []
    for folder, batch in (("rows", 8), ("tables", 10**6)):
        one = open_recbole("BPR", dataset, tmp_path / folder, settings("BPR") | {"train_batch_size": 8})
        one.config["train_batch_size"] = batch  # the loaders are made already
        one.augment(profiles)
        one.train()
        losses.append(one.trainer.train_loss_dict)
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_a_run_depends_on_its_seed_alone(dataset, profiles, tmp_path, settings):
    first = recbole_run("SGL", dataset, profiles, settings("SGL"), metrics=METRICS)
    np.random.seed(99)  # noqa: NPY002
    torch.manual_seed(99)
    again = recbole_run("SGL", dataset, profiles, settings("SGL"), folder=tmp_path, metrics=METRICS)
    other = recbole_run("SGL", dataset, profiles, settings("SGL") | {"seed": 7}, metrics=METRICS)
    assert first.metrics == again.metrics
    assert first.results["full-shot"].mean() == again.results["full-shot"].mean()
    assert first.metrics != other.metrics
    assert {path.name for path in tmp_path.iterdir()} == {"reclm", "saved", "tensorboard"}


def test_the_command_line_is_not_read_as_settings(dataset, tmp_path, monkeypatch, settings):
    monkeypatch.setattr(sys, "argv", ["reclm", "--epochs=1"])
    one = open_recbole("BPR", dataset, tmp_path, settings("BPR"))
    one.train()
    assert len(one.trainer.train_loss_dict) == 2


def test_the_epoch_is_chosen_by_a_metric_that_is_computed(dataset, tmp_path, settings):
    theirs = settings("BPR")
    del theirs["valid_metric"]
    assert open_recbole("BPR", dataset, tmp_path / "a", theirs).config["valid_metric"] == "NDCG@5"
    assert (
        open_recbole("BPR", dataset, tmp_path / "b", theirs | {"topk": [5, 20]}).config["valid_metric"]
        == "NDCG@20"
    )


def test_without_validation_all_epochs_are_trained(dataset, tmp_path, settings):
    one = open_recbole("BPR", replace(dataset, valid=Interactions.empty()), tmp_path, settings("BPR"))
    one.train()
    assert len(one.trainer.train_loss_dict) == 2


def test_where_recboles_ranking_differs(dataset, tmp_path, settings):
    """A test item that was trained on too stays a candidate of RecBole's; ours is masked, and lowers recall."""
    part = dataset.train.take(np.arange(1))
    both = Interactions(
        np.append(dataset.test.user_idx, part.user_idx), np.append(dataset.test.item_idx, part.item_idx)
    )
    one = open_recbole(
        "BPR",
        replace(dataset, test=both),
        tmp_path,
        settings("BPR") | {"topk": [19], "valid_metric": "NDCG@19"},
    )
    theirs, ours = one.train()["recall@19"], evaluate(one.scorer(), all_items(one.dataset), ["recall@19"])
    assert theirs > ours.mean()["recall@19"]


def test_our_losses_and_recboles():
    from reclm.recbole.compat import patch

    patch()
    from recbole.model.loss import BPRLoss

    generator = torch.Generator().manual_seed(0)
    positive, negative = torch.randn(2, 64, generator=generator, dtype=torch.float64)
    # RecBole: -mean ln(1e-10 + σ(s⁺ - s⁻))
    torch.testing.assert_close(BPRLoss()(positive, negative), bpr_loss(positive, negative), atol=1e-8, rtol=0)
    # so it flattens at -ln 1e-10 where ours goes on
    lost = torch.tensor([-60.0], dtype=torch.float64)
    assert bpr_loss(lost, -lost).item() == pytest.approx(120)
    assert BPRLoss()(lost, -lost).item() == pytest.approx(-np.log(1e-10))
    assert torch.equal(-logsigmoid(2 * lost).mean(), bpr_loss(lost, -lost))


def test_our_info_nce_and_that_of_recboles_sgl(dataset, tmp_path, settings):
    """RecBole's is a sum over the batch times ``ssl_weight``, its keys all rows of the table, padding too."""
    one = open_recbole("SGL", dataset, tmp_path, settings("SGL"))
    model: Any = one.model
    generator = torch.Generator().manual_seed(0)
    user = torch.randn(2, model.n_users, 8, generator=generator, dtype=torch.float64)
    item = torch.randn(2, model.n_items, 8, generator=generator, dtype=torch.float64)
    users, items = torch.tensor([3, 1, 5, 3]), torch.tensor([2, 2, 9, 4])
    theirs = model.calc_ssl_loss(users, items, *user, *item)
    ours = sum(
        info_nce(first[rows], second[rows], second, model.ssl_tau)
        for rows, (first, second) in ((users, user), (items, item))
    )
    torch.testing.assert_close(theirs, ours * len(users) * model.ssl_weight)


def test_the_reference_lightgcn_scores_by_its_embeddings(dataset, recbole_lightgcn):
    """``e = ⅓ (e⁰ + e¹ + e²)`` by hand, from RecBole's parameters and graph."""
    one = recbole_lightgcn(dataset, layers=2)
    graph = torch.from_numpy(one.adjacency.toarray())
    to_items = graph.T @ one.users
    users = (one.users + graph @ one.items + graph @ to_items) / 3
    torch.testing.assert_close(one.final_users, users)
    torch.testing.assert_close(one.scores, one.final_users @ one.final_items.T)
    degree = dataset.train.matrix(24, 20)
    expected = degree.toarray() / np.sqrt(degree.sum(1)[:, None] * np.maximum(degree.sum(0), 1)[None])
    np.testing.assert_allclose(one.adjacency.toarray(), expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("model", "config", "message"),
    [
        ("LigthGCN", {}, "unknown general recommender of RecBole 'LigthGCN'; did you mean 'LightGCN'"),
        ("BPR", {"epoch": 3}, "unknown RecBole setting 'epoch'; did you mean 'epochs'"),
        (
            "BPR",
            {"topk": [5, 10], "valid_metric": "NDCG@20"},
            "unknown valid_metric among RecBole's metrics 'ndcg@20'",
        ),
        ("BPR", {"data_path": "x"}, "RecBole setting 'data_path' is the bridge's own"),
    ],
)
def test_what_cannot_be_run(model, config, message, dataset, tmp_path):
    with pytest.raises(ReclmError, match=message):
        open_recbole(model, dataset, tmp_path, config)


def test_data_that_recbole_stumbles_over(dataset, tmp_path, settings):
    with pytest.raises(BadInput, match="no test interactions"):
        open_recbole("BPR", replace(dataset, test=Interactions.empty()), tmp_path / "a", settings("BPR"))
    odd = IdMap(["NA", *dataset.users.ids()[1:]], "user")
    with pytest.raises(BadInput, match="user id 'NA' is a missing value to RecBole's reader"):
        open_recbole("BPR", replace(dataset, users=odd), tmp_path / "b", settings("BPR"))
    greedy = Interactions(np.zeros(20, int), np.arange(20))
    with pytest.raises(BadInput, match="user 'u0' has interacted with every item"):
        open_recbole("BPR", replace(dataset, test=greedy), tmp_path / "c", settings("BPR"))


def test_an_augmentation_that_does_not_fit(dataset, profiles, tmp_path: Path, settings):
    one = open_recbole("ItemKNN", dataset, tmp_path, {"epochs": 1, "topk": [5], "valid_metric": "NDCG@5"})
    with pytest.raises(NotFound, match="ItemKNN has no 'user_embedding'; its embeddings: "):
        one.augment(profiles)
    half = ProfileMatrix(profiles["user"].vectors, np.arange(24) < 12)
    one = open_recbole("BPR", dataset, tmp_path, settings("BPR"))
    with pytest.warns(UserWarning, match="user_embedding: 12 of 24 users have a profile; 12 without"):
        one.augment({"user": half})


def test_a_folder_of_other_data_is_not_trained_on(dataset, tmp_path, settings):
    recbole_run("BPR", dataset, None, settings("BPR"), folder=tmp_path, metrics=METRICS)
    other = replace(dataset, train=dataset.train.take(np.arange(len(dataset.train) - 1)))
    with pytest.raises(BadInput, match="holds other data, or was written by a call that was cut short"):
        recbole_run("BPR", other, None, settings("BPR"), folder=tmp_path, metrics=METRICS)
