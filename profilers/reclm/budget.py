"""How much of the histories fits a prompt: whole items, and whole neighbours, are left out; nothing is cut."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from reclm.llm.chat import Message
from reclm.llm.tokens import PromptTokenizer
from reclm.profilers.reclm.config import InstructionConfig


class Budget:
    """Counts tokens of parts of a prompt.

    A line counts with the line break behind it. Tokenizers do not merge across the beginning of a line; where one
    merges a full stop with the break, the whole has fewer tokens than its parts: the sum is never too small.

    Args:
        prompts: the model's tokenizer.
        limit: most tokens of a sample, answers included.
    """

    def __init__(self, prompts: PromptTokenizer, limit: int) -> None:
        self.prompts = prompts
        self.limit = limit

    def lines(self, texts: Sequence[str], bullet: str = "- ") -> np.ndarray:
        """``(n,)`` int64: tokens of each text as a line of its own."""
        if not texts:
            return np.zeros(0, np.int64)
        tokenizer: Any = self.prompts.tokenizer
        ids = tokenizer([f"{bullet}{text}\n" for text in texts], add_special_tokens=False)["input_ids"]
        return np.fromiter(map(len, ids), np.int64, len(ids))

    def frame(self, messages: tuple[Message, ...]) -> int:
        """Tokens of a whole sample: what the template and the fixed words take, if the lists in it are empty."""
        return len(self.prompts.training_ids(messages)[0])


def budget(prompts: PromptTokenizer, config: InstructionConfig) -> Budget:
    """What a prompt and its answer may take: what is asked for, or what the model takes if that is less."""
    return Budget(prompts, min(config.max_tokens, prompts.context))


def fitted(
    lists: np.ndarray, item_cost: np.ndarray, list_cost: np.ndarray, fixed: np.ndarray, limit: int
) -> tuple[np.ndarray, np.ndarray]:
    """Leave out what does not fit: first the last items of the longest lists, then the last lists.

    A row keeps the greatest number of items a list, at least two, for which it fits; if two are too much, as many
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
    used = there.any(2)
    headings = np.where(used, list_cost, 0)
    _, many, longest = lists.shape
    kept = np.zeros(lists.shape, bool)
    fits = np.zeros(len(lists), bool)
    options = [(items, many) for items in range(longest, 2, -1)]
    options += [(items, count) for items in range(min(2, longest), 0, -1) for count in range(many, 0, -1)]
    for items, count in options:
        cost = fixed + total[:, :count, items - 1].sum(1) + headings[:, :count].sum(1)
        now = ~fits & (cost <= limit)
        kept[now, :count, :items] = True
        fits |= now
    return np.where(kept & there, lists, -1), fits
