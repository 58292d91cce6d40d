"""The errors a user can mend."""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches

LONGEST_SEARCH = 20_000
"""Names among which near ones are looked for: it takes a second or so."""


class ReclmError(Exception):
    """A mistake in the input. The message is one line: what, where, the value, the remedy; exit code 2."""


def near(name: str, known: Sequence[str]) -> list[str]:
    """The three names that are nearest to ``name``, best first; none among too many, and none where none is near."""
    return get_close_matches(name, known, n=3, cutoff=0.5) if len(known) <= LONGEST_SEARCH else []


def unknown(what: str, name: str, known: Iterable[str]) -> ReclmError:
    """The error for a name that is not among ``known``, offering the nearest one."""
    known = sorted(known)
    found = near(name, known)
    hint = f"did you mean {found[0]!r}? " if found else ""
    return ReclmError(f"unknown {what} {name!r}; {hint}known: {', '.join(known)}")
