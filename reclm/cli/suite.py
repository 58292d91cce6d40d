"""``reclm bench suite``: a table of results beside the published numbers."""

from typing import Annotated

import typer

from reclm.cli import report
from reclm.cli.options import (
    Controls,
    Epochs,
    Fresh,
    Home,
    Jobs,
    Kinds,
    KindsOption,
    Out,
    Rows,
    Search,
    Track,
)


def suite(
    suite: Annotated[str, typer.Argument(help="A suite of reclm, or a YAML file of your own.")],
    rows: Rows = None,
    dataset: Annotated[str | None, typer.Option(help="In place of the suite's data set.")] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="Trials of each row.")] = None,
    epochs: Epochs = None,
    kinds: KindsOption = Kinds.both,
    controls: Controls = False,
    search: Search = None,
    jobs: Jobs = 1,
    fresh: Fresh = False,
    track: Track = None,
    out: Out = None,
    home: Home = None,
) -> None:
    """Run a suite, and show its results beside the published numbers."""
    import reclm

    report.check(track, out)
    result = reclm.run_suite(
        suite,
        rows=rows or (),
        dataset=dataset,
        seeds=seeds,
        epochs=epochs,
        kind=None if kinds is Kinds.both else kinds.values[0],
        controls=controls,
        search=search,
        jobs=jobs,
        fresh=fresh,
        out=out,
    )
    report.show_run(result, track)
    if result.about.failures:
        raise typer.Exit(1)
