"""What ``reclm data`` prints. Whatever comes from data is escaped: it can neither style nor steer the terminal."""

from pathlib import Path

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from reclm import plugins
from reclm.data.catalog import prepared
from reclm.data.dataset import Dataset
from reclm.data.disk import read_head
from reclm.data.reader import Reader, printable
from reclm.data.summary import Summary, summarise
from reclm.errors import ReclmError
from reclm.workspace import Workspace

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


def show_prepared(workspace: Workspace) -> None:
    """Every data set in the workspace."""
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


def show_dataset(dataset: Dataset, folder: Path | None = None) -> None:
    """All of :func:`reclm.data.summary.summarise`, and the reader's report."""
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


def _show_parts(summary: Summary) -> None:
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


def _show_report(dataset: Dataset) -> None:
    dropped = _table("left out by the reader", "> count", "what")
    for why, count in dataset.report.dropped.items():
        dropped.add_row(f"{count:,}", safe(why))
    _print(dropped)
    say("kept: " + "; ".join(f"{count:,} {what}" for what, count in dataset.report.kept.items()))
    for line in dataset.report.malformed:
        say(f"  {line}")
