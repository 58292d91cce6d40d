"""Rankings of held-out sessions: by σ, and by what needs no text at all."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from reclm.data.dataset import Interactions
from reclm.data.sessions import NONE, Sessions
from reclm.recommend.evaluate import PerUser, Task, evaluate

METRICS = ("ndcg@20", "mrr@20", "recall@20", "precision@20")
"""Of the paper's tables."""


def task(sessions: Sessions, rows: np.ndarray, items: int) -> Task:
    """Find the future items of the sessions ``rows`` ``(n,)`` among all candidates but their histories.

    Its users are 0 to n - 1, in the order of ``rows``. (A Task has its users ascending: a session is a user.)

    Args:
        items: of the data set.
    """
    future, history = sessions.future[rows], sessions.history[rows]
    users, place = np.nonzero(history != NONE)
    return Task.of(
        Interactions(np.repeat(np.arange(len(rows)), future.shape[1]), future.ravel()),
        Interactions(users, history[users, place]),
        # torch takes no array that Arrow owns
        sessions.items.copy(),
        len(rows),
        items,
    )


def ranked(
    scores: Tensor, sessions: Sessions, rows: np.ndarray, items: int, metrics: Sequence[str] = METRICS
) -> PerUser:
    """Metrics of rankings by ``scores`` ``(n, c)``, a row a session and a column a candidate."""
    return evaluate(lambda users, _: scores[users], task(sessions, rows, items), metrics)


def most_popular(sessions: Sessions, rows: np.ndarray, items: int) -> Tensor:
    """``(n, c)`` how often each candidate occurs in the training sessions; equal ones in the order of the items."""
    train = sessions.rows("train")
    seen = np.concatenate([sessions.history[train].ravel(), sessions.future[train].ravel()])
    counts = np.bincount(seen[seen != NONE], minlength=items)[sessions.items]
    return torch.from_numpy(counts.astype(np.float32)).expand(len(rows), -1)


def at_random(sessions: Sessions, rows: np.ndarray, seed: int) -> Tensor:
    """``(n, c)`` random numbers."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(len(rows), len(sessions.items), generator=generator)
