"""``reclm profiles``: look at profiles and hand them on."""

import shlex
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from reclm.cli.profile import DatasetName, EncoderName, EngineName, Home, Kind, ModelName, StoreFolder

if TYPE_CHECKING:
    from rich.panel import Panel

    from reclm.profiles.profile import Profile

app = typer.Typer(no_args_is_help=True, help="Look at profiles, search them, export them.")

Writer = Annotated[
    str | None,
    typer.Option("--profiler", help="Whose profiles; needed where several wrote for the data set."),
]


class Format(StrEnum):
    """What ``export`` writes."""

    parquet = "parquet"
    npy = "npy"
    safetensors = "safetensors"
    recbole = "recbole"


@app.command()
def show(
    id: Annotated[str, typer.Argument(help="The user or item, as the data set names it.")],
    dataset: DatasetName = "ml-100k",
    profiler: Writer = None,
    model: ModelName = None,
    engine: EngineName = None,
    kind: Annotated[Kind, typer.Option(help="Where to look.")] = Kind.both,
    home: Home = None,
    store: StoreFolder = None,
) -> None:
    """Print one profile, and how it came about."""
    from rich.console import Console

    from reclm.console import printable
    from reclm.profiles.find import find_profiles, find_store

    folder = find_store(home, dataset, profiler, model, engine, store)
    console = Console(highlight=False)
    found = find_profiles(folder, id, kind.kinds)
    for one in found:
        console.print(_panel(one))
    near = (
        f"reclm profiles search {shlex.quote(printable(found[0].text[:60]))} --kind {found[0].kind} --store"
    )
    console.print(f"next: {near} {shlex.quote(str(folder))}", markup=False, soft_wrap=True)


@app.command()
def search(
    text: Annotated[str, typer.Argument(help="What to look for, in words.")],
    dataset: DatasetName = "ml-100k",
    profiler: Writer = None,
    model: ModelName = None,
    engine: EngineName = None,
    encoder: EncoderName = None,
    kind: Annotated[Kind, typer.Option(help="Whose profiles.")] = Kind.both,
    k: Annotated[int, typer.Option("-k", min=1, help="How many.")] = 5,
    home: Home = None,
    store: StoreFolder = None,
) -> None:
    """Print the profiles nearest in meaning."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from reclm.console import printable
    from reclm.profiles.find import find_store
    from reclm.profiles.profiles import Profiles

    folder = find_store(home, dataset, profiler, model, engine, store)
    table = Table("kind", "id", "similarity", "profile")
    profiles = Profiles.open(folder, encoder=encoder)
    for one in kind.kinds:
        for id, score, words in profiles.search(text, one, k).itertuples(index=False):
            table.add_row(*map(Text, (one, printable(id), f"{score:.3f}", printable(words))))
    Console(highlight=False).print(table)
    print(f"next: reclm profiles show ID --store {shlex.quote(str(folder))}")


@app.command()
def export(
    out: Annotated[Path, typer.Option(help="Folder to write to.")],
    format: Annotated[Format, typer.Option(help="What to write.")] = Format.parquet,
    dataset: DatasetName = "ml-100k",
    profiler: Writer = None,
    model: ModelName = None,
    engine: EngineName = None,
    encoder: EncoderName = None,
    kind: Annotated[Kind, typer.Option(help="Whose profiles.")] = Kind.both,
    home: Home = None,
    store: StoreFolder = None,
) -> None:
    """Write profiles for other programs: texts (parquet) or vectors (npy, safetensors, recbole)."""
    import reclm.profiles.export as exports
    from reclm.profiles.find import find_store
    from reclm.profiles.profiles import Profiles

    folder = find_store(home, dataset, profiler, model, engine, store)
    profiles = Profiles.open(folder, kinds=kind.kinds, encoder=encoder)
    for file in profiles.export(out, format.value):
        print(file)
    print(f"next: {exports.NEXT[format.value].format(out=out)}")


@app.command("list")
def list_(home: Home = None) -> None:
    """The profile stores there are."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from reclm.folders import Workspace
    from reclm.profiles.store import ProfileStore, stores

    table = Table("data set", "written by", "users", "items", "folder")
    for folder, info in stores(Workspace.at(home)):
        opened = ProfileStore.read(folder)
        counts = (f"{opened.count('user'):,}", f"{opened.count('item'):,}")
        table.add_row(*map(Text, (info.dataset, info.writer, *counts)), Text(str(folder), overflow="fold"))
    if table.row_count:
        Console(highlight=False).print(table)
        print("next: reclm profiles show ID --store FOLDER")
    else:
        print("no profiles yet; write some with: reclm profile --dataset ml-100k")


def _panel(profile: "Profile") -> "Panel":
    from rich.panel import Panel
    from rich.text import Text

    from reclm.console import printable

    made = f"{profile.model}, {profile.prompt_tokens} tokens read, {profile.new_tokens} written"
    made += f", end: {profile.finish_reason}, prompt {profile.prompt_hash}"
    body = Text.assemble(printable(profile.text), "\n\n", (printable(made), "dim"))
    return Panel(body, title=Text(f"{profile.kind} {printable(profile.id)}"), title_align="left")
