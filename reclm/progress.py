"""The progress bar of everything that takes more than two seconds: on stderr, with rate and time left."""

from collections.abc import Iterator
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
