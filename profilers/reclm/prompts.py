"""The words of every prompt (RecLM, https://arxiv.org/abs/2412.19302, sections 2.2 to 2.4), and its token budget.

Items come as their text, rendered by the data set's own template; profiles as they were written. Both go through
:func:`~reclm.llm.chat.plain` first, one line each, so that neither can pose as a turn of the chat or as another line of
the prompt.
"""

from collections.abc import Sequence
from typing import Any, Self

import numpy as np

from reclm.llm.chat import Message
from reclm.llm.tokens import PromptTokenizer
from reclm.profilers.reclm.config import InstructionConfig

YES, NO = "Yes", "No"
_LETTERS = {3: ("a, b, c", "x, y, z"), 5: ("a, b, c, d, e", "v, w, x, y, z")}

_FORM = "in one line of the form 'User identity: {0}; User interests: {1}.'"
_KD = (
    "You read what a user of a recommender chose and say who the user is and what the user likes, "
    + _FORM
    + "."
)
_TOGETHER = (
    "You help a recommender that learns from people with similar taste. You work in two steps. First you read what "
    "several users chose and describe each user, " + _FORM + ". Then you are shown another item and judge "
    "from the choices and descriptions of the similar users whether the first user will choose it."
)
_ITEM = (
    "You describe the users whom an item of a recommender is for, "
    + _FORM
    + ". Go by the item's text and by {2}."
)
_EACH = "Describe each of these {0} users, a line each, beginning with the user's number."
_FIRST = "Describe User 1 alone. The other users only help to see what User 1 likes."
_ASK = "Here is another item:\n- {0}\nWill User 1 choose it? Answer only Yes or No."


def distillation(items: Sequence[str], phrases: int) -> tuple[Message, ...]:
    """Ask about one user's history, newest first; the answer is the user's profile."""
    lines = ["The user chose, newest first:", *_listed(items), "Describe the user."]
    return _question(_KD.format(*_letters(phrases)), lines)


def collaborative(histories: Sequence[Sequence[str]], phrases: int) -> tuple[Message, ...]:
    """Ask the first turn's question (equation 3): histories of the target, who is User 1, and of similar users.

    The answer is :func:`numbered` profiles.
    """
    return _question(_TOGETHER.format(*_letters(phrases)), [*_users(histories), _EACH.format(len(histories))])


def numbered(profiles: Sequence[str]) -> str:
    """Return the first turn's answer: a profile a line, behind the user's number."""
    return "\n".join(f"User {number}: {profile}" for number, profile in enumerate(profiles, start=1))


def profile_of(answer: str) -> str:
    """Return the profile in an answer that is one line of :func:`numbered`, or the profile alone.

    >>> profile_of("User 1: User identity: cook; User interests: bread.")
    'User identity: cook; User interests: bread.'
    """
    return answer.removeprefix(numbered([""]))


def judgement(item: str) -> Message:
    """Ask the second turn's question (equation 4); the answer is ``Yes`` or ``No``."""
    return Message("user", _ASK.format(item))


def inference(histories: Sequence[Sequence[str]], phrases: int) -> tuple[Message, ...]:
    """Ask for one profile (equation 5), with histories as in the first turn."""
    return _question(_TOGETHER.format(*_letters(phrases)), [*_users(histories), _FIRST])


def warm_item(item: str, profiles: Sequence[str], phrases: int) -> tuple[Message, ...]:
    """Ask about an item with the profiles of users who chose it (first phase of item profiles)."""
    task = _ITEM.format(*_letters(phrases), "who chose it")
    listed = ["Some users who chose it:", *_listed(profiles)] if profiles else []
    return _question(task, ["The item:", f"- {item}", *listed, "Describe the users whom the item is for."])


def cold_item(item: str, similar: Sequence[str], phrases: int) -> tuple[Message, ...]:
    """Ask about an item with similar items, each as :func:`described` (second phase: items that nobody chose yet)."""
    task = _ITEM.format(*_letters(phrases), "the profiles of similar items")
    listed = ["Similar items, and whom each is for:", *_listed(similar)] if similar else []
    return _question(task, ["The item:", f"- {item}", *listed, "Describe the users whom the item is for."])


ITEM_PROMPTS = {"warm-item": warm_item, "cold-item": cold_item}
"""The two phases of item profiles by name."""


def described(item: str, profile: str) -> str:
    """Return a similar item as a line: its text, and its profile."""
    return f"{item} For: {profile}"


def _question(task: str, lines: Sequence[str]) -> tuple[Message, ...]:
    return Message("system", task), Message("user", "\n".join(lines))


def _users(histories: Sequence[Sequence[str]]) -> list[str]:
    lines = []
    for number, items in enumerate(histories, start=1):
        lines += [f"User {number} chose:", *_listed(items)]
    return lines


def _listed(texts: Sequence[str]) -> list[str]:
    return [f"- {text}" for text in texts]


def _letters(phrases: int) -> tuple[str, str]:
    """Return ``phrases`` placeholders for identities and as many for interests."""
    if phrases in _LETTERS:
        return _LETTERS[phrases]
    return tuple(", ".join(f"{name} {at + 1}" for at in range(phrases)) for name in ("identity", "interest"))  # pyright: ignore[reportReturnType]


class Budget:
    """Counts tokens of parts of a prompt.

    A line counts with the line break behind it. Tokenizers do not merge across the beginning of a line; where one
    merges a full stop with the break, the whole has fewer tokens than its parts: the sum is never too small.

    Args:
        prompts: the model's tokenizer.
        limit: most tokens of a sample, answers included.
    """

    def __init__(self, prompts: PromptTokenizer, limit: int) -> None:
        self.prompts, self.limit = prompts, limit

    @classmethod
    def of(cls, prompts: PromptTokenizer, config: InstructionConfig) -> Self:
        """Return the budget of the config, or that of the model's context window if it is smaller."""
        return cls(prompts, min(config.max_tokens, prompts.context))

    def lines(self, texts: Sequence[str], bullet: str = "- ") -> np.ndarray:
        """Return ``(n,)`` int64: tokens of each text as a line of its own."""
        if not texts:
            return np.zeros(0, np.int64)
        tokenizer: Any = self.prompts.tokenizer
        ids = tokenizer([f"{bullet}{text}\n" for text in texts], add_special_tokens=False)["input_ids"]
        return np.fromiter(map(len, ids), np.int64, len(ids))

    def frame(self, messages: tuple[Message, ...]) -> int:
        """Return the tokens of a whole sample: template and fixed words, if the lists in it are empty."""
        return len(self.prompts.training_ids(messages)[0])


def trimmed(
    lists: np.ndarray, item_cost: np.ndarray, list_cost: np.ndarray, fixed: np.ndarray, limit: int
) -> tuple[np.ndarray, np.ndarray]:
    """Leave out whole items until a prompt fits: first the last items of the longest lists, then the last lists.

    A row retains the greatest number of items a list, at least two, for which it fits; if two are too much, as many
    lists of two as fit, and at the very least one item of the first list. (Of a target with one item left, none could
    be asked for.)

    Args:
        lists: ``(n, L, h)`` items, -1 behind the last one of each list.
        item_cost: ``(I,)`` tokens of each item's line.
        list_cost: ``(n, L)`` tokens of a list whatever it holds: its heading, the profile in the answer.
        fixed: ``(n,)`` tokens of the rest.
        limit: most tokens of a row.

    Returns:
        ``(lists, fits)``: a copy with -1 where an item was left out, and ``(n,)`` bool: whether the row fits at all;
        one that does not is all -1.
    """
    there = lists >= 0
    total = np.cumsum(np.where(there, item_cost[lists], 0), axis=2)
    headings = np.where(there.any(2), list_cost, 0)
    _, many, longest = lists.shape
    chosen = np.zeros(lists.shape, bool)
    fits = np.zeros(len(lists), bool)
    options = [(items, many) for items in range(longest, 2, -1)]
    options += [(items, count) for items in range(min(2, longest), 0, -1) for count in range(many, 0, -1)]
    for items, count in options:
        cost = fixed + total[:, :count, items - 1].sum(1) + headings[:, :count].sum(1)
        now = ~fits & (cost <= limit)
        chosen[now, :count, :items] = True
        fits |= now
    return np.where(chosen & there, lists, -1), fits
