"""The errors a user can mend."""

from collections.abc import Iterable
from difflib import get_close_matches


class ReclmError(Exception):
    """A mistake in the input. The message is one line: what, where, the value, the remedy; exit code 2."""


def unknown(what: str, name: str, known: Iterable[str]) -> ReclmError:
    """The error for a name that is not among ``known``, offering the nearest one."""
    known = sorted(known)
    near = get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return ReclmError(f"unknown {what} {name!r}; {hint}known: {', '.join(known)}")
