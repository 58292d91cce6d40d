"""Coverage, novelty and popularity lift against values worked by hand, and PyTorch Geometric's."""

from math import log2

import numpy as np
import pytest
import torch

from reclm.data.dataset import Interactions
from reclm.errors import BadInput
from reclm.recommend.evaluate import PerUser, Task, evaluate
from reclm.recommend.metrics import Popularity, coverage

# five users, of whom user 4 chose nothing in training; item 0 has four users (user 1 chose it twice), item 1 two,
# item 2 one; nobody chose items 3 and 4, and item 4 is no candidate
TRAIN = Interactions(
    np.array([0, 1, 2, 3, 1, 0, 1, 2]),
    np.array([0, 0, 0, 0, 0, 1, 1, 2]),
)
TEST = Interactions(np.array([0, 2, 4]), np.array([3, 3, 3]))
NONE = Interactions.empty()
CANDIDATES = np.arange(4)


def found(scores: list[list[float]], mask: Interactions = NONE, metrics: tuple[str, ...] = ()) -> PerUser:
    """Rankings of users 0, 2 and 4 by rows of ``scores``."""
    task = Task.of(TEST, mask, CANDIDATES, users=5, items=5, train=TRAIN)
    matrix = torch.zeros(5, 4)
    matrix[[0, 2, 4]] = torch.tensor(scores, dtype=torch.float32)
    return evaluate(lambda users, _: matrix[users], task, metrics)


def test_popularity_counts_users_once_and_means_the_history() -> None:
    popularity = Popularity.of(TRAIN, CANDIDATES, np.array([0, 2, 4]), users=5, items=5)
    assert popularity.candidates.tolist() == [4, 2, 1, 0]
    assert popularity.users == 4
    # user 0 chose items 0 and 1, user 2 items 0 and 2, user 4 none
    assert popularity.history.tolist() == pytest.approx([(4 + 2) / 2, (4 + 1) / 2, float("nan")], nan_ok=True)


def test_novelty_is_in_bits_and_an_unseen_item_counts_as_half_a_users() -> None:
    one = found([[4, 3, 2, 1], [1, 2, 3, 4], [4, 3, 2, 1]], metrics=("novelty@2", "novelty@1"))
    first, last = (-log2(4 / 4) - log2(2 / 4)) / 2, (-log2(0.5 / 4) - log2(1 / 4)) / 2
    assert one.values["novelty@2"].tolist() == pytest.approx([first, last, first])
    assert one.values["novelty@1"].tolist() == pytest.approx([0, 3, 0])


def test_lift_is_over_the_popularity_of_the_history_and_needs_one() -> None:
    one = found([[4, 3, 2, 1], [1, 2, 3, 4], [4, 3, 2, 1]], metrics=("lift@2",))
    expected = [(4 + 2) / 2 / 3 - 1, (0 + 1) / 2 / 2.5 - 1, float("nan")]
    assert one.values["lift@2"].tolist() == pytest.approx(expected, nan_ok=True)
    # over the two users who have a history
    assert one.mean()["lift@2"] == pytest.approx((expected[0] + expected[1]) / 2)


def test_coverage_is_of_all_users_together() -> None:
    one = found([[4, 3, 2, 1], [3, 4, 2, 1], [4, 3, 2, 1]], metrics=("coverage@1", "coverage@3", "recall@1"))
    assert one.overall == {"coverage@1": 2 / 4, "coverage@3": 3 / 4}
    assert one.values.keys() == {"recall@1"}
    assert one.mean() == {"recall@1": 0, "coverage@1": 2 / 4, "coverage@3": 3 / 4}


def test_masked_items_stand_in_no_list() -> None:
    # of user 0 all but item 2 are masked, of user 2 everything
    mask = Interactions(np.array([0, 0, 0, 2, 2, 2, 2]), np.array([0, 1, 3, 0, 1, 2, 3]))
    metrics = ("coverage@4", "novelty@4", "lift@4")
    one = found([[4, 3, 2, 1], [4, 3, 2, 1], [4, 3, 2, 1]], mask, metrics)
    novelties = [-log2(1 / 4), float("nan"), (-log2(4 / 4) - log2(2 / 4) - log2(1 / 4) - log2(0.5 / 4)) / 4]
    assert one.values["novelty@4"].tolist() == pytest.approx(novelties, nan_ok=True)
    assert one.values["lift@4"].tolist() == pytest.approx([1 / 3 - 1] + 2 * [float("nan")], nan_ok=True)
    assert one.overall["coverage@4"] == 1
    assert found([[4, 3, 2, 1]] * 3, mask, ("coverage@1",)).overall["coverage@1"] == 2 / 4


def test_of_nobody_all_are_nan() -> None:
    task = Task.of(NONE, NONE, CANDIDATES, users=5, items=5, train=TRAIN)
    metrics = ["coverage@2", "novelty@2", "lift@2", "map@2"]
    means = evaluate(lambda users, _: torch.ones(len(users), 4), task, metrics).mean()
    assert set(means) == set(metrics)
    assert all(np.isnan(value) for value in means.values())


def test_popularity_must_be_given() -> None:
    task = Task.of(TEST, NONE, CANDIDATES, users=5, items=5)
    with pytest.raises(BadInput, match=r"lift@2 .* train="):
        evaluate(lambda users, _: torch.ones(len(users), 4), task, ["lift@2"])


@pytest.mark.parametrize("k", [1, 4])
def test_agree_with_pytorch_geometric(k: int) -> None:
    link = pytest.importorskip("torch_geometric.metrics")
    rng = np.random.default_rng(k)
    user, item = np.nonzero(rng.random((30, 50)) < 0.1)
    train = Interactions(user, item)
    test = Interactions(np.arange(30), rng.integers(0, 50, 30))
    matrix = torch.from_numpy(rng.random((30, 50), dtype=np.float32))
    task = Task.of(test, NONE, np.arange(50), users=30, items=50, train=train)
    one = evaluate(
        lambda users, _: matrix[users].clone(), task, [f"coverage@{k}", f"novelty@{k}", f"lift@{k}"]
    )
    top = matrix.topk(k).indices
    assert task.popularity is not None
    counts = task.popularity.candidates
    covered = link.LinkPredCoverage(k=k, num_dst_nodes=50)
    covered.update(top, torch.stack([torch.arange(30), torch.from_numpy(test.item_idx.copy())]))
    assert one.overall[f"coverage@{k}"] == pytest.approx(covered.compute().item())
    assert coverage(top, 50) == one.overall[f"coverage@{k}"]
    bits = link.LinkPredAveragePopularity(
        k=k, popularity=-(counts.clamp(min=0.5) / task.popularity.users).log2()
    )
    bits.update(top, torch.stack([torch.arange(30), torch.from_numpy(test.item_idx.copy())]))
    assert one.mean()[f"novelty@{k}"] == pytest.approx(bits.compute().item(), rel=1e-5)
    for user in range(30):
        own = train.item_idx[train.user_idx == user]
        expected = counts[top[user]].mean() / counts[own].mean() - 1
        assert one.values[f"lift@{k}"][user] == pytest.approx(expected.item(), rel=1e-4, nan_ok=True)
