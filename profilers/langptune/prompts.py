"""The words of the prompt (LangPTune, arXiv 2410.18870, section 5), for any data set.

Items and reviews are one line each and went through :func:`~reclm.llm.chat.plain`: they can pose neither as a turn of
the chat nor as another line of the prompt.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from reclm.llm.chat import Chat, Message, plain
from reclm.profilers.langptune.config import PromptConfig

_ASK = (
    "Above are items that a user {chose}, the oldest first. Describe in a few sentences what this user likes and "
    "dislikes, so that somebody can tell from it which items the user will choose next."
)
_FOLD = (
    "Above are a description of a user, and items that the user {chose} since, the oldest first. Write the description "
    "anew: keep what still holds, and add what the items tell about what this user likes and dislikes."
)


@dataclass(frozen=True)
class Shown:
    """An item of a history, as its prompt shows it.

    Attributes:
        text: of the item, one line.
        rating: nan where there is none.
        review: the user's, one line; empty where there is none.
    """

    text: str
    rating: float = np.nan
    review: str = ""

    @property
    def lines(self) -> list[str]:
        """``- text``, and what the user said below it."""
        said = [] if np.isnan(self.rating) else [f"rated {self.rating:g}"]
        said += [f"wrote: {self.review}"] if self.review else []
        return [f"- {self.text}", *([f"  The user {' and '.join(said)}"] if said else [])]


def profile_chat(items: Sequence[Shown], config: PromptConfig, known: str = "") -> Chat:
    """The question for a user's profile.

    Args:
        items: of the history, oldest first.
        config: how the answer begins.
        known: the profile so far, from the items before these.
    """
    said = ["rated"] * any(not np.isnan(one.rating) for one in items)
    said += ["reviewed"] * any(one.review for one in items)
    ask = (_FOLD if known else _ASK).format(chose=" and ".join(said) or "chose")
    lines = [line for one in items for line in one.lines]
    told = [f"The user so far: {plain(known)}"] if known else []
    return Chat((Message("user", "\n".join([*told, *lines, "", ask])),), config.begin)


def finished(config: PromptConfig, text: str) -> str:
    """A profile as one line: ``text`` is what was written behind the begin."""
    return plain(f"{config.begin} {text}")
