"""Output to the terminal and as Markdown: texts from data are shown as written, and act as markup in neither."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING, Any, Protocol

from rich import box
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
from rich.table import Column, Table
from rich.text import Text

if TYPE_CHECKING:
    import pandas as pd

_NUMBER = re.compile(r"[-+−]?[\d.,]+ ?%?|–|")


def say(text: object = "", error: bool = False) -> None:
    """Print text to stdout, or to stderr, unwrapped; control characters in it are escaped."""
    lines = "\n".join(map(printable, str(text).split("\n")))
    Console(highlight=False, stderr=error).print(lines, markup=False, soft_wrap=True)


def show(value: object) -> None:
    """Print an object that draws itself for a terminal, such as a table; its lines of text are not wrapped."""
    Console(highlight=False).print(value, soft_wrap=True)


def show_table(head: Sequence[str], body: Iterable[Any], title: str = "", lines: bool = False) -> None:
    """Print a table, unless it has no rows; None is an empty cell, ``lines`` draws a line between rows."""
    rows = [[_cell(value) for value in row] for row in body]
    if not rows:
        return
    heading = Text(printable(title)) if title else None
    style = box.SQUARE if lines else box.SIMPLE_HEAD
    table = Table(title=heading, title_justify="left", box=style, show_lines=lines)
    for name, column in zip(head, zip(*rows, strict=True), strict=True):
        numbers = all(_NUMBER.fullmatch(cell) for cell in column)
        table.add_column(Text(printable(name)), justify="right" if numbers else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    show(table)


def rich_table(title: str, head: Sequence[str], rows: Iterable[Sequence[str]], caption: str = "") -> Table:
    """Return a table of texts: the first column is aligned to the left, the others to the right."""
    numbers = (Column(name, justify="right") for name in head[1:])
    table = Table(head[0], *numbers, title=title, caption=caption or None)
    for row in rows:
        table.add_row(*row)
    return table


def show_frame(frame: "pd.DataFrame", title: str = "", columns: Sequence[str] = ()) -> None:
    """Print a data frame without its index, or these ``columns`` of it."""
    names = list(columns or map(str, frame.columns))
    show_table(names, zip(*(frame[name].astype(object) for name in names), strict=True), title)


@dataclass(frozen=True, repr=False)
class Description:
    """Tables below a title, sentences below them: the same as text, in a notebook and on a terminal.

    Attributes:
        tables: the rows of each table by its title, the column names first.
        lines: sentences.
    """

    title: str
    tables: Mapping[str, Sequence[Sequence[Any]]]
    lines: Sequence[str] = field(default=(), kw_only=True)

    def __str__(self) -> str:
        lines = [self.title]
        for title, rows in self.tables.items():
            cells = [[printable(_cell(cell), _LONGEST) for cell in row] for row in rows]
            widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
            padded = (map(str.ljust, row, widths) for row in cells)
            lines += ["", title, *(f"  {'  '.join(row)}".rstrip() for row in padded)]
        return "\n".join([*lines, *[""] * bool(self.lines), *map(printable, self.lines)])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        def row(cells: Sequence[Any], tag: str = "td") -> str:
            texts = (escape(printable(_cell(cell), _LONGEST)) for cell in cells)
            return "<tr>" + "".join(f"<{tag}>{text}</{tag}>" for text in texts) + "</tr>"

        parts = [f"<p><b>{escape(printable(self.title))}</b></p>"]
        for title, (head, *rows) in self.tables.items():
            parts.append(f"<p>{escape(title)}</p><table>{row(head, 'th')}{''.join(map(row, rows))}</table>")
        return "".join([*parts, *(f"<p>{escape(printable(line))}</p>" for line in self.lines)])

    def show(self) -> None:
        """Print it to stdout."""
        say(self.title)
        for title, (head, *rows) in self.tables.items():
            cells = [
                [printable(cell, _LONGEST_SHOWN) if isinstance(cell, str) else cell for cell in row]
                for row in rows
            ]
            show_table(head, cells, title)
        for line in self.lines:
            say(line)


_LONGEST, _LONGEST_SHOWN = 100, 300
"""Characters of a cell in the text of a description, and on a terminal, which folds it."""


def _cell(value: Any) -> str:
    if value is None or str(value) in {"nan", "<NA>"}:
        return ""
    if isinstance(value, float):
        return f"{value:.4f}"
    is_count = isinstance(value, int) and not isinstance(value, bool)
    return f"{value:,}" if is_count else "\n".join(map(printable, str(value).split("\n")))


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        # over the whole time: answers come in bursts
        elapsed = task.finished_time or task.elapsed
        speed = f"{task.completed / elapsed:.1f}/s" if elapsed and task.completed else ""
        return Text(speed, style="progress.data.speed")


class Advance(Protocol):
    """Moves a bar by some steps, and changes its description to ``what``."""

    def __call__(self, steps: int, what: str | None = None) -> None: ...


def _bar_console() -> Console:
    console = Console(stderr=True)
    if not console.is_jupyter:
        return console
    # a notebook's own bars need ipywidgets; one line that is written over needs nothing
    return Console(stderr=True, force_jupyter=False, force_terminal=True, width=100)


@contextmanager
def progress_bar(what: str, total: int, show: bool = True) -> Iterator[Advance]:
    """Show a bar on stderr, described by ``what``; yield the function that advances it by some steps."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(),
        TimeElapsedColumn(),
        TextColumn("left", style="dim"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=_bar_console(), refresh_per_second=4, disable=not show) as progress:
        task = progress.add_task(what, total=total)
        yield lambda steps, what=None: progress.update(task, advance=steps, description=what)


_MARKUP = re.compile(r"([\\`*_\[\]<>#|&~$]|:(?=//)|\.(?<=www\.))", re.IGNORECASE)
_LINE_START = re.compile(r"^(?:([-+=])|(\d{1,9})([.)])(?=\s|$))")


def literal(text: str, longest: int | None = None) -> str:
    """Escape ``text``, cut to ``longest`` characters, as one line of Markdown: no cell, heading, list, link or tag.

    >>> print(literal("a | <b>\\n# c"))
    a \\| \\<b\\> \\# c
    """
    line = _MARKUP.sub(r"\\\1", printable(" ".join(text.split()), longest))
    return _LINE_START.sub(lambda match: f"{match[2] or ''}\\{match[1] or match[3]}", line)


def pipe_table(head: Sequence[str], body: Sequence[Sequence[str]], text: int = 1) -> str:
    """Return a Markdown table of Markdown cells: the first columns, ``text`` in number, are aligned to the left."""
    rule = ["---"] * min(text, len(head)) + ["---:"] * (len(head) - text)
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, rule, *body])


def fenced(text: str, language: str = "") -> str:
    """Return a block of code, fenced by more backticks than are in it."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"


_OBEYED = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str, longest: int | None = None) -> str:
    """Escape the characters of ``text`` that a terminal would obey; cut it to ``longest`` characters.

    These are control characters, marks that turn the direction of a line around, and lone surrogates.
    """
    if longest is not None and len(text) > longest:
        text = text[: longest - 1] + "…"
    return _OBEYED.sub(lambda match: repr(match.group())[1:-1], text)
