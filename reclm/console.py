"""Markdown with texts in it that come from data."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        # over the whole time: answers come in bursts
        elapsed = task.finished_time or task.elapsed
        speed = f"{task.completed / elapsed:.1f}/s" if elapsed and task.completed else ""
        return Text(speed, style="progress.data.speed")


class Advance(Protocol):
    """Moves a bar by some steps; ``what`` says from now on what it is at."""

    def __call__(self, steps: int, what: str | None = None) -> None: ...


@contextmanager
def progress_bar(what: str, total: int, show: bool = True) -> Iterator[Advance]:
    """A bar that reads ``what``; yields the function that advances it by some steps.

    >>> with progress_bar("reading", total=3, show=False) as advance:
    ...     advance(3)
    """
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(),
        TimeElapsedColumn(),
        TextColumn("left", style="dim"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), disable=not show) as progress:
        task = progress.add_task(what, total=total)
        yield lambda steps, what=None: progress.update(task, advance=steps, description=what)


def duration(seconds: float) -> str:
    """A time as one says it.

    >>> duration(40), duration(1000), duration(9000)
    ('40 s', '17 min', '2 h 30 min')
    """
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02d} min"


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


def printable(text: str, longest: int | None = None) -> str:
    """``text`` without control characters, which a terminal would obey; cut to ``longest`` characters."""
    if longest is not None and len(text) > longest:
        text = text[: longest - 1] + "…"
    return re.sub(r"[\x00-\x1f\x7f-\x9f]", lambda found: repr(found.group())[1:-1], text)
