"""``reclm data``: list, prepare, show and export data sets."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from reclm.console import printable
from reclm.errors import ReclmError

if TYPE_CHECKING:
    from reclm.data.dataset import Dataset
    from reclm.data.readers.base import Reader
    from reclm.data.summary import Summary
    from reclm.folders import Workspace


LONGEST = 300
"""Characters of an item's text that are shown."""


def safe(text: object, longest: int | None = None) -> str:
    """Text from outside, without markup and control characters."""
    return escape(printable(str(text), longest))


def say(text: str) -> None:
    """A line of plain text on stdout, never wrapped."""
    Console(soft_wrap=True, highlight=False).print(safe(text))


def next_step(command: str) -> None:
    """Name the next command."""
    Console(soft_wrap=True, highlight=False).print(f"\nnext: [bold]{safe(command)}[/]")


def _table(title: str, *columns: str) -> Table:
    """A table whose columns called ``"> name"`` are aligned to the right."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for name in columns:
        table.add_column(name.removeprefix("> "), justify="right" if name.startswith("> ") else "left")
    return table


def _print(table: Table) -> None:
    if table.row_count:
        Console(highlight=False).print(table)


def show_readers() -> None:
    """Every installed reader: summary, source, options with their defaults."""
    from reclm import plugins

    table = _table("readers", "name", "reads", "options (default)")
    for name in plugins.names("dataset"):
        try:
            reader: type[Reader] = plugins.get("dataset", name)
        except ReclmError as error:  # one reader's missing package does not hide the others
            table.add_row(safe(name), safe(error), "")
            continue
        reads = reader.summary + (" [embedded: needs no --source]" if reader.embedded else "")
        defaults = reader.Config().model_dump(mode="json")
        options = ", ".join(f"{key} ({_short(value)})" for key, value in defaults.items())
        table.add_row(safe(name), safe(reads), safe(options))
    _print(table)


def _short(value: object) -> str:
    return "" if value in (None, "", []) else str(value)


def show_prepared(workspace: "Workspace") -> None:
    """Every data set in the workspace."""
    from reclm.data.catalog import prepared
    from reclm.data.storage import read_head

    table = _table(
        f"prepared in {safe(workspace.root)}", "name", "> users", "> items", "> train", "fingerprint"
    )
    for name, folder in prepared(workspace).items():
        try:
            head = read_head(folder)
            kept = head["report"]["kept"]
            counts = [f"{kept[key]:,}" for key in ("users", "items", "train interactions")]
        except (ReclmError, LookupError, TypeError, ValueError) as error:
            table.add_row(safe(name), "", "", "", safe(f"damaged: {error}"))
            continue
        table.add_row(safe(name), *counts, safe(head["fingerprint"]))
    _print(table)


def show_dataset(dataset: "Dataset", folder: Path | None = None) -> None:
    """All of :func:`reclm.data.summary.summarise`, and the reader's report."""
    from reclm.data.summary import summarise

    summary = summarise(dataset)
    say(
        f"{dataset.name}: {len(dataset.users):,} users × {len(dataset.items):,} items, "
        f"density {summary.density:.4%}, fingerprint {dataset.fingerprint}"
        + (f", in {folder}" if folder else "")
    )
    _show_parts(summary)
    fields = _table("item text", "field", "> items with it")
    for name, share in summary.filled.items():
        fields.add_row(safe(name), f"{share:.1%}")
    _print(fields)
    _show_report(dataset)
    samples = _table("items as a model reads them", "id", "text")
    for item_id, text in summary.samples:
        samples.add_row(safe(item_id, 40), safe(text, LONGEST))
    _print(samples)


def _show_parts(summary: "Summary") -> None:
    splits = _table("splits", "split", "> interactions", "> users", "> items")
    for one in summary.splits:
        splits.add_row(one.name, f"{one.interactions:,}", f"{one.users:,}", f"{one.items:,}")
    _print(splits)
    protocols = _table(
        "protocols", "protocol", "> candidates", "> test users", "> test interactions", "> masked"
    )
    for one in summary.protocols:
        numbers = (one.candidates, one.users, one.positives, one.masked)
        protocols.add_row(safe(one.name), *(f"{number:,}" for number in numbers))
    _print(protocols)


def _show_report(dataset: "Dataset") -> None:
    dropped = _table("left out by the reader", "> count", "what")
    for why, count in dataset.report.dropped.items():
        dropped.add_row(f"{count:,}", safe(why))
    _print(dropped)
    say("kept: " + "; ".join(f"{count:,} {what}" for what, count in dataset.report.kept.items()))
    for line in dataset.report.malformed:
        say(f"  {line}")


app = typer.Typer(no_args_is_help=True, help="Prepare data sets and look at them.")

Home = Annotated[
    Path | None,
    typer.Option(help="Your workspace. Default: $RECLM_HOME, else ./reclm-home.", show_default=False),
]


@app.command("list")
def list_(home: Home = None) -> None:
    """The readers that are installed with their options, and the data sets prepared so far."""
    from reclm.folders import Workspace

    workspace = Workspace.at(home)
    show_readers()
    show_prepared(workspace)
    next_step("reclm data prepare NAME --source PATH")


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
    from reclm.config import parse_settings
    from reclm.data import catalog
    from reclm.folders import Workspace

    options = parse_settings([*(set_ or []), *_as_settings(context.args)])
    dataset, folder = catalog.prepare(
        name, source, options, Workspace.at(home), name=as_, folder=out, strict=strict
    )
    show_dataset(dataset, folder)
    _hint(dataset, str(folder) if out else dataset.name, home)


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="A prepared data set: its name or folder.")], home: Home = None
) -> None:
    """What a data set holds: counts, splits, protocols, item text, what was dropped and why."""
    from reclm.data import load
    from reclm.folders import Workspace

    dataset = load(name, Workspace.at(home))
    show_dataset(dataset)
    _hint(dataset, name, home)


@app.command()
def export(
    name: Annotated[str, typer.Argument(help="A prepared data set: its name or folder.")],
    out: Annotated[Path, typer.Option(help="A new folder; the files are named after it.")],
    format: Annotated[Literal["recbole"], typer.Option(help="RecBole atomic files.")] = "recbole",
    home: Home = None,
) -> None:
    """Write a data set for another library: splits, ids and item text."""
    from reclm.data import load
    from reclm.data.readers.recbole import write_atomic
    from reclm.folders import Workspace

    write_atomic(load(name, Workspace.at(home)), out)
    say(f"wrote {out}; in RecBole: data_path={out.resolve().parent} dataset={out.resolve().name}")
    say("benchmark_filename=[train, valid, test]")
    next_step(f"reclm data prepare recbole --source {shlex.quote(str(out))} --as NAME")


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

    at = f" --home {shlex.quote(str(home))}" if home else ""
    if not dataset.item_text.num_columns:
        say("there is no item text: items are known by their ids alone, and no profile can be written")
        next_step(f"reclm bench --dataset {shlex.quote(name)}{at} --set items=id")
        return
    next_step(f"reclm profile --dataset {shlex.quote(name)}{at} --dry-run")
