"""Instruction data for every stage, streamed sample by sample (RecLM, arXiv 2412.19302, sections 2.2 to 2.4).

Each function chooses what is shown for all subjects at once, in arrays; only the text is put together one by one.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from pydantic import Field

from reclm.config import Config
from reclm.data.dataset import ProfileKind, ReadReport, TrainingView
from reclm.profilers.reclm import prompts
from reclm.profilers.reclm.budget import Budget, fitted, newest
from reclm.text.chat import Message, plain

Stage = Literal["kd", "collab", "inference", "warm-item", "cold-item"]
BLOCK = 8192
"""Subjects whose lists are chosen at once."""
TOO_LONG = "does not fit the token budget"


class InstructionConfig(Config):
    """What a prompt shows. RecLM, arXiv 2412.19302, section 2.3 and its release."""

    history: int = Field(default=10, ge=1)
    """Newest items of the target user."""
    neighbour_history: int = Field(default=5, ge=1)
    """Newest items of each similar user; the release shows 5."""
    clickers: int = Field(default=5, ge=0)
    """Newest users of an item whose profiles its prompt quotes; the release quotes 5."""
    item_chars: int = Field(default=300, ge=20)
    """Most characters of an item's text: whole sentences, as many as fit (the first one always)."""
    max_tokens: int = Field(default=2048, ge=64)
    """Most tokens of a sample, answers included; what does not fit is left out item by item. 2048 in the release."""
    answer_tokens: int = Field(default=100, ge=1)
    """Room kept for the answer where the sample has none; the release generates at most 100."""
    phrases: int = Field(default=3, ge=1, le=10)
    """Identities, and as many interests, of a user; section 2.2."""
    item_phrases: int = Field(default=5, ge=1, le=10)
    """The same of an item; section 2.3."""


@dataclass(frozen=True)
class Sample:
    """A chat to learn from, or to be answered.

    Attributes:
        messages: system and user turns, and the assistant's where they are known.
        kind, subject: whom the profile is of: user or item, and its id.
        stage: what it is for.
        label: ``"Yes"`` or ``"No"`` where the sample ends in a judgement, else empty.
        item: the id of the item that is judged, else empty.
        neighbours: ids of the similar users (or items) shown, nearest first.
    """

    messages: tuple[Message, ...]
    kind: ProfileKind
    subject: str
    stage: Stage
    label: str = ""
    item: str = ""
    neighbours: tuple[str, ...] = ()


class Instructions:
    """Makes samples from a view.

    Args:
        view: the training part; there is nothing else to leak.
        config: see :class:`InstructionConfig`.
        budget: counts tokens; samples have at most ``budget.limit``.

    Attributes:
        report: how many samples of each stage were made, and how many subjects were left out and why.
    """

    def __init__(self, view: TrainingView, config: InstructionConfig, budget: Budget) -> None:
        self.view, self.config, self.budget = view, config, budget
        self.report = ReadReport()

    def kd(self, profiles: Mapping[str, str]) -> Iterator[Sample]:
        """Knowledge distillation: the history of each user in ``profiles`` (id to text), and the profile."""
        for rows in _blocks(self._known("user", profiles)):
            texts = self._texts("user", profiles, rows)
            fixed = self._frame(prompts.distillation([], self.config.phrases)) + self.budget.lines(texts, "")
            shown, fits = self._fitted(
                "kd", self._histories[rows, None, : self.config.history], np.zeros((len(rows), 1)), fixed
            )
            for at in np.flatnonzero(fits):
                asked = prompts.distillation(self._named(shown[at, 0]), self.config.phrases)
                yield self._sample("kd", "user", rows[at], (*asked, Message("assistant", texts[at])))

    def collaborative(
        self, neighbours: np.ndarray, profiles: Mapping[str, str], generator: np.random.Generator
    ) -> Iterator[Sample]:
        """Two turns (equations 3 and 4), a positive and a negative sample of each user that has both.

        ``v+`` is drawn from the target's own items that a neighbour's shown list has too, and is taken out of the
        target's list; ``v-`` from the neighbours' shown items that the target never touched. Both samples of a user
        have the same first turn, without ``v+``: labels are balanced, and nothing but the item asked tells them apart.

        Args:
            neighbours: ``(U, N)`` user_idx, -1 where there are fewer; those without a profile are passed over.
            profiles: id to text, of targets and neighbours.
            generator: draws the items.
        """
        known = self._known("user", profiles)
        texts = self._texts("user", profiles, known)
        text_of = dict(zip(known.tolist(), texts, strict=True))
        cost = np.zeros(len(self.view.users), np.int64)
        cost[known] = self.budget.lines(texts, "User 10: ")
        for rows in _blocks(known):
            near = _packed(np.where(np.isin(neighbours[rows], known), neighbours[rows], -1))
            people = np.concatenate([rows[:, None], near], axis=1)
            lists = self._lists(rows, near, self.config.history + 1)
            asked = np.where(lists >= 0, self._item_cost[lists], 0).max((1, 2))
            frame = (
                *prompts.collaborative([()], self.config.phrases),
                Message("assistant", "."),
                prompts.judgement("."),
                Message("assistant", prompts.YES),
            )
            heading = cost[people] + self._heading
            shown, fits = self._fitted("collab", lists, heading, self.budget.frame(frame) + asked)
            positive, negative = self._drawn(rows, shown, generator)
            both = (positive >= 0) & (negative >= 0)
            self.report.drop("collab: no item to ask for", int((fits & ~both).sum()))
            shown[:, 0] = _packed(np.where(shown[:, 0] == positive[:, None], -1, shown[:, 0]))
            for at in np.flatnonzero(fits & both):
                users = [one for one, items in zip(people[at], shown[at], strict=True) if (items >= 0).any()]
                histories = [self._named(items) for items in shown[at] if (items >= 0).any()]
                first = (
                    *prompts.collaborative(
                        [one[: self.config.history] for one in histories], self.config.phrases
                    ),
                    Message("assistant", prompts.numbered([text_of[int(one)] for one in users])),
                )
                for item, label in ((positive[at], prompts.YES), (negative[at], prompts.NO)):
                    turn = prompts.judgement(self._lines[item]), Message("assistant", label)
                    yield self._sample(
                        "collab", "user", rows[at], (*first, *turn), label, int(item), users[1:]
                    )

    def inference(self, rows: np.ndarray, neighbours: np.ndarray) -> Iterator[Sample]:
        """The prompt (equation 5) that each user of ``rows`` with a history is asked; ``neighbours`` as above."""
        rows = rows[(self._histories[rows] >= 0).any(1)]
        for some in _blocks(rows):
            near = _packed(neighbours[some])
            lists = self._lists(some, near, self.config.history)
            frame = self._frame(prompts.inference([()], self.config.phrases)) + self.config.answer_tokens
            heading = np.full(lists.shape[:2], self._heading)
            shown, fits = self._fitted("inference", lists, heading, np.full(len(some), frame))
            for at in np.flatnonzero(fits):
                used = (shown[at] >= 0).any(1)
                histories = [self._named(items) for items in shown[at, used]]
                asked = prompts.inference(histories, self.config.phrases)
                yield self._sample("inference", "user", some[at], asked, shown=near[at][used[1:]])

    def warm_items(
        self, rows: np.ndarray, users: Mapping[str, str], profiles: Mapping[str, str] | None = None
    ) -> Iterator[Sample]:
        """First phase of item profiles: the text of each item of ``rows``, and profiles of users who chose it.

        Args:
            users: profiles of users; those who have none are passed over.
            profiles: the item profiles that are the answers; without them the samples end in the question.
        """
        order = self.view.train.by("item", len(self.view.items))[1]
        train = self.view.train
        known = self._known("user", users)
        # users without a profile take no place
        order = order[np.isin(train.user_idx[order], known)]
        limit = max(1, self.config.clickers)
        lists = newest(train.item_idx, train.user_idx, order, len(self.view.items), limit)
        if not self.config.clickers:
            lists[:] = -1
        quoted = dict(zip(known.tolist(), self._texts("user", users, known), strict=True))
        cost = np.zeros(len(self.view.users), np.int64)
        cost[known] = self.budget.lines(list(quoted.values()))
        yield from self._items("warm-item", rows, lists, quoted, cost, profiles)

    def cold_items(
        self,
        rows: np.ndarray,
        neighbours: np.ndarray,
        items: Mapping[str, str],
        profiles: Mapping[str, str] | None = None,
    ) -> Iterator[Sample]:
        """Second phase: the text of each item of ``rows``, and similar items with their profiles.

        Args:
            neighbours: ``(I, N)`` item_idx, nearest first, -1 where there are fewer; those without a profile in
                ``items`` are passed over.
            items: item profiles by id.
            profiles: the answers, as in :meth:`warm_items`.
        """
        known = self._known("item", items)
        texts = self._texts("item", items, known)
        quoted = {
            int(row): prompts.described(self._lines[row], text)
            for row, text in zip(known, texts, strict=True)
        }
        cost = np.zeros(len(self.view.items), np.int64)
        cost[known] = self.budget.lines(list(quoted.values()))
        lists = _packed(np.where(np.isin(neighbours, known), neighbours, -1))
        yield from self._items("cold-item", rows, lists, quoted, cost, profiles)

    def _items(
        self,
        stage: Literal["warm-item", "cold-item"],
        rows: np.ndarray,
        lists: np.ndarray,
        quoted: Mapping[int, str],
        cost: np.ndarray,
        profiles: Mapping[str, str] | None,
    ) -> Iterator[Sample]:
        """Items with a list of quoted lines, of ``users`` or of similar items."""
        ask = prompts.warm_item if stage == "warm-item" else prompts.cold_item
        phrases = self.config.item_phrases
        if profiles is not None:
            rows = rows[np.isin(rows, self._known("item", profiles))]
        bare = np.fromiter((not self._lines[row] for row in rows), bool, len(rows))
        self.report.drop(f"{stage}: no text", int(bare.sum()))
        for some in _blocks(rows[~bare]):
            texts = None if profiles is None else self._texts("item", profiles, some)
            frame = self._frame(ask(".", ["."], phrases))
            room = self.config.answer_tokens if texts is None else self.budget.lines(texts, "")
            fixed = frame + room + self._item_cost[some]
            nothing = np.zeros((len(some), 1), np.int64)
            shown, _ = fitted(lists[some, None], cost, nothing, fixed, self.budget.limit)
            fits = fixed <= self.budget.limit
            self.report.drop(f"{stage}: {TOO_LONG}", int((~fits).sum()))
            kind = "user" if stage == "warm-item" else "item"
            for at in np.flatnonzero(fits):
                named = shown[at, 0][shown[at, 0] >= 0]
                messages = ask(self._lines[some[at]], [quoted[int(one)] for one in named], phrases)
                if texts is not None:
                    messages = (*messages, Message("assistant", texts[at]))
                yield self._sample(stage, "item", some[at], messages, shown=named, shown_kind=kind)

    @cached_property
    def _lines(self) -> list[str]:
        return prompts.item_lines(self.view.item_text, self.view.text_template, self.config.item_chars)

    @cached_property
    def _item_cost(self) -> np.ndarray:
        return self.budget.lines(self._lines)

    @cached_property
    def _heading(self) -> int:
        return int(self.budget.lines(["User 10 chose:"], "")[0])

    @cached_property
    def _histories(self) -> np.ndarray:
        """``(U, h)``: each user's newest items that have any text, newest first."""
        told = np.fromiter(map(bool, self._lines), bool, len(self._lines))
        train = self.view.train.take(told[self.view.train.item_idx])
        limit = max(self.config.history + 1, self.config.neighbour_history)
        order = train.by("user", len(self.view.users))[1]
        return newest(train.user_idx, train.item_idx, order, len(self.view.users), limit)

    @cached_property
    def _pairs(self) -> np.ndarray:
        """Every (user, item) of the training part as one number, sorted."""
        return np.unique(self.view.train.user_idx * len(self.view.items) + self.view.train.item_idx)

    def _known(self, kind: ProfileKind, profiles: Mapping[str, str]) -> np.ndarray:
        """Rows of those who have a profile, sorted; users without a history left out."""
        rows = np.unique(self.view.idmap(kind).find(profiles))
        rows = rows[rows >= 0]
        return rows if kind == "item" else rows[(self._histories[rows] >= 0).any(1)]

    def _texts(self, kind: ProfileKind, profiles: Mapping[str, str], rows: np.ndarray) -> list[str]:
        return [plain(profiles[one]) for one in self.view.idmap(kind).ids(rows)]

    def _frame(self, asked: tuple[Message, ...]) -> int:
        return self.budget.frame((*asked, Message("assistant", ".")))

    def _lists(self, rows: np.ndarray, near: np.ndarray, limit: int) -> np.ndarray:
        """``(n, 1 + N, h)``: at most ``limit`` items of each target, then what is shown of its neighbours."""
        width = max(limit, self.config.neighbour_history)
        lists = np.full((len(rows), 1 + near.shape[1], width), -1, np.int64)
        lists[:, 0, :limit] = self._histories[rows, :limit]
        shown = self.config.neighbour_history
        lists[:, 1:, :shown] = np.where(near[:, :, None] >= 0, self._histories[near, :shown], -1)
        return lists

    def _fitted(
        self, stage: Stage, lists: np.ndarray, heading: np.ndarray, fixed: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        shown, fits = fitted(lists, self._item_cost, heading, fixed, self.budget.limit)
        self.report.drop(f"{stage}: {TOO_LONG}", int((~fits).sum()))
        return shown, fits

    def _drawn(
        self, rows: np.ndarray, shown: np.ndarray, generator: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """``v+`` and ``v-`` of each target, ``(n,)`` each, -1 where there is none."""
        theirs = np.sort(shown[:, 1:].reshape(len(rows), -1), axis=1)
        # what several neighbours chose is as likely to be drawn as what one did
        candidate = (theirs >= 0) & (np.diff(theirs, axis=1, prepend=-1) != 0)
        pair = rows[:, None] * len(self.view.items) + theirs
        place = np.minimum(np.searchsorted(self._pairs, pair), len(self._pairs) - 1)
        touched = self._pairs[place] == pair
        something_left = (shown[:, 0] >= 0).sum(1, keepdims=True) >= 2

        def drawn(allowed: np.ndarray) -> np.ndarray:
            at = np.where(allowed, generator.random(allowed.shape), -1.0).argmax(1)
            return np.where(allowed.any(1), np.take_along_axis(theirs, at[:, None], 1)[:, 0], -1)

        return drawn(candidate & touched & something_left), drawn(candidate & ~touched)

    def _named(self, items: np.ndarray) -> list[str]:
        return [self._lines[item] for item in items if item >= 0]

    def _sample(
        self,
        stage: Stage,
        kind: ProfileKind,
        row: int,
        messages: tuple[Message, ...],
        label: str = "",
        item: int = -1,
        shown: Sequence[int] | np.ndarray = (),
        shown_kind: ProfileKind | None = None,
    ) -> Sample:
        self.report.kept[stage] = self.report.kept.get(stage, 0) + 1
        near = np.asarray(shown, np.int64)
        near = near[near >= 0]
        return Sample(
            messages,
            kind,
            self.view.idmap(kind).ids(np.array([row]))[0],
            stage,
            label,
            self.view.items.ids(np.array([item]))[0] if item >= 0 else "",
            tuple(self.view.idmap(shown_kind or kind).ids(near)) if len(near) else (),
        )


def _blocks(rows: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(rows), BLOCK):
        yield rows[start : start + BLOCK]


def _packed(lists: np.ndarray) -> np.ndarray:
    """``(n, m)`` with the entries of each row moved to its front, in order, -1 behind them."""
    order = np.argsort(lists < 0, axis=1, kind="stable")
    return np.take_along_axis(lists, order, 1)
