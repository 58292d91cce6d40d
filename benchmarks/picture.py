"""A record as a picture."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reclm.benchmarks.results import Result, ResultRow
from reclm.charts import COLOURS, panels, save
from reclm.recommend.metrics import title

_FLOOR, _CONTROL = "#c9ced6", "#5b7fb5"
_METRICS = 2


def draw(record: Result, path: Path) -> None:
    """Write :func:`figure` as a PNG."""
    save(figure(record), path)


def figure(record: Result) -> Figure:
    """Draw bars of every row for each protocol, and the learning curves of the compared ones."""
    metrics = [record.headline, *(one for one in record.about.metrics if one != record.headline)][:_METRICS]
    lines = [line for line in record.about.rows if not line.absent]
    panel = [(protocol.name, metric) for protocol in record.about.whole for metric in metrics]
    height = max(2.4, 0.32 * len(lines) + 1.2)
    count = len(panel) + bool(record.about.selected_on)
    drawn, axes = panels(count, min(count, 3), record.about.title, size=(4.6, height))
    for axis, (protocol, metric) in zip(axes, panel, strict=False):
        _bars(axis, record, lines, protocol, metric)
    if record.about.selected_on:
        _curves(axes[-1], record, lines)
    return drawn


def colour(line: ResultRow) -> str:
    """What a line is drawn in: with profiles, a control, without."""
    if line.control is not None:
        return _CONTROL
    return COLOURS[1] if line.writer else COLOURS[0]


def _bars(axis: Axes, record: Result, lines: list[ResultRow], protocol: str, metric: str) -> None:
    values = [record.values(line.name, protocol, metric) for line in lines]
    means = [float(one.mean()) if len(one) else 0.0 for one in values]
    spread = [float(one.std(ddof=1)) if len(one) > 1 else 0.0 for one in values]
    places = np.arange(len(lines))[::-1]
    bars = axis.barh(
        places, means, xerr=spread if any(spread) else None, color=[colour(line) for line in lines], capsize=2
    )
    labels = [f"{one.mean():.4f}" if len(one) else "–" for one in values]
    axis.bar_label(bars, labels=labels, fontsize=7, padding=3)
    axis.set_yticks(places, [line.name.replace("$", r"\$") for line in lines], fontsize=8)
    axis.tick_params(axis="x", labelsize=7)
    axis.margins(x=0.18)
    axis.set_title(f"{protocol}: {title(metric)}", fontsize=9, loc="left")


def _curves(axis: Axes, record: Result, lines: list[ResultRow]) -> None:
    """The selection metric by epoch: a line a seed."""
    named: set[str] = set()
    for line in lines:
        for (name, _), rows in record.history.items():
            metric = next((key for row in rows for key in row if "@" in key), None)
            if name != line.name or metric is None:
                continue
            known = [row for row in rows if metric in row]
            axis.plot(
                [row["epoch"] for row in known],
                [row[metric] for row in known],
                color=colour(line),
                label=None if name in named else name.replace("$", r"\$"),
                linewidth=1.1,
                alpha=0.8,
            )
            named.add(name)
            axis.set_ylabel(metric, fontsize=8)
    axis.set_xlabel("epoch", fontsize=8)
    axis.set_title("what the epoch was chosen by", fontsize=9, loc="left")
    axis.tick_params(labelsize=7)
    if axis.lines:
        axis.set_ylim(bottom=0)
    if 1 < len(named) <= 6:
        axis.legend(frameon=False, fontsize=7)
