"""``reclm bench``: do the profiles help?"""

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from reclm.cli import options as opt
from reclm.cli import report
from reclm.cli.compare import compare as compare_command
from reclm.cli.suite import suite as suite_command

if TYPE_CHECKING:
    from reclm.benchmarks.results import Result
    from reclm.data.dataset import Dataset

OF_SUITES = {
    *(
        "suite",
        "row",
        "dataset",
        "seeds",
        "epochs",
        "controls",
        "search",
        "track",
        "jobs",
        "fresh",
        "home",
        "out",
    ),
    "kinds",
}
"""Options that also go with ``--suite``."""
OF_PROFILES = {
    *("profiler", "model", "engine", "adapter", "kinds", "limit", "store", "profiler_set", "controls"),
}
"""Options that do nothing without ``--augment``."""

app = typer.Typer(
    invoke_without_command=True, rich_markup_mode=None, subcommand_metavar="[suite NAME | compare A B]"
)
app.command("suite")(suite_command)
app.command("compare")(compare_command)


@app.callback()
def bench(
    context: typer.Context,
    backbone: Annotated[
        str,
        opt.option(
            "biasmf, ncf, lightgcn, sgl, simgcl, similarity, popularity, random, a plug-in, or module:Class."
        ),
    ] = "lightgcn",
    augment: Annotated[
        bool, typer.Option("--augment", help="Train it with profiles too, and compare.")
    ] = False,
    dataset: Annotated[str, opt.option("A prepared data set, an embedded one, or a folder.")] = "ml-100k",
    profiler: opt.ProfilerName = "zero-shot",
    model: opt.ModelName = None,
    engine: opt.EngineName = None,
    adapter: opt.AdapterFolder = None,
    encoder: opt.EncoderName = None,
    kinds: opt.KindsOption = "both",
    limit: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Write missing profiles of the first so many users, and items, 0 for all; default 300 with a language "
            "model, all without one. Stored profiles are used in any case.",
        ),
    ] = None,
    store: opt.StoreFolder = None,
    seeds: Annotated[int, typer.Option(min=1, help="Trials of each row.")] = 1,
    epochs: opt.Epochs = None,
    select_on: Annotated[
        opt.SelectOn,
        opt.option("The part that chooses the epoch; test is the papers' way, and flatters."),
    ] = "valid",
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Option of the backbone or of its training."),
    ] = None,
    profiler_set: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="Setting of the profiler.")
    ] = None,
    controls: opt.Controls = False,
    search: opt.Search = None,
    jobs: opt.Jobs = 1,
    fresh: opt.Fresh = False,
    track: opt.Track = None,
    out: opt.Out = None,
    compare: Annotated[tuple[Path, Path] | None, typer.Option(hidden=True)] = None,
    suite: Annotated[str | None, typer.Option(hidden=True)] = None,
    row: Annotated[list[str] | None, typer.Option("--row", hidden=True)] = None,
    home: opt.Home = None,
) -> None:
    """Train a backbone with and without profiles, and say whether they helped."""
    if context.invoked_subcommand:
        opt.refuse(context, set(), f"goes behind {context.invoked_subcommand}")
        return
    if compare is not None:
        opt.refuse(context, {"compare"}, "does not go with --compare, which trains nothing")
        opt.renamed("reclm bench --compare A B", "reclm bench compare A B")
        return compare_command(*compare)
    if suite is not None:
        opt.refuse(
            context, OF_SUITES, "does not go with a suite, whose file says it; copy the file and edit it"
        )
        opt.renamed("reclm bench --suite NAME", "reclm bench suite NAME")
        given = {name: context.params[name] for name in OF_SUITES - {"suite", "row", "home"}}
        given |= {name: None for name in ("dataset", "seeds") if opt.is_default(context, name)}
        return suite_command(suite, rows=row, **given)
    opt.refuse(
        context, set(context.params) - {"row"}, "chooses among the rows of a suite: reclm bench suite NAME"
    )
    if not augment:
        reason = "is about profiles, which this trains without; add --augment"
        opt.refuse(context, set(context.params) - OF_PROFILES, reason)
    import reclm
    from reclm.benchmarks.trial import ProfileOptions
    from reclm.config import parse_settings

    report.check(track, out)
    name, folder = _named(opt.tuned(profiler, adapter))
    settings = parse_settings(set_ or [])
    data = reclm.load_dataset(dataset)
    profiles = ProfileOptions(
        profiler=name,
        adapter=folder,
        settings=parse_settings(profiler_set or []),
        model=model,
        engine=engine,
        limit=limit,
        kinds=opt.sides(kinds),
        store=store,
        tune=False,
    )
    result = reclm.compare(
        backbone,
        data,
        profiles if augment else None,
        seeds=seeds,
        controls=controls,
        search=search or 0,
        jobs=jobs,
        epochs=epochs,
        select_on=select_on,
        encoder=encoder,
        fresh=fresh,
        out=out,
        **settings,
    )
    report.show_run(result, track)
    _next(result, data, controls)
    if result.about.failures:
        raise typer.Exit(1)


def _named(profiler: str) -> tuple[str, Path | None]:
    """Return the name of a profiler, and its folder where one is given in place of the name."""
    from reclm import plugins
    from reclm.profiles.write import tuned_name

    if profiler in plugins.names("profiler") or not Path(profiler).is_dir():
        return profiler, None
    return tuned_name(Path(profiler)), Path(profiler)


def _next(result: "Result", data: "Dataset", controls: bool) -> None:
    """Name the same command with what it lacks, and the command that recommends."""
    from reclm.console import say

    same = shlex.join(["reclm", *sys.argv[1:]])
    writers = {row.writer for row in result.about.rows if row.writer}
    if not writers and data.item_text.num_columns:
        say(f"next: {same} --augment")
    elif writers and not controls and not any("keywords" in writer for writer in writers):
        say(f"next: {same} --controls   (what the profiles must beat)")
    elif writers and result.about.seeds < 3 and len(result.about.rows) > 1:
        say(f"next: {same} --seeds 3   (does it hold for other seeds?)")
    user = data.users.ids(data.train.user_idx[:1])[0]
    opt.next_step("reclm recommend", users=user, run=result.folder)
