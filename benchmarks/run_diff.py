"""Two runs side by side: line by line what changed, whether it is more than chance, and what was made otherwise."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich import box
from rich.console import Console, ConsoleOptions, RenderResult
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from reclm.benchmarks.results import Result
from reclm.benchmarks.significance import LEVEL, PairedTest, average, holm, paired, shown_p
from reclm.errors import ReclmError
from reclm.recommend.metrics import title

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True)
class Change:
    """A line, protocol and metric that both runs have.

    Attributes:
        a, b: means over the users and seeds that both have; nan where there is no number.
        test: of ``b - a``, user by user; None for a number that is not a mean over users.
        p: of the test, corrected by Holm over the table; nan without one.
        equal: every number of it is the same in both.
    """

    row: str
    protocol: str
    metric: str
    a: float
    b: float
    test: PairedTest | None = None
    p: float = float("nan")
    equal: bool = False

    @property
    def significant(self) -> bool:
        return self.p < LEVEL


@dataclass(frozen=True)
class TwoRuns:
    """What :func:`compare` found.

    Attributes:
        changes: in the order of A's lines, protocols and metrics.
        alone: what only one of them has, or what they share no seed or user of.
        made: what differs in how they were made.
    """

    changes: tuple[Change, ...]
    alone: tuple[str, ...]
    made: tuple[str, ...]

    def table(self) -> "DataFrame":
        """Return a row for each row, protocol and metric: A, B, difference, 95 % interval, p."""
        import pandas as pd

        return pd.DataFrame(
            {
                "row": one.row,
                "protocol": one.protocol,
                "metric": title(one.metric),
                "A": one.a,
                "B": one.b,
                "difference": one.b - one.a,
                "low": one.test.low if one.test else float("nan"),
                "high": one.test.high if one.test else float("nan"),
                "p": one.p,
            }
            for one in self.changes
        )

    def __str__(self) -> str:
        return verdict(self)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield from tables(self)
        yield from (Text(one) for one in (*self.alone, *self.made, "", str(self)))


def compare_runs(a: Result | str | Path, b: Result | str | Path) -> TwoRuns:
    """Compare two runs, given as results or as their folders, row by row and user by user."""
    return compare(*(one if isinstance(one, Result) else Result.load(one) for one in (a, b)))


def compare(a: Result, b: Result) -> TwoRuns:
    """Compare the lines of the same name.

    Raises:
        ReclmError: if the runs are of different data: their users and test items are not the same.
    """
    if a.about.fingerprint != b.about.fingerprint:
        ours, theirs = (f"{one.about.dataset} ({one.about.fingerprint})" for one in (a, b))
        raise ReclmError(
            f"the runs are of different data, so their numbers cannot be compared: A {ours}, B {theirs}"
        )
    alone = [*_alone("line", *([one.name for one in run.about.rows] for run in (a, b)))]
    alone += _alone("protocol", *([one.name for one in run.about.whole] for run in (a, b)))
    alone += _alone("metric", *(list(run.about.metrics) for run in (a, b)))
    changes: list[Change] = []
    lines = [one.name for one in a.about.rows if one.name in {other.name for other in b.about.rows}]
    among = [{one.name: one.candidates for one in run.about.whole} for run in (a, b)]
    protocols = [name for name, items in among[0].items() if among[1].get(name) == items]
    for line in lines:
        for protocol in protocols:
            both, why = _both(a, b, line, protocol)
            if why:
                alone.append(f"{line}, {protocol}: {why}")
            changes += [
                _change(both, line, protocol, metric)
                for metric in a.about.metrics
                if all(len(both.values(side, protocol, metric)) for side in "AB")
            ]
    corrected = holm([float("nan") if one.test is None else one.test.p for one in changes]).tolist()
    changes = [replace(one, p=p) for one, p in zip(changes, corrected, strict=True)]
    return TwoRuns(tuple(changes), tuple(alone), tuple(_made(a, b, lines)))


def _alone(what: str, a: list[str], b: list[str]) -> Iterator[str]:
    for side, these, others in (("A", a, b), ("B", b, a)):
        for name in these:
            if name not in others:
                yield f"only in {side}: {what} {name}"


def _both(a: Result, b: Result, line: str, protocol: str) -> tuple[Result, str]:
    """Both runs' cells of a line as lines ``A`` and ``B`` of one record, their common seeds; or why there are none."""
    seeds = [run.seeds(line, protocol) for run in (a, b)]
    common = [seed for seed in seeds[0] if seed in seeds[1]]
    cells = {
        (side, seed, protocol): run.cells[line, seed, protocol]
        for side, run in (("A", a), ("B", b))
        for seed in common
    }
    why = ""
    if not common and any(seeds):
        ran = [", ".join(map(str, one)) or "none" for one in seeds]
        why = f"no seed ran in both (A: {ran[0]}; B: {ran[1]})"
    return Result(a.about, cells), why


def _change(both: Result, line: str, protocol: str, metric: str) -> Change:
    before, after = both.paired("A", "B", protocol, metric)
    if not before.size:  # a number of the whole, or nobody is in both
        a, b = (both.values(side, protocol, metric) for side in "AB")
        return Change(line, protocol, metric, float(a.mean()), float(b.mean()), equal=np.array_equal(a, b))
    equal = bool(np.array_equal(before, after, equal_nan=True))
    test = paired(before, after)
    return Change(line, protocol, metric, average(before), average(after), test, equal=equal)


def _made(a: Result, b: Result, lines: list[str]) -> Iterator[str]:
    """What differs in suite, lines and environment, a sentence each."""
    ours, theirs = a.about, b.about
    yield from _differ("", {"dataset": ours.dataset}, {"dataset": theirs.dataset})
    yield from _differ("suite: ", _flat(ours.suite, lines), _flat(theirs.suite, lines))
    for name in lines:
        one, other = (
            run.row(name).model_dump(include={"writer", "control", "kinds", "coverage", "chosen"})
            for run in (a, b)
        )
        yield from _differ(f"line {name}: ", one, other)
    for where in ("protocols", "environment"):
        one, other = (
            {one.name: f"{one.users} users × {one.candidates} items" for one in about.whole}
            if where == "protocols"
            else about.environment
            for about in (ours, theirs)
        )
        common = one.keys() & other.keys() if where == "protocols" else one.keys() | other.keys()
        yield from _differ(f"{where}: ", *({k: v for k, v in x.items() if k in common} for x in (one, other)))


def _differ(where: str, a: Mapping[str, Any], b: Mapping[str, Any]) -> Iterator[str]:
    for key in dict.fromkeys([*a, *b]):
        if a.get(key) != b.get(key):
            yield f"{where}{key}: {_shown(a, key)} → {_shown(b, key)}"


def _shown(values: Mapping[str, Any], key: str) -> str:
    return "not said" if values.get(key) is None else str(values[key])


def _flat(suite: Any, lines: list[str], path: str = "") -> dict[str, Any]:
    """Dotted names of a suite's options; rows are known by their names, and those of one run alone are left out."""
    if path == "rows":
        suite = {row["name"]: row for row in suite if row["name"] in lines}
    if not isinstance(suite, Mapping):
        return {path: suite}
    found: dict[str, Any] = {}
    for key, value in suite.items():
        if key not in ("title", "source", "note", "published"):  # words, and what others measured
            found |= _flat(value, lines, f"{path}.{key}" if path else key)
    return found


def tables(two: TwoRuns) -> list[Table]:
    """A table a protocol, that fits 80 columns if names are short."""
    drawn = []
    for protocol in dict.fromkeys(one.protocol for one in two.changes):
        grid = Table(
            title=f"{escape(protocol)}: B against A, 95 % interval, p by Holm",
            title_justify="left",
            box=box.SIMPLE_HEAD,
            pad_edge=False,
            collapse_padding=True,
        )
        grid.add_column("", min_width=9, max_width=24)
        grid.add_column("", no_wrap=True)
        for name in ("A", "B", "B - A", "interval", "p"):
            grid.add_column(name, justify="right", no_wrap=True)
        last = ""
        for one in two.changes:
            if one.protocol == protocol:
                grid.add_row("" if one.row == last else escape(one.row), *_cells(one))
                last = one.row
        drawn.append(grid)
    return drawn


def _cells(one: Change) -> list[str]:
    test, difference = one.test, one.b - one.a
    shown = [title(one.metric), _number(one.a), _number(one.b), _number(difference, "+")]
    if test is None:
        return [*shown, "–", "–"]
    mark = " *" if one.significant else ""
    return [*shown, f"{_number(test.low, '+')} to {_number(test.high, '+')}", f"{shown_p(one.p)}{mark}"]


def _number(value: float, sign: str = "") -> str:
    if np.isnan(value):
        return "–"
    text = f"{value:{sign}.4f}"
    return text.replace("0.", ".", 1) if abs(value) < 1 else text


def verdict(two: TwoRuns) -> str:
    """What it comes to, in a sentence."""
    tested = [one for one in two.changes if one.test is not None]
    if not two.changes:
        return "nothing of the one run is in the other: there is nothing to compare"
    if all(one.equal for one in two.changes):
        return f"the runs agree in every number of {_count(len(two.changes), 'comparison')}"
    if not tested:
        return "no user was ranked for in both runs: the numbers differ, and nothing can be tested"
    clear = [one for one in tested if one.significant]
    seeds = min(one.test.seeds for one in tested if one.test is not None)
    caveat = "; with one seed, that is of these trainings, not of how they were made" if seeds == 1 else ""
    tests = f"{_count(len(tested), 'comparison')} (p by Holm)"
    if not clear:
        return f"no difference that is told from chance in {tests}{caveat}"
    above = sum(one.b > one.a for one in clear)
    return f"B is higher than A in {above} and lower in {len(clear) - above} of {tests}{caveat}"


def _count(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1)}"
