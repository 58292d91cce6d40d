"""``reclm bench``: do the profiles help? And does a suite come out as published?"""

import shlex
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from reclm.cli.compare import compare as compare_runs
from reclm.cli.options import AdapterFolder, EncoderName, EngineName, Home, ModelName, refuse, renamed
from reclm.cli.options import Kinds as Kind
from reclm.errors import ReclmError

if TYPE_CHECKING:
    from reclm.benchmarks.experiment import SuiteRun
    from reclm.benchmarks.results import Result
    from reclm.benchmarks.suite import Suite
    from reclm.folders import Workspace


class SelectOn(StrEnum):
    """What chooses the epoch."""

    valid = "valid"
    test = "test"


class Tracker(StrEnum):
    """Where a run is written besides its folder."""

    tensorboard = "tensorboard"
    mlflow = "mlflow"


Dataset = Annotated[
    str | None,
    typer.Option(help="A prepared data set: its name or folder. Default: ml-100k, or what the suite says."),
]
Limit = Annotated[
    int | None,
    typer.Option(
        min=0,
        help="Write missing profiles of the first so many users, and items, 0 for all; default "
        "300 with a language model, all without one. Stored profiles are used in any case.",
    ),
]
Seeds = Annotated[int | None, typer.Option(min=1, help="Runs a variant; default 1, or what the suite says.")]
Epochs = Annotated[
    int | None, typer.Option(min=1, help="Most epochs of a run; default 50, or what the suite says.")
]
Chosen = Annotated[
    SelectOn, typer.Option(help="What chooses the epoch; test is the papers' way, and flatters.")
]
Store = Annotated[Path | None, typer.Option(help="A profile store to take as it is; nothing is generated.")]
Out = Annotated[Path | None, typer.Option(help="Folder of the results; default a new one in home.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Option of the backbone or of its training."),
]
ProfilerSettings = Annotated[
    list[str] | None, typer.Option(metavar="KEY=VALUE", help="Setting of the profiler.")
]
SuiteName = Annotated[
    str | None,
    typer.Option(hidden=True, help="Run a suite beside its published numbers: its name or YAML file."),
]
Rows = Annotated[
    list[str] | None,
    typer.Option(
        "--rows",
        "--row",
        metavar="NAME",
        help="Only this row of the suite, by name or pattern ('LightGCN*'), and what it is compared with; can be "
        "given twice.",
    ),
]
Jobs = Annotated[int, typer.Option(min=1, help="Processes; they share the cores.")]
Fresh = Annotated[bool, typer.Option("--fresh", help="Train all again, also what is kept of earlier runs.")]

Controls = Annotated[
    bool,
    typer.Option(
        "--controls",
        help="Train with what stands in the profiles' place, too: the wrong users' profiles, random vectors, "
        "the items' own text, keywords.",
    ),
]

SearchTrials = Annotated[
    int | None,
    typer.Option(
        "--search",
        metavar="N",
        min=1,
        help="First try N options (learning rate, l2, contrastive weight, or the suite's own space) for every "
        "line alike, and keep the best on validation.",
    ),
]

TwoRuns = Annotated[
    tuple[Path, Path] | None,
    typer.Option(
        "--compare",
        metavar="RUN_A RUN_B",
        hidden=True,
        help="Train nothing: compare two runs, given by their folders, line by line and user by user.",
    ),
]

Track = Annotated[
    list[Tracker] | None,
    typer.Option(help="Write options, curves and results of every training there, too; can be given twice."),
]

OF_BOTH = {
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
    "kind",
}
OF_PROFILES = {"profiler", "model", "engine", "adapter", "kind", "limit", "store", "profiler_set", "controls"}
"""What does nothing for a backbone without ``--augment``."""


app = typer.Typer(
    invoke_without_command=True, rich_markup_mode=None, subcommand_metavar="[suite NAME | compare A B]"
)
app.command("compare")(compare_runs)


@app.callback()
def bench(
    context: typer.Context,
    backbone: Annotated[
        str,
        typer.Option(
            help="biasmf, ncf, lightgcn, sgl, simgcl, similarity, popularity, random, or a plug-in."
        ),
    ] = "lightgcn",
    augment: Annotated[
        bool, typer.Option("--augment", help="Train it with profiles too, and compare.")
    ] = False,
    dataset: Dataset = None,
    profiler: Annotated[
        str, typer.Option(help="zero-shot, keywords, reclm, langptune, or a plug-in.")
    ] = "zero-shot",
    model: ModelName = None,
    engine: EngineName = None,
    adapter: AdapterFolder = None,
    encoder: EncoderName = None,
    kind: Annotated[Kind, typer.Option(help="Whose profiles are fused.")] = Kind.both,
    limit: Limit = None,
    seeds: Seeds = None,
    epochs: Epochs = None,
    select_on: Chosen = SelectOn.valid,
    home: Home = None,
    store: Store = None,
    out: Out = None,
    set_: Settings = None,
    profiler_set: ProfilerSettings = None,
    controls: Controls = False,
    search: SearchTrials = None,
    track: Track = None,
    compare: TwoRuns = None,
    suite: SuiteName = None,
    row: Rows = None,
    jobs: Jobs = 1,
    fresh: Fresh = False,
) -> None:
    """Train a backbone with and without profiles, and say whether they helped; or run a suite of backbones."""
    from reclm.config import parse_settings
    from reclm.folders import Workspace, make_folder
    from reclm.folders import workspace as use_workspace

    if context.invoked_subcommand:
        refuse(context, set(), f"goes behind {context.invoked_subcommand}")
        return
    _check_options(context, suite is not None, compare is not None, augment)
    if compare is not None:
        renamed("reclm bench --compare A B", "reclm bench compare A B")
        compare_runs(*compare)
        return
    if suite is not None:
        renamed("reclm bench --suite NAME", "reclm bench suite NAME")
    trackers = [one.value for one in track or []]
    if trackers:
        from reclm.benchmarks.tracking import check_trackers

        check_trackers(trackers)
    if out is not None:
        make_folder(out, "--out")  # before anything is trained for it
    workspace = Workspace.at(home)
    use_workspace(workspace.root)
    changes = {"dataset": dataset, "seeds": seeds, "epochs": epochs, "search": search}
    how = {"jobs": jobs, "fresh": fresh, "controls": controls}
    if suite is not None:
        side = None if kind is Kind.both else kind.value
        _suite(suite, {**changes, "rows": row or (), "kind": side}, workspace, how, out, trackers)
        return
    import reclm.data
    from reclm.benchmarks.experiment import comparison
    from reclm.benchmarks.suite import changed
    from reclm.benchmarks.trial import ProfileOptions

    data = reclm.data.load(dataset or "ml-100k", workspace)
    profiles = ProfileOptions(
        tune=False,
        profiler=profiler,
        settings=parse_settings(profiler_set or []),
        model=model,
        engine=engine,
        adapter=adapter,
        limit=limit,
        kinds=kind.values,
        store=store,
    )
    chosen = comparison(
        backbone,
        parse_settings(set_ or []),
        data,
        profiles if augment else None,
        place=dataset or "ml-100k",
        seeds=seeds or 1,
        epochs=epochs,
        select_on=select_on.value,
        encoder=encoder,
    )
    _compare(changed(chosen, search=search), workspace, how, out, trackers)


@app.command("suite")
def suite_command(
    name: Annotated[str, typer.Argument(help="A suite of reclm, or a YAML file of your own.")],
    rows: Rows = None,
    dataset: Dataset = None,
    seeds: Seeds = None,
    epochs: Epochs = None,
    kinds: Annotated[
        Kind, typer.Option("--kinds", "--kind", help="Profiles of users, items, or both.")
    ] = Kind.both,
    controls: Controls = False,
    search: SearchTrials = None,
    jobs: Jobs = 1,
    fresh: Fresh = False,
    track: Track = None,
    out: Out = None,
    home: Home = None,
) -> None:
    """Run a suite beside its published numbers."""
    from reclm.benchmarks.tracking import check_trackers
    from reclm.folders import Workspace, make_folder

    trackers = [one.value for one in track or []]
    check_trackers(trackers)
    if out is not None:
        make_folder(out, "--out")
    changes = {"dataset": dataset, "seeds": seeds, "epochs": epochs, "search": search, "rows": rows or ()}
    side = None if kinds is Kind.both else kinds.value
    how = {"jobs": jobs, "fresh": fresh, "controls": controls}
    _suite(name, {**changes, "kind": side}, Workspace.at(home), how, out, trackers)


def _check_options(context: typer.Context, suite: bool, compare: bool, augment: bool) -> None:
    """Refuse options that were given and would do nothing."""
    for name in context.params:
        source = context.get_parameter_source(name)
        if source is None or source.name != "COMMANDLINE":
            continue
        flag = "--" + name.strip("_").replace("_", "-")
        if not (suite or compare or augment) and name in OF_PROFILES:
            raise ReclmError(f"{flag} is about profiles, which this trains without; add --augment")
        if name in OF_BOTH and not compare:
            continue
        if compare and name != "compare":
            raise ReclmError(f"{flag} does not go with --compare, which trains nothing and reads two runs")
        if suite and name not in {"suite", "row"}:
            raise ReclmError(
                f"{flag} does not go with --suite: the suite's file says it; copy the file and edit it"
            )
        if name == "row" and not suite:
            raise ReclmError("--row chooses among the rows of a suite; give it with --suite")


def _compare(
    suite: "Suite", workspace: "Workspace", how: dict[str, Any], out: Path | None, trackers: list[str]
) -> None:
    """Run a backbone's comparison, keep its models, and say what may come next."""
    names = Path(suite.dataset).name, suite.rows[0].backbone
    run, folder = _run(suite, workspace, {**how, "weights": True}, out, names, trackers, "models")
    data = run.source
    same = shlex.join(["reclm", *sys.argv[1:]])
    writer = next((row.writer for row in run.result().about.rows if row.writer), None)
    if writer is None:
        if data.item_text.num_columns:
            _say(f"next: {same} --augment")
    elif "keywords" not in writer and not how["controls"]:
        _say(f"next: {same} --controls   (what the profiles must beat)")
    elif suite.seeds < 3 and len(suite.rows) > 1:
        _say(f"next: {same} --seeds 3   (does it hold for other seeds?)")
    one = shlex.join(["--user", data.users.ids(data.train.user_idx[:1])[0], "--run", str(folder)])
    _say(f"next: reclm recommend {one}")
    if run.failures():
        raise typer.Exit(1)


def _suite(
    name: str,
    changes: dict[str, Any],
    workspace: "Workspace",
    how: dict[str, Any],
    out: Path | None,
    trackers: list[str],
) -> None:
    """Run a suite's file."""
    from reclm.benchmarks.suite import changed, load_suite

    chosen = changed(load_suite(name), **changes)
    run, _ = _run(chosen, workspace, how, out, (Path(name).stem,), trackers, "suite.yaml")
    if run.failures():
        raise typer.Exit(1)


def _run(
    suite: "Suite",
    workspace: "Workspace",
    how: dict[str, Any],
    out: Path | None,
    names: tuple[str, ...],
    trackers: list[str],
    besides: str,
) -> tuple["SuiteRun", Path]:
    """Run a suite, print what it came to, and write it to ``out``, or a new folder with ``names``, which is returned.

    ``besides`` is what the caller adds to the folder.
    """
    from reclm.benchmarks.experiment import execute

    run = execute(suite, **how)
    folder = out or workspace.new_run(*names)
    record = run.save(folder)
    _show(record, folder, workspace, trackers, besides)
    return run, folder


def _show(record: "Result", folder: Path, workspace: "Workspace", trackers: list[str], besides: str) -> None:
    """Print a run's tables and verdict, and write ``table.md``; ``besides``: the caller's file in the folder."""
    from reclm.benchmarks.tracking import track
    from reclm.console import show

    (folder / "table.md").write_text(record.to_markdown(), encoding="utf-8")
    show(record)
    files = ("table.md", "comparison.png", "results.parquet", "users.parquet", besides)
    _say(f"\nresults in {folder} ({', '.join(files)})")
    for place in track(record, folder, trackers, workspace):
        _say(place)
    _say(f"next: {shlex.join(['reclm', 'report', str(folder)])}   (verdict, tables and pictures as a page)")


def _say(text: str) -> None:
    from rich.console import Console

    from reclm.console import printable

    lines = "\n".join(map(printable, text.split("\n")))
    Console(highlight=False).print(lines, markup=False, soft_wrap=True)
