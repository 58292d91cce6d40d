"""``reclm bench suite``: a table of results beside the published numbers."""

from typing import Annotated

import typer

from reclm.cli import options as opt
from reclm.cli import report


def suite(
    suite: Annotated[str, typer.Argument(help="A suite of reclm, or a YAML file of your own.")],
    rows: opt.Rows = None,
    dataset: Annotated[str | None, opt.option("In place of the suite's data set.")] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="Trials of each row.")] = None,
    epochs: opt.Epochs = None,
    kinds: opt.KindsOption = "both",
    controls: opt.Controls = False,
    search: opt.Search = None,
    jobs: opt.Jobs = 1,
    fresh: opt.Fresh = False,
    track: opt.Track = None,
    out: opt.Out = None,
    home: opt.Home = None,
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
        kind=None if kinds == "both" else kinds,
        controls=controls,
        search=search,
        jobs=jobs,
        fresh=fresh,
        out=out,
    )
    report.show_run(result, track)
    if result.about.failures:
        raise typer.Exit(1)
