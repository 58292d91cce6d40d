"""A suite's numbers beside the published ones: on the terminal, as Markdown, as Parquet and JSON."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich import box
from rich.markup import escape
from rich.table import Table

from reclm.benchmarks.suite import SuiteRun
from reclm.benchmarks.table import title
from reclm.environment import environment
from reclm.markdown import literal
from reclm.markdown import table as markdown_table

COLUMNS = 4
"""Metrics that the printed table has room for; published ones first."""


def summary(run: SuiteRun) -> list[dict[str, Any]]:
    """A mapping for each row, protocol and metric.

    ``mean``, ``sd`` over seeds (null for one) and the number of ``seeds`` that ran, ``published``, and ``difference``
    = mean / published - 1; what does not exist is null.
    """
    lines = []
    for row in run.suite.rows:
        for protocol in run.dataset.protocols:
            for metric in run.suite.metrics:
                values = run.values(row.name, protocol.name, metric)
                mean = float(np.mean(values)) if values else None
                published = row.published.get(protocol.name, {}).get(metric)
                lines.append(
                    {
                        "row": row.name,
                        "protocol": protocol.name,
                        "metric": metric,
                        "mean": mean,
                        "sd": float(np.std(values, ddof=1)) if len(values) > 1 else None,
                        "seeds": len(values),
                        "published": published,
                        "difference": mean / published - 1 if mean is not None and published else None,
                    }
                )
    return lines


def tables(run: SuiteRun) -> list[Table]:
    """A table for each protocol, that fits 80 columns if names are short: two lines a row, ours and the published."""
    lines = {(line["row"], line["protocol"], line["metric"]): line for line in summary(run)}
    metrics = _shown(run)
    drawn = []
    for protocol in run.dataset.protocols:
        grid = Table(
            title=f"{escape(run.suite.title)}: {escape(protocol.name)}",
            title_justify="left",
            box=box.SIMPLE_HEAD,
            pad_edge=False,
            collapse_padding=True,
        )
        grid.add_column("", min_width=9, max_width=24)
        for metric in metrics:
            grid.add_column(title(metric), justify="right", no_wrap=True)
        grid.add_column("epoch", justify="right", no_wrap=True)
        for row in run.suite.rows:
            found = [lines[row.name, protocol.name, metric] for metric in metrics]
            grid.add_row(escape(row.name), *map(_ours, found), _epochs(run, row.name, protocol.name))
            if row.published.get(protocol.name):
                grid.add_row("published", *map(_published, found), style="dim")
        drawn.append(grid)
    return drawn


def _shown(run: SuiteRun) -> list[str]:
    """The metrics of the printed table, in the suite's order."""
    metrics = list(run.suite.metrics)
    published = {metric for row in run.suite.rows for numbers in row.published.values() for metric in numbers}
    chosen = sorted(metrics, key=lambda metric: metric not in published)[:COLUMNS]
    return [metric for metric in metrics if metric in chosen]


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}".removeprefix("0")


def _percent(change: float) -> str:
    return f"{change:+.1%}" if abs(change) < 1 else f"{change:+.0%}"


def _ours(line: dict[str, Any]) -> str:
    return _number(line["mean"]) + ("" if line["sd"] is None else f" ±{_number(line['sd'])}")


def _published(line: dict[str, Any]) -> str:
    if line["published"] is None:
        return ""
    return _number(line["published"]) + (
        "" if line["difference"] is None else f" {_percent(line['difference'])}"
    )


def _epochs(run: SuiteRun, row: str, protocol: str) -> str:
    """The best epoch, as a mean over seeds."""
    found = [result.best_epoch[protocol] for result in run.results[row] if protocol in result.best_epoch]
    return f"{np.mean(found):.0f}" if any(found) else ""


def remarks(run: SuiteRun) -> list[str]:
    """What a reader of the table must know besides: how it was made, notes, and the cells that failed."""
    suite = run.suite
    seeds = f"{suite.seeds} seed{'s' * (suite.seeds > 1)}"
    chosen = "the TEST set, which flatters" if suite.select_on == "test" else "validation"
    said = [f"{run.dataset.name} ({run.dataset.fingerprint}), {seeds}, epochs chosen on {chosen}"]
    if suite.source:
        said.append(f"published: {suite.source}; the percentage is ours against it")
    said += [suite.note] * bool(suite.note)
    said += [f"{row.name}: {row.note}" for row in suite.rows if row.note]
    said += [f"FAILED: {row}, seed {seed}: {why}" for row, seed, why in run.failures()]
    return said


def markdown(run: SuiteRun) -> str:
    """The whole table for a page: a section a protocol, and for each metric ours, published and the difference."""
    lines = {(line["row"], line["protocol"], line["metric"]): line for line in summary(run)}
    parts = [f"## {literal(run.suite.title)}"]
    for protocol in run.dataset.protocols:
        published = {metric for row in run.suite.rows for metric in row.published.get(protocol.name, {})}
        head = [""]
        for metric in run.suite.metrics:
            head += [title(metric), "published", "difference"] if metric in published else [title(metric)]
        body = []
        for row in run.suite.rows:
            cells = [literal(row.name)]
            for metric in run.suite.metrics:
                line = lines[row.name, protocol.name, metric]
                cells.append(_ours(line).replace("±", "± "))
                if metric in published:
                    difference = line["difference"]
                    cells.append("" if line["published"] is None else _number(line["published"]))
                    cells.append("" if difference is None else _percent(difference))
            body.append(cells)
        parts += [f"### {literal(protocol.name)}", markdown_table(head, body)]
    parts += [f"- {literal(remark)}" for remark in remarks(run)]
    return re.sub(r"\n\n(- .*)\n\n(?=- )", r"\n\n\1\n", "\n\n".join(parts)) + "\n"


def save(run: SuiteRun, folder: Path) -> None:
    """Write a suite's results to ``folder``.

    - ``results.parquet``: one row a row of the suite, seed, protocol and metric, with the key of its cell, under which
      the workspace's ``cells`` has every user's values and the epochs;
    - ``summary.json``: the table's numbers, the failures, the environment;
    - ``table.md``: the table;
    - ``suite.yaml``: what ran.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows = [
        {
            "row": name,
            "seed": cell.seed,
            "protocol": protocol,
            "metric": metric,
            "value": value,
            "best_epoch": result.best_epoch[protocol],
            "epochs": len(result.history),
            "seconds": result.seconds,
            "cell": cell.key,
        }
        for name, results in run.results.items()
        for cell, result in zip(run.cells[name], results, strict=True)
        for protocol, means in result.means.items()
        for metric, value in means.items()
    ]
    schema = pa.schema(
        [(name, pa.string()) for name in ("row", "protocol", "metric", "cell")]
        + [("seed", pa.int64()), ("best_epoch", pa.int64()), ("epochs", pa.int64())]
        + [("value", pa.float64()), ("seconds", pa.float64())]
    )
    pq.write_table(pa.Table.from_pylist(rows, schema), folder / "results.parquet")
    about = {
        "title": run.suite.title,
        "dataset": {"name": run.dataset.name, "fingerprint": run.dataset.fingerprint},
        "results": summary(run),
        "remarks": remarks(run),
        "failures": [
            dict(zip(("row", "seed", "reason"), failure, strict=True)) for failure in run.failures()
        ],
        "environment": environment(),
    }
    (folder / "summary.json").write_text(json.dumps(about, indent=2), encoding="utf-8")
    (folder / "table.md").write_text(markdown(run), encoding="utf-8")
    run.suite.to_yaml(folder / "suite.yaml")
