"""``reclm profiles``: look at profiles, search them, hand them on and take others' over."""

import shlex
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from reclm.cli.options import (
    DatasetName,
    EncoderName,
    Home,
    Kinds,
    KindsOption,
    ModelName,
    StoreFolder,
    next_step,
)

if TYPE_CHECKING:
    from reclm.profiles.profiles import Profiles

app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Look at profiles, search, export and import them."
)

Writer = Annotated[
    str | None,
    typer.Option("--profiler", help="The writer; needed where several wrote for the data set."),
]
Engine = Annotated[str | None, typer.Option(hidden=True, help="Of 0.1; the model's name is enough.")]


class Format(StrEnum):
    """Formats of ``export``."""

    parquet = "parquet"
    npy = "npy"
    safetensors = "safetensors"
    recbole = "recbole"


@app.command("list")
def list_(
    dataset: Annotated[str | None, typer.Option(help="Only those of this data set.")] = None,
    home: Home = None,
) -> None:
    """List the profiles written so far."""
    import reclm
    from reclm.console import show_frame

    stores = reclm.list_profiles(dataset)
    show_frame(stores)
    if len(stores):
        next_step("reclm profiles show ID --store FOLDER")
    else:
        next_step("reclm profile", dataset=dataset or "ml-100k", note="there are no profiles yet")


@app.command()
def show(
    id: Annotated[str, typer.Argument(help="The user or item, as the data set names it.")],
    dataset: DatasetName = "ml-100k",
    profiler: Writer = None,
    model: ModelName = None,
    engine: Engine = None,
    kinds: KindsOption = Kinds.both,
    store: StoreFolder = None,
    home: Home = None,
) -> None:
    """Print one profile and its origin."""
    from reclm.console import say
    from reclm.errors import NotFound

    profiles, found = _open(dataset, profiler, model, store), []
    for kind in kinds.values:
        try:
            found.append(profiles.get(id, kind))
        except NotFound:
            if not found and kind == kinds.values[-1]:
                raise
    for profile in found:
        say(f"{profile.kind} {profile.id}\n\n{profile.text}\n")
        tokens = f"{profile.prompt_tokens} tokens read, {profile.new_tokens} written"
        say(f"{profile.model}, {tokens}, end: {profile.finish_reason}, prompt {profile.prompt_hash}\n")
    words = " ".join(found[0].text[:60].split())
    next_step(f"reclm profiles search {shlex.quote(words)}", kinds=found[0].kind, store=profiles.folder)


@app.command()
def search(
    text: Annotated[str, typer.Argument(help="The words to look for.")],
    dataset: DatasetName = "ml-100k",
    profiler: Writer = None,
    model: ModelName = None,
    engine: Engine = None,
    encoder: EncoderName = None,
    kinds: KindsOption = Kinds.both,
    k: Annotated[int, typer.Option("-k", "--k", min=1, help="How many.")] = 5,
    store: StoreFolder = None,
    home: Home = None,
) -> None:
    """Print the profiles nearest in meaning."""
    from reclm.console import show_table

    profiles = _open(dataset, profiler, model, store, encoder)
    rows = [
        (kind, id, f"{similarity:.3f}", profile)
        for kind in kinds.values
        for id, similarity, profile in profiles.search(text, kind, k).itertuples(index=False)
    ]
    show_table(["kind", "id", "similarity", "profile"], rows)
    next_step("reclm profiles show ID", store=profiles.folder)


@app.command()
def export(
    out: Annotated[Path, typer.Option(help="Folder to write to.")],
    format: Annotated[Format, typer.Option(help="Texts (parquet) or vectors.")] = Format.parquet,
    dataset: DatasetName = "ml-100k",
    profiler: Writer = None,
    model: ModelName = None,
    engine: Engine = None,
    encoder: EncoderName = None,
    kinds: KindsOption = Kinds.both,
    store: StoreFolder = None,
    home: Home = None,
) -> None:
    """Write profiles for other programs: texts (parquet) or vectors (npy, safetensors, recbole)."""
    from reclm.console import say
    from reclm.profiles.export import NEXT

    profiles = _open(dataset, profiler, model, store, encoder)
    for file in profiles.export(out, format.value, kinds.values):
        say(file)
    say(f"next: {NEXT[format.value].format(out=out)}")


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="CSV, TSV, Parquet or JSON lines with a row a profile.")],
    dataset: DatasetName = "ml-100k",
    kind: Annotated[Kinds, typer.Option(help="user or item: whom the profiles describe.")] = Kinds.user,
    text: Annotated[str, typer.Option(help="The column of texts.")] = "text",
    id: Annotated[str | None, typer.Option(help="The column of ids; default id, user_id or item_id.")] = None,
    encoder: EncoderName = None,
    store: StoreFolder = None,
    home: Home = None,
) -> None:
    """Take over profiles that somebody else wrote."""
    import reclm
    from reclm.console import say
    from reclm.errors import BadInput
    from reclm.profiles.imports import import_file

    if kind is Kinds.both:
        raise BadInput("--kind both: a file holds profiles of users, or of items", value="both")
    profiles = import_file(
        file, reclm.load_dataset(dataset), kind.values[0], text=text, id=id, encoder=encoder, store=store
    )
    say(f"{profiles!r}\nstored in {profiles.folder}")
    next_step("reclm bench --augment", dataset=dataset, store=profiles.folder)


def _open(
    dataset: str, profiler: str | None, model: str | None, store: Path | None, encoder: str | None = None
) -> "Profiles":
    """Open the profiles in ``store``, or those of a data set in the workspace."""
    import reclm
    from reclm.data.storage import is_dataset, read_head

    if store is not None:
        return reclm.Profiles.open(store, encoder=encoder)
    name = str(read_head(Path(dataset))["name"]) if is_dataset(Path(dataset)) else dataset
    return reclm.Profiles.find(name, profiler, model, encoder=encoder)
