"""``reclm profiles``: look at profiles, search them, hand them on and take others' over."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

import reclm
from reclm.cli import options as opt
from reclm.console import say, show_frame, show_table

if TYPE_CHECKING:
    from reclm.data.dataset import ProfileKind
    from reclm.profiles.profiles import Profiles

_about = "Look at profiles, search, export and import them."
app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help=_about)

Writer = Annotated[opt.Text, opt.option("The writer, where several wrote for the data set.", "--profiler")]
Format = Literal["parquet", "npy", "safetensors", "recbole"]


@app.command("list")
def list_(
    dataset: Annotated[opt.Text, opt.option("Only those of this data set.")] = None,
    home: opt.Home = None,
) -> None:
    """List the profiles written so far."""
    stores = reclm.list_profiles(dataset)
    show_frame(stores)
    if len(stores):
        return opt.next_step("reclm profiles show ID --store FOLDER")
    opt.next_step("reclm profile", dataset=dataset or "ml-100k", note="there are no profiles yet")


@app.command()
def show(
    id: Annotated[str, typer.Argument(help="The user or item, as the data set names it.")],
    dataset: opt.DatasetName = "ml-100k",
    profiler: Writer = None,
    model: opt.ModelName = None,
    kinds: opt.KindsOption = "both",
    store: opt.StoreFolder = None,
    home: opt.Home = None,
) -> None:
    """Print one profile and its origin."""
    profiles, sides = _open(dataset, profiler, model, store), opt.sides(kinds)
    stored: list[ProfileKind] = [kind for kind in sides if profiles.store.get(kind, id)]
    described = stored or sides[-1:]
    for profile in (profiles.get(id, kind) for kind in described):
        say(f"{profile.kind} {profile.id}\n\n{profile.text}\n")
        tokens = f"{profile.prompt_tokens} tokens read, {profile.new_tokens} written"
        say(f"{profile.model}, {tokens}, end: {profile.finish_reason}, prompt {profile.prompt_hash}\n")
    words = shlex.quote(" ".join(profiles.get(id, described[0]).text[:60].split()))
    opt.next_step(f"reclm profiles search {words}", kinds=described[0], store=profiles.folder)


@app.command()
def search(
    text: Annotated[str, typer.Argument(help="The words to look for.")],
    dataset: opt.DatasetName = "ml-100k",
    profiler: Writer = None,
    model: opt.ModelName = None,
    encoder: opt.EncoderName = None,
    kinds: opt.KindsOption = "both",
    k: Annotated[int, typer.Option("-k", "--k", min=1, help="How many.")] = 5,
    store: opt.StoreFolder = None,
    home: opt.Home = None,
) -> None:
    """Print the profiles nearest in meaning."""
    profiles = _open(dataset, profiler, model, store, encoder)
    rows = [
        (kind, id, f"{similarity:.3f}", profile)
        for kind in opt.sides(kinds)
        for id, similarity, profile in profiles.search(text, kind, k).itertuples(index=False)
    ]
    show_table(["kind", "id", "similarity", "profile"], rows)
    opt.next_step("reclm profiles show ID", store=profiles.folder)


@app.command()
def export(
    out: Annotated[Path, opt.option("Folder to write to.")],
    format: Annotated[Format, opt.option("Texts (parquet) or vectors.")] = "parquet",
    dataset: opt.DatasetName = "ml-100k",
    profiler: Writer = None,
    model: opt.ModelName = None,
    encoder: opt.EncoderName = None,
    kinds: opt.KindsOption = "both",
    store: opt.StoreFolder = None,
    home: opt.Home = None,
) -> None:
    """Write profiles for other programs: texts (parquet) or vectors (npy, safetensors, recbole)."""
    from reclm.profiles.exchange import NEXT

    profiles = _open(dataset, profiler, model, store, encoder)
    for file in profiles.export(out, format, opt.sides(kinds)):
        say(file)
    say(f"next: {NEXT[format].format(out=out)}")


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="CSV, TSV, Parquet or JSON lines with a row a profile.")],
    dataset: opt.DatasetName = "ml-100k",
    kind: Annotated[opt.Kinds, opt.option("user or item: whom the profiles describe.")] = "user",
    text: Annotated[str, opt.option("The column of texts.")] = "text",
    id: Annotated[opt.Text, opt.option("The column of ids; default id, user_id or item_id.")] = None,
    encoder: opt.EncoderName = None,
    store: opt.StoreFolder = None,
    home: opt.Home = None,
) -> None:
    """Take over profiles that somebody else wrote."""
    from reclm.data.readers.records import read_records
    from reclm.errors import BadInput
    from reclm.profiles.exchange import import_frames

    if kind == "both":
        raise BadInput("--kind both: a file holds profiles of users, or of items", value="both")
    frames: dict[ProfileKind, Any] = {kind: read_records(file)}
    options: dict[str, Any] = {"text": text, "id": id, "encoder": encoder, "store": store}
    profiles = import_frames(reclm.load_dataset(dataset), frames, origin=file.name, **options)
    say(f"{profiles!r}\nstored in {profiles.folder}")
    opt.next_step("reclm bench --augment", dataset=dataset, store=profiles.folder)


def _open(
    dataset: str, profiler: str | None, model: str | None, store: Path | None, encoder: str | None = None
) -> "Profiles":
    """Open the profiles in ``store``, or those of a data set in the workspace."""
    from reclm.data.storage import is_dataset, read_head

    if store is not None:
        return reclm.Profiles.open(store, encoder=encoder)
    name = str(read_head(Path(dataset))["name"]) if is_dataset(Path(dataset)) else dataset
    return reclm.Profiles.find(name, profiler, model, encoder=encoder)
