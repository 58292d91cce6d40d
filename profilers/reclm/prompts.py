"""The prompts of RecLM (https://arxiv.org/abs/2412.19302, sections 2.2 to 2.4): their words, lists and token budget.

Items come as their text, rendered by the data set's own template; profiles as they were written. Both go through
:func:`~reclm.llm.chat.plain` first, one line each, so that neither can pose as a turn of the chat or as another line of
the prompt. Lists of items or users are arrays, for thousands of subjects at once, with -1 behind the last entry.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from reclm.data.dataset import ProfileKind, TrainingView
from reclm.llm.chat import Message, plain
from reclm.llm.tokens import PromptTokenizer
from reclm.profilers.reclm.config import InstructionConfig
from reclm.text.item_text import cut_items, item_lines

YES, NO = "Yes", "No"
_LETTERS = {3: ("a, b, c", "x, y, z"), 5: ("a, b, c, d, e", "v, w, x, y, z")}
_FORM = "in one line of the form 'User identity: {0}; User interests: {1}.'"
_KD = f"You read what a user of a recommender chose and say who the user is and what the user likes, {_FORM}."
_TOGETHER = (
    "You help a recommender that learns from people with similar taste. You work in two steps. First you read what "
    f"several users chose and describe each user, {_FORM}. Then you are shown another item and judge "
    "from the choices and descriptions of the similar users whether the first user will choose it."
)
_ITEM = f"You describe the users whom an item of a recommender is for, {_FORM}. Go by the item's text and by {{2}}."
_ITEM_SOURCES = {
    "warm-item": ("who chose it", "Some users who chose it:"),
    "cold-item": ("the profiles of similar items", "Similar items, and whom each is for:"),
}
_EACH = "Describe each of these {0} users, a line each, beginning with the user's number."
_FIRST = "Describe User 1 alone. The other users only help to see what User 1 likes."
_ASK = "Here is another item:\n- {0}\nWill User 1 choose it? Answer only Yes or No."
_BLOCK = 8192


def distillation(items: Sequence[str], phrases: int) -> tuple[Message, ...]:
    """Ask about one user's history, newest first; the answer is the user's profile."""
    return _question(_KD, phrases, ["The user chose, newest first:", *_listed(items), "Describe the user."])


def collaborative(histories: Sequence[Sequence[str]], phrases: int) -> tuple[Message, ...]:
    """Ask the first turn's question (equation 3): histories of the target, who is User 1, and of similar users.

    The answer is :func:`numbered` profiles.
    """
    return _question(_TOGETHER, phrases, [*_users(histories), _EACH.format(len(histories))])


def numbered(profiles: Sequence[str]) -> str:
    """Return the first turn's answer: a profile a line, behind the user's number."""
    return "\n".join(f"User {number}: {profile}" for number, profile in enumerate(profiles, start=1))


def judgement(item: str) -> Message:
    """Ask the second turn's question (equation 4); the answer is ``Yes`` or ``No``."""
    return Message("user", _ASK.format(item))


def inference(histories: Sequence[Sequence[str]], phrases: int) -> tuple[Message, ...]:
    """Ask for one profile (equation 5), with histories as in the first turn."""
    return _question(_TOGETHER, phrases, [*_users(histories), _FIRST])


def item_question(stage: str, item: str, quoted: Sequence[str], phrases: int) -> tuple[Message, ...]:
    """Ask about a ``warm-item`` with profiles of users who chose it, about a ``cold-item`` with similar items."""
    source, heading = _ITEM_SOURCES[stage]
    lines = ["The item:", f"- {item}", *([heading, *_listed(quoted)] if quoted else [])]
    return _question(_ITEM, phrases, [*lines, "Describe the users whom the item is for."], source)


def _question(task: str, phrases: int, lines: Sequence[str], source: str = "") -> tuple[Message, ...]:
    """Return the task, in which ``phrases`` placeholders stand for identities and interests, and the lines."""
    letters = _LETTERS.get(phrases) or (
        ", ".join(f"{name} {at + 1}" for at in range(phrases)) for name in ("identity", "interest")
    )
    return Message("system", task.format(*letters, source)), Message("user", "\n".join(lines))


def _users(histories: Sequence[Sequence[str]]) -> list[str]:
    people = enumerate(histories, start=1)
    return [line for number, items in people for line in (f"User {number} chose:", *_listed(items))]


def _listed(texts: Sequence[str]) -> list[str]:
    return [f"- {text}" for text in texts]


class Budget:
    """Counts tokens of parts of a prompt, of which a whole sample has at most ``limit``, answers included.

    The sum is never too small: a line counts with its line break, and tokenizers do not merge across its beginning.
    """

    def __init__(self, prompts: PromptTokenizer, limit: int) -> None:
        self.prompts, self.limit = prompts, min(limit, prompts.context)

    def lines(self, texts: Sequence[str], bullet: str = "- ") -> np.ndarray:
        """Return ``(n,)`` int64: tokens of each text as a line of its own."""
        if not texts:
            return np.zeros(0, np.int64)
        tokenizer: Any = self.prompts.tokenizer
        ids = tokenizer([f"{bullet}{text}\n" for text in texts], add_special_tokens=False)["input_ids"]
        return np.fromiter(map(len, ids), np.int64, len(ids))

    def frame(self, messages: tuple[Message, ...]) -> int:
        """Return the tokens of a whole sample: of template and fixed words, if its lists are empty."""
        return len(self.prompts.training_ids(messages)[0])


def trimmed(
    lists: np.ndarray, item_cost: np.ndarray, list_cost: np.ndarray, fixed: np.ndarray, limit: int
) -> tuple[np.ndarray, np.ndarray]:
    """Leave out whole items until a prompt fits: first the last items of the longest lists, then the last lists.

    A row of ``lists`` ``(n, L, h)`` retains at least two items a list, then fewer lists, at last one item of one list:
    a target with a single item has none left to ask for. Its tokens are ``fixed`` ``(n,)``, ``list_cost`` ``(n, L)``
    of each list that is not empty, and ``item_cost`` ``(I,)`` of each item.

    Return ``(lists, fits)``: a copy with -1 where an item was left out, and ``(n,)`` bool: whether the row fits at all;
    one that does not is all -1.
    """
    present = lists >= 0
    total = np.cumsum(np.where(present, item_cost[lists], 0), axis=2)
    headings = np.where(present.any(2), list_cost, 0)
    _, n_lists, longest = lists.shape
    chosen = np.zeros(lists.shape, bool)
    fits = np.zeros(len(lists), bool)
    options = [(items, n_lists) for items in range(longest, 2, -1)]
    options += [(items, count) for items in range(min(2, longest), 0, -1) for count in range(n_lists, 0, -1)]
    for items, count in options:
        cost = fixed + total[:, :count, items - 1].sum(1) + headings[:, :count].sum(1)
        now = ~fits & (cost <= limit)
        chosen[now, :count, :items] = True
        fits |= now
    return np.where(chosen & present, lists, -1), fits


class Histories:
    """Items as lines of text, and the histories of all users."""

    def __init__(self, view: TrainingView, config: InstructionConfig, budget: Budget) -> None:
        self.view, self.config, self.budget = view, config, budget

    @cached_property
    def lines(self) -> list[str]:
        """The text of each item, ``I`` strings; empty where there is none."""
        return item_lines(self.view.item_text, self.view.text_template, self.config.item_chars)

    def cut_texts(self) -> list[str]:
        """Return a line that says how many items' texts are cut; none where none is."""
        return cut_items(self.view.item_text, self.view.text_template, self.config.item_chars)

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
        train, items = self.view.train, len(self.view.items)
        order = train.by("item", items)[1]
        order = order[np.isin(train.user_idx[order], known)]
        return newest(train.item_idx, train.user_idx, order, items, self.config.clickers)

    def known(self, kind: ProfileKind, profiles: Mapping[str, str]) -> tuple[np.ndarray, dict[int, str]]:
        """Return the sorted rows ``(n,)`` that have a profile, and of users a history; and their profiles by row."""
        rows = np.unique(self.view.idmap(kind).find(profiles))
        rows = rows[rows >= 0]
        rows = rows if kind == "item" else self.with_history(rows)
        return rows, dict(zip(rows.tolist(), self.texts(kind, profiles, rows), strict=True))

    def with_history(self, rows: np.ndarray) -> np.ndarray:
        """Return those of the users ``rows`` ``(n,)`` that have a history, ``(m,)``."""
        return rows[(self.of_users[rows] >= 0).any(1)]

    def named(self, items: np.ndarray) -> list[str]:
        """Return the lines of a list of items."""
        return [self.lines[item] for item in items if item >= 0]

    def texts(self, kind: ProfileKind, profiles: Mapping[str, str], rows: np.ndarray) -> list[str]:
        """Return the profiles of ``rows`` ``(n,)``, a line each."""
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
        """Draw ``v+`` and ``v-`` of each of ``rows`` ``(n,)`` from the lists of its neighbours.

        ``v+`` is an item of the target's own, ``v-`` one that the target never touched, nor any that reads the same.
        An item that several neighbours chose is as likely to be drawn as one of a single neighbour. ``lists``
        ``(n, 1 + N, h)`` are those of the prompt, the target's first.

        Return ``(histories, positive, negative)``: ``(n, h)`` the target's list without ``v+`` and items that read the
        same, at most ``history`` items, and ``(n,)`` items, -1 where there is none, or where nothing would be left.
        """
        train, items = self.view.train, len(self.view.items)
        text = np.unique(np.array(self.lines, object), return_inverse=True)[1]
        near_items = np.sort(lists[:, 1:].reshape(len(rows), -1), axis=1)
        candidate = (near_items >= 0) & (np.diff(near_items, axis=1, prepend=-1) != 0)
        users, clickers = rows[:, None] * items, train.user_idx * items
        touched = np.isin(users + near_items, clickers + train.item_idx)
        alike = np.isin(users + text[near_items], clickers + text[train.item_idx])

        def drawn(allowed: np.ndarray) -> np.ndarray:
            at = np.where(allowed, generator.random(allowed.shape), -1.0).argmax(1)
            return np.where(allowed.any(1), np.take_along_axis(near_items, at[:, None], 1)[:, 0], -1)

        positive, negative = drawn(candidate & touched), drawn(candidate & ~alike)
        same = text[lists[:, 0]] == text[positive][:, None]
        histories = packed(np.where(same & (positive >= 0)[:, None], -1, lists[:, 0]))
        histories[:, self.config.history :] = -1
        return histories, np.where(histories[:, 0] >= 0, positive, -1), negative


def newest(
    user_idx: np.ndarray, item_idx: np.ndarray, order: np.ndarray, users: int, limit: int
) -> np.ndarray:
    """Return ``(users, limit)`` int64: each user's last distinct items, newest first.

    ``order`` has the positions of the interactions by user, oldest first (:meth:`~reclm.data.dataset.Interactions.by`).
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
    return np.take_along_axis(lists, np.argsort(lists < 0, axis=1, kind="stable"), 1)


def blocks(rows: np.ndarray) -> Iterator[np.ndarray]:
    """Yield ``rows`` in blocks of some thousand."""
    for start in range(0, len(rows), _BLOCK):
        yield rows[start : start + _BLOCK]
