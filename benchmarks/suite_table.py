"""A record's numbers beside the published ones: on the terminal, and as Markdown."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from rich import box
from rich.markup import escape
from rich.table import Table

from reclm.benchmarks.comparisons import HEAD, Comparisons
from reclm.benchmarks.remarks import remarks
from reclm.benchmarks.results import Result, ResultRow
from reclm.benchmarks.verdict import verdicts
from reclm.console import literal
from reclm.console import table as markdown_table
from reclm.recommend.metrics import title

COLUMNS = 4
"""Metrics that the printed table has room for; published ones first."""


@dataclass(frozen=True)
class Number:
    """What the table says of a line, protocol and metric; None is what does not exist.

    Attributes:
        mean, sd: over the seeds that ran; ``sd`` of two or more.
        published: beside it.
        difference: ``mean / published - 1``, where that says anything.
    """

    mean: float | None
    sd: float | None
    published: float | None
    difference: float | None


def number(record: Result, line: ResultRow, protocol: str, metric: str) -> Number:
    """A cell of the table."""
    values = record.values(line.name, protocol, metric)
    published = line.published.get(protocol, {}).get(metric)
    compared = bool(len(values)) and bool(published) and record.about.comparable
    return Number(
        mean=float(values.mean()) if len(values) else None,
        sd=float(values.std(ddof=1)) if len(values) > 1 else None,
        published=published,
        difference=float(values.mean()) / published - 1 if compared and published else None,
    )


def tables(record: Result) -> list[Table]:
    """A table for each protocol, that fits 80 columns if names are short: ours, and the published number below."""
    metrics = _shown(record)
    drawn = []
    for protocol in record.about.whole:
        size = f"{protocol.users:,} users × {protocol.candidates:,} items"
        grid = Table(
            title=f"{escape(record.about.title)}: {escape(protocol.name)}, {size}",
            title_justify="left",
            box=box.SIMPLE_HEAD,
            pad_edge=False,
            collapse_padding=True,
        )
        grid.add_column("", min_width=9, max_width=24)
        for metric in metrics:
            grid.add_column(title(metric), justify="right", no_wrap=True)
        if record.about.selected_on:
            grid.add_column("epoch", justify="right", no_wrap=True)
        for line in record.about.rows:
            found = [number(record, line, protocol.name, metric) for metric in metrics]
            epochs = [_epochs(record, line.name, protocol.name)] if record.about.selected_on else []
            grid.add_row(escape(line.name), *map(_ours, found), *epochs)
            if line.published.get(protocol.name):
                grid.add_row("published", *map(_published, found), style="dim")
        drawn.append(grid)
    if _timed(record):
        drawn.append(_seconds(record))
    return drawn


def conclusions(record: Result) -> list[str | Table]:
    """For the terminal: a sentence a comparison or, where they are many, how many came out how, and a table."""
    found = Comparisons.many(record)
    if found is None:
        return [*verdicts(record)]
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for place, column in enumerate(HEAD):
        grid.add_column(column, justify="right" if place > 2 else "left", no_wrap=place > 2)
    for row in found.cells:
        grid.add_row(*map(escape, row))
    return [*([found.summary] if found.summary else []), grid, found.tested]


_SECONDS = "Seconds of an epoch"
_SECONDS_HEAD = ("", "seconds", "added", "published", "added")


def _timed(record: Result) -> bool:
    return any(line.published_seconds for line in record.about.rows)


def _seconds(record: Result) -> Table:
    """What an epoch takes, with the share that profiles add."""
    grid = Table(title=_SECONDS, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for place, column in enumerate(_SECONDS_HEAD):
        grid.add_column(column, justify="right" if place else "left", no_wrap=True)
    for name, cells in _epoch_seconds(record):
        grid.add_row(escape(name), *cells)
    return grid


def _epoch_seconds(record: Result) -> Iterator[tuple[str, list[str]]]:
    """Each line's name, its seconds, the share that they are above its base's, and both as published."""
    ours = {line.name: record.epoch_seconds(line.name) for line in record.about.rows}
    published = {line.name: line.published_seconds for line in record.about.rows}
    for line in record.about.rows:
        cells = []
        for times in (ours, published):
            time, base = times[line.name], times.get(line.base or "")
            cells += ["–" if time is None or np.isnan(time) else f"{time:.3f}"]
            share = time / base - 1 if time and base else float("nan")
            cells += ["" if np.isnan(share) else _percent(share)]
        yield line.name, cells


def _shown(record: Result) -> list[str]:
    """The metrics of the printed table, in the record's order."""
    metrics = list(record.about.metrics)
    published = {
        metric for line in record.about.rows for numbers in line.published.values() for metric in numbers
    }
    chosen = sorted(metrics, key=lambda metric: metric not in published)[:COLUMNS]
    return [metric for metric in metrics if metric in chosen]


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}".removeprefix("0")


def _percent(change: float) -> str:
    return f"{change:+.1%}" if abs(change) < 1 else f"{change:+.0%}"


def _ours(one: Number) -> str:
    return _number(one.mean) + ("" if one.sd is None else f" ±{_number(one.sd)}")


def _published(one: Number) -> str:
    if one.published is None:
        return ""
    return _number(one.published) + ("" if one.difference is None else f" {_percent(one.difference)}")


def _epochs(record: Result, line: str, protocol: str) -> str:
    """The best epoch, as a mean over seeds."""
    found = [record.cells[line, seed, protocol].best_epoch for seed in record.seeds(line, protocol)]
    return f"{np.mean(found):.0f}" if any(found) else ""


def markdown(record: Result) -> str:
    """For a page: verdicts, and a section a protocol, for each metric ours, published and the difference."""
    parts = [f"## {literal(record.about.title)}"]
    if found := Comparisons.many(record):
        rows = [[*map(literal, row[:3]), *row[3:]] for row in found.cells]
        parts += [literal(found.summary)] if found.summary else []
        parts += [markdown_table(HEAD, rows, text=3), literal(found.tested)]
    elif said := verdicts(record):
        parts.append("\n".join(f"- {literal(sentence)}" for sentence in said))
    for protocol in record.about.protocols:
        published = {metric for line in record.about.rows for metric in line.published.get(protocol.name, {})}
        head = [""]
        for metric in record.about.metrics:
            columns = ["published", "difference"] if record.about.comparable else ["published"]
            head += [title(metric), *columns] if metric in published else [title(metric)]
        body = []
        for line in record.about.rows:
            cells = [literal(line.name)]
            for metric in record.about.metrics:
                one = number(record, line, protocol.name, metric)
                cells.append(_ours(one).replace("±", "± "))
                if metric in published:
                    cells.append("" if one.published is None else _number(one.published))
                    if record.about.comparable:
                        cells.append("" if one.difference is None else _percent(one.difference))
            body.append(cells)
        parts += [f"### {literal(protocol.name)}", markdown_table(head, body)]
    if _timed(record):
        rows = [[literal(name), *cells] for name, cells in _epoch_seconds(record)]
        parts += [f"### {_SECONDS}", markdown_table(_SECONDS_HEAD, rows)]
    parts.append("\n".join(f"- {literal(remark)}" for remark in remarks(record)))
    return "\n\n".join(parts) + "\n"
