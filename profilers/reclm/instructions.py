"""Instruction data for every stage, streamed sample by sample (RecLM, arXiv 2412.19302, sections 2.2 to 2.4).

What is shown is chosen for thousands of subjects at once, in arrays; only the text is put together one by one.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from reclm.data.dataset import ProfileKind, ReadReport, TrainingView
from reclm.llm.chat import Chat, Message
from reclm.profilers.profile_format import START
from reclm.profilers.reclm import prompts
from reclm.profilers.reclm.budget import Budget, fitted
from reclm.profilers.reclm.config import InstructionConfig
from reclm.profilers.reclm.histories import Shown, blocks, packed

Stage = Literal["kd", "collab", "inference", "warm-item", "cold-item"]
TOO_LONG = "does not fit the token budget"


@dataclass(frozen=True)
class Sample:
    """A chat to learn from, or to be answered.

    Attributes:
        messages: system and user turns, and the assistant's where they are known.
        kind, subject: whom the profile is of: user or item, and its id.
        stage: what it is for.
        label: ``"Yes"`` or ``"No"`` where the sample ends in a judgement, else empty.
        item: the id of the item that is judged, else empty.
        neighbours: ids of the users (or items) that are shown beside the subject, nearest or newest first.
    """

    messages: tuple[Message, ...]
    kind: ProfileKind
    subject: str
    stage: Stage
    label: str = ""
    item: str = ""
    neighbours: tuple[str, ...] = ()

    @property
    def chat(self) -> Chat:
        """The question with the answer begun, in the way that the stage's answers were taught to begin."""
        return Chat(self.messages, prompts.numbered([START]) if self.stage == "inference" else START)


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
        self.shown = Shown(view, config, budget)
        self.report = ReadReport()

    def kd(self, profiles: Mapping[str, str]) -> Iterator[Sample]:
        """Knowledge distillation: the history of each user in ``profiles`` (id to text), and the profile."""
        for rows in blocks(self.shown.known("user", profiles)):
            texts = self.shown.texts("user", profiles, rows)
            for at, asked in self._alone(rows, self.budget.lines(texts, "")):
                yield self._sample("kd", "user", rows[at], (*asked, Message("assistant", texts[at])))

    def alone(self, rows: np.ndarray) -> Iterator[Sample]:
        """The question of :meth:`kd` to each user of ``rows`` ``(n,)``; users without a history are left out."""
        for some in blocks(rows[(self.shown.histories[rows] >= 0).any(1)]):
            for at, asked in self._alone(some, np.full(len(some), self.config.answer_tokens)):
                yield self._sample("kd", "user", some[at], asked)

    def _alone(self, rows: np.ndarray, room: np.ndarray) -> Iterator[tuple[int, tuple[Message, ...]]]:
        """Place in ``rows`` and question of those whose history fits beside an answer of ``room`` tokens."""
        phrases = self.config.phrases
        lists = self.shown.histories[rows, None, : self.config.history]
        heading = np.zeros((len(rows), 1), np.int64)
        fixed = self._frame(prompts.distillation([], phrases)) + room
        kept, fits = self._fitted("kd", lists, heading, fixed)
        for at in np.flatnonzero(fits).tolist():
            yield at, prompts.distillation(self._named(kept[at, 0]), phrases)

    def collaborative(
        self, neighbours: np.ndarray, profiles: Mapping[str, str], generator: np.random.Generator
    ) -> Iterator[Sample]:
        """Two turns (equations 3 and 4), a positive and a negative sample of each user that has both.

        ``v+`` is drawn from the target's own items that a neighbour's shown list has too, and is taken out of the
        target's list; ``v-`` from the neighbours' shown items that the target never touched. Both samples of a user
        have the same first turn, without ``v+``: labels are balanced, and nothing but the item asked tells them apart.

        Args:
            neighbours: ``(U, N)`` user_idx, nearest first, -1 where there are fewer; those without a profile are
                passed over.
            profiles: id to text, of targets and neighbours.
            generator: draws the items.
        """
        known = self.shown.known("user", profiles)
        texts = dict(zip(known.tolist(), self.shown.texts("user", profiles, known), strict=True))
        cost = np.zeros(len(self.view.users), np.int64)
        cost[known] = self.budget.lines(list(texts.values()), "User 10: ")
        first = prompts.collaborative([()], self.config.phrases)
        last = prompts.judgement("."), Message("assistant", prompts.YES)
        frame = self.budget.frame((*first, Message("assistant", "."), *last))
        for rows in blocks(known):
            near = packed(np.where(np.isin(neighbours[rows], known), neighbours[rows], -1))
            people = np.concatenate([rows[:, None], near], axis=1)
            lists = self.shown.lists(rows, near, self.config.history + 1)
            question = np.where(lists >= 0, self.shown.costs[lists], 0).max((1, 2))
            kept, fits = self._fitted("collab", lists, cost[people] + self._heading(), frame + question)
            kept[:, 0], positive, negative = self.shown.asked(rows, kept, generator)
            both = (positive >= 0) & (negative >= 0)
            self.report.drop("collab: no item to ask for", int((fits & ~both).sum()))
            for at in np.flatnonzero(fits & both):
                used = (kept[at] >= 0).any(1)
                users = people[at, used]
                turn = self._first_turn(kept[at, used], [texts[one] for one in users.tolist()])
                for item, label in ((int(positive[at]), prompts.YES), (int(negative[at]), prompts.NO)):
                    ask = prompts.judgement(self.shown.lines[item]), Message("assistant", label)
                    yield self._sample("collab", "user", rows[at], (*turn, *ask), users[1:], label, item)

    def inference(self, rows: np.ndarray, neighbours: np.ndarray) -> Iterator[Sample]:
        """The prompt (equation 5) that each user of ``rows`` is asked; users without a history are left out.

        Args:
            rows: ``(n,)`` user_idx.
            neighbours: ``(U, N)`` user_idx, nearest first, -1 where there are fewer.
        """
        phrases = self.config.phrases
        frame = self._frame(prompts.inference([()], phrases)) + self.config.answer_tokens
        for some in blocks(rows[(self.shown.histories[rows] >= 0).any(1)]):
            near = packed(neighbours[some])
            lists = self.shown.lists(some, near, self.config.history)
            heading = np.full(lists.shape[:2], self._heading())
            kept, fits = self._fitted("inference", lists, heading, np.full(len(some), frame))
            for at in np.flatnonzero(fits):
                used = (kept[at] >= 0).any(1)
                asked = prompts.inference([self._named(items) for items in kept[at, used]], phrases)
                yield self._sample("inference", "user", some[at], asked, near[at, used[1:]])

    def warm_items(
        self, rows: np.ndarray, users: Mapping[str, str], profiles: Mapping[str, str] | None = None
    ) -> Iterator[Sample]:
        """First phase of item profiles: the text of each item of ``rows``, and profiles of users who chose it.

        Args:
            rows: ``(n,)`` item_idx.
            users: profiles of users by id; those who have none are passed over.
            profiles: the item profiles that are the answers; without them the samples end in the question.
        """
        known = self.shown.known("user", users)
        quoted = dict(zip(known.tolist(), self.shown.texts("user", users, known), strict=True))
        yield from self._items("warm-item", rows, self.shown.clickers(known), quoted, profiles)

    def cold_items(
        self,
        rows: np.ndarray,
        neighbours: np.ndarray,
        items: Mapping[str, str],
        profiles: Mapping[str, str] | None = None,
    ) -> Iterator[Sample]:
        """Second phase: the text of each item of ``rows``, and similar items with their profiles.

        Args:
            rows: ``(n,)`` item_idx.
            neighbours: ``(I, N)`` item_idx, nearest first, -1 where there are fewer; those without a profile in
                ``items`` are passed over.
            items: item profiles by id.
            profiles: the answers, as in :meth:`warm_items`.
        """
        known = self.shown.known("item", items)
        texts = self.shown.texts("item", items, known)
        quoted = {
            row: prompts.described(self.shown.lines[row], text)
            for row, text in zip(known.tolist(), texts, strict=True)
        }
        lists = packed(np.where(np.isin(neighbours, known), neighbours, -1))
        yield from self._items("cold-item", rows, lists, quoted, profiles)

    def _items(
        self,
        stage: Literal["warm-item", "cold-item"],
        rows: np.ndarray,
        lists: np.ndarray,
        quoted: Mapping[int, str],
        profiles: Mapping[str, str] | None,
    ) -> Iterator[Sample]:
        """Items with the lines ``quoted`` of users or of other items, by ``lists`` ``(I, N)`` of who is quoted."""
        ask, phrases = prompts.ITEM_PROMPTS[stage], self.config.item_phrases
        frame = self._frame(ask(".", ["."], phrases))
        cost = np.zeros(1 + max(quoted, default=0), np.int64)
        cost[list(quoted)] = self.budget.lines(list(quoted.values()))
        if profiles is not None:
            rows = rows[np.isin(rows, self.shown.known("item", profiles))]
        bare = np.fromiter((not self.shown.lines[row] for row in rows), bool, len(rows))
        self.report.drop(f"{stage}: no text", int(bare.sum()))
        for some in blocks(rows[~bare]):
            texts = self.shown.texts("item", profiles, some) if profiles is not None else []
            room = self.budget.lines(texts, "") if texts else self.config.answer_tokens
            fixed = frame + room + self.shown.costs[some]
            heading = np.zeros((len(some), 1), np.int64)
            kept, _ = fitted(lists[some, None], cost, heading, fixed, self.budget.limit)
            # an item for which not one line has room is described by its own text
            fits = fixed <= self.budget.limit
            self.report.drop(f"{stage}: {TOO_LONG}", int((~fits).sum()))
            for at in np.flatnonzero(fits):
                beside = kept[at, 0][kept[at, 0] >= 0]
                asked = ask(self.shown.lines[some[at]], [quoted[one] for one in beside.tolist()], phrases)
                answer = (Message("assistant", texts[at]),) if texts else ()
                yield self._sample(stage, "item", some[at], (*asked, *answer), beside)

    def _first_turn(self, lists: np.ndarray, profiles: Sequence[str]) -> tuple[Message, ...]:
        """Question and answer of the first turn: ``(m, h)`` histories, the target's first, and ``m`` profiles."""
        asked = prompts.collaborative([self._named(items) for items in lists], self.config.phrases)
        return *asked, Message("assistant", prompts.numbered(profiles))

    def _frame(self, asked: tuple[Message, ...]) -> int:
        """Tokens of a question and its answer, lists and answer left out."""
        return self.budget.frame((*asked, Message("assistant", ".")))

    def _heading(self) -> int:
        return int(self.budget.lines(["User 10 chose:"], "")[0])

    def _fitted(
        self, stage: Stage, lists: np.ndarray, heading: np.ndarray, fixed: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        kept, fits = fitted(lists, self.shown.costs, heading, fixed, self.budget.limit)
        self.report.drop(f"{stage}: {TOO_LONG}", int((~fits).sum()))
        return kept, fits

    def _named(self, items: np.ndarray) -> list[str]:
        return [self.shown.lines[item] for item in items if item >= 0]

    def _sample(
        self,
        stage: Stage,
        kind: ProfileKind,
        row: int,
        messages: tuple[Message, ...],
        beside: np.ndarray | None = None,
        label: str = "",
        item: int = -1,
    ) -> Sample:
        self.report.kept[stage] = self.report.kept.get(stage, 0) + 1
        others = self.view.items if stage == "cold-item" else self.view.users
        return Sample(
            messages,
            kind,
            self.view.idmap(kind).ids(np.array([row]))[0],
            stage,
            label,
            self.view.items.ids(np.array([item]))[0] if item >= 0 else "",
            tuple(others.ids(beside)) if beside is not None and len(beside) else (),
        )
