"""``reclm data``: list, prepare, show and export data sets."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from reclm.errors import ReclmError

if TYPE_CHECKING:
    from reclm.data.dataset import Dataset

app = typer.Typer(no_args_is_help=True, help="Prepare data sets and look at them.")

Home = Annotated[
    Path | None,
    typer.Option(help="Your workspace. Default: $RECLM_HOME, else ./reclm-home.", show_default=False),
]


@app.command("list")
def list_(home: Home = None) -> None:
    """The readers that are installed with their options, and the data sets prepared so far."""
    from reclm.cli import data_tables as tables
    from reclm.workspace import Workspace

    workspace = Workspace.at(home)
    tables.show_readers()
    tables.show_prepared(workspace)
    tables.next_step("reclm data prepare NAME --source PATH")


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def prepare(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="A reader of `reclm data list`.")],
    source: Annotated[Path | None, typer.Option(help="The raw files: a file, zip or folder.")] = None,
    home: Home = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder to write, instead of one in the workspace.")
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Stop at the first malformed line.")] = False,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="An option of the reader; --key VALUE does the same."
        ),
    ] = None,
    as_: Annotated[str | None, typer.Option("--as", help="What to call the data set.")] = None,
) -> None:
    """Read raw data, split it and keep it under its name.

    Options of the reader can also be written as flags: --train-day 2019-11-14 is --set train_day=2019-11-14.
    """
    from reclm.cli import data_tables as tables
    from reclm.config import parse_settings
    from reclm.data import catalog
    from reclm.workspace import Workspace

    options = parse_settings([*(set_ or []), *_as_settings(context.args)])
    dataset, folder = catalog.prepare(
        name, source, options, Workspace.at(home), name=as_, folder=out, strict=strict
    )
    tables.show_dataset(dataset, folder)
    _hint(dataset, str(folder) if out else dataset.name, home)


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="A prepared data set: its name or folder.")], home: Home = None
) -> None:
    """What a data set holds: counts, splits, protocols, item text, what was dropped and why."""
    from reclm.cli import data_tables as tables
    from reclm.data import load
    from reclm.workspace import Workspace

    dataset = load(name, Workspace.at(home))
    tables.show_dataset(dataset)
    _hint(dataset, name, home)


@app.command()
def export(
    name: Annotated[str, typer.Argument(help="A prepared data set: its name or folder.")],
    out: Annotated[Path, typer.Option(help="A new folder; the files are named after it.")],
    format: Annotated[Literal["recbole"], typer.Option(help="RecBole atomic files.")] = "recbole",
    home: Home = None,
) -> None:
    """Write a data set for another library: splits, ids and item text."""
    from reclm.cli import data_tables as tables
    from reclm.data import load
    from reclm.data.atomic import write_atomic
    from reclm.workspace import Workspace

    write_atomic(load(name, Workspace.at(home)), out)
    tables.say(f"wrote {out}; in RecBole: data_path={out.resolve().parent} dataset={out.resolve().name}")
    tables.say("benchmark_filename=[train, valid, test]")
    tables.next_step(f"reclm data prepare recbole --source {shlex.quote(str(out))} --as NAME")


def _as_settings(flags: list[str]) -> list[str]:
    """``["--train-day", "2019-11-14", "--seed=3"]`` as ``["train_day=2019-11-14", "seed=3"]``."""
    settings, rest = [], iter(flags)
    for flag in rest:
        key, equals, value = flag.partition("=")
        if not key.startswith("--"):
            raise ReclmError(f"unexpected argument {flag!r}; options of a reader are written --key VALUE")
        if not equals:
            value = next(rest, None)
            if value is None:
                raise ReclmError(f"{flag} is no flag of prepare; as an option of the reader it needs a value")
        settings.append(f"{key.removeprefix('--').replace('-', '_')}={value}")
    return settings


def _hint(dataset: "Dataset", name: str, home: Path | None) -> None:
    from reclm.cli import data_tables as tables

    at = f" --home {shlex.quote(str(home))}" if home else ""
    if not dataset.item_text.num_columns:
        tables.say("there is no item text: items are known by their ids alone, and no profile can be written")
        tables.next_step(f"reclm bench --dataset {shlex.quote(name)}{at} --set items=id")
        return
    tables.next_step(f"reclm profile --dataset {shlex.quote(name)}{at} --dry-run")
