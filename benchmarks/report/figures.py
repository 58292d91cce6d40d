"""The figures of a report: plain SVG of Matplotlib, drawn for light paper. The page's style turns them dark."""

import io
import re
from collections.abc import Sequence
from itertools import cycle
from typing import Any, NamedTuple

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from reclm import charts
from reclm.benchmarks.report.tables import activity_groups, dashed, groups
from reclm.benchmarks.results import Result, ResultRow
from reclm.benchmarks.significance import over_users
from reclm.console import printable
from reclm.intervals import Estimate, number
from reclm.recommend.metrics import title

WIDTH = 4.6
"""Width of a panel in inches: panels of one width stand below each other on a phone."""
LONGEST = 34
"""Characters of a name that a panel has room for."""
INK, MUTED, RULE = "#1f2328", "#656d76", "#d5d9de"
SERIES = (*charts.COLOURS, "#4f86b0", "#6f9a5c", "#8f7db5", "#b3923f", "#b56d91", "#4f9a95")
"""The base, the row that the verdict is about, and the rest."""

_STYLE: dict[Any, Any] = {
    **{"svg.fonttype": "none", "svg.hashsalt": "reclm", "text.parse_math": False, "font.size": 11},
    **{"axes.labelsize": 10.5, "axes.labelcolor": MUTED, "axes.edgecolor": RULE, "axes.axisbelow": True},
    **{"axes.grid": True, "grid.color": RULE, "grid.linewidth": 0.6},
    **{f"{axis}tick.color": RULE for axis in "xy"},
    **{f"{axis}tick.labelcolor": MUTED for axis in "xy"},
    **{f"{axis}tick.labelsize": 10 for axis in "xy"},
}


class Picture(NamedTuple):
    """A panel as SVG with its caption."""

    svg: str
    caption: str


class Group(NamedTuple):
    """Panels that belong together, and their key: name, colour, and whether it is a control, which is dashed."""

    title: str
    pictures: tuple[Picture, ...]
    key: tuple[tuple[str, str, bool], ...] = ()


Bar = tuple[ResultRow, Estimate, str]
"""A row, its estimate, and the text beside it."""


def colours(result: Result) -> dict[str, str]:
    """Return each row's colour by its place in its group; the first one is for the base."""
    palette: dict[str, str] = {}
    for rows in groups(result).values():
        base = next((row.name for row in rows if not (row.against or row.kinds or row.control)), None)
        others = (row.name for row in rows if row.name != base)
        palette |= dict(zip(others, cycle(SERIES[1:]), strict=False)) | ({base: SERIES[0]} if base else {})
    return palette


def plot(result: Result) -> Figure:
    """Draw the headline metric of every row, a panel for each protocol, and the learning curves."""
    values = {protocol.name: _values(result, protocol.name) for protocol in result.about.whole}
    epochs = [epoch for history in result.history.values() for epoch in history if result.about.selected_on]
    curve = next((name for epoch in epochs for name in epoch if "@" in name), None)
    count = len(values) + (curve is not None)
    with rc_context(_STYLE):
        size = (WIDTH, 0.46 * max(map(len, values.values()), default=1) + 1.1)
        figure, axes = charts.panels(max(count, 1), 3, result.about.title, size)
        for axis, (protocol, rows) in zip(axes, values.items(), strict=False):
            axis.set_title(protocol, loc="left", fontsize=11)
            _draw_rows(axis, result, rows, title(result.headline), bars=True)
        if curve is not None:
            axes[-1].set_title(f"{curve}, by which the epoch is chosen", loc="left", fontsize=11)
            _draw_curve(axes[-1], result, result.about.rows, curve)
            handles, labels = axes[-1].get_legend_handles_labels()
            if 1 < len(labels) <= 6:
                axes[-1].legend(handles, labels, frameon=False, fontsize=8)
    return figure


def bars(result: Result) -> list[Picture]:
    """Draw a panel for each protocol: the headline metric of every row with its interval."""
    return [
        _rows_panel(result, rows, f"bars{at}", protocol.name, title(result.headline), bars=True)
        for at, protocol in enumerate(result.about.whole)
        if (rows := _values(result, protocol.name))
    ]


def changes(result: Result) -> list[Picture]:
    """Draw a panel for each protocol: each row's difference to its base, with the interval of the test."""
    what, pictures, by_base = f"difference in {title(result.headline)}", [], result.verdict.by_base
    for at, protocol in enumerate(result.about.whole):
        rows: list[Bar] = []
        for row in result.about.rows:
            difference = by_base.get((row.name, protocol.name, result.headline))
            if difference and np.isfinite((test := difference.test).difference):
                estimate = Estimate(test.difference, test.low, test.high, test.n)
                rows.append((row, estimate, difference.size + " *" * difference.significant))
        if rows:
            pictures.append(_rows_panel(result, rows, f"changes{at}", protocol.name, what, bars=False))
    return pictures


def curves(result: Result) -> list[Group]:
    """Draw for each backbone the loss and each metric that was measured after the epochs."""
    drawn, step = [], "epoch" if result.about.selected_on else "step"
    for at, (backbone, rows) in enumerate(groups(result).items()):
        ran = [row for row in rows if any(name == row.name for name, _ in result.history)]
        names = {row.name for row in ran}
        histories = [steps for (name, _), steps in result.history.items() if name in names]
        metrics = dict.fromkeys(name for history in histories for epoch in history for name in epoch)
        pictures = []
        for place, metric in enumerate(name for name in metrics if name not in ("epoch", "seconds")):
            figure, axis = _panel(2.7)
            with rc_context(_STYLE):
                _draw_curve(axis, result, ran, metric)
            what = "loss" if metric == "loss" else title(metric)
            chosen = "@" in metric and result.about.selected_on
            caption = f"{what}, by which the epoch is chosen" if chosen else f"{what} by {step}"
            pictures.append(Picture(_svg(figure, f"curve{at}-{place}"), caption))
        if pictures:
            drawn.append(Group(backbone, tuple(pictures), _key(result, ran)))
    return drawn


def activity(result: Result) -> list[Group]:
    """Draw for each backbone and protocol what each row gains by the users' activity; or the metric, without a base."""
    drawn = []
    for at, (backbone, rows) in enumerate(groups(result).items()):
        pictures, names = [], set()
        for place, protocol in enumerate(result.about.whole):
            users = {row.name: activity_groups(result, row.name, protocol.name) for row in rows}
            compared = any(group.difference for parts in users.values() for group in parts)
            points = {
                name: [(group.name, group.difference if compared else group.row) for group in parts]
                for name, parts in users.items()
                if parts and (not compared or parts[0].difference)
            }
            if points:
                what = ("gain in " if compared else "") + title(result.headline)
                figure = _activity(result, points, compared)
                pictures.append(Picture(_svg(figure, f"activity{at}-{place}"), f"{protocol.name}: {what}"))
                names |= points.keys()
        if pictures:
            key = _key(result, [row for row in rows if row.name in names])
            drawn.append(Group(backbone, tuple(pictures), key))
    return drawn


def _values(result: Result, protocol: str) -> list[Bar]:
    rows, metric = result.about.rows, result.headline
    means = [(row, over_users(result.by_user(row.name, protocol, metric))) for row in rows]
    return [(row, estimate, number(estimate.mean)) for row, estimate in means if estimate]


def _rows_panel(result: Result, rows: list[Bar], name: str, caption: str, what: str, bars: bool) -> Picture:
    figure, axis = _panel(0.46 * len(rows) + 0.75, left=0.25)
    with rc_context(_STYLE):
        _draw_rows(axis, result, rows, what, bars)
    return Picture(_svg(figure, name), caption)


def _draw_rows(axis: Axes, result: Result, rows: list[Bar], what: str, bars: bool) -> None:
    """Draw a bar or a point for each row with its name above, so that no name is cut or turned."""
    palette = colours(result)
    for place, (row, estimate, text) in enumerate(rows):
        colour, at = palette[row.name], place + 0.12
        if bars:
            axis.barh(at, estimate.mean, 0.34, color=colour)
        else:
            axis.scatter(estimate.mean, at, color=colour, s=42, zorder=3)
        if estimate.low is not None and estimate.high is not None:
            axis.plot([estimate.low, estimate.high], [at, at], color=INK if bars else colour, linewidth=1.6)
        beside: dict[str, Any] = {"transform": axis.get_yaxis_transform(), "va": "center"}
        axis.text(0, place - 0.32, printable(row.name, LONGEST), color=INK, **beside)
        axis.text(1, place - 0.32, text, color=MUTED, ha="right", **beside)
    if bars:
        axis.set_xlim(left=0)
    else:
        axis.axvline(0, color=MUTED, linewidth=1)
        axis.margins(x=0.08)
    axis.set(ylim=(len(rows) - 0.45, -0.62), yticks=[], xlabel=what)
    axis.spines["left"].set_visible(False)


def _draw_curve(axis: Axes, result: Result, rows: Sequence[ResultRow], metric: str) -> None:
    """Draw a curve for each row and seed, where an epoch has the metric; controls are dashed."""
    palette = colours(result)
    for row in rows:
        label, line = printable(row.name, LONGEST), "--" if row.control else "-"
        for history in (steps for (name, _), steps in result.history.items() if name == row.name):
            epochs = enumerate(history, start=1)
            known = [(epoch.get("epoch", at), epoch[metric]) for at, epoch in epochs if metric in epoch]
            if known:
                mark = "o" if len(known) == 1 else None
                style: dict[str, Any] = {"color": palette[row.name], "marker": mark, "label": label}
                axis.plot(*zip(*known, strict=True), line, linewidth=1.5, **style)
                label = None  # a row stands in the legend once
    axis.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axis.set_xlabel("epoch" if result.about.selected_on else "step")


def _activity(result: Result, rows: dict[str, list[tuple[str, Estimate | None]]], compared: bool) -> Figure:
    palette = colours(result)
    names = list(dict.fromkeys(name for points in rows.values() for name, _ in points))
    figure, axis = _panel(2.7)
    if compared:
        axis.axhline(0, color=MUTED, linewidth=1)
    for at, (row, points) in enumerate(rows.items()):
        aside = (at - (len(rows) - 1) / 2) * min(0.14, 0.7 / len(rows))
        known = [(names.index(name) + aside, estimate) for name, estimate in points if estimate]
        x, y = [place for place, _ in known], [estimate.mean for _, estimate in known]
        line = "--" if result.row(row).control else "-"
        axis.plot(x, y, line, color=palette[row], marker="o", markersize=4.5, linewidth=1.3)
        for place, estimate in known:
            if estimate.low is not None and estimate.high is not None:
                axis.plot(
                    [place] * 2, [estimate.low, estimate.high], color=palette[row], linewidth=1.1, alpha=0.55
                )
    axis.set_xticks(range(len(names)), [dashed(name) for name in names])
    axis.grid(False, axis="x")
    axis.set_xlabel("interactions in training", color=MUTED)
    return figure


def _key(result: Result, rows: Sequence[ResultRow]) -> tuple[tuple[str, str, bool], ...]:
    palette = colours(result)
    return tuple((row.name, palette[row.name], bool(row.control)) for row in rows)


def _panel(height: float, left: float = 0.68) -> tuple[Figure, Axes]:
    """Return a figure of one panel; ``left``: inches for the vertical axis, the same in all, so that they align."""
    with rc_context(_STYLE):
        figure, (axis,) = charts.panels(1, 1, "", (WIDTH, height))
    figure.set_layout_engine(None)
    figure.suptitle("")
    figure.subplots_adjust(left / WIDTH, 0.55 / height, 1 - 0.2 / WIDTH, 1 - 0.1 / height)
    for side in (axis.xaxis, axis.yaxis):
        side.set_major_formatter(lambda value, _: f"{value:g}".replace("0.", ".", 1).replace("-", "−"))
        side.set_major_locator(MaxNLocator(5))
    return figure, axis


def _svg(figure: Figure, name: str) -> str:
    """Return the ``<svg>`` element, the same for the same figure; its ids begin with ``name``."""
    buffer, nothing = io.StringIO(), dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with rc_context(_STYLE):
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    svg = buffer.getvalue()[buffer.getvalue().index("<svg") :]
    # in tags alone: texts have no "<"
    return re.sub(r"<[^>]*>", lambda tag: re.sub(r'(\sid="|href="#|url\(#)', rf"\g<1>{name}-", tag[0]), svg)
