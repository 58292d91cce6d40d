"""The prompts: one instruction, worked examples from domains of their own, then the subject.

The embedded model of 135M parameters needs the examples and the begun answer; larger models do not mind them. What all
prompts share is computed once, so the examples cost next to nothing.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress

from reclm.llm.chat import Chat, Message, plain
from reclm.profilers.profile_format import START, ProfileFormatError, ProfileParts, parse
from reclm.text.item_text import ItemBrief

TITLES = "Titles"
USER_TASK = (
    "You describe a user of a recommender from what the user chose, in one line: who the user probably is, then what "
    "interests the user. Go by the topics and titles given."
)
ITEM_TASK = (
    "You describe the users whom an item of a recommender is for, in one line: who they probably are, then what "
    "interests them. Go by the topics and the title given."
)
# Identities of two words, interests that name what the titles name: with topics alone a small model tells users of one
# genre hardly apart. One example shows a list of titles, or a bare one, for data without descriptions.
_PLANTER = (
    "Topics: gardening, diy\n"
    "Titles: Build a Cedar Planter in One Day. Plans, tools and a cutting list for a raised bed",
    "User identity: home gardener, weekend builder, wood worker; "
    "User interests: cedar planters, raised beds, cutting lists.",
)
_PASSWORD = (
    "Topics: software, security\n"
    "Titles: How a Stolen Password Emptied a Bank Account. Criminals used a leaked list of passwords",
    "User identity: software engineer, security reader, bank customer; "
    "User interests: stolen passwords, data leaks, online crime.",
)
_TAPES = (
    "Topics: music, jazz\n"
    "Titles: The Lost Tapes of a Cologne Pianist. A recording of his most famous night was found in an attic",
    "User identity: jazz listener, piano lover, record collector; "
    "User interests: lost tapes, famous concerts, attic finds.",
)
_SOUPS = (
    "Topics: gardening, diy, cooking\n"
    "Titles: Growing Tomatoes in Small Pots; Build a Cedar Planter in One Day; Ten Soups from Your Own Beds",
    "User identity: home gardener, weekend builder, keen cook; "
    "User interests: tomatoes in pots, cedar planters, homemade soups.",
)
_GAMES = (
    "Topics: strategy, fantasy, family\nTitles: The Settlers of Catan; Root; Ticket to Ride; Gloomhaven",
    "User identity: strategy gamer, fantasy fan, family host; "
    "User interests: Settlers of Catan, train journeys, Gloomhaven quests.",
)
_JAZZ = (
    "Topics: jazz, piano, live\nTitles: Kind of Blue; The Koln Concert; Waltz for Debby; A Love Supreme",
    "User identity: jazz listener, piano lover, record collector; "
    "User interests: Kind of Blue, The Koln Concert, A Love Supreme.",
)
_GAME = (
    "Chosen by: board gamer, family host\nThey like: trading goods, Ticket to Ride, long evenings\n"
    "Topics: strategy, family\nTitles: The Settlers of Catan",
    "User identity: strategy gamer, board gamer, family host; "
    "User interests: Settlers of Catan, trading goods, family strategy games.",
)
_CONCERT = (
    "Chosen by: record collector, concert goer\nThey like: jazz standards, Kind of Blue\n"
    "Topics: piano, live\nTitles: The Koln Concert",
    "User identity: piano lover, concert goer, record collector; "
    "User interests: Koln Concert, live piano, jazz standards.",
)
LISTED = (_SOUPS, _PASSWORD, _GAMES, _JAZZ)
DESCRIBED = (_GAME, _PLANTER, _TAPES, _PASSWORD)
BARE = (_PLANTER, _PASSWORD, _CONCERT, _GAME)


def user_chat(items: Sequence[ItemBrief], topics: int, chars: int) -> Chat:
    """Return the prompt for a user who chose ``items``, newest first."""
    # commas stand between phrases in the answer, semicolons between titles
    titles = _fitting([_unlisted(item.title) for item in items if item.title], chars)
    details = items[0].details if len(items) == 1 else ""
    lines = [
        _line("Topics", _commonest((item.topics for item in items), topics), ", "),
        _line(TITLES, [_described(titles[0], details, chars), *titles[1:]] if titles else [], "; "),
    ]
    examples = LISTED if len(titles) > 1 else DESCRIBED if details else BARE
    return _chat(USER_TASK, examples, [line for line in lines if line])


def item_chat(item: ItemBrief, topics: int, chars: int, chosen_by: ProfileParts) -> Chat:
    """Return the prompt for an item, with phrases from the profiles of users who chose it."""
    # the title stands last, next to the answer, which is to be about it more than about what else its users like
    lines = [
        _line("Chosen by", chosen_by.identities, ", "),
        _line("They like", chosen_by.interests, ", "),
        _line("Topics", item.topics[:topics], ", "),
        _line(TITLES, [_described(_unlisted(item.title), item.details, chars)], ""),
    ]
    return _chat(ITEM_TASK, DESCRIBED if item.details else BARE, [line for line in lines if line])


def common_phrases(profiles: Iterable[str], limit: int, title: str) -> ProfileParts:
    """Return the commonest interests of the profiles, at most ``limit``, and half as many identities.

    A profile out of format is passed over, and so is the item's own title.
    """
    parsed = []
    for text in profiles:
        with suppress(ProfileFormatError):
            parsed.append(parse(text))
    interests = (
        [phrase for phrase in parts.interests if phrase.casefold() not in title.casefold()]
        for parts in parsed
    )
    identities = _commonest((parts.identities for parts in parsed), (limit + 1) // 2)
    return ProfileParts(
        tuple(plain(phrase, 40) for phrase in identities),
        tuple(plain(phrase, 40) for phrase in _commonest(interests, limit)),
    )


def _chat(task: str, examples: Sequence[tuple[str, str]], lines: list[str]) -> Chat:
    turns = [
        message
        for question, answer in examples
        for message in (Message("user", question), Message("assistant", answer))
    ]
    return Chat((Message("system", task), *turns, Message("user", "\n".join(lines))), START)


def _line(name: str, parts: Sequence[str], between: str) -> str:
    return f"{name}: {between.join(parts)}" if any(parts) else ""


def _unlisted(title: str) -> str:
    return title.replace(",", "").replace(";", "")


def _described(title: str, details: str, chars: int) -> str:
    room = chars - len(title)
    details = plain(details, room) if details and room >= 40 else ""
    return f"{title.rstrip('.')}. {details}" if title and details else title or details


def _fitting(titles: list[str], chars: int) -> list[str]:
    """Return the first titles that fit ``chars`` together; one at least."""
    fitting, used = titles[:1], len("".join(titles[:1]))
    for title in titles[1:]:
        used += len(title) + 2
        if used > chars:
            break
        fitting.append(title)
    return fitting


def _commonest(lists: Iterable[Iterable[str]], limit: int) -> list[str]:
    """Return the most frequent first, in order of appearance where equally frequent."""
    return [word for word, _ in Counter(word for words in lists for word in words).most_common(limit)]
