"""The profile format of RecLM: ``User identity: a, b, c; User interests: x, y, z.``"""

import re
from dataclasses import dataclass

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
    """Why a text is not in the profile format."""


@dataclass(frozen=True)
class ProfileParts:
    """Who somebody probably is, and what interests them."""

    identities: tuple[str, ...]
    interests: tuple[str, ...]

    def __str__(self) -> str:
        return f"{START} {', '.join(self.identities)}{MIDDLE} {', '.join(self.interests)}."


def answer_pattern(phrases: int, spare: int = 1) -> str:
    """The regular expression of an answer that begins behind ``User identity:``.

    An identity has two words and more, so that it is more than a topic. There are interests to spare, for the case
    that one is said twice: :func:`tidy` takes out what is too much.

    Args:
        phrases: identities, and as many interests.
        spare: interests beyond that.
    """
    word = f"(?:{_WORD})"
    identity, interest = f"{word}(?: {word}){{1,2}}", f"{word}(?: {word}){{0,4}}"
    return f" {', '.join([identity] * phrases)}{MIDDLE} {', '.join([interest] * (phrases + spare))}\\."


def parse(text: str, phrases: int | None = None) -> ProfileParts:
    """Read a profile.

    >>> parse("User identity: cook, baker; User interests: bread.")
    ProfileParts(identities=('cook', 'baker'), interests=('bread',))

    Args:
        phrases: how many identities and interests there must be; any number by default.
    """
    found = _PROFILE.fullmatch(text.strip())
    if not found:
        raise ProfileFormatError(f"not of the form '{START} a, b; User interests: x, y.'")
    if not text.rstrip().endswith("."):
        raise ProfileFormatError("breaks off: no full stop")
    parts = ProfileParts(_phrases(found["identities"]), _phrases(found["interests"]))
    for name, listed in (("identities", parts.identities), ("interests", parts.interests)):
        if not all(listed):
            raise ProfileFormatError(f"an empty phrase among the {name}")
        if any(re.search(r"[;:\n]|User ", one) for one in listed):
            raise ProfileFormatError(f"more than phrases among the {name}")
        if phrases is not None and len(listed) != phrases:
            raise ProfileFormatError(f"{len(listed)} {name} instead of {phrases}")
    return parts


def fault(text: str, phrases: int | None = None) -> str | None:
    """Why a text is not in the format (see :func:`parse`); None if it is."""
    try:
        parse(text, phrases)
    except ProfileFormatError as error:
        return str(error)
    return None


def repeats(text: str) -> bool:
    """Whether a profile says a phrase twice: trimming would take it away. False for what is not in the format."""
    try:
        before, after = parse(text), parse(tidy(text))
    except ProfileFormatError:
        return False
    return len(before.identities + before.interests) != len(after.identities + after.interests)


def tidy(text: str, phrases: int | None = None, about: str = "") -> str:
    """Trim a profile as it was written: an unfinished last phrase, loose ends of phrases, repeated phrases.

    Nothing is added but the full stop. A text that has no identities or no interests is returned as it is.

    >>> tidy("User identity: cook, cook of; User interests: bread, breads, jam and, rolling")
    'User identity: cook; User interests: bread, jam.'

    Args:
        phrases: most identities, and most interests; any number by default.
        about: where there are too many interests, those that have no word in common with this go first.
    """
    text = " ".join(text.split())
    found = _PROFILE.fullmatch(text)
    if not found:
        return text
    interests = found["interests"].split(",")
    if not text.endswith(".") and len(interests) > 1:
        interests = interests[:-1]
    seen: set[str] = set()
    identities = _once(found["identities"].split(","), seen)[:phrases]
    kept = _once(interests, seen)
    named = stems(about)
    best = sorted(range(len(kept)), key=lambda at: (not stems(kept[at]) & named, at))[:phrases]
    kept = tuple(kept[at] for at in sorted(best))
    return str(ProfileParts(identities, kept)) if identities and kept else text


def stems(text: str) -> set[str]:
    """The words of a text of three letters and more, cut to five letters, so that inflections agree."""
    return {word[:5] for word in re.findall(r"[^\W\d_]{3,}", text.casefold())} - _COMMON


def _phrases(listed: str) -> tuple[str, ...]:
    return tuple(one.strip() for one in listed.split(","))


def _once(phrases: list[str], seen: set[str]) -> tuple[str, ...]:
    """The phrases, trimmed, without those that say what was said before."""
    kept = []
    for one in phrases:
        phrase = _DANGLING.sub("", one.strip())
        said = " ".join(word.removesuffix("s") for word in phrase.casefold().split())
        if said and said not in seen:
            seen.add(said)
            kept.append(phrase)
    return tuple(kept)
