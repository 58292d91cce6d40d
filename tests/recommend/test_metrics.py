"""Metrics against values worked by hand, and against PyTorch Geometric's."""

from math import log2

import pytest
import torch

from reclm.errors import NotFound
from reclm.recommend.metrics import METRICS, average_precision, hit, mrr, ndcg, parse, precision, recall

# user 0: test items at ranks 2 and 3 of 4, two test items in all; user 1: none of five found; user 2: rank 1 of one
HITS = torch.tensor([[0, 1, 1, 0], [0, 0, 0, 0], [1, 0, 0, 0]], dtype=torch.bool)
POSITIVES = torch.tensor([2, 5, 1])


def test_recall_is_over_the_users_test_items() -> None:
    assert recall(HITS, POSITIVES).tolist() == [2 / 2, 0 / 5, 1 / 1]


def test_precision_is_over_k() -> None:
    assert precision(HITS, POSITIVES).tolist() == [2 / 4, 0 / 4, 1 / 4]


def test_hit_and_mrr() -> None:
    assert hit(HITS, POSITIVES).tolist() == [1, 0, 1]
    assert mrr(HITS, POSITIVES).tolist() == [1 / 2, 0, 1]


def test_ndcg_is_over_the_best_possible_list() -> None:
    expected = [(1 / log2(3) + 1 / log2(4)) / (1 + 1 / log2(3)), 0, 1]
    assert ndcg(HITS, POSITIVES).tolist() == pytest.approx(expected, rel=1e-6)


def test_ndcg_of_more_positives_than_k_can_reach_one() -> None:
    assert ndcg(torch.ones(1, 3, dtype=torch.bool), torch.tensor([7])).item() == pytest.approx(1)


def test_average_precision_is_over_the_hits_of_the_best_possible_list() -> None:
    # user 0: hits at ranks 2 and 3, precision 1/2 and 2/3 there; user 2: one hit, at rank 1
    assert average_precision(HITS, POSITIVES).tolist() == pytest.approx([(1 / 2 + 2 / 3) / 2, 0, 1])


def test_average_precision_of_more_positives_than_k_can_reach_one() -> None:
    assert average_precision(torch.ones(1, 3, dtype=torch.bool), torch.tensor([7])).tolist() == [1]


@pytest.mark.parametrize("k", [1, 3, 10])
def test_agree_with_pytorch_geometric(k: int) -> None:
    link = pytest.importorskip("torch_geometric.metrics")
    oracle = {
        "recall": link.LinkPredRecall,
        "precision": link.LinkPredPrecision,
        "ndcg": link.LinkPredNDCG,
        "mrr": link.LinkPredMRR,
        "hit": link.LinkPredHitRatio,
        "map": link.LinkPredMAP,
    }
    assert oracle.keys() == METRICS.keys()
    generator = torch.Generator().manual_seed(k)
    ranking = torch.stack([torch.randperm(30, generator=generator) for _ in range(40)])
    truth = torch.rand(40, 30, generator=generator) < 0.2
    truth[:, 0] |= ~truth.any(1)
    edges = truth.nonzero().T
    hits = truth.gather(1, ranking)[:, :k]
    for name, metric in oracle.items():
        theirs = metric(k=k)
        theirs.update(ranking[:, :k], edges)
        ours = METRICS[name](hits, truth.sum(1)).double().mean().item()
        assert ours == pytest.approx(theirs.compute().item(), rel=1e-5), name


def test_unknown_metric_offers_the_nearest() -> None:
    with pytest.raises(NotFound, match="ndcg@20"):
        parse("ndgc@20")
    with pytest.raises(NotFound, match="recall@0"):
        parse("recall@0")
    with pytest.raises(NotFound, match="coverage@20"):
        parse("covrage@20")
