"""All-rank evaluation in blocks of users: every candidate is scored, none is sampled."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from reclm.data.dataset import Interactions
from reclm.ranking.metrics import METRICS, parse

DEFAULT_METRICS = tuple(f"{metric}@{k}" for k in (20, 40) for metric in METRICS)

Scorer = Callable[[Tensor, Tensor], Tensor]
"""``(user_idx (b,), item_idx (c,)) -> scores (b, c)``, higher is better, in memory that the caller may overwrite."""


@dataclass(frozen=True, eq=False)
class Task:
    """One ranking task, laid out once and then run at every epoch.

    Users without a positive among the candidates are left out; a test item that is masked stays in the
    denominators (it can't be found: a model is not rewarded for what the protocol hides).

    Attributes:
        users: ``(n,)`` user_idx of the evaluated users, ascending.
        candidates: ``(c,)`` item_idx that are ranked.
        positives: ``(n,)`` test items of each user.
        truth, mask: ``(indptr (n + 1,), columns)`` — places in ``candidates``, CSR over ``users``.
    """

    users: Tensor
    candidates: Tensor
    positives: Tensor
    truth: tuple[Tensor, Tensor]
    mask: tuple[Tensor, Tensor]

    @classmethod
    def of(
        cls, test: Interactions, mask: Interactions, candidates: np.ndarray, users: int, items: int
    ) -> "Task":
        """Lay out a task.

        Args:
            test: the positives; those outside ``candidates`` are not counted.
            mask: interactions that must not be recommended again.
            candidates: ``(c,)`` item_idx.
            users, items: sizes of the id maps.
        """
        place = np.full(items, -1)
        place[candidates] = np.arange(len(candidates))

        def csr(part: Interactions) -> tuple[np.ndarray, np.ndarray]:
            columns = place[part.item_idx]
            keys = np.unique(part.user_idx[columns >= 0] * len(candidates) + columns[columns >= 0])
            rows, columns = np.divmod(keys, max(len(candidates), 1))
            return np.bincount(rows, minlength=users), columns

        truth_counts, truth_columns = csr(test)
        mask_counts, mask_columns = csr(mask)
        chosen = truth_counts > 0
        mask_columns = mask_columns[np.repeat(chosen, mask_counts)]

        def pointers(counts: np.ndarray) -> Tensor:
            return torch.from_numpy(np.concatenate([[0], np.cumsum(counts[chosen])]))

        return cls(
            torch.from_numpy(np.flatnonzero(chosen)),
            torch.from_numpy(np.ascontiguousarray(candidates)),
            torch.from_numpy(truth_counts[chosen]),
            (pointers(truth_counts), torch.from_numpy(truth_columns)),
            (pointers(mask_counts), torch.from_numpy(mask_columns)),
        )


@dataclass(frozen=True, eq=False)
class PerUser:
    """What an evaluation found, user by user: significance tests need no less.

    Attributes:
        users: ``(n,)`` user_idx.
        values: metric name, e.g. ``"ndcg@20"``, to ``(n,)`` float32.
    """

    users: np.ndarray
    values: dict[str, np.ndarray]

    def mean(self) -> dict[str, float]:
        """Mean over the users of every metric; nan where there is no user."""
        return {
            name: float(value.mean(dtype=np.float64)) if len(value) else float("nan")
            for name, value in self.values.items()
        }


@torch.inference_mode()
def evaluate(
    scorer: Scorer, task: Task, metrics: Sequence[str] = DEFAULT_METRICS, block: int = 1024
) -> PerUser:
    """Rank all candidates for every user of the task.

    Per user block: one scoring, the mask set to -inf, one top-k for the largest k. Bound: ``n·c`` scores written
    once and read once by the top-k.

    Args:
        scorer: scores a block of users against the candidates.
        task: see :class:`Task`.
        metrics: names like ``"recall@20"``.
        block: users a block.
    """
    wanted = {name: parse(name) for name in metrics}
    largest = max(k for _, k in wanted.values())
    k = min(largest, len(task.candidates))
    hits = torch.zeros(len(task.users), largest, dtype=torch.bool)
    truth = torch.zeros(block, len(task.candidates), dtype=torch.bool)
    for start in range(0, len(task.users), block):
        stop = min(start + block, len(task.users))
        scores = scorer(task.users[start:stop], task.candidates)
        rows, columns = _entries(task.mask, start, stop)
        scores[rows, columns] = -torch.inf
        best, top = scores.topk(k, dim=1)
        rows, columns = _entries(task.truth, start, stop)
        truth[rows, columns] = True
        hits[start:stop, :k] = truth[: stop - start].gather(1, top) & (best > -torch.inf)
        truth[rows, columns] = False
    values = {
        name: METRICS[metric](hits[:, :at], task.positives).to(torch.float32).numpy()
        for name, (metric, at) in wanted.items()
    }
    return PerUser(task.users.numpy(), values)


def _entries(csr: tuple[Tensor, Tensor], start: int, stop: int) -> tuple[Tensor, Tensor]:
    """Rows (from 0) and columns of the CSR rows ``start … stop - 1``."""
    pointers, columns = csr
    counts = pointers[start + 1 : stop + 1] - pointers[start:stop]
    rows = torch.repeat_interleave(torch.arange(stop - start), counts)
    return rows, columns[pointers[start] : pointers[stop]]
