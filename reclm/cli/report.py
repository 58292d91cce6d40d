"""``reclm report``: the report of a run; what every command shows of its run."""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from reclm.cli.options import Home, next_step
from reclm.console import say, show

if TYPE_CHECKING:
    from reclm.benchmarks.results import Result


def report(
    run: Annotated[Path, typer.Argument(help="Folder of a run that `reclm bench` wrote.")],
    out: Annotated[Path | None, typer.Option(help="Folder of the report; default the run's own.")] = None,
    home: Home = None,
) -> None:
    """Write a run's report: one HTML page with verdict, tables and pictures; Markdown, LaTeX and CSV."""
    from reclm.benchmarks.report import write_report

    page, *others = write_report(run, out)
    say(f"report in {page.parent} ({', '.join(file.name for file in (page, *others))})")
    opener = "open" if sys.platform == "darwin" else "xdg-open"
    next_step(shlex.join([opener, str(page)]), note="it needs no network")


def check(track: Sequence[str] | None, out: Path | None) -> None:
    """Check the places that results go to, before anything is trained for them."""
    from reclm.benchmarks.result_files import make_run_folder

    if track:
        from reclm.benchmarks.tracking import check_trackers

        check_trackers(track)
    make_run_folder(out)


def show_run(result: "Result", trackers: Sequence[str] | None) -> None:
    """Show a run's tables and verdict, write it to trackers, and name the command that reports it."""
    from reclm.benchmarks.tracking import track

    folder = result.folder
    assert folder is not None
    show(result)
    say(f"\nresults in {folder} ({', '.join(sorted(path.name for path in folder.iterdir()))})")
    for place in track(result, folder, [str(name) for name in trackers or ()]):
        say(place)
    next_step(f"reclm report {shlex.quote(str(folder))}", note="verdict, tables and pictures as a page")
