"""Metrics of rankings: hits, share of the catalogue reached, popularity of the items.

Accuracy metrics take ``hits`` ``(n, k)`` bool, the places of each user's list that hold a positive, best first, and
``positives`` ``(n,)``, the number of the user's test items, and return ``(n,)``. The others take ``top`` ``(n, k)``,
the places of each user's best candidates, best first, and -1 where none was left to rank.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from reclm.data.dataset import Interactions
from reclm.errors import BadInput, unknown


def recall(hits: Tensor, positives: Tensor) -> Tensor:
    """Return hits over the number of the user's test items."""
    return hits.sum(1) / positives


def precision(hits: Tensor, positives: Tensor) -> Tensor:
    """Return hits over k, also where there are fewer than k candidates."""
    return hits.sum(1) / hits.shape[1]


def hit(hits: Tensor, positives: Tensor) -> Tensor:
    """Return 1 if any of the k places is a hit, else 0."""
    return hits.any(1).float()


def mrr(hits: Tensor, positives: Tensor) -> Tensor:
    """Return 1 over the rank of the first hit, 0 if there is none among the k."""
    return hits.any(1) / (hits.float().argmax(1) + 1)


def ndcg(hits: Tensor, positives: Tensor) -> Tensor:
    """Return ``Σ_hits 1/log2(rank + 1)`` over the same sum of the best possible list, ``min(positives, k)`` hits."""
    k = hits.shape[1]
    gain = 1.0 / torch.log2(torch.arange(2, k + 2, device=hits.device, dtype=torch.float32))
    ideal = gain.cumsum(0)[positives.clamp(max=k).long() - 1]
    return hits.float() @ gain / ideal


def average_precision(hits: Tensor, positives: Tensor) -> Tensor:
    """Return ``Σ_hits precision@rank`` over ``min(positives, k)``, the most hits possible; its mean is MAP."""
    k = hits.shape[1]
    precision_at = hits.cumsum(1) / torch.arange(1, k + 1, device=hits.device)
    return (precision_at * hits).sum(1) / positives.clamp(max=k)


METRICS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    **{function.__name__: function for function in (recall, ndcg, precision, mrr, hit)},
    "map": average_precision,
}
BEYOND = ("coverage", "novelty", "lift")
"""Names of further metrics. Coverage is one number of all users together, the others have one a user."""


def parse(name: str) -> tuple[str, int]:
    """Return ``("ndcg", 20)`` of ``"ndcg@20"``; NotFound for an unknown metric or a k that is no positive number."""
    metric, _, k = name.lower().partition("@")
    known = (*METRICS, *BEYOND)
    if metric not in known or not k.isdecimal() or not 0 < int(k) < 2**31:
        raise unknown("metric", name, [f"{other}@20" for other in known])
    return metric, int(k)


def check_metrics(metrics: Sequence[str]) -> list[str]:
    """Return the names of metrics, a list of one or more, in small letters; NotFound for an unknown one."""
    if isinstance(metrics, str) or not isinstance(metrics, Iterable) or not (names := [*metrics]):
        message = f"metrics = {metrics!r}: give a list of one or more, as in ['ndcg@20']"
        raise BadInput(message, value=metrics, where="metrics", remedy="['ndcg@20']")
    return ["{}@{}".format(*parse(str(name))) for name in names]


def title(name: str) -> str:
    """Return a metric as it is printed.

    >>> title("ndcg@20"), title("valid recall@20")
    ('NDCG@20', 'valid Recall@20')
    """
    where, space, name = name.rpartition(" ")
    metric = name.partition("@")[0]
    printed = metric.upper() if metric in ("ndcg", "mrr", "map") else metric.capitalize()
    return where + space + printed + name.removeprefix(metric)


@dataclass(frozen=True, eq=False)
class Popularity:
    """Count the training users of each candidate ``(c,)``, and of all; a user who chose an item twice counts once.

    ``history`` ``(n,)`` is the mean of the items in each user's history; nan without one.
    """

    candidates: Tensor
    users: int
    history: Tensor

    @classmethod
    def of(
        cls, train: Interactions, candidates: np.ndarray, chosen: np.ndarray, users: int, items: int
    ) -> "Popularity":
        """Count in the training interactions, for ``(c,)`` candidates and the histories of ``(n,)`` chosen users."""
        matrix = train.matrix(users, items)
        counts, lengths = np.asarray(matrix.sum(0)), np.asarray(matrix.sum(1))
        with np.errstate(invalid="ignore"):
            history = (matrix @ counts)[chosen] / lengths[chosen]
        return cls(
            torch.from_numpy(counts[candidates].astype(np.float32)),
            int((lengths > 0).sum()),
            torch.from_numpy(history.astype(np.float32)),
        )


def coverage(top: Tensor, candidates: int) -> float:
    """Return the share of the candidates that stand in anyone's top k; nan without users."""
    if not len(top):
        return float("nan")
    counts = torch.bincount(top.flatten() + 1, minlength=candidates + 1)[1:]
    return float((counts > 0).float().mean())


def novelty(top: Tensor, popularity: Popularity) -> Tensor:
    """Return the mean over a user's top k of ``-log2`` of the item's share of the training users, in bits: ``(n,)``.

    The self-information of Zhou et al., "Solving the apparent diversity-accuracy dilemma of recommender systems"
    (PNAS 2010, arXiv 0808.2670). An item that nobody chose counts as half a user's: one bit more than an item of one.
    """
    share = popularity.candidates.clamp(min=0.5) / popularity.users
    return _mean(-share.log2(), top)


def lift(top: Tensor, popularity: Popularity) -> Tensor:
    """Return mean training users of the top k's items over the same mean of the user's history, less 1: ``(n,)``.

    0: as popular as what the user chose before; 1: twice. nan for a user without history. The popularity lift of
    Abdollahpouri et al., "The Connection Between Popularity Bias, Calibration, and Fairness in Recommendation" (RecSys
    2020, arXiv 2008.09273), of single users where theirs is of groups.
    """
    return _mean(popularity.candidates, top) / popularity.history - 1


def _mean(values: Tensor, top: Tensor) -> Tensor:
    """Return the mean of the candidates' ``values`` ``(c,)`` over each top list; nan for an empty one."""
    # the place -1 is that of the added 0
    return torch.cat([values, values.new_zeros(1)])[top].sum(1) / (top >= 0).sum(1)
