"""Ranking tasks: users, candidates, a mask, and the items to be found."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from reclm.data.dataset import Dataset, Interactions
from reclm.errors import NotFound
from reclm.recommend.metrics import Popularity


@dataclass(frozen=True, eq=False)
class Task:
    """Hold a ranking task, laid out once and then run at every epoch.

    Users without a positive among the candidates are left out; a test item that is masked stays in the
    denominators (no model is rewarded for what the protocol hides).

    Attributes:
        users: ``(n,)`` user_idx of the evaluated users, ascending.
        candidates: ``(c,)`` item_idx that are ranked.
        positives: ``(n,)`` test items of each user.
        truth, mask: ``(indptr (n + 1,), columns)`` — places in ``candidates``, CSR over ``users``, ascending in a row.
        popularity: in training, of candidates and of histories; what novelty and lift are measured by.
    """

    users: Tensor
    candidates: Tensor
    positives: Tensor
    truth: tuple[Tensor, Tensor]
    mask: tuple[Tensor, Tensor]
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
        """Lay out a task.

        Args:
            test: the positives; those outside ``candidates`` are not counted.
            mask: interactions that must not be recommended again.
            candidates: ``(c,)`` item_idx.
            users, items: sizes of the id maps.
            train: what the recommender learns from, for the :attr:`popularity`.
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

        rows, positives = np.flatnonzero(chosen), torch.from_numpy(truth_counts[chosen])
        return cls(
            torch.from_numpy(rows),
            torch.from_numpy(np.ascontiguousarray(candidates)),
            positives,
            (_pointers(positives), torch.from_numpy(truth_columns)),
            (_pointers(torch.from_numpy(mask_counts[chosen])), torch.from_numpy(mask_columns)),
            None if train is None else Popularity.of(train, candidates, rows, users, items),
        )

    def only(self, wanted: Tensor) -> "Task":
        """Return the same task with the positives at the places ``wanted`` ``(c,)`` bool alone."""
        pointers, columns = self.truth
        rows = torch.repeat_interleave(torch.arange(len(self.users)), pointers.diff())
        kept = wanted[columns]
        counts = torch.bincount(rows[kept], minlength=len(self.users))
        chosen = counts > 0
        mask_pointers, mask_columns = self.mask
        masked = mask_pointers.diff()
        popularity = self.popularity
        return Task(
            self.users[chosen],
            self.candidates,
            counts[chosen],
            (_pointers(counts[chosen]), columns[kept]),
            (_pointers(masked[chosen]), mask_columns[torch.repeat_interleave(chosen, masked)]),
            popularity and replace(popularity, history=popularity.history[chosen]),
        )


def test_tasks(dataset: Dataset, on_test: bool = False) -> dict[str, Task]:  # noqa: PT028
    """Return the ranking task of each protocol.

    Args:
        on_test: the recommender learns from the validation part, too (:func:`trained_on`). Popularity is counted in
            what it learns from, and where training items are no candidates again, these are none either.
    """
    sizes, train = (len(dataset.users), len(dataset.items)), trained_on(dataset, on_test)
    also = ("valid",) if on_test else ()
    tasks = {}
    for protocol in dataset.protocols:
        mask = tuple(dict.fromkeys((*protocol.mask, *also))) if "train" in protocol.mask else protocol.mask
        tasks[protocol.name] = Task.of(dataset.test, dataset.joined(mask), protocol.candidates, *sizes, train)
    return tasks


def trained_on(dataset: Dataset, on_test: bool) -> Interactions:
    """Return the interactions to train on: with selection on the test part, as in the paper, valid too."""
    return dataset.joined(["train", "valid"]) if on_test else dataset.train


def validation_task(dataset: Dataset) -> Task:
    """Return the task of ranking validation items among all of training or validation; training items are masked.

    In a ``next-item`` data set the candidates are those of its protocol.

    Raises:
        NotFound: if the data set has no validation part.
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


def _pointers(counts: Tensor) -> Tensor:
    """Return CSR pointers ``(n + 1,)`` of rows with ``counts`` ``(n,)`` entries."""
    return torch.cat([counts.new_zeros(1), counts.cumsum(0)])
