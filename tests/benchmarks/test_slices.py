"""Subgroups by items and by users against their whole."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from reclm import intervals
from reclm.benchmarks.results import Result, ResultRow, RunInfo, TrialResult
from reclm.benchmarks.significance import paired
from reclm.benchmarks.trial import Plan, Runner, item_subgroups
from reclm.benchmarks.user_groups import by_activity, by_profile
from reclm.data.dataset import Dataset, Interactions, Protocol
from reclm.recommend.base import Inputs
from reclm.recommend.evaluate import evaluate
from reclm.recommend.evaluate import test_tasks as tasks_of
from reclm.recommend.training import TrainConfig
from reclm.testing import checkerboard, features

METRICS = ("recall@5", "ndcg@5", "map@5", "coverage@5", "novelty@5", "lift@5")


def mixed() -> Dataset:
    """Full-shot ranks warm and cold items, zero-shot cold ones alone."""
    data = checkerboard()
    return replace(data, protocols=(Protocol("full-shot", np.arange(20)), data.protocols[1]))


def test_parts_of_a_task_share_its_candidates_and_divide_its_positives() -> None:
    data = mixed()
    task = tasks_of(data)["full-shot"]
    parts = item_subgroups("full-shot", task, data.train)
    assert list(parts) == ["full-shot, warm items", "full-shot, cold items"]
    warm, cold = parts.values()
    for part in (warm, cold):
        assert torch.equal(part.candidates, task.candidates)
    assert int(warm.positives.sum() + cold.positives.sum()) == int(task.positives.sum())
    # every user has the two cold items of their parity in the test part
    assert cold.positives.tolist() == [2] * 24
    assert set(cold.truth.indices.tolist()) == {16, 17, 18, 19}
    # a part's recall, weighed by its positives, is the whole's
    matrix = torch.from_numpy(np.random.default_rng(0).random((24, 20), dtype=np.float32))
    hits = [
        float(
            (
                evaluate(lambda users, _: matrix[users], one, ["recall@5"]).values["recall@5"]
                * one.positives.numpy()
            ).sum()
        )
        for one in (task, warm, cold)
    ]
    assert hits[0] == pytest.approx(hits[1] + hits[2])
    assert min(hits) > 0


def test_nothing_is_sliced_where_all_positives_are_of_one_sort() -> None:
    data = checkerboard()
    for name, task in tasks_of(data).items():
        assert item_subgroups(name, task, data.train) == {}


@pytest.mark.parametrize("select_on", ["valid", "test"])
def test_a_run_measures_slices_beside_their_protocol_from_one_ranking(
    select_on: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = mixed()
    plan = Plan(
        backbone="biasmf",
        model={"dim": 4},
        train=TrainConfig(lr=0.01, epochs=2, metric="recall@20", patience=2),
        select_on=select_on,  # pyright: ignore[reportArgumentType]
        metrics=METRICS,
    )
    runner = Runner(plan, data)
    ranked: list[int] = []
    scorer = runner.backbone.scorer

    def counted(model: Any) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
        score = scorer(model)

        def one(users: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
            ranked.append(len(items))
            return score(users, items)

        return one

    base = Inputs(len(data.users), len(data.items), Interactions.empty(), features(data))
    monkeypatch.setattr(runner.backbone, "scorer", counted)
    models: list[Any] = []
    run = runner.run(base, 0, on_model=models.append, top=[3])
    assert (
        list(run.results)
        == list(run.best_epoch)
        == [
            "full-shot",
            "full-shot, warm items",
            "full-shot, cold items",
            "zero-shot",
        ]
    )
    # the last two rankings are the test's: one of full-shot with its slices, one of zero-shot
    assert ranked[-2:] == [20, 4]
    assert len(ranked) == (2 * 2 if select_on == "test" else 2) + 2
    assert len(models) == 1
    assert run.best_epoch["full-shot, cold items"] == run.best_epoch["full-shot"]
    cold, whole = (run.results[f"full-shot{part}"] for part in (", cold items", ""))
    alone = runner.layout.subgroups["full-shot"]["full-shot, cold items"]
    if select_on == "valid":
        expected = evaluate(scorer(models[0]), alone, METRICS)
        assert cold.mean() == pytest.approx(expected.mean())
    assert cold.mean().keys() == whole.mean().keys() == set(METRICS)
    assert len(whole.top[3]) == 5
    assert not set(whole.top[3]) & set(data.train.item_idx[data.train.user_idx == 3])


def result(
    activity: list[int], base: list[list[float]], row: list[list[float]], against: str | None = "Base"
) -> Result:
    """Two rows of one protocol, a list of users' values for each seed."""
    users = np.array([f"u{place}" for place in range(len(activity))], object)

    def trial(values: list[float]) -> TrialResult:
        return TrialResult(users, np.array(activity), {"ndcg@20": np.array(values, np.float32)})

    trials = {("Base", seed, "full-shot"): trial(values) for seed, values in enumerate(base)}
    trials |= {("Augment", seed, "full-shot"): trial(values) for seed, values in enumerate(row)}
    about = RunInfo(
        title="t",
        dataset="d",
        fingerprint="f",
        metrics=("ndcg@20",),
        protocols=(),
        rows=(ResultRow(name="Base"), ResultRow(name="Augment", against=(against,) if against else ())),
    )
    return Result(about, trials)


def test_users_are_grouped_by_activity_and_averaged_over_seeds() -> None:
    activity = [0, 1, 2, 2, 5, 30]
    base = [[0.0, 0.1, 0.2, 0.3, 0.4, 0.5], [0.2, 0.1, 0.2, 0.3, 0.4, 0.5]]
    row = [[0.1, 0.1, 0.4, 0.4, 0.4, 0.6], [0.3, 0.3, 0.4, 0.4, 0.4, 0.6]]
    found = by_activity(result(activity, base, row), "Augment", "full-shot", "ndcg@20")
    assert [(one.name, one.users) for one in found] == [("0", 1), ("1-2", 3), ("3-5", 1), ("21+", 1)]
    none, few = found[:2]
    assert none.base is not None
    assert none.row is not None
    assert (none.base.mean, none.row.mean) == pytest.approx((0.1, 0.2))
    assert none.base.low is None
    # the same users, tested as the whole is: users and seeds drawn
    test = paired(np.array(base)[:, 1:4], np.array(row)[:, 1:4])
    assert few.difference is not None
    assert (few.difference.mean, few.difference.low, few.difference.n) == pytest.approx(
        (test.difference, test.low, 3), rel=1e-5
    )
    for got, values in ((few.base, [0.1, 0.2, 0.3]), (few.row, [0.2, 0.4, 0.4])):
        expected = intervals.mean(values)
        assert got is not None
        assert expected is not None
        assert (got.mean, got.low, got.high, got.n) == pytest.approx(
            (expected.mean, expected.low, expected.high, 3), rel=1e-5
        )


def test_groups_of_equal_size_stand_in_where_all_users_are_busy() -> None:
    activity = list(range(30, 130))
    values = [[0.5] * 100]
    found = by_activity(result(activity, values, values), "Augment", "full-shot", "ndcg@20")
    assert [(one.name, one.users) for one in found] == [
        ("30-49", 20),
        ("50-69", 20),
        ("70-89", 20),
        ("90-109", 20),
        ("110+", 20),
    ]
    # equal users cannot be told apart
    (one,) = by_activity(result([30] * 4, [[1.0] * 4], [[1.0] * 4]), "Augment", "full-shot", "ndcg@20")
    assert (one.name, one.users) == ("21+", 4)


def test_without_a_value_or_in_one_line_only_a_user_is_left_out() -> None:
    nan = float("nan")
    one = result([0, 1, 3, 6], [[0.1, nan, 0.3, 0.4]], [[0.2, 0.2, nan, 0.5]])
    assert [(got.name, got.users) for got in by_activity(one, "Augment", "full-shot", "ndcg@20")] == [
        ("0", 1),
        ("6-10", 1),
    ]


def test_a_line_without_another_to_compare_with_stands_alone() -> None:
    one = result([0, 1, 3], [[0.1, 0.2, 0.3]], [[0.2, 0.2, 0.4]], against=None)
    found = by_activity(one, "Augment", "full-shot", "ndcg@20")
    assert [got.row and got.row.mean for got in found] == pytest.approx([0.2, 0.2, 0.4])
    assert all(got.base is None and got.difference is None for got in found)
    assert by_activity(one, "Augment", "zero-shot", "ndcg@20") == []
    assert by_activity(one, "Augment", "full-shot", "map@20") == []


def test_users_with_a_profile_are_compared_apart_from_those_without() -> None:
    base, row = [[0.1, 0.2, 0.3, 0.4]] * 2, [[0.3, 0.4, 0.2, 0.3]] * 2
    plain = result([5] * 4, base, row)
    assert by_profile(plain, "Augment", "full-shot", "ndcg@20") == []
    has_one = np.array([True, True, False, False])
    told = {
        key: replace(trial, profiled=has_one) for key, trial in plain.trials.items() if key[0] == "Augment"
    }
    found = by_profile(replace(plain, trials=plain.trials | told), "Augment", "full-shot", "ndcg@20")
    assert [(one.name, one.users) for one in found] == [("with a profile", 2), ("without", 2)]
    assert [one.difference and one.difference.mean for one in found] == pytest.approx([0.2, -0.1])
    everybody = {key: replace(trial, profiled=has_one | True) for key, trial in told.items()}
    (one,) = by_profile(replace(plain, trials=plain.trials | everybody), "Augment", "full-shot", "ndcg@20")
    assert (one.name, one.users) == ("with a profile", 4)


def test_who_has_a_profile_comes_back_as_it_was_saved(tmp_path) -> None:
    plain = result([5, 0, 2], [[0.1, 0.2, 0.3]], [[0.3, 0.4, 0.2]])
    key = ("Augment", 0, "full-shot")
    run = replace(
        plain, trials=plain.trials | {key: replace(plain.trials[key], profiled=np.array([1, 0, 1], bool))}
    )
    run.save(tmp_path / "run")
    loaded = Result.load(tmp_path / "run")
    assert loaded.trials[key].profiled.tolist() == [True, False, True]  # pyright: ignore[reportOptionalMemberAccess]
    assert loaded.trials[key].values.keys() == {"ndcg@20"}
    assert loaded.trials["Base", 0, "full-shot"].profiled is None
