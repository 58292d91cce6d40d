"""Histories as arrays of items, for all users at once, and the items that are asked about (RecLM, section 2.3)."""

from collections.abc import Iterator, Mapping
from functools import cached_property

import numpy as np

from reclm.data.dataset import ProfileKind, TrainingView
from reclm.llm.chat import plain
from reclm.profilers.reclm.config import InstructionConfig
from reclm.profilers.reclm.prompts import Budget
from reclm.text.item_text import item_lines

BLOCK = 8192
"""Subjects whose lists are chosen at once."""


class Histories:
    """Items as lines of text, and lists of them, of all users at once.

    Lists of items or users are arrays that have -1 where a list is shorter than the longest.

    Args:
        view: the training part.
        config: lengths of the lists.
        budget: counts the tokens of lines.
    """

    def __init__(self, view: TrainingView, config: InstructionConfig, budget: Budget) -> None:
        self.view, self.config, self.budget = view, config, budget

    @cached_property
    def lines(self) -> list[str]:
        """The text of each item, ``I`` strings; empty where there is none."""
        return item_lines(self.view.item_text, self.view.text_template, self.config.item_chars)

    @cached_property
    def costs(self) -> np.ndarray:
        """``(I,)`` int64: tokens of each item's line."""
        return self.budget.lines(self.lines)

    @cached_property
    def of_users(self) -> np.ndarray:
        """``(U, h)``: each user's newest items that have any text, newest first."""
        has_text = np.fromiter(map(bool, self.lines), bool, len(self.lines))
        train = self.view.train.take(has_text[self.view.train.item_idx])
        limit = max(self.config.history + 1, self.config.neighbour_history)
        order = train.by("user", len(self.view.users))[1]
        return newest(train.user_idx, train.item_idx, order, len(self.view.users), limit)

    def clickers(self, known: np.ndarray) -> np.ndarray:
        """Return ``(I, c)``: the newest users of each item who are among ``known``, newest first."""
        train, limit = self.view.train, self.config.clickers
        order = train.by("item", len(self.view.items))[1]
        order = order[np.isin(train.user_idx[order], known)]
        lists = newest(train.item_idx, train.user_idx, order, len(self.view.items), max(limit, 1))
        return lists if limit else np.full_like(lists, -1)

    def known(self, kind: ProfileKind, profiles: Mapping[str, str]) -> np.ndarray:
        """Return ``(n,)`` rows of the subjects that have a profile, sorted; users without a history are left out."""
        rows = np.unique(self.view.idmap(kind).find(profiles))
        rows = rows[rows >= 0]
        return rows if kind == "item" else rows[(self.of_users[rows] >= 0).any(1)]

    def texts(self, kind: ProfileKind, profiles: Mapping[str, str], rows: np.ndarray) -> list[str]:
        """Return the profiles of ``rows``, safe to stand in a prompt."""
        return [plain(profiles[id]) for id in self.view.idmap(kind).ids(rows)]

    def lists(self, rows: np.ndarray, near: np.ndarray, limit: int) -> np.ndarray:
        """Return ``(n, 1 + N, h)``: at most ``limit`` items of each of ``rows``, then its neighbours' ``(n, N)``."""
        shown = self.config.neighbour_history
        lists = np.full((len(rows), 1 + near.shape[1], max(limit, shown)), -1, np.int64)
        lists[:, 0, :limit] = self.of_users[rows, :limit]
        lists[:, 1:, :shown] = np.where(near[:, :, None] >= 0, self.of_users[near, :shown], -1)
        return lists

    def draw_questions(
        self, rows: np.ndarray, lists: np.ndarray, generator: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Draw ``v+`` and ``v-`` of each target from what its neighbours' lists show.

        ``v+`` is an item of the target's own, ``v-`` one that the target never touched, nor any that reads the same.
        What several neighbours chose is as likely to be drawn as what one did.

        Args:
            rows: ``(n,)`` targets.
            lists: ``(n, 1 + N, h)`` as the prompt shows them, the target's first.
            generator: draws.

        Returns:
            ``(own, positive, negative)``: ``(n, h)`` the target's list without ``v+`` and items that read the same, at
            most ``history`` items, and ``(n,)`` items, -1 where there is none, or where nothing would
            be left.
        """
        theirs = np.sort(lists[:, 1:].reshape(len(rows), -1), axis=1)
        candidate = (theirs >= 0) & (np.diff(theirs, axis=1, prepend=-1) != 0)
        touched = _member(self._touched, rows[:, None] * len(self.view.items) + theirs)
        alike = _member(self._read, rows[:, None] * len(self.view.items) + self._text[theirs])

        def drawn(allowed: np.ndarray) -> np.ndarray:
            at = np.where(allowed, generator.random(allowed.shape), -1.0).argmax(1)
            return np.where(allowed.any(1), np.take_along_axis(theirs, at[:, None], 1)[:, 0], -1)

        positive, negative = drawn(candidate & touched), drawn(candidate & ~alike)
        same = self._text[lists[:, 0]] == self._text[positive][:, None]
        own = packed(np.where(same & (positive >= 0)[:, None], -1, lists[:, 0]))
        own[:, self.config.history :] = -1
        return own, np.where(own[:, 0] >= 0, positive, -1), negative

    @cached_property
    def _text(self) -> np.ndarray:
        """``(I,)``: a number for each item's text, equal for items that read the same."""
        return np.unique(np.array(self.lines, object), return_inverse=True)[1]

    @cached_property
    def _touched(self) -> np.ndarray:
        """Every (user, item) of the training part as one number, sorted."""
        return np.unique(self.view.train.user_idx * len(self.view.items) + self.view.train.item_idx)

    @cached_property
    def _read(self) -> np.ndarray:
        """Every (user, text) likewise."""
        train = self.view.train
        return np.unique(train.user_idx * len(self.view.items) + self._text[train.item_idx])


def _member(known: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Return which of ``wanted`` are in ``known``, which is sorted and not empty."""
    place = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
    return known[place] == wanted


def newest(
    user_idx: np.ndarray, item_idx: np.ndarray, order: np.ndarray, users: int, limit: int
) -> np.ndarray:
    """Return ``(users, limit)`` int64: each user's last distinct items, newest first, -1 where there are fewer.

    Args:
        user_idx, item_idx: ``(n,)`` interactions.
        order: ``(n,)`` positions sorted by user, each user's oldest first
            (:meth:`~reclm.data.dataset.Interactions.by`).
    """
    backwards = order[::-1]
    user, item = user_idx[backwards], item_idx[backwards]
    pair = user * (int(item_idx.max(initial=0)) + 1) + item
    first = np.sort(np.unique(pair, return_index=True)[1])
    user, item = user[first], item[first]
    # users are in falling order now, each with its newest item first
    counts = np.bincount(user, minlength=users)
    starts = np.cumsum(counts[::-1])[::-1] - counts
    place = np.arange(len(user)) - starts[user]
    lists = np.full((users, limit), -1, np.int64)
    within = place < limit
    lists[user[within], place[within]] = item[within]
    return lists


def packed(lists: np.ndarray) -> np.ndarray:
    """Return ``(n, m)`` with the entries of each row moved to its front, in order, -1 behind them."""
    order = np.argsort(lists < 0, axis=1, kind="stable")
    return np.take_along_axis(lists, order, 1)


def blocks(rows: np.ndarray) -> Iterator[np.ndarray]:
    """Yield ``rows``, some thousand at once."""
    for start in range(0, len(rows), BLOCK):
        yield rows[start : start + BLOCK]
