"""RecLM's profile format, ``User identity: a, b; User interests: x, y.``, and the base of profilers that ask for it."""

import re
from abc import abstractmethod
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from reclm.data.dataset import ProfileKind
from reclm.llm.chat import Chat
from reclm.profiles.profile import Profile, Profiler, Subject
from reclm.profiles.store import KINDS

START = "User identity:"
MIDDLE = "; User interests:"

# no capital behind a small letter, no number within a word: a model that may not begin another word would write on
# without a space
_WORD = r"[A-Z]{0,6}[a-z]{1,14}(?:['-][A-Za-z][a-z]{0,11})?|[A-Z]{1,6}|[0-9]{1,4}(?:st|nd|rd|th|s)?"
_PROFILE = re.compile(
    r"User identity:\s*(?P<identities>.+?);\s*User interests:\s*(?P<interests>.+?)\.?\s*", re.DOTALL
)
_DANGLING = re.compile(
    r"(?:[\s'-]+(?:a|an|and|as|at|by|for|from|is|of|or|that|the|their|to|with))+$|[\s'-]+$", re.IGNORECASE
)
_COMMON = {"and", "for", "from", "its", "that", "the", "their", "with", "you", "your"}


class ProfileFormatError(ValueError):
    """A text is not in the profile format; the message is the reason."""


@dataclass(frozen=True)
class ProfileParts:
    """The probable identities of a user, and the interests."""

    identities: tuple[str, ...]
    interests: tuple[str, ...]

    def __str__(self) -> str:
        return f"{START} {', '.join(self.identities)}{MIDDLE} {', '.join(self.interests)}."


def answer_pattern(phrases: int, spare: int = 1) -> str:
    """Return the regular expression of an answer that begins behind ``User identity:``.

    An identity has two words or more, so that it is more than a topic. There are ``phrases`` identities and as many
    interests; the ``spare`` ones beyond that are for repetitions, which :func:`tidy` removes.
    """
    word = f"(?:{_WORD})"
    identity, interest = f"{word}(?: {word}){{1,2}}", f"{word}(?: {word}){{0,4}}"
    return f" {', '.join([identity] * phrases)}{MIDDLE} {', '.join([interest] * (phrases + spare))}\\."


def parse(text: str, phrases: int | None = None) -> ProfileParts:
    """Read a profile of ``phrases`` identities and interests (by default any number); else ProfileFormatError.

    >>> parse("User identity: cook, baker; User interests: bread.")
    ProfileParts(identities=('cook', 'baker'), interests=('bread',))
    """
    match = _PROFILE.fullmatch(text.strip())
    if not match:
        raise ProfileFormatError(f"not of the form '{START} a, b; User interests: x, y.'")
    if not text.rstrip().endswith("."):
        raise ProfileFormatError("breaks off: no full stop")
    parts = {name: tuple(map(str.strip, listed.split(","))) for name, listed in match.groupdict().items()}
    for name, listed in parts.items():
        if not all(listed):
            raise ProfileFormatError(f"an empty phrase among the {name}")
        if any(re.search(r"[;:\n]|User ", phrase) for phrase in listed):
            raise ProfileFormatError(f"more than phrases among the {name}")
        if phrases is not None and len(listed) != phrases:
            raise ProfileFormatError(f"{len(listed)} {name} instead of {phrases}")
    return ProfileParts(**parts)


def fault(text: str, phrases: int | None = None) -> str | None:
    """Return why a text is not in the format (see :func:`parse`); None if it is."""
    try:
        parse(text, phrases)
    except ProfileFormatError as error:
        return str(error)
    return None


def repeats(text: str) -> bool:
    """Return whether a profile says a phrase twice; False for a text that is not in the format."""
    try:
        before, after = parse(text), parse(tidy(text))
    except ProfileFormatError:
        return False
    return len(before.identities + before.interests) != len(after.identities + after.interests)


def tidy(text: str, phrases: int | None = None, about: str = "") -> str:
    """Trim a profile: an unfinished last phrase, loose ends of phrases, repeated phrases.

    At most ``phrases`` identities and interests stay, interests that share no word with ``about`` going first. Nothing
    is added but the full stop. A text without identities or interests is returned unchanged.

    >>> tidy("User identity: cook, cook of; User interests: bread, breads, jam and, rolling")
    'User identity: cook; User interests: bread, jam.'
    """
    text = " ".join(text.split())
    match = _PROFILE.fullmatch(text)
    if not match:
        return text
    listed = match["interests"].split(",")
    if not text.endswith(".") and len(listed) > 1:
        listed = listed[:-1]
    seen: set[str] = set()
    identities = _distinct(match["identities"].split(","), seen)[:phrases]
    interests = _distinct(listed, seen)
    named = stems(about)
    best = sorted(range(len(interests)), key=lambda at: (not stems(interests[at]) & named, at))[:phrases]
    interests = tuple(interests[at] for at in sorted(best))
    return str(ProfileParts(identities, interests)) if identities and interests else text


def stems(text: str) -> set[str]:
    """Return the words of a text of three letters and more, cut to five letters, so that inflections agree."""
    return {word[:5] for word in re.findall(r"[^\W\d_]{3,}", text.casefold())} - _COMMON


def _distinct(phrases: list[str], seen: set[str]) -> tuple[str, ...]:
    """Return the trimmed phrases that are not among those seen before, and add them."""
    distinct = []
    for raw in phrases:
        phrase = _DANGLING.sub("", raw.strip())
        key = " ".join(word.removesuffix("s") for word in phrase.casefold().split())
        if key and key not in seen:
            seen.add(key)
            distinct.append(phrase)
    return tuple(distinct)


class ChatProfiler(Profiler):
    """Write profiles by a language model, which is asked each distinct prompt once."""

    @abstractmethod
    def answers(self, kind: ProfileKind, chats: Mapping[str, Chat]) -> Iterator[Profile]:
        """Yield a profile without an ID of each chat; ``chats`` are by prompt hash."""

    def write(self, subjects: Iterable[Subject]) -> Iterator[Profile]:
        """Yield each profile as soon as it is done; equal prompts are generated once."""
        chats: dict[ProfileKind, dict[str, Chat]] = {kind: {} for kind in KINDS}
        ids: dict[tuple[ProfileKind, str], list[str]] = defaultdict(list)
        for subject in subjects:
            if isinstance(subject.source, Chat):
                chats[subject.kind].setdefault(subject.prompt_hash, subject.source)
                ids[subject.kind, subject.prompt_hash].append(subject.id)
        for kind, prompts in chats.items():
            for profile in self.answers(kind, prompts) if prompts else ():
                for id in ids[kind, profile.prompt_hash]:
                    yield replace(profile, id=id)
