"""Histories as what a language model is asked, and as what a text encoder reads without one."""

from collections.abc import Sequence
from functools import cached_property

import numpy as np

from reclm.data.dataset import TrainingView
from reclm.data.sessions import NONE, Sessions
from reclm.llm.chat import plain
from reclm.profilers.langptune.config import PromptConfig
from reclm.profilers.langptune.prompts import Shown
from reclm.text.item_text import item_lines


def newest(
    view: TrainingView, lines: Sequence[str], user: int, count: int, config: PromptConfig
) -> list[list[Shown]]:
    """The newest ``count`` items with text that a user has in the view, oldest first, as :func:`folded` has them."""
    train = view.train
    history = view.history("user", user)
    told = np.array([bool(lines[item]) for item in train.item_idx[history].tolist()], bool)
    rows = history[told][-count:]
    ratings = train.rating[rows].tolist() if train.rating is not None else []
    reviews = train.review.take(rows).to_pylist() if train.review is not None else []
    return folded(shown(lines, train.item_idx[rows].tolist(), ratings, reviews, config), config)


def shown(
    lines: Sequence[str],
    items: Sequence[int],
    ratings: Sequence[float],
    reviews: Sequence[str | None],
    config: PromptConfig,
) -> list[Shown]:
    """Items as prompts show them; ``ratings`` and ``reviews`` are empty where the data have none."""
    limit = config.review_chars
    return [
        Shown(
            lines[item],
            ratings[place] if ratings else np.nan,
            plain(reviews[place] or "", limit) if reviews and limit else "",
        )
        for place, item in enumerate(items)
    ]


def folded(items: list[Shown], config: PromptConfig) -> list[list[Shown]]:
    """A history in parts of ``config.fold`` items, the oldest first; whole without."""
    fold = config.fold or len(items)
    return [items[start : start + fold] for start in range(0, len(items), fold)] if items else []


class Histories:
    """The histories of sessions.

    Args:
        view: whose items they are of.
        sessions: ``n`` of them.
        config: what is shown of an item.
    """

    def __init__(self, view: TrainingView, sessions: Sessions, config: PromptConfig) -> None:
        self.view, self.sessions, self.config = view, sessions, config

    @cached_property
    def lines(self) -> list[str]:
        """The text of each item as one line, ``I`` of them."""
        return item_lines(self.view.item_text, self.view.text_template, self.config.item_chars)

    def items(self, row: int) -> list[Shown]:
        """The history of session ``row``, oldest first."""
        sessions = self.sessions
        items = sessions.history[row]
        ratings = sessions.rating[row].tolist() if sessions.rating is not None else []
        return shown(self.lines, items[items != NONE].tolist(), ratings, sessions.reviews(row), self.config)

    def parts(self, row: int) -> list[list[Shown]]:
        """The same, :func:`folded`."""
        return folded(self.items(row), self.config)

    def texts(self, rows: Sequence[int]) -> list[str]:
        """Histories as bare texts, without a language model (EMB-0 and EMB-CL): a line an item, oldest first."""
        return ["\n".join(line for one in self.items(row) for line in one.lines) for row in rows]

    def sources(self, rows: Sequence[int]) -> list[str]:
        """The texts that a profile may copy from: items and reviews."""
        return [" ".join(f"{one.text} {one.review}" for one in self.items(row)) for row in rows]
