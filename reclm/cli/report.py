"""``reclm report``: a run as a page to read, and as tables to quote."""

import shlex
from pathlib import Path
from typing import Annotated

import typer


def report(
    run: Annotated[Path, typer.Argument(help="Folder of a run that `reclm bench` wrote.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder of the report; default the run's own.", show_default=False)
    ] = None,
) -> None:
    """Write a run's report: one HTML page with verdict, tables and pictures; Markdown, LaTeX and CSV."""
    from rich.console import Console

    from reclm.benchmarks.report.write import write

    page, *others = write(run, out)
    say = Console(highlight=False)
    for text in (
        f"report in {page.parent} ({', '.join(one.name for one in (page, *others))})",
        f"next: {shlex.join(['open' if _mac() else 'xdg-open', str(page)])}   (it needs no network)",
    ):
        say.print(text, markup=False, soft_wrap=True)


def _mac() -> bool:
    import sys

    return sys.platform == "darwin"
