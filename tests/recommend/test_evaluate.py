"""The all-rank evaluator against a plain reading of the protocol."""

import numpy as np
import pytest
import torch

from reclm.data.dataset import Interactions
from reclm.errors import BadInput
from reclm.recommend.evaluate import DEFAULT_METRICS, Task, evaluate, measure, rank


def interactions(*pairs: tuple[int, int]) -> Interactions:
    users, items = zip(*pairs, strict=True) if pairs else ((), ())
    return Interactions(np.array(users, np.int64), np.array(items, np.int64))


def scores_of(matrix: torch.Tensor):
    return lambda users, items: matrix[users][:, items].clone()


def test_masked_items_are_not_ranked_and_users_without_positives_left_out() -> None:
    matrix = torch.tensor([[4.0, 3, 2, 1], [4, 3, 2, 1], [4, 3, 2, 1]])
    test = interactions((0, 2), (2, 1), (2, 3))
    task = Task.of(test, interactions((0, 0), (1, 0)), np.arange(4), users=3, items=4)
    result = evaluate(scores_of(matrix), task, ["recall@1", "recall@2", "mrr@2"])
    assert result.users.tolist() == [0, 2]
    # user 0 sees 1, 2, 3 (0 is masked): its item 2 has rank 2; user 2 sees 0, 1, 2, 3: item 1 has rank 2
    assert result.values["recall@1"].tolist() == [0, 0]
    assert result.values["recall@2"].tolist() == [1, 0.5]
    assert result.values["mrr@2"].tolist() == [0.5, 0.5]


def test_only_candidates_are_ranked_and_counted() -> None:
    task = Task.of(interactions((0, 0), (0, 3)), interactions(), np.array([1, 3]), users=1, items=4)
    result = evaluate(scores_of(torch.tensor([[9.0, 1, 9, 2]])), task, ["recall@1", "ndcg@1"])
    assert result.values["recall@1"].tolist() == [1]
    assert result.values["ndcg@1"].tolist() == [1]


def test_a_masked_positive_is_never_a_hit_even_when_k_exceeds_what_is_left() -> None:
    task = Task.of(interactions((0, 0), (0, 1)), interactions((0, 0)), np.arange(2), users=1, items=2)
    result = evaluate(scores_of(torch.tensor([[2.0, 1.0]])), task, ["recall@5", "precision@5"])
    assert result.values["recall@5"].tolist() == [0.5]
    assert result.values["precision@5"].tolist() == pytest.approx([0.2])


def test_blocks_do_not_change_the_result_and_agree_with_a_plain_loop() -> None:
    rng = np.random.default_rng(0)
    users, items = 37, 23
    pairs = np.argwhere(rng.random((users, items)) < 0.2)
    seen = np.argwhere(rng.random((users, items)) < 0.2)
    test, mask = (Interactions(part[:, 0], part[:, 1]) for part in (pairs, seen))
    candidates = np.flatnonzero(rng.random(items) < 0.7)
    matrix = torch.from_numpy(rng.random((users, items), dtype=np.float32))
    task = Task.of(test, mask, candidates, users, items)
    results = [evaluate(scores_of(matrix), task, ["recall@3", "ndcg@3"], block=block) for block in (5, 1000)]
    for name in ("recall@3", "ndcg@3"):
        assert np.array_equal(results[0].values[name], results[1].values[name])
    for row, user in enumerate(results[0].users):
        positives = set(pairs[pairs[:, 0] == user, 1]) & set(candidates)
        masked = set(seen[seen[:, 0] == user, 1])
        ranking = [i for i in np.argsort(-matrix[user].numpy()) if i in set(candidates) - masked]
        assert results[0].values["recall@3"][row] == pytest.approx(
            len(set(ranking[:3]) & positives) / len(positives)
        )


def test_no_user_to_evaluate_gives_nan_not_zero() -> None:
    task = Task.of(interactions(), interactions(), np.arange(2), users=1, items=2)
    assert np.isnan(evaluate(scores_of(torch.ones(1, 2)), task, ["recall@1"]).mean()["recall@1"])


def test_ten_metrics_by_default() -> None:
    assert len(DEFAULT_METRICS) == 10
    assert not any(name.startswith("map") for name in DEFAULT_METRICS)


def test_top_lists_are_items_without_what_was_masked() -> None:
    matrix = torch.tensor([[4.0, 3, 9, 1], [1, 2, 3, 4]])
    candidates = np.array([0, 1, 3])
    task = Task.of(interactions((0, 1)), interactions((0, 0)), candidates, users=2, items=4)
    # user 0: item 0 is masked and item 2 no candidate; user 1 has no positive and is not ranked for
    top = evaluate(scores_of(matrix), task, ["recall@3"], top=[0, 1]).top
    assert {user: items.tolist() for user, items in top.items()} == {0: [1, 3]}


def test_a_part_of_a_task_is_measured_from_the_same_ranking() -> None:
    rng = np.random.default_rng(1)
    users, items = 40, 25
    drawn = (np.argwhere(rng.random((users, items)) < 0.15) for _ in range(3))
    test, mask, train = (Interactions(one[:, 0], one[:, 1]) for one in drawn)
    candidates = np.flatnonzero(rng.random(items) < 0.8)
    wanted = rng.random(len(candidates)) < 0.3
    matrix = torch.from_numpy(rng.random((users, items), dtype=np.float32))
    task = Task.of(test, mask, candidates, users, items, train)
    part = task.only(torch.from_numpy(wanted))
    kept = test.take(np.isin(test.item_idx, candidates[wanted]))
    expected = Task.of(kept, mask, candidates, users, items, train)
    assert 0 < len(part.users) < len(task.users)
    metrics = ["recall@5", "ndcg@10", "map@10", "coverage@3", "novelty@10", "lift@10"]
    asked: list[int] = []

    def scorer(who: torch.Tensor, what: torch.Tensor) -> torch.Tensor:
        asked.extend(who.tolist())
        return matrix[who][:, what].clone()

    ranking = rank(scorer, task, 10, block=7)
    ours = measure(ranking, part, metrics)
    assert asked == task.users.tolist()
    theirs, alone = (evaluate(scorer, one, metrics) for one in (expected, part))
    assert ours.users.tolist() == expected.users.tolist()
    for name, value in theirs.values.items():
        np.testing.assert_array_equal(ours.values[name], value, err_msg=name)
        np.testing.assert_array_equal(alone.values[name], value, err_msg=name)
    assert ours.overall == alone.overall == theirs.overall


def everybody_tests(users: int, items: int, positives: int) -> Task:
    """Return a task in which the positives are the first items of the rows, where an order of rows would find them."""
    pairs = [(user, item) for user in range(users) for item in range(positives)]
    return Task.of(interactions(*pairs), interactions(), np.arange(items), users, items)


@pytest.mark.parametrize("score", [0.0, 1.0, -3.0])
def test_fault_2_a_constant_scorer_ranks_by_chance(score: float) -> None:
    task = everybody_tests(2000, 100, 2)
    result = evaluate(
        lambda users, items: torch.full((len(users), len(items)), score), task, ["recall@10", "hit@1"]
    )
    assert result.mean()["recall@10"] == pytest.approx(0.1, abs=0.02)
    assert result.mean()["hit@1"] == pytest.approx(0.02, abs=0.01)


def test_fault_2_only_equal_scores_change_places_and_a_seed_draws_them() -> None:
    matrix = torch.tensor([[5.0, *[3.0] * 8, 1.0]] * 40)
    task = Task.of(interactions(*((u, 9) for u in range(40))), interactions((0, 3)), np.arange(10), 40, 10)

    def best(seed: int, block: int = 1024) -> torch.Tensor:
        return rank(scores_of(matrix), task, 4, block, seed=seed).best

    drawn = best(0)
    assert drawn[:, 0].tolist() == [0] * 40
    assert drawn[:, 1:].min() >= 1
    assert drawn[:, 1:].max() <= 8
    assert 3 not in drawn[0]
    assert all(len(set(row)) == 4 for row in drawn.tolist())
    assert len({tuple(row) for row in drawn.tolist()}) > 20, "each user has an order of its own"
    assert torch.equal(drawn, best(0, block=7))
    assert not torch.equal(drawn, best(1))


def test_fault_2_ties_at_the_end_of_the_list_are_drawn_too() -> None:
    matrix = torch.tensor([[2.0, 1.0, 1.0]] * 200)
    second = rank(scores_of(matrix), everybody_tests(200, 3, 1), 2).best[:, 1]
    assert 60 < int((second == 1).sum()) < 140


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_fault_2_scores_that_are_no_numbers_are_an_error(value: float) -> None:
    matrix = torch.rand(3, 4)
    matrix[1, 2] = value
    with pytest.raises(BadInput) as caught:
        evaluate(scores_of(matrix), everybody_tests(3, 4, 1), ["recall@1"])
    assert (caught.value.value, caught.value.where) == (1, "scores")
