"""The prompts: one instruction, worked examples from domains of their own, then the subject.

The embedded model of 135M parameters needs the examples and the begun answer; larger models do not mind them. What all
prompts share is computed once, so the examples cost next to nothing.
"""

from collections import Counter
from collections.abc import Iterable, Sequence

from reclm.profilers.format import START, ProfileFormatError, parse
from reclm.text.brief import ItemBrief
from reclm.text.chat import Chat, Message, plain

USER_TASK = (
    "You describe a user of a recommender from what the user chose, in one line: who the user probably is, then what "
    "interests the user. Go by the topics and titles given."
)
ITEM_TASK = (
    "You describe the users whom an item of a recommender is for, in one line: who they probably are, then what "
    "interests them. Go by the topics and the title given."
)
USER_EXAMPLES = (
    (
        "Topics: gardening, diy, cooking\n"
        "Titles: Growing Tomatoes in Small Pots; Build a Cedar Planter in One Day; Ten Soups from Your Own Beds",
        "User identity: home gardener, weekend builder, keen cook; "
        "User interests: growing vegetables, wooden planters, homemade soups.",
    ),
    (
        "Topics: jazz, piano, vinyl\nTitles: Kind of Blue; The Koln Concert; Restoring a 1970s Turntable",
        "User identity: jazz listener, record collector, piano student; "
        "User interests: modal jazz, solo piano concerts, vintage turntables.",
    ),
    (
        "Topics: software, security\n"
        "Titles: How a Stolen Password Emptied a Bank Account. Criminals used a leaked list of passwords",
        "User identity: software engineer, security reader, bank customer; "
        "User interests: password theft, online banking, data leaks.",
    ),
)
ITEM_EXAMPLES = tuple((question.replace("Titles:", "Title:"), answer) for question, answer in USER_EXAMPLES)


def user_chat(items: Sequence[ItemBrief], topics: int, chars: int) -> Chat:
    """The prompt for a user who chose ``items``, newest first."""
    titles = _fitting([one.title for one in items if one.title], chars)
    details = items[0].details if len(items) == 1 else ""
    lines = [
        _line("Topics", _commonest((one.topics for one in items), topics), ", "),
        _line("Titles", [_described(titles[0], details, chars), *titles[1:]] if titles else [], "; "),
    ]
    return _chat(USER_TASK, USER_EXAMPLES, [line for line in lines if line])


def item_chat(item: ItemBrief, topics: int, chars: int, chosen_by: Sequence[str]) -> Chat:
    """The prompt for an item, with phrases from the profiles of users who chose it."""
    lines = [
        _line("Topics", item.topics[:topics], ", "),
        _line("Title", [_described(item.title, item.details, chars)], ""),
        _line("Chosen by", chosen_by, ", "),
    ]
    return _chat(ITEM_TASK, ITEM_EXAMPLES, [line for line in lines if line])


def quoted_phrases(profiles: Iterable[str], limit: int) -> list[str]:
    """The commonest phrases of the profiles, at most ``limit``; a profile out of format is passed over."""
    phrases = []
    for text in profiles:
        try:
            parts = parse(text)
        except ProfileFormatError:
            continue
        phrases.append([plain(one, 40) for one in (*parts.identities, *parts.interests)])
    return _commonest(phrases, limit)


def _chat(task: str, examples: Sequence[tuple[str, str]], lines: list[str]) -> Chat:
    shown = [
        message
        for question, answer in examples
        for message in (Message("user", question), Message("assistant", answer))
    ]
    return Chat((Message("system", task), *shown, Message("user", "\n".join(lines))), START)


def _line(name: str, parts: Sequence[str], between: str) -> str:
    return f"{name}: {between.join(parts)}" if any(parts) else ""


def _described(title: str, details: str, chars: int) -> str:
    room = chars - len(title)
    details = plain(details, room) if details and room >= 40 else ""
    return f"{title.rstrip('.')}. {details}" if title and details else title or details


def _fitting(titles: list[str], chars: int) -> list[str]:
    """The first titles that fit ``chars`` together; one at least."""
    kept, used = titles[:1], len("".join(titles[:1]))
    for title in titles[1:]:
        used += len(title) + 2
        if used > chars:
            break
        kept.append(title)
    return kept


def _commonest(lists: Iterable[Iterable[str]], limit: int) -> list[str]:
    """Most frequent first, in order of appearance where equally frequent."""
    return [one for one, _ in Counter(word for words in lists for word in words).most_common(limit)]
