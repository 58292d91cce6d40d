"""The pictures of a report."""

from collections.abc import Callable, Sequence

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from reclm.benchmarks.report import shown
from reclm.benchmarks.report.numbers import Numbers
from reclm.benchmarks.report.panels import LONGEST, Group, Picture, colours, key, panel
from reclm.benchmarks.report.svg import INK, MUTED, PAPER, SERIES, SETTINGS, inline
from reclm.benchmarks.results import ResultRow
from reclm.console import printable
from reclm.intervals import Estimate
from reclm.recommend.metrics import title

UNITS = ((3600.0, "hours"), (60.0, "minutes"), (1.0, "seconds"))


def bars(numbers: Numbers) -> list[Picture]:
    """A panel a protocol, slices left out: the headline metric of every line, with its interval."""
    return [
        picture
        for one in numbers.about.whole
        if (picture := _rows(numbers, one.name, "bars", _bar_values, _draw_bars))
    ]


def changes(numbers: Numbers) -> list[Picture]:
    """A panel a protocol: each line's difference to the one it is compared with, with its interval."""
    return [
        picture
        for one in numbers.about.protocols
        if (picture := _rows(numbers, one.name, "changes", _differences, _draw_differences))
    ]


def curves(numbers: Numbers) -> list[Group]:
    """For each backbone a panel of the loss and one of each metric that was measured after the epochs."""
    groups = []
    for backbone, lines in numbers.groups.items():
        ran = [line for line in lines if any(name == line.name for name, _ in numbers.record.history)]
        metrics = dict.fromkeys(key for line in ran for row in _history(numbers, line.name) for key in row)
        panels = [
            _curve(numbers, ran, backbone, metric) for metric in metrics if metric not in ("epoch", "seconds")
        ]
        if panels:
            groups.append(Group(backbone, tuple(panels), key(numbers, ran)))
    return groups


def activity(numbers: Numbers) -> list[Group]:
    """For each backbone a panel a protocol: what each line gains, by the users' activity.

    Where nothing is compared, the headline metric itself.
    """
    groups = []
    for at, (backbone, lines) in enumerate(numbers.groups.items()):
        panels, drawn = [], {}
        for protocol in numbers.about.whole:
            found = {line.name: numbers.activity(line.name, protocol.name) for line in lines}
            compared = any(one.difference for slices in found.values() for one in slices)
            shown_ = {
                line.name: [(one.name, one.difference if compared else one.row) for one in found[line.name]]
                for line in lines
                if found[line.name] and (not compared or found[line.name][0].difference)
            }
            if shown_:
                name = f"activity{at}-{len(panels)}"
                panels.append(_activity(numbers, shown_, protocol.name, name, compared))
                drawn |= shown_
        if panels:
            known = key(numbers, [line for line in lines if line.name in drawn])
            groups.append(Group(backbone, tuple(panels), known))
    return groups


def cost(numbers: Numbers) -> list[Picture]:
    """A panel a protocol: seconds of a run against the change of the headline metric, lines by their number."""
    found = []
    for at, protocol in enumerate(numbers.about.whole):
        points = []
        for place, line in enumerate(numbers.about.rows, start=1):
            spent = numbers.cost(line.name)
            gain = numbers.differences.get((line.name, protocol.name, numbers.headline))
            if spent and gain and np.isfinite(gain.change) and spent.seconds > 0:
                points.append((spent.seconds, gain.change * 100, place, colours(numbers)[line.name]))
        if len(points) > 1:
            found.append(_cost(points, protocol.name, title(numbers.headline), f"cost{at}"))
    return found


Bar = tuple[ResultRow, Estimate, str]


def _bar_values(numbers: Numbers, protocol: str) -> list[Bar]:
    found = [(line, numbers.interval(line.name, protocol, numbers.headline)) for line in numbers.about.rows]
    return [(line, one, shown.number(one.mean)) for line, one in found if one]


def _differences(numbers: Numbers, protocol: str) -> list[Bar]:
    found = [
        (line, numbers.differences.get((line.name, protocol, numbers.headline)))
        for line in numbers.about.rows
    ]
    return [
        (
            line,
            Estimate(one.test.difference, one.test.low, one.test.high, one.test.n),
            shown.change(one.change) + " " + shown.MARK * one.significant,
        )
        for line, one in found
        if one and np.isfinite(one.test.difference)
    ]


def _rows(
    numbers: Numbers,
    protocol: str,
    kind: str,
    values: Callable[[Numbers, str], list[Bar]],
    draw: Callable[[Axes, np.ndarray, list[Estimate], list[str]], None],
) -> Picture | None:
    """A row a line, its name above what is drawn, so that no name is cut or turned."""
    rows = values(numbers, protocol)
    if not rows:
        return None
    places = np.arange(len(rows), dtype=float)
    group = {line.name: at for at, lines in enumerate(numbers.groups.values()) for line in lines}
    places += 0.5 * np.cumsum(
        np.diff([group[line.name] for line, _, _ in rows], prepend=group[rows[0][0].name]) != 0
    )
    palette = colours(numbers)
    what = ("difference in " if kind == "changes" else "") + title(numbers.headline)
    with rc_context(SETTINGS):
        figure, axis = panel(0.46 * (places[-1] + 1) + 0.75, left=0.25)
        draw(axis, places, [one for _, one, _ in rows], [SERIES[palette[line.name]] for line, _, _ in rows])
        for place, (line, _, text) in zip(places, rows, strict=True):
            beside = {"transform": axis.get_yaxis_transform(), "va": "center"}
            axis.text(0, place - 0.32, printable(line.name, LONGEST), color=INK, **beside)
            # above the line of zero, which runs through it where all differences are to one side
            box = {"facecolor": PAPER, "edgecolor": "none", "pad": 1.5}
            axis.text(1, place - 0.32, text, color=MUTED, ha="right", bbox=box, **beside)
        axis.set(ylim=(places[-1] + 0.55, -0.62), yticks=[])
        axis.spines["left"].set_visible(False)
        axis.set_xlabel(what, color=MUTED)
        at = [one.name for one in numbers.about.protocols].index(protocol)
        return Picture(inline(figure, f"{kind}{at}", f"{protocol}: {what}"), protocol)


def _draw_bars(axis: Axes, places: np.ndarray, found: list[Estimate], palette: list[str]) -> None:
    axis.barh(places + 0.12, [one.mean for one in found], 0.34, color=palette)
    _whiskers(axis, places + 0.12, found, [INK] * len(found))
    axis.set_xlim(left=0)


def _draw_differences(axis: Axes, places: np.ndarray, found: list[Estimate], palette: list[str]) -> None:
    axis.axvline(0, color=MUTED, linewidth=1)
    _whiskers(axis, places + 0.12, found, palette)
    axis.scatter([one.mean for one in found], places + 0.12, color=palette, s=42, zorder=3)
    axis.margins(x=0.08)


def _whiskers(axis: Axes, places: np.ndarray, found: list[Estimate], palette: list[str]) -> None:
    for place, one, colour in zip(places, found, palette, strict=True):
        if one.low is not None and one.high is not None:
            axis.plot([one.low, one.high], [place, place], color=colour, linewidth=1.6)


def _history(numbers: Numbers, line: str) -> list[dict[str, float]]:
    return [row for (name, _), rows in numbers.record.history.items() if name == line for row in rows]


def _curve(numbers: Numbers, lines: Sequence[ResultRow], backbone: str, metric: str) -> Picture:
    palette = colours(numbers)
    groups = list(numbers.groups)
    with rc_context(SETTINGS):
        figure, axis = panel(2.7)
        for line in lines:
            colour, style = SERIES[palette[line.name]], "--" if line.control else "-"
            for (name, _), rows in numbers.record.history.items():
                known = [(row["epoch"], row[metric]) for row in rows if name == line.name and metric in row]
                if known:
                    x, y = zip(*known, strict=True)
                    marker = "o" if len(known) == 1 else None
                    axis.plot(x, y, color=colour, linestyle=style, linewidth=1.5, marker=marker)
        axis.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        step = "epoch" if numbers.about.selected_on else "step"
        axis.set_xlabel(step, color=MUTED)
        what = "loss" if metric == "loss" else title(metric)
        name = f"curve{groups.index(backbone)}-{''.join(one if one.isalnum() else '-' for one in metric)}"
        chosen = "@" in metric and numbers.about.selected_on
        caption = f"{what}, by which the epoch is chosen" if chosen else what
        return Picture(inline(figure, name, f"{backbone}: {what} by {step}".removeprefix(": ")), caption)


def _activity(
    numbers: Numbers,
    lines: dict[str, list[tuple[str, Estimate | None]]],
    protocol: str,
    name: str,
    compared: bool,
) -> Picture:
    palette = colours(numbers)
    places = {
        group: at for at, group in enumerate(dict.fromkeys(one for rows in lines.values() for one, _ in rows))
    }
    what = ("gain in " if compared else "") + title(numbers.headline)
    with rc_context(SETTINGS):
        figure, axis = panel(2.7)
        if compared:
            axis.axhline(0, color=MUTED, linewidth=1)
        for at, (line, rows) in enumerate(lines.items()):
            aside = (at - (len(lines) - 1) / 2) * min(0.14, 0.7 / len(lines))
            known = [(places[group] + aside, one) for group, one in rows if one]
            colour = SERIES[palette[line]]
            style = "--" if numbers.record.row(line).control else "-"
            x, y = [place for place, _ in known], [one.mean for _, one in known]
            axis.plot(x, y, style, color=colour, marker="o", markersize=4.5, linewidth=1.3)
            for place, one in known:
                if one.low is not None and one.high is not None:
                    axis.plot([place, place], [one.low, one.high], color=colour, linewidth=1.1, alpha=0.55)
        axis.set_xticks(list(places.values()), [shown.interval(group) for group in places])
        axis.grid(False, axis="x")
        axis.set_xlabel("interactions in training", color=MUTED)
        return Picture(inline(figure, name, f"{protocol}: {what} by activity"), f"{protocol}: {what}")


def _cost(points: list[tuple[float, float, int, int]], protocol: str, metric: str, name: str) -> Picture:
    with rc_context(SETTINGS):
        figure, axis = panel(2.7)
        axis.axhline(0, color=MUTED, linewidth=1)
        longest = max(one[0] for one in points)
        unit, units = next((one for one in UNITS if longest >= 5 * one[0]), UNITS[-1])
        x = [one[0] / unit for one in points]
        axis.scatter(x, [one[1] for one in points], s=170, color=[SERIES[one[3]] for one in points], zorder=2)
        for place, (_, gain, number, _) in zip(x, points, strict=True):
            axis.text(place, gain, f"{number}", color=PAPER, ha="center", va="center", fontsize=9.5)
        if max(x) > 20 * min(x):
            axis.set_xscale("log")
        axis.margins(0.12, 0.18)
        axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _percent(value)))
        axis.set_xlabel(f"{units} of a run", color=MUTED)
        return Picture(inline(figure, name, f"{protocol}: change by time"), f"{protocol}: change in {metric}")


def _percent(value: float) -> str:
    return f"{value:+g} %".replace("-", "−") if value else "0 %"
