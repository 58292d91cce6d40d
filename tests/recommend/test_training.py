"""The training loop: it learns, keeps the best epoch, stops, and repeats itself bit for bit."""

import pytest
import torch

from reclm.backbones.bprmf import BPRMF
from reclm.errors import BadInput
from reclm.recommend.base import Inputs
from reclm.recommend.embedding import BackboneConfig
from reclm.recommend.evaluate import evaluate, validation_task
from reclm.recommend.evaluate import test_tasks as tasks_of
from reclm.recommend.training import TrainConfig, TrainingResult, TripleSampler, train
from reclm.testing import checkerboard, features

DATA = checkerboard()
INPUTS = Inputs(len(DATA.users), len(DATA.items), DATA.train, features(DATA))


def run(**options: object) -> tuple[BPRMF, TrainingResult]:
    model = BPRMF(BackboneConfig(dim=8, l2=0), INPUTS, torch.Generator().manual_seed(0))
    sampler = TripleSampler(DATA.train, INPUTS.users, INPUTS.items)
    config = TrainConfig.build({"epochs": 60, "lr": 0.02, "batch_size": 32, "metric": "recall@5", **options})
    return model, train(
        model, sampler, {"valid": validation_task(DATA)}, config, torch.Generator().manual_seed(1)
    )


def test_it_learns_the_checkerboard_and_ranks_cold_items_by_their_text() -> None:
    model, _ = run(patience=60)
    # of eight warm candidates of either parity a user's own test items must stand on top, and of four cold ones two
    tasks = tasks_of(DATA)
    assert evaluate(model.scorer(), tasks["full-shot"], ["ndcg@5"]).mean()["ndcg@5"] > 0.95
    assert evaluate(model.scorer(), tasks["zero-shot"], ["recall@2"]).mean()["recall@2"] > 0.95


def test_the_best_epochs_weights_are_restored_and_training_stops_when_nothing_improves() -> None:
    model, result = run(patience=3)
    values = [row["valid recall@5"] for row in result.history]
    best = values.index(max(values)) + 1
    assert result.best_epoch["valid"] == best
    assert len(values) == best + 3 or len(values) == 60
    again = evaluate(model.scorer(), validation_task(DATA), ["recall@5"]).mean()["recall@5"]
    assert again == max(values)


def test_a_training_that_diverges_says_so() -> None:
    with pytest.raises(BadInput, match=r"diverged: the loss of epoch \d+ is (nan|inf); lower lr"):
        run(lr=1e38)


def test_equal_seeds_give_equal_numbers_bit_for_bit() -> None:
    (first, one), (second, two) = run(epochs=5), run(epochs=5)
    assert [row["loss"] for row in one.history] == [row["loss"] for row in two.history]
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
