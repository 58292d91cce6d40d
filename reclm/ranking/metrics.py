"""Ranking metrics of one user's top list. Each states its denominator first.

All take ``hits (n, k) bool`` — which of the n users' top-k places hold a test item, best first — and
``positives (n,)``, how many test items each user has, and return one value a user, ``(n,) float32``.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from reclm.errors import unknown
from reclm.ranking.beyond import BEYOND


def recall(hits: Tensor, positives: Tensor) -> Tensor:
    """Hits over the number of the user's test items."""
    return hits.sum(1) / positives


def precision(hits: Tensor, positives: Tensor) -> Tensor:
    """Hits over k, also where there are fewer than k candidates."""
    return hits.sum(1) / hits.shape[1]


def hit(hits: Tensor, positives: Tensor) -> Tensor:
    """1 if any of the k places is a hit, else 0."""
    return hits.any(1).float()


def mrr(hits: Tensor, positives: Tensor) -> Tensor:
    """1 over the rank of the first hit, 0 if there is none among the k."""
    return hits.any(1) / (hits.float().argmax(1) + 1)


def ndcg(hits: Tensor, positives: Tensor) -> Tensor:
    """``Σ_hits 1/log2(rank + 1)`` over the same sum for the best possible list, ``min(positives, k)`` hits."""
    k = hits.shape[1]
    gain = 1.0 / torch.log2(torch.arange(2, k + 2, device=hits.device, dtype=torch.float32))
    ideal = gain.cumsum(0)[positives.clamp(max=k).long() - 1]
    return hits.float() @ gain / ideal


def average_precision(hits: Tensor, positives: Tensor) -> Tensor:
    """``Σ_hits precision@rank`` over ``min(positives, k)``, the hits of the best possible list; its mean is MAP."""
    k = hits.shape[1]
    precision_at = hits.cumsum(1) / torch.arange(1, k + 1, device=hits.device)
    return (precision_at * hits).sum(1) / positives.clamp(max=k)


METRICS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "recall": recall,
    "ndcg": ndcg,
    "precision": precision,
    "mrr": mrr,
    "hit": hit,
    "map": average_precision,
}


def parse(name: str) -> tuple[str, int]:
    """``"ndcg@20"`` as ``("ndcg", 20)``, a metric of :data:`METRICS` or :data:`~reclm.ranking.beyond.BEYOND`.

    Raises:
        ReclmError: for an unknown metric or a k that is no positive number.
    """
    metric, _, k = name.lower().partition("@")
    known = (*METRICS, *BEYOND)
    if metric not in known or not k.isdigit() or int(k) < 1:
        raise unknown("metric", name, [f"{one}@20" for one in known])
    return metric, int(k)


def title(name: str) -> str:
    """A metric as it is printed.

    >>> title("ndcg@20"), title("valid recall@20")
    ('NDCG@20', 'valid Recall@20')
    """
    where, space, name = name.rpartition(" ")
    metric, at, k = name.partition("@")
    return (
        where + space + (metric.upper() if metric in ("ndcg", "mrr", "map") else metric.capitalize()) + at + k
    )
