"""The words of every prompt (RecLM, arXiv 2412.19302, sections 2.2 to 2.4), for any data set.

Items come as their text, rendered by the data set's own template; profiles as they were written. Both go through
:func:`~reclm.llm.chat.plain` before they come here, one line each, so that neither can pose as a turn of the chat or
as another line of the prompt.
"""

from collections.abc import Sequence

from reclm.llm.chat import Message

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
    """One user's history, newest first; the answer is the user's profile."""
    lines = ["The user chose, newest first:", *_listed(items), "Describe the user."]
    return _asked(_KD.format(*_letters(phrases)), lines)


def collaborative(histories: Sequence[Sequence[str]], phrases: int) -> tuple[Message, ...]:
    """The first turn's question (equation 3): histories of the target, who is User 1, and of similar users.

    The answer is :func:`numbered` profiles.
    """
    return _asked(_TOGETHER.format(*_letters(phrases)), [*_users(histories), _EACH.format(len(histories))])


def numbered(profiles: Sequence[str]) -> str:
    """The first turn's answer: a profile a line, behind the user's number."""
    return "\n".join(f"User {number}: {profile}" for number, profile in enumerate(profiles, start=1))


def profile_of(answer: str) -> str:
    """The profile in an answer that is one line of :func:`numbered`, or the profile alone.

    >>> profile_of("User 1: User identity: cook; User interests: bread.")
    'User identity: cook; User interests: bread.'
    """
    return answer.removeprefix(numbered([""]))


def judgement(item: str) -> Message:
    """The second turn's question (equation 4); the answer is ``Yes`` or ``No``."""
    return Message("user", _ASK.format(item))


def inference(histories: Sequence[Sequence[str]], phrases: int) -> tuple[Message, ...]:
    """The question that profiles are asked with (equation 5): histories as in the first turn, one profile wanted."""
    return _asked(_TOGETHER.format(*_letters(phrases)), [*_users(histories), _FIRST])


def warm_item(item: str, profiles: Sequence[str], phrases: int) -> tuple[Message, ...]:
    """An item with the profiles of users who chose it (first phase of item profiles)."""
    task = _ITEM.format(*_letters(phrases), "who chose it")
    listed = ["Some users who chose it:", *_listed(profiles)] if profiles else []
    return _asked(task, ["The item:", f"- {item}", *listed, "Describe the users whom the item is for."])


def cold_item(item: str, similar: Sequence[str], phrases: int) -> tuple[Message, ...]:
    """An item with similar items, each as :func:`described` (second phase, for items that nobody chose yet)."""
    task = _ITEM.format(*_letters(phrases), "the profiles of similar items")
    listed = ["Similar items, and whom each is for:", *_listed(similar)] if similar else []
    return _asked(task, ["The item:", f"- {item}", *listed, "Describe the users whom the item is for."])


ITEM_PROMPTS = {"warm-item": warm_item, "cold-item": cold_item}
"""The two phases of item profiles by name."""


def described(item: str, profile: str) -> str:
    """A similar item: its text, and its profile."""
    return f"{item} For: {profile}"


def _asked(task: str, lines: Sequence[str]) -> tuple[Message, ...]:
    return Message("system", task), Message("user", "\n".join(lines))


def _users(histories: Sequence[Sequence[str]]) -> list[str]:
    lines = []
    for number, items in enumerate(histories, start=1):
        lines += [f"User {number} chose:", *_listed(items)]
    return lines


def _listed(texts: Sequence[str]) -> list[str]:
    return [f"- {text}" for text in texts]


def _letters(phrases: int) -> tuple[str, str]:
    """``phrases`` stand-ins for identities and as many for interests."""
    if phrases in _LETTERS:
        return _LETTERS[phrases]
    return tuple(", ".join(f"{name} {at + 1}" for at in range(phrases)) for name in ("identity", "interest"))  # pyright: ignore[reportReturnType]
