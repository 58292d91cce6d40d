"""Zero-shot is ranked by the epoch, and the options, that rank new validation items best; full-shot as without them."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from reclm.benchmarks import trial
from reclm.benchmarks.search import Search, run_search
from reclm.benchmarks.trial import Plan, Run, Runner, TrialCache, TrialRecord
from reclm.data.dataset import Dataset, Interactions
from reclm.recommend.base import Inputs
from reclm.recommend.cold_validation import NEW, cold_validation
from reclm.recommend.evaluate import evaluate
from reclm.recommend.recipes import RECIPES
from reclm.recommend.training import TrainConfig, TripleSampler, train_backbone
from reclm.testing import checkerboard, features

DATA = checkerboard(users=24, items=240, cold=24)
TRAIN = {"epochs": 3, "batch_size": 256, "lr": 0.02, "metric": "ndcg@5"}


def ran(
    share: float,
    data: Dataset = DATA,
    backbone: str = "biasmf",
    new_items: dict[str, Any] | None = None,
    **model: Any,
) -> Run:
    train = TrainConfig.build({**TRAIN, "cold_validation": share}, where="test")
    plan = Plan(backbone=backbone, model=model, train=train, metrics=("ndcg@5",), new_items=new_items or {})
    inputs = Inputs(len(data.users), len(data.items), Interactions.empty(), features(data))
    return Runner(plan, data).run(inputs, 0)


def values(run: Run, protocol: str) -> list[float]:
    return run.results[protocol].values["ndcg@5"].tolist()


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> list[Inputs]:
    """The inputs of each training."""
    seen: list[Inputs] = []

    def counted(backbone: Any, config: Any, inputs: Inputs, *rest: Any) -> Any:
        seen.append(inputs)
        return train_backbone(backbone, config, inputs, *rest)

    monkeypatch.setattr(trial, "train_backbone", counted)
    return seen


def test_each_protocol_has_the_weights_of_its_own_training_and_choice(trainings: list[Inputs]) -> None:
    plain, chosen = ran(0.0, items="text", dim=4), ran(0.1, items="text", dim=4)
    cold = cold_validation(DATA, 0.1)
    assert cold is not None
    assert [len(inputs.train) for inputs in trainings] == [len(DATA.train)] * 2 + [len(cold.train)]
    assert values(chosen, "full-shot") == values(plain, "full-shot")
    assert chosen.best_epoch["full-shot"] == plain.best_epoch["full-shot"]
    by_epoch = [row[f"{NEW} ndcg@5"] for row in chosen.fit.history]
    assert chosen.best_epoch["zero-shot"] == int(np.argmax(by_epoch)) + 1
    assert chosen.validation == plain.validation | {f"{NEW} ndcg@5": max(by_epoch)}
    assert [row["valid ndcg@5"] for row in chosen.fit.history] == [
        row["valid ndcg@5"] for row in plain.fit.history
    ]
    runner = Runner(Plan(backbone="biasmf", model={"items": "text", "dim": 4}), DATA)
    model, _ = train_backbone(
        runner.backbone,
        runner.config,
        replace(trainings[-1], train=cold.train),
        TripleSampler(cold.train, 24, 240),
        {NEW: cold.task},
        TrainConfig.build(TRAIN, where="test"),
        0,
    )
    assert (
        values(chosen, "zero-shot")
        == evaluate(model.scorer(), runner.tasks["zero-shot"], ["ndcg@5"]).values["ndcg@5"].tolist()
    )


def test_a_model_that_knows_no_new_item_leaves_none_out(trainings: list[Inputs]) -> None:
    run = ran(0.1, items="id", dim=4)
    assert len(trainings) == 1
    assert not any(name.startswith(NEW) for row in run.fit.history for name in row)


def test_new_items_in_the_validation_part_need_no_training_of_their_own(trainings: list[Inputs]) -> None:
    late = np.unique(DATA.valid.item_idx)[:25]
    data = replace(DATA, train=DATA.train.take(~np.isin(DATA.train.item_idx, late)))
    run = ran(0.12, data, items="text", dim=4)
    assert len(trainings) == 1
    for protocol, name in (("full-shot", "valid"), ("zero-shot", NEW)):
        by_epoch = [row[f"{name} ndcg@5"] for row in run.fit.history]
        assert run.best_epoch[protocol] == int(np.argmax(by_epoch)) + 1
    # other options are another training
    ran(0.12, data, new_items={"lr": 0.1}, items="text", dim=4)
    assert len(trainings) == 3


def test_what_is_not_trained_chooses_by_new_items_and_ranks_with_all(trainings: list[Inputs]) -> None:
    run = ran(0.1, backbone="textknn")
    assert run.chosen.keys() == {"neighbours", "neighbours, new items"}
    assert run.validation.keys() == {"ndcg@5", f"{NEW} ndcg@5"}
    assert len(trainings[-1].train) == len(DATA.train)
    given = ran(0.0, backbone="textknn", neighbours=run.chosen["neighbours, new items"])
    assert values(run, "zero-shot") == values(given, "zero-shot")


def test_options_for_new_items_train_for_these_alone(trainings: list[Inputs]) -> None:
    plain = ran(0.1, items="text", dim=4)
    other = ran(0.1, items="text", dim=4, new_items={"dim": 6, "epochs": 5})
    assert values(other, "full-shot") == values(plain, "full-shot")
    assert [row["loss"] for row in plain.fit.history] == [row["loss"] for row in other.fit.history[:3]]
    # its own epochs stand beside and behind those of the other training
    assert [row.keys() - {"epoch", "seconds"} for row in other.fit.history[3:]] == [{f"{NEW} ndcg@5"}] * 2
    assert [row["epoch"] for row in other.fit.history] == [1, 2, 3, 4, 5]


def test_a_search_takes_the_options_that_rank_new_items_best(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = Plan(model={"items": "text"}, train=TrainConfig.build(TRAIN, where="test"))

    class Asked:
        def __init__(self, plan: Plan) -> None:
            self.plan, self.trial, self.definition = plan, self, plan.model_dump(mode="json")
            self.key = str(self.definition)

    def run_trials(trials: list[Any], *args: Any, **running: Any) -> list[TrialRecord]:
        def record(dim: int) -> TrialRecord:
            validation = {"ndcg@5": float(dim), f"{NEW} ndcg@5": 100.0 - dim}
            return TrialRecord(definition={}, run="", history=[{"epoch": 1}], validation=validation)

        return [record(one.plan.model["dim"]) for one in trials]

    monkeypatch.setattr("reclm.benchmarks.search.run_trials", run_trials)
    search = Search(trials=8, space={"dim": (4, 8)})
    found = run_search(search, {"row": plan}, Asked, TrialCache(tmp_path))["row"]  # pyright: ignore[reportArgumentType]
    assert (found.plan.model["dim"], found.plan.new_items) == (8, {"dim": 4})
    assert found.chosen == {"dim": 8, "dim, new items": 4}


def test_the_papers_recipe_leaves_nothing_out() -> None:
    assert RECIPES["default"].train["cold_validation"] > 0
    assert TrainConfig.build(dict(RECIPES["paper"].train), where="test").cold_validation == 0
