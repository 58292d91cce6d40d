"""``reclm bench``: do the profiles help?"""

import re
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import reclm
from reclm.cli import options as opt
from reclm.cli import report
from reclm.console import say, show

if TYPE_CHECKING:
    from reclm.benchmarks.results import Result
    from reclm.data.dataset import Dataset

OF_SUITES = {"row", "dataset", "seeds", "epochs", "kinds", "controls", "search", "track"}
OF_SUITES |= {"jobs", "fresh", "home", "out", "trust"}
"""Options that also go with ``--suite``."""
OF_PROFILES = {"profiler", "model", "engine", "adapter", "kinds", "limit", "store", "controls"}
OF_PROFILES |= {"profiler_set", "engine_set", "fusion"}
"""Options that do nothing without ``--augment``."""
BACKBONES = (
    "biasmf, ncf, lightgcn, sgl, simgcl, similarity, ease, itemknn, textknn, ials, popularity, random, a plug-in, or "
    "module:Class; "
    "may be repeated."
)
SEEDS = (
    "Trials of each row; auto, after an estimate of the time: until effects of 5 % can be found, at most 20."
)
SELECT_ON = "The part that chooses the epoch; test is the papers' choice, and flatters."
REFERENCES = "Rows of recommenders that cost seconds: EASE, neighbours, iALS, popularity, random order."
LIMIT = (
    "Write missing profiles of so many users, and items, drawn at random (always the same), 0 for all; default 300 "
    "with a language model, all without one. Stored profiles are used in any case."
)

COMMANDS = "[suite NAME | compare A B]"
app = typer.Typer(invoke_without_command=True, rich_markup_mode=None, subcommand_metavar=COMMANDS)


@app.command()
def suite(
    suite: Annotated[str, typer.Argument(help="A suite of reclm, or a YAML file of your own.")],
    rows: opt.Rows = None,
    dataset: Annotated[opt.Text, opt.option("In place of the suite's data set.")] = None,
    seeds: Annotated[Any, opt.seeds_option(SEEDS)] = None,
    epochs: opt.Epochs = None,
    kinds: opt.KindsOption = "both",
    controls: opt.Controls = False,
    search: opt.Search = None,
    jobs: opt.Jobs = 1,
    fresh: opt.Fresh = False,
    track: opt.Track = None,
    out: opt.Out = None,
    trust: opt.Trust = False,
    home: opt.Home = None,
) -> None:
    """Run a suite, and show its results beside the published numbers."""
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


@app.command()
def compare(
    a: Annotated[Path, typer.Argument(help="Folder of a run.")],
    b: Annotated[Path, typer.Argument(help="Folder of the run that is compared with it.")],
) -> None:
    """Compare two runs row by row and user by user; nothing is trained."""
    changes = reclm.compare_runs(a, b)
    say(f"A: {a}\nB: {b}\n")
    show(changes)


@app.callback()
def bench(
    context: typer.Context,
    backbone: Annotated[list[str], opt.option(BACKBONES)] = ["lightgcn"],  # noqa: B006
    augment: Annotated[bool, opt.option("Train it with profiles too, and compare.", "--augment")] = False,
    dataset: opt.DatasetName = "ml-100k",
    profiler: opt.ProfilerName = "zero-shot",
    model: opt.ModelName = None,
    engine: opt.EngineName = None,
    engine_set: opt.EngineSet = None,
    adapter: opt.AdapterFolder = None,
    encoder: opt.EncoderName = None,
    kinds: opt.KindsOption = "both",
    limit: Annotated[opt.Count, opt.option(LIMIT, min=0)] = None,
    store: opt.StoreFolder = None,
    seeds: Annotated[Any, opt.seeds_option(SEEDS)] = 1,
    epochs: opt.Epochs = None,
    select_on: Annotated[opt.SelectOn, opt.option(SELECT_ON)] = "valid",
    set_: Annotated[opt.Texts, opt.setting("Option of the backbone or of its training.")] = None,
    profiler_set: Annotated[opt.Texts, opt.setting("Setting of the profiler.", "--profiler-set")] = None,
    controls: opt.Controls = False,
    fusion: opt.Fusion = "dual-mlp",
    references: Annotated[bool, opt.option(REFERENCES, "--references/--no-references")] = True,
    recipe: opt.Recipe = "default",
    search: opt.Search = None,
    jobs: opt.Jobs = 1,
    fresh: opt.Fresh = False,
    track: opt.Track = None,
    out: opt.Out = None,
    compare_: Annotated[tuple[Path, Path] | None, typer.Option("--compare", hidden=True)] = None,
    suite_: Annotated[str | None, typer.Option("--suite", hidden=True)] = None,
    row: Annotated[opt.Texts, typer.Option("--row", hidden=True)] = None,
    trust: opt.Trust = False,
    home: opt.Home = None,
) -> None:
    """Train a backbone with and without profiles, and say whether they helped."""
    if context.invoked_subcommand:
        opt.refuse(context, set(), f"goes behind {context.invoked_subcommand}")
        return
    if compare_ is not None:
        opt.refuse(context, {"compare_"}, "does not go with --compare, which trains nothing")
        opt.renamed("reclm bench --compare A B", "reclm bench compare A B")
        return compare(*compare_)
    if suite_ is not None:
        reason = "does not go with a suite, whose file says it; copy the file and edit it"
        opt.refuse(context, {*OF_SUITES, "suite_"}, reason)
        opt.renamed("reclm bench --suite NAME", "reclm bench suite NAME")
        values = {name: context.params[name] for name in OF_SUITES - {"row", "home"}}
        values |= {name: None for name in ("dataset", "seeds") if opt.is_default(context, name)}
        return suite(suite_, rows=row, **values)
    names = set(context.params)
    opt.refuse(context, names - {"row"}, "chooses among the rows of a suite: reclm bench suite NAME")
    if not augment:
        reason = "is about profiles, which this trains without; add --augment"
        opt.refuse(context, names - OF_PROFILES, reason)
    from reclm.benchmarks.trial import ProfileOptions
    from reclm.config import parse_settings
    from reclm.profiles.write import named_or_tuned

    report.check(track, out)
    name, folder = named_or_tuned(opt.tuned(profiler, adapter))
    settings, data = parse_settings(set_ or []), reclm.load_dataset(dataset)
    profiles = ProfileOptions(
        profiler=name,
        adapter=folder,
        settings=parse_settings(profiler_set or []),
        model=model,
        engine=engine,
        engine_options=parse_settings(engine_set or [], "--engine-set"),
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
        references=references,
        fusion=fusion,
        recipe=recipe,
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


def _next(result: "Result", data: "Dataset", controls: bool) -> None:
    """Name the same command with what it lacks, and the command that recommends."""
    same = shlex.join(["reclm", *sys.argv[1:]])
    once = re.sub(r" --seeds[ =]\S+", "", same)
    writers = {row.writer for row in result.about.rows if row.writer}
    if not writers and data.has_item_text:
        say(f"next: {same} --augment")
    elif writers and not controls and not any("keywords" in writer for writer in writers):
        say(f"next: {same} --controls   (what the profiles must beat)")
    elif writers and result.about.seeds < 3 and len(result.about.rows) > 1:
        say(f"next: {once} --seeds 3   (does it hold for other seeds?)")
    elif result.about.first_look is None and result.verdict.needs_seeds:
        say(f"next: {once} --seeds auto   (which effects of 5 % would be found?)")
    if result.about.failures or result.folder is None or not (result.folder / "models").is_dir():
        return  # there may be no model to recommend
    user = data.users.ids(data.train.user_idx[:1])[0]
    own = any(":" in row.backbone for row in result.about.rows)
    opt.next_step("reclm recommend", users=user, run=result.folder, trust=own)
