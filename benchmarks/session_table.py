"""What a suite of sessions came to: on the terminal, as Markdown, as a picture, as Parquet and JSON."""

import json
from pathlib import Path

import numpy as np
from rich import box
from rich.markup import escape
from rich.table import Table

from reclm.benchmarks.session_suite import SessionRun
from reclm.benchmarks.significance import PairedTest, paired
from reclm.intervals import Estimate, mean, rise
from reclm.markdown import literal
from reclm.markdown import table as markdown_table
from reclm.pictures import COLOURS, panels
from reclm.pictures import save as save_picture
from reclm.profilers.langptune.evaluation import METRICS
from reclm.ranking.metrics import title

_COLOURS = (*COLOURS, "#3b6fb6", "#4a9b6e", "#8d5aa5", "#b8902f")
_MARKS = ("o", "s", "^", "D", "v", "P")


def estimates(run: SessionRun) -> dict[str, dict[str, Estimate]]:
    """Row and metric to the mean over users, each user the mean of its seeds."""
    found: dict[str, dict[str, Estimate]] = {}
    for name in run.names:
        for metric in METRICS:
            one = mean(list(run.by_user(name, metric).values()))
            if one is not None:
                found.setdefault(name, {})[metric] = one
    return found


def differences(run: SessionRun) -> dict[tuple[str, str], dict[str, PairedTest]]:
    """Each pair of the suite whose rows ran, and metric, to a paired t-test over users."""
    return {
        pair: {metric: paired(*run.paired(*pair, metric)) for metric in METRICS}
        for pair in run.suite.pairs
        if set(pair) <= set(run.names)
    }


def tables(run: SessionRun) -> list[Table]:
    """The means, and the differences of the suite's pairs."""
    users = len(run.by_user(run.names[0], METRICS[0])) if run.names else 0
    grid = _grid(f"{run.suite.title}: {users:,} held-out users", ["", *map(title, METRICS)])
    for name, found in estimates(run).items():
        grid.add_row(escape(name), *[_mean(found[metric]) for metric in METRICS])
    drawn = [grid]
    if tests := differences(run):
        grid = _grid("Differences, user by user", ["", *map(title, METRICS)])
        for (before, after), found in tests.items():
            grid.add_row(
                escape(f"{after} less {before}"), *[_difference(found[metric]) for metric in METRICS]
            )
        drawn.append(grid)
    return drawn


def remarks(run: SessionRun) -> list[str]:
    """What a reader of the table must know besides."""
    suite = run.suite
    seeds = f"{suite.seeds} seed{'s' * (suite.seeds > 1)}"
    said = [
        f"{run.view.name} ({run.view.fingerprint}), {seeds}, each with held-out users of its own; ± is half a 95 % "
        "interval over users (Student's; a user's value is the mean of its seeds)"
    ]
    if suite.pairs:
        said.append("* marks p < 0.05 of a paired t-test over users, not corrected for the number of tests")
    said += [f"published: {suite.source}"] * bool(suite.source) + [suite.note] * bool(suite.note)
    said += [f"{row.name}: {row.note}" for row in suite.rows if row.note]
    said += [*_readable(run), *_rewards(run)]
    said += [f"{row.name}: not run here, {row.absent}" for row in suite.rows if row.absent]
    said += [f"FAILED: {row}, seed {seed}: {why}" for row, seed, why in run.failures]
    return said


def markdown(run: SessionRun) -> str:
    """The tables for a page, the published numbers in rows of their own."""
    published = {row.name: row.published for row in run.suite.rows}
    body = []
    for name, found in estimates(run).items():
        body.append([literal(name), *[_mean(found[metric]) for metric in METRICS]])
        if known := published.get(name):
            cells = [_short(known[metric]) if metric in known else "" for metric in METRICS]
            body.append(["published", *cells])
    parts = [f"## {literal(run.suite.title)}", markdown_table(["", *map(title, METRICS)], body)]
    if tests := differences(run):
        rows = [
            [literal(f"{after} less {before}"), *[_difference(found[metric]) for metric in METRICS]]
            for (before, after), found in tests.items()
        ]
        parts.append(markdown_table(["difference", *map(title, METRICS)], rows))
    parts.append("\n".join(f"- {literal(remark)}" for remark in remarks(run)))
    return "\n\n".join(parts) + "\n"


def draw(run: SessionRun, path: Path) -> None:
    """Bars with intervals, or lines where rows are points of lines, of NDCG and recall, as a PNG."""
    found = estimates(run)
    figure, axes = panels(2, 2, run.suite.title, size=(5.2, 3.8))
    lines = list(dict.fromkeys(row.line for row in run.suite.rows if row.line))
    for axis, metric in zip(axes, ("ndcg@20", "recall@20"), strict=True):
        if lines:
            for place, line in enumerate(lines):
                rows = [row for row in run.suite.rows if row.line == line and row.name in found]
                places = [row.at for row in rows if row.at is not None]
                points = [found[row.name][metric] for row in rows]
                axis.errorbar(
                    places,
                    [one.mean for one in points],
                    yerr=[_half(one) for one in points],
                    color=_COLOURS[place % len(_COLOURS)],
                    marker=_MARKS[place % len(_MARKS)],
                    label=line.replace("$", r"\$"),
                    capsize=3,
                    linewidth=1.4,
                )
            at = sorted({row.at for row in run.suite.rows if row.line and row.at is not None})
            if len(at) > 1 and at[0] > 0 and at[-1] / at[0] >= 3:
                axis.set_xscale("log")
            axis.set_xticks(at, [f"{one:g}" for one in at])
            axis.minorticks_off()
            axis.set_xlabel(run.suite.axis, fontsize=8)
            axis.legend(frameon=False, fontsize=8)
        else:
            names = list(found)[::-1]
            points = [found[name][metric] for name in names]
            colours = [_COLOURS[0] if name in {"Random", "MostPopular"} else _COLOURS[1] for name in names]
            axis.barh(
                [name.replace("$", r"\$") for name in names],
                [one.mean for one in points],
                xerr=[_half(one) for one in points],
                color=colours,
                capsize=3,
            )
        axis.set_title(title(metric), fontsize=10, loc="left")
        axis.tick_params(labelsize=8)
    save_picture(figure, path)


def save(run: SessionRun, folder: Path) -> None:
    """Write the record, ``differences.json``, ``table.md``, ``picture.png`` and ``suite.yaml``."""
    run.record().save(folder)
    if run.names:
        draw(run, folder / "picture.png")
    told = [
        {"before": pair[0], "after": pair[1], "metric": metric, **vars(one)}
        for pair, found in differences(run).items()
        for metric, one in found.items()
    ]
    (folder / "differences.json").write_text(json.dumps(told, indent=1), encoding="utf-8")
    (folder / "table.md").write_text(markdown(run), encoding="utf-8")
    run.suite.to_yaml(folder / "suite.yaml")


def _grid(name: str, columns: list[str]) -> Table:
    grid = Table(title=escape(name), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for place, column in enumerate(columns):
        grid.add_column(column, justify="right" if place else "left", no_wrap=bool(place))
    return grid


def _half(one: Estimate) -> float:
    return 0.0 if one.high is None or one.low is None else (one.high - one.low) / 2


def _mean(one: Estimate) -> str:
    return f"{_short(one.mean)} ±{_short(_half(one))}"


def _difference(one: PairedTest) -> str:
    sign, star = "-" if one.difference < 0 else "+", "*" if one.p < 0.05 else ""
    return f"{sign}{_short(abs(one.difference))} ±{_short((one.high - one.low) / 2)}{star}"


def _short(number: float) -> str:
    return f"{number:.4f}".removeprefix("0")


def _readable(run: SessionRun) -> list[str]:
    """How the profiles of each row read, as means over the seeds."""
    said = []
    for name, seeds in run.texts.items():
        kept = [one for one in seeds.values() if one]
        if kept:
            means = {key: float(np.nanmean([one[key] for one in kept])) for key in kept[0]}
            said.append(
                f"profiles of {name}: {means['words']:.0f} words, reading ease {means['readability']:.0f}, "
                f"{means['compliance']:.0%} in order, {means['copying']:.0%} of word triples copied"
            )
    return said


def _rewards(run: SessionRun) -> list[str]:
    """Whether the reward rose along RLSO."""
    said = []
    for row in run.suite.rows:
        series = list(run.rewards.get(row.name, {}).values())
        found = rise(series)
        if found and found.low is not None and found.high is not None:
            better = "rose" if found.low > 0 else "fell" if found.high < 0 else "did not change beyond noise"
            between = " (and the recommender was trained in between)" * run.suite.config(row, 0).trains[0]
            said.append(
                f"the mean reward of {row.name}'s updates, second half less first{between}, {better}: "
                f"{found.mean:+.4f} [{found.low:+.4f}, {found.high:+.4f}] of {np.concatenate(series).mean():.4f}, "
                f"{found.n} updates"
            )
    return said
