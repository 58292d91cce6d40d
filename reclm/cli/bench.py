"""``reclm bench``: do the profiles help? And does a suite come out as published?"""

import shlex
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from reclm.cli.profile import AdapterFolder, EncoderName, EngineName, Home, Kind, ModelName
from reclm.errors import ReclmError

if TYPE_CHECKING:
    from reclm.benchmarks.bench import ProfileSource
    from reclm.benchmarks.session_suite import SessionSuite
    from reclm.workspace import Workspace


class SelectOn(StrEnum):
    """What chooses the epoch."""

    valid = "valid"
    test = "test"


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
    typer.Option(help="Run a suite beside its published numbers: its name or YAML file."),
]
Jobs = Annotated[int, typer.Option(min=1, help="Processes of a suite; they share the cores.")]
Fresh = Annotated[bool, typer.Option("--fresh", help="Run all of a suite again, also what is kept.")]

OF_SUITES = {"suite", "jobs", "fresh"}
OF_WRITER = ("--profiler", "--model", "--engine", "--adapter", "--profiler-set", "--store")
OF_BOTH = {"dataset", "seeds", "epochs", "home", "out"}


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
    profiler: Annotated[str, typer.Option(help="zero-shot, keywords, or a plug-in.")] = "zero-shot",
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
    suite: SuiteName = None,
    jobs: Jobs = 1,
    fresh: Fresh = False,
) -> None:
    """Train a backbone with and without profiles, and say whether they helped; or run a suite of backbones."""
    from reclm.config import parse_settings
    from reclm.workspace import Workspace

    _check_options(context, suite is not None)
    workspace = Workspace.at(home)
    if suite is not None:
        changes = {"dataset": dataset, "seeds": seeds, "epochs": epochs}
        _suite(suite, changes, workspace, jobs, fresh, out)
        return
    settings = parse_settings(set_ or [])
    source = None
    if augment:
        from reclm.benchmarks.bench import ProfileSource
        from reclm.profiles.ensure import ProfilerChoice

        choice = ProfilerChoice(profiler, parse_settings(profiler_set or []), model, engine, adapter)
        source = ProfileSource(choice, limit, kind.kinds, store)
    plan = {"seeds": seeds or 1, "epochs": epochs, "select_on": select_on.value}
    _compare(backbone, settings, plan, dataset or "ml-100k", workspace, source, encoder, out)


def _check_options(context: typer.Context, suite: bool) -> None:
    """Refuse options that were given and would do nothing."""
    for name in context.params:
        source = context.get_parameter_source(name)
        if source is None or source.name != "COMMANDLINE" or name in OF_BOTH:
            continue
        flag = "--" + name.strip("_").replace("_", "-")
        if suite and name not in OF_SUITES:
            raise ReclmError(
                f"{flag} does not go with --suite: the suite's file says it; copy the file and edit it"
            )
        if not suite and name in OF_SUITES:
            raise ReclmError(f"{flag} goes with --suite NAME only")


def _compare(
    backbone: str,
    settings: dict[str, Any],
    plan_options: dict[str, Any],
    dataset: str,
    workspace: "Workspace",
    profiles: "ProfileSource | None",
    encoder: str | None,
    out: Path | None,
) -> None:
    from rich.console import Console

    import reclm.data
    from reclm.benchmarks.bench import bench as run_bench
    from reclm.benchmarks.bench import make_plan
    from reclm.benchmarks.picture import draw
    from reclm.benchmarks.results import save
    from reclm.benchmarks.table import table, verdicts
    from reclm.data.disk import is_dataset
    from reclm.text.encoder import TextEncoder

    data = reclm.data.load(dataset, workspace)
    plan = make_plan(backbone, settings, data, **plan_options)
    folder = out or _run_folder(workspace, data.name, backbone)
    place = Path(dataset) if is_dataset(Path(dataset)) else workspace.dataset(dataset)
    comparison, about = run_bench(
        plan, data, workspace, profiles, TextEncoder(encoder), models=folder / "models", dataset_folder=place
    )

    Console(highlight=False).print(table(comparison))
    if profiles:
        for line in [*verdicts(comparison), *_coverage(about, alone="base" not in comparison.variants())]:
            _say(line)
    save(comparison, folder, about)
    draw(comparison, folder / "comparison.png")
    _say(f"\nresults in {folder} (results.parquet, users.parquet, summary.json, comparison.png, models)")
    same = shlex.join(["reclm", *sys.argv[1:]])
    if not profiles:
        if data.item_text.num_columns:
            _say(f"next: {same} --augment")
    elif "keywords" not in about["profiles"]["writer"]:
        control = shlex.join(["reclm", *_without(sys.argv[1:], OF_WRITER), "--profiler", "keywords"])
        _say(f"next: {control}   (the control that a language model must beat)")
    elif plan.seeds < 3 and "base" in comparison.variants():
        _say(f"next: {same} --seeds 3   (does it hold for other seeds?)")
    one = shlex.join(["--user", data.users.ids(data.train.user_idx[:1])[0], "--run", str(folder)])
    _say(f"next: reclm recommend {one}")


def _suite(
    name: str, changes: dict[str, Any], workspace: "Workspace", jobs: int, fresh: bool, out: Path | None
) -> None:
    from rich.console import Console

    from reclm.benchmarks.session_suite import load_session_suite
    from reclm.benchmarks.suite import changed, load_suite, run_suite
    from reclm.benchmarks.suite_table import remarks, save, tables

    folder = out or _run_folder(workspace, Path(name).stem)
    if sessions := load_session_suite(name):
        if jobs != 1 or fresh:
            raise ReclmError("--jobs and --fresh go with suites of backbones only")
        _sessions(sessions.changed(**changes), workspace, folder)
        return
    suite = changed(load_suite(name), **changes)
    run = run_suite(suite, workspace, jobs=jobs, fresh=fresh)
    save(run, folder)
    for grid in tables(run):
        Console(highlight=False).print(grid)
    for remark in remarks(run):
        _say(remark)
    _say(f"\nresults in {folder} (results.parquet, summary.json, table.md, suite.yaml)")
    if any(run.failures()):
        raise typer.Exit(1)


def _sessions(suite: "SessionSuite", workspace: "Workspace", folder: Path) -> None:
    from rich.console import Console

    from reclm.benchmarks.session_suite import run_session_suite
    from reclm.benchmarks.session_table import remarks, save, tables

    run = run_session_suite(suite, workspace)
    save(run, folder)
    for grid in tables(run):
        Console(highlight=False).print(grid)
    for remark in remarks(run):
        _say(remark)
    _say(f"\nresults in {folder} (results.parquet, summary.json, table.md, picture.png, suite.yaml)")
    if run.failures:
        raise typer.Exit(1)


def _without(arguments: list[str], flags: tuple[str, ...]) -> list[str]:
    """A command's arguments, less these options and their values."""
    kept, skip = [], False
    for one in arguments:
        if not skip and one.partition("=")[0] not in flags:
            kept.append(one)
        skip = not skip and one in flags
    return kept


def _coverage(about: dict[str, Any], alone: bool) -> list[str]:
    """What had a profile; ``alone``: the model has nothing but profiles to rank by."""
    sides = about["coverage"]
    covered = ", ".join(f"{one['with profile']:,} of {one['of']:,} {side}s" for side, one in sides.items())
    lines = [f"profiles by {about['profiles']['writer']}: {covered}; embedded by {about['encoder']}"]
    if any(one["with profile"] < one["of"] for one in sides.values()):
        rest = "gets all items as equals" if alone else "is recommended by the rest of the model"
        lines.append(f"who has no profile {rest}; --limit 0 writes all profiles first")
    return lines


def _run_folder(workspace: "Workspace", *names: str) -> Path:
    from datetime import datetime

    from reclm.workspace import slug

    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    return workspace.runs() / "-".join([stamp, *map(slug, names)])


def _say(text: str) -> None:
    from rich.console import Console

    Console(highlight=False).print(text, markup=False, soft_wrap=True)
