"""All-rank evaluation in blocks of users: every candidate is scored, none is sampled."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from reclm.data.dataset import Dataset, Interactions
from reclm.errors import BadInput, NotFound
from reclm.recommend.metrics import METRICS, Popularity, coverage, lift, novelty, parse

DEFAULT_METRICS = tuple(
    f"{metric}@{k}" for k in (20, 40) for metric in ("recall", "ndcg", "precision", "mrr", "hit")
)

Scorer = Callable[[Tensor, Tensor], Tensor]
"""``(user_idx (b,), item_idx (c,)) -> scores (b, c)``, higher is better, in memory that the caller may overwrite."""


@dataclass(frozen=True, eq=False)
class Task:
    """Hold a ranking task: built once, run at every epoch.

    Users without a positive among the candidates are left out; a test item that is masked stays in the
    denominators (no model is rewarded for what the protocol hides).

    Attributes:
        users: ``(n,)`` user_idx of the evaluated users, ascending.
        candidates: ``(c,)`` item_idx that are ranked.
        truth, mask: ``(n, c)`` CSR matrices of the positives, and of the candidates that must not be ranked.
        popularity: in training, of candidates and of histories; novelty and lift are measured by it.
    """

    users: Tensor
    candidates: Tensor
    truth: sparse.csr_array
    mask: sparse.csr_array
    popularity: Popularity | None = None

    @classmethod
    def of(
        cls,
        test: Interactions,
        mask: Interactions,
        candidates: np.ndarray,
        users: int,
        items: int,
        train: Interactions | None = None,
    ) -> "Task":
        """Build a task of ``(c,)`` candidates; ``users`` and ``items`` are the sizes of the id maps.

        Args:
            test: the positives; those outside ``candidates`` are not counted.
            mask: interactions that must not be recommended again.
            train: the recommender's training interactions, for the :attr:`popularity`.
        """
        truth, masked = (part.matrix(users, items)[:, candidates] for part in (test, mask))
        rows = np.flatnonzero(np.diff(truth.indptr))
        popularity = None if train is None else Popularity.of(train, candidates, rows, users, items)
        ranked = torch.from_numpy(np.ascontiguousarray(candidates))
        return cls(torch.from_numpy(rows), ranked, truth[rows], masked[rows], popularity)

    @property
    def positives(self) -> Tensor:
        """The number of each user's test items among the candidates, ``(n,)``."""
        return torch.from_numpy(np.diff(self.truth.indptr).astype(np.int64))

    def only(self, wanted: Tensor) -> "Task":
        """Return the same task with the positives at the places ``wanted`` ``(c,)`` bool alone."""
        truth = self.truth.copy()
        truth.data *= wanted.numpy()[truth.indices]
        truth.eliminate_zeros()
        rows, popularity = np.flatnonzero(np.diff(truth.indptr)), self.popularity
        if popularity is not None:
            popularity = replace(popularity, history=popularity.history[rows])
        return Task(self.users[rows], self.candidates, truth[rows], self.mask[rows], popularity)


def test_tasks(dataset: Dataset, on_test: bool = False) -> dict[str, Task]:  # noqa: PT028
    """Return the ranking task of each protocol.

    With ``on_test`` the validation part belongs to the training (:func:`trained_on`): popularity counts it, and where
    training items are masked, its items are too.
    """
    sizes, train = (len(dataset.users), len(dataset.items)), trained_on(dataset, on_test)
    tasks = {}
    for protocol in dataset.protocols:
        mask = protocol.mask
        if on_test and "train" in mask and "valid" not in mask:
            mask = (*mask, "valid")
        tasks[protocol.name] = Task.of(dataset.test, dataset.joined(mask), protocol.candidates, *sizes, train)
    return tasks


def trained_on(dataset: Dataset, on_test: bool) -> Interactions:
    """Return the interactions to train on: with selection on the test part, as in the paper, also ``valid``."""
    return dataset.joined(["train", "valid"]) if on_test else dataset.train


def check_tested(dataset: Dataset) -> None:
    """Raise NotFound for a data set without a test part: nothing can be measured on it."""
    if not len(dataset.test):
        remedy = f"reclm fit --dataset {dataset.name} --epochs N"
        message = f"data set {dataset.name!r} has no test interactions, so nothing can be measured on it"
        message += "; to measure, split it with a test part: test=0.1 (--set test=0.1)"
        message += (
            f"; to train on all that there is and to recommend: {remedy}, with the N that another split chose"
        )
        raise NotFound(message, value="test", where=dataset.name, remedy=remedy)


def validation_task(dataset: Dataset) -> Task:
    """Return the task of ranking validation items among all of training or validation; training items are masked.

    In a ``next-item`` data set the candidates are those of its protocol. NotFound without a validation part.
    """
    if not len(dataset.valid):
        raise NotFound(
            f"data set {dataset.name!r} has no validation interactions to select on; prepare it with --set valid=0.1, "
            "or use --select-on test (the paper's selection, which flatters)",
            value="valid",
            where=dataset.name,
            remedy="--set valid=0.1",
        )
    if dataset.sessions is not None:
        seen = dataset.sessions.items
    else:
        seen = np.unique(np.concatenate([dataset.train.item_idx, dataset.valid.item_idx]))
    return Task.of(dataset.valid, dataset.train, seen, len(dataset.users), len(dataset.items))


@dataclass(frozen=True, eq=False)
class PerUser:
    """Hold the metrics of every user.

    Attributes:
        users: ``(n,)`` user_idx.
        values: metric name, e.g. ``"ndcg@20"``, to ``(n,)`` float32; nan for a user without a value: novelty where
            nothing was left to rank, lift also without history.
        overall: metric name, e.g. ``"coverage@20"``, to a number of all users together.
        top: of some users, user_idx to the item_idx ranked best.
    """

    users: np.ndarray
    values: dict[str, np.ndarray]
    overall: dict[str, float] = field(default_factory=dict)
    top: dict[int, np.ndarray] = field(default_factory=dict)

    def mean(self) -> dict[str, float]:
        """Return every metric's mean over the users that have a value (nan where none has), or its overall number."""
        present = {name: value[~np.isnan(value)] for name, value in self.values.items()}
        return {
            name: float(value.mean(dtype=np.float64)) if len(value) else float("nan")
            for name, value in present.items()
        } | self.overall


@dataclass(frozen=True, eq=False)
class Ranking:
    """Hold the best candidates of each user, from which all metrics of a task, and of its parts, are taken.

    ``best`` ``(n, k)`` are places in ``candidates`` ``(c,)``, best first; -1 where none was left.
    """

    users: Tensor
    candidates: Tensor
    best: Tensor

    def of(self, users: Tensor) -> Tensor:
        """Return the rows of ``best`` of some of the users, ``(m,)`` ascending."""
        if len(users) == len(self.users):
            return self.best
        return self.best[torch.searchsorted(self.users, users)]

    def items(self, users: Sequence[int]) -> dict[int, np.ndarray]:
        """Return the item_idx ranked best for those of the user_idx ``users`` that were evaluated."""
        rows = {user: self.best[self.users == user].flatten() for user in users}
        return {user: self.candidates[row[row >= 0]].numpy() for user, row in rows.items() if len(row)}


@torch.inference_mode()
def best_candidates(
    scorer: Scorer,
    users: Tensor,
    candidates: Tensor,
    mask: sparse.csr_array,
    k: int,
    block: int = 1024,
    seed: int = 0,
) -> tuple[Tensor, Tensor]:
    """Return the scores and places ``(n, k)`` of each user's best candidates; -inf and -1 where none was left.

    Candidates of equal scores stand in a random order, drawn by ``seed`` for each user anew. BadInput where a score is
    not finite.
    """
    best, places = torch.full((len(users), k), -torch.inf), torch.full((len(users), k), -1)
    width = min(k, len(candidates))
    for start in range(0, len(users), block):
        stop = min(start + block, len(users))
        scores = scorer(users[start:stop], candidates)
        if not scores.isfinite().all():
            count = int((~scores.isfinite()).sum())
            message = (
                f"{count:,} of {scores.numel():,} scores are not finite numbers, so that they order nothing"
            )
            raise BadInput(f"{message}; train the model again, with a lower lr", value=count, where="scores")
        scores[_entries(mask, start, stop)] = -torch.inf
        highest, columns = scores.topk(min(width + 1, len(candidates)), dim=1)
        tied = ((highest.diff(dim=1) == 0) & (highest[:, 1:] > -torch.inf)).any(1).nonzero()[:, 0]
        highest, columns = highest[:, :width], columns[:, :width]
        if len(tied):
            lots = _lots(users[start:stop][tied], candidates, seed).argsort(dim=1)
            order = scores[tied].gather(1, lots).argsort(dim=1, descending=True, stable=True)[:, :width]
            columns[tied] = lots.gather(1, order)
        best[start:stop, :width] = highest
        places[start:stop, :width] = torch.where(highest > -torch.inf, columns, -1)
    return best, places


def _lots(users: Tensor, candidates: Tensor, seed: int) -> Tensor:
    """Return a random number ``(n, c)`` int64 of each user and candidate; it depends on these and the seed alone."""
    lots = (
        users[:, None] * 0x1E3779B97F4A7C15
        + candidates * 0x3F58476D1CE4E5B9
        + (seed + 1) * 0x14D049BB133111EB
    )
    for shift in (29, 32, 31):  # rounds of a mixing function; products wrap around
        lots = (lots ^ (lots >> shift)) * 0x2545F4914F6CDD1D
    return lots


def rank(scorer: Scorer, task: Task, k: int, block: int = 1024, seed: int = 0) -> Ranking:
    """Rank all candidates for every user of the task by ``block`` users, and hold the best ``k``."""
    places = best_candidates(scorer, task.users, task.candidates, task.mask, k, block, seed)[1]
    return Ranking(task.users, task.candidates, places)


@torch.inference_mode()
def measure(
    ranking: Ranking, task: Task, metrics: Sequence[str] = DEFAULT_METRICS, top: Sequence[int] = ()
) -> PerUser:
    """Take metrics, with names like ``"recall@20"``, of a ranking of at least the :func:`deepest` number of places.

    Args:
        task: the one that was ranked, or a part of it (:meth:`Task.only`).
        top: user_idx whose top lists are returned too.
    """
    best = ranking.of(task.users)
    hits = _hits(best, task)
    values: dict[str, Tensor] = {}
    overall: dict[str, float] = {}
    for name in metrics:
        metric, k = parse(name)
        if metric == "coverage":
            overall[name] = coverage(best[:, :k], len(task.candidates))
        elif metric in METRICS:
            values[name] = METRICS[metric](hits[:, :k], task.positives)
        elif task.popularity is None:
            message = f"{name} is measured by training interactions; give them: Task.of(…, train=…)"
            raise BadInput(message, value=name, where="train")
        else:
            values[name] = (novelty if metric == "novelty" else lift)(best[:, :k], task.popularity)
    arrays = {name: value.to(torch.float32).numpy() for name, value in values.items()}
    return PerUser(task.users.numpy(), arrays, overall, ranking.items(top))


def evaluate(
    scorer: Scorer,
    task: Task,
    metrics: Sequence[str] = DEFAULT_METRICS,
    block: int = 1024,
    top: Sequence[int] = (),
) -> PerUser:
    """Rank all candidates for every user of the task (:func:`rank`) and take the metrics (:func:`measure`)."""
    return measure(rank(scorer, task, deepest(metrics), block), task, metrics, top)


def deepest(metrics: Sequence[str]) -> int:
    """Return the largest k among the metrics."""
    return max(parse(name)[1] for name in metrics)


def _hits(best: Tensor, task: Task, block: int = 1024) -> Tensor:
    """Return which places hold a positive, ``(n, k)`` bool."""
    hits = torch.zeros_like(best, dtype=torch.bool)
    truth = torch.zeros(block, len(task.candidates), dtype=torch.bool)
    for start in range(0, len(best), block):
        places = best[start : start + block]
        positives = _entries(task.truth, start, start + len(places))
        truth[positives] = True
        hits[start : start + block] = truth[: len(places)].gather(1, places.clamp(min=0)) & (places >= 0)
        truth[positives] = False
    return hits


def _entries(matrix: sparse.csr_array, start: int, stop: int) -> tuple[Tensor, Tensor]:
    """Return rows (from 0) and columns of the entries in the rows ``start … stop - 1``."""
    rows, columns = matrix[start:stop].nonzero()
    return torch.from_numpy(rows), torch.from_numpy(columns)
