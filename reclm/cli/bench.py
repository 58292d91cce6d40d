"""``reclm bench``: do the profiles help?"""

import shlex
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from reclm.cli.profile import DatasetName, EncoderName, Home, Kind, ModelName


class SelectOn(StrEnum):
    """What chooses the epoch."""

    valid = "valid"
    test = "test"


def bench(
    backbone: Annotated[str, typer.Option(help="biasmf, lightgcn, or a plug-in.")] = "lightgcn",
    augment: Annotated[
        bool, typer.Option("--augment", help="Train it with profiles too, and compare.")
    ] = False,
    dataset: DatasetName = "ml-100k",
    profiler: Annotated[str, typer.Option(help="zero-shot, keywords, or a plug-in.")] = "zero-shot",
    model: ModelName = None,
    engine: Annotated[str | None, typer.Option(help="What runs the model: openvino, transformers.")] = None,
    encoder: EncoderName = None,
    kind: Annotated[Kind, typer.Option(help="Whose profiles are fused.")] = Kind.both,
    limit: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Write missing profiles of the first so many users, and items, 0 for all; default "
            "300 with a language model, all without one. Stored profiles are used in any case.",
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Runs a variant.")] = 1,
    epochs: Annotated[int | None, typer.Option(min=1, help="Most epochs of a run; default 50.")] = None,
    select_on: Annotated[
        SelectOn, typer.Option(help="What chooses the epoch; test is the papers' way, and flatters.")
    ] = SelectOn.valid,
    home: Home = None,
    store: Annotated[
        Path | None, typer.Option(help="A profile store to take as it is; nothing is generated.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the results; default a new one in home.")
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Option of the backbone or of its training."),
    ] = None,
    profiler_set: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="Setting of the profiler.")
    ] = None,
) -> None:
    """Train a backbone with and without profiles, and say whether they helped."""
    from datetime import datetime

    from rich.console import Console

    import reclm.data
    from reclm.benchmarks.bench import ProfileSource, make_plan
    from reclm.benchmarks.bench import bench as run_bench
    from reclm.benchmarks.picture import draw
    from reclm.benchmarks.results import save
    from reclm.benchmarks.table import table, verdicts
    from reclm.config import parse_settings
    from reclm.text.encoder import TextEncoder
    from reclm.workspace import Workspace, slug

    workspace = Workspace.at(home)
    data = reclm.data.load(dataset, workspace)
    plan = make_plan(
        backbone, parse_settings(set_ or []), data, seeds=seeds, epochs=epochs, select_on=select_on.value
    )
    settings = parse_settings(profiler_set or [])
    source = ProfileSource(profiler, settings, model, engine, limit, kind.kinds, store) if augment else None
    comparison, about = run_bench(plan, data, workspace, source, TextEncoder(encoder))

    console = Console(highlight=False)
    console.print(table(comparison))
    say = lambda text: console.print(text, markup=False, soft_wrap=True)  # noqa: E731
    if augment:
        for line in verdicts(comparison):
            say(line)
        covered = ", ".join(
            f"{one['with profile']:,} of {one['of']:,} {side}s" for side, one in about["coverage"].items()
        )
        say(f"profiles by {about['profiles']['writer']}: {covered}; embedded by {about['encoder']}")
        if any(one["with profile"] < one["of"] for one in about["coverage"].values()):
            say(
                "who has no profile is recommended by the rest of the model; --limit 0 writes all profiles first"
            )
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    folder = out or workspace.runs() / f"{stamp}-{slug(data.name)}-{slug(backbone)}"
    save(comparison, folder, about)
    draw(comparison, folder / "comparison.png")
    say(f"\nresults in {folder} (results.parquet, users.parquet, summary.json, comparison.png)")
    same = shlex.join(["reclm", *sys.argv[1:]])
    if not augment:
        say(f"next: {same} --augment")
    elif "keywords" not in about["profiles"]["writer"]:
        say(f"next: {same} --profiler keywords   (the control that a language model must beat)")
    elif seeds < 3:
        say(f"next: {same} --seeds 3   (does it hold for other seeds?)")
