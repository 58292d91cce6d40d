"""``reclm report``: the report of a run."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from reclm.cli.options import next_step


def report(
    run: Annotated[Path, typer.Argument(help="Folder of a run that `reclm bench` wrote.")],
    out: Annotated[Path | None, typer.Option(help="Folder of the report; default the run's own.")] = None,
) -> None:
    """Write a run's report: one HTML page with verdict, tables and pictures; Markdown, LaTeX and CSV."""
    import shlex

    from reclm.benchmarks.report import write_report
    from reclm.console import say

    page, *others = write_report(run, out)
    say(f"report in {page.parent} ({', '.join(file.name for file in (page, *others))})")
    opener = "open" if sys.platform == "darwin" else "xdg-open"
    next_step(shlex.join([opener, str(page)]), note="it needs no network")
