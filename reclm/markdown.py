"""Markdown with texts in it that come from data."""

import re
from collections.abc import Sequence

from reclm.data.reader import printable

_MARKUP = re.compile(r"([\\`*_\[\]<>#|&~$]|:(?=//)|\.(?<=www\.))", re.IGNORECASE)
_LINE_START = re.compile(r"^(?:([-+=])|(\d{1,9})([.)])(?=\s|$))")


def literal(text: str, longest: int | None = None) -> str:
    """One line of Markdown that shows ``text`` as it is written: it begins no cell, heading, list, link or tag.

    >>> print(literal("a | <b>\\n# c"))
    a \\| \\<b\\> \\# c

    Args:
        longest: characters of ``text`` that are shown at most.
    """
    line = _MARKUP.sub(r"\\\1", printable(" ".join(text.split()), longest))
    return _LINE_START.sub(lambda found: f"{found[2] or ''}\\{found[1] or found[3]}", line)


def table(head: Sequence[str], body: Sequence[Sequence[str]], text: int = 1) -> str:
    """A table of cells that are Markdown already (see :func:`literal`).

    Args:
        text: columns of text, the first ones, are left-aligned; numbers behind them to the right.
    """
    rule = ["---"] * min(text, len(head)) + ["---:"] * (len(head) - text)
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, rule, *body])


def fenced(text: str, language: str = "") -> str:
    """A block of code, fenced by more backticks than are in it."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"
