"""Two runs side by side: what changed in each row, whether significantly, and how they were made differently."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from reclm.benchmarks.report.page import terminal_table
from reclm.benchmarks.report.tables import Cell, Row, Table, frame
from reclm.benchmarks.results import Result
from reclm.benchmarks.significance import LEVEL, PairedTest, average, holm, paired
from reclm.console import printable
from reclm.errors import BadInput
from reclm.intervals import between, number, p_value
from reclm.recommend.metrics import title


@dataclass(frozen=True)
class Change:
    """A row, protocol and metric that both runs have.

    ``a`` and ``b`` are means over the users and seeds that both have, nan where there is no number. ``test`` is of
    ``b - a``, user by user; None for a number that is not a mean over users. ``p`` is corrected by Holm over all
    changes; nan without a test. ``equal``: every value is the same in both.
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
class RunDiff:
    """Two runs compared. ``str()`` is the outcome in a sentence."""

    changes: tuple[Change, ...]
    unmatched: tuple[str, ...]
    """Sentences on what only one of them has, or of what they share no seed."""
    differences: tuple[str, ...]
    """Sentences on what differs in how they were made."""

    @cached_property
    def tested(self) -> list[tuple[Change, PairedTest]]:
        """The changes that were tested."""
        return [(change, change.test) for change in self.changes if change.test is not None]

    def table(self) -> pd.DataFrame:
        """Return a row for each change: both means, the difference with its 95 % interval, and p."""
        return frame(self.tables())

    def tables(self) -> list[Table]:
        """Return a table for each protocol."""
        head = ("", "metric", "A", "B", "difference", "95 % interval", "p")
        rows: dict[str, list[Row]] = {}
        for change in self.changes:
            around = (change.test.low, change.test.high) if change.test else (None, None)
            cells = (
                Cell(title(change.metric)),
                Cell(number(change.a), change.a),
                Cell(number(change.b), change.b),
                Cell(number(change.b - change.a, sign=True), change.b - change.a, *around),
                Cell(between(*(number(bound, sign=True) for bound in around))),
                Cell(p_value(change.p), change.p, significant=change.significant),
            )
            rows.setdefault(change.protocol, []).append(Row(change.row, cells))
        return [Table(name, head, tuple(body), text=2) for name, body in rows.items()]

    def __str__(self) -> str:
        if not self.changes:
            return "The runs have nothing in common that could be compared."
        if all(change.equal for change in self.changes):
            return f"The runs agree in every value of {_count(len(self.changes), 'comparison')}."
        if not self.tested:
            return "No user was ranked in both runs: the numbers differ, and nothing can be tested."
        one_seed = min(test.seeds for _, test in self.tested) == 1
        caveat = "; with one seed, this holds for these trained models, not for how they were made" * one_seed
        tests = f"{_count(len(self.tested), 'comparison')} (p corrected by Holm){caveat}."
        significant = [change for change, _ in self.tested if change.significant]
        if not significant:
            return f"No significant difference in {tests}"
        up = sum(change.b > change.a for change in significant)
        return f"B is significantly higher than A in {up} and significantly lower in {len(significant) - up} of {tests}"

    def __repr__(self) -> str:
        return f"<RunDiff: {self}>"

    def _repr_html_(self) -> str:
        return self.table().to_html(index=False, float_format="{:.4f}".format, na_rep="", border=0)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for table in self.tables():
            yield terminal_table(table, f"{table.title}: B against A")
        for text in (*self.unmatched, *self.differences, "", str(self)):
            yield Text(printable(text))


def compare_runs(a: Result | str | Path, b: Result | str | Path) -> RunDiff:
    """Compare the rows of the same name of two runs, given as results or as their folders.

    BadInput is raised if the runs are of different data: their users and test items are not the same.
    """
    a, b = (run if isinstance(run, Result) else Result.load(run) for run in (a, b))
    if a.about.fingerprint != b.about.fingerprint:
        left, right = (f"{run.about.dataset} ({run.about.fingerprint})" for run in (a, b))
        message = f"the runs are of different data, so their numbers cannot be compared: A {left}, B {right}"
        raise BadInput(message, value=(a.about.fingerprint, b.about.fingerprint))
    unmatched = [
        *_only_in("row", *([row.name for row in run.about.rows] for run in (a, b))),
        *_only_in("protocol", *([protocol.name for protocol in run.about.whole] for run in (a, b))),
        *_only_in("metric", *(list(run.about.metrics) for run in (a, b))),
    ]
    names = {row.name for row in b.about.rows}
    sizes = {(protocol.name, protocol.candidates) for protocol in b.about.whole}
    rows = [row.name for row in a.about.rows if row.name in names]
    protocols = [whole.name for whole in a.about.whole if (whole.name, whole.candidates) in sizes]
    changes: list[Change] = []
    for row in rows:
        for protocol in protocols:
            seeds = [run.seeds(row, protocol) for run in (a, b)]
            if any(seeds) and not set(seeds[0]) & set(seeds[1]):
                ran = [", ".join(map(str, numbers)) or "none" for numbers in seeds]
                unmatched.append(f"{row}, {protocol}: no seed ran in both (A: {ran[0]}; B: {ran[1]})")
            both, metrics = _both(a, b, row, protocol), a.about.metrics
            metrics = [
                name for name in metrics if all(len(both.values(side, protocol, name)) for side in "AB")
            ]
            changes += [_change(both, row, protocol, metric) for metric in metrics]
    changes = _corrected(changes)
    return RunDiff(tuple(changes), tuple(unmatched), tuple(_differences(a, b, rows)))


def _corrected(changes: list[Change]) -> list[Change]:
    """Correct by Holm within each metric, as verdicts do: the metrics of one run nearly repeat each other."""
    p = np.array([change.test.p if change.test else np.nan for change in changes])
    metrics = np.array([change.metric for change in changes])
    for metric in set(metrics):
        p[metrics == metric] = holm(p[metrics == metric])
    return [replace(change, p=float(value)) for change, value in zip(changes, p, strict=True)]


def _only_in(kind: str, a: list[str], b: list[str]) -> Iterator[str]:
    for side, names, others in (("A", a, b), ("B", b, a)):
        for name in names:
            if name not in others:
                yield f"only in {side}: {kind} {name}"


def _both(a: Result, b: Result, row: str, protocol: str) -> Result:
    """Return both runs' trials of a row as rows ``A`` and ``B`` of one result: their common seeds."""
    keys = [(row, seed, protocol) for seed in a.seeds(row, protocol) if seed in b.seeds(row, protocol)]
    runs = {"A": a, "B": b}
    first_look = min((look for run in (a, b) if (look := run.about.first_look)), default=None)
    about = a.about.model_copy(update={"first_look": first_look})
    return Result(about, {(side, *key[1:]): run.trials[key] for side, run in runs.items() for key in keys})


def _change(both: Result, row: str, protocol: str, metric: str) -> Change:
    before, after = both.paired("A", "B", protocol, metric)
    if not before.size:  # not a mean over users, or no user is in both
        a, b = (both.values(side, protocol, metric) for side in "AB")
        return Change(row, protocol, metric, float(a.mean()), float(b.mean()), equal=np.array_equal(a, b))
    equal = bool(np.array_equal(before, after, equal_nan=True))
    test = paired(before, after, both.about.first_look)
    return Change(row, protocol, metric, average(before), average(after), test, equal=equal)


def _differences(a: Result, b: Result, rows: list[str]) -> Iterator[str]:
    """Say what differs in suite, rows, protocols and environment."""
    runs = (a.about, b.about)
    yield from _differ("", *({"dataset": about.dataset} for about in runs))
    yield from _differ("suite: ", *(_flat(about.suite, rows) for about in runs))
    fields = {"writer", "control", "kinds", "coverage", "chosen"}
    for name in rows:
        yield from _differ(f"row {name}: ", *(run.row(name).model_dump(include=fields) for run in (a, b)))
    common = set.intersection(*({protocol.name for protocol in about.whole} for about in runs))
    whole = [[protocol for protocol in about.whole if protocol.name in common] for about in runs]
    sizes = [
        {protocol.name: f"{protocol.users} users × {protocol.candidates} items" for protocol in protocols}
        for protocols in whole
    ]
    yield from _differ("protocols: ", *sizes)
    yield from _differ("environment: ", *(about.environment for about in runs))


def _differ(where: str, a: Mapping[str, Any], b: Mapping[str, Any]) -> Iterator[str]:
    for key in dict.fromkeys([*a, *b]):
        if a.get(key) != b.get(key):
            values = ("not set" if side.get(key) is None else str(side[key]) for side in (a, b))
            yield f"{where}{key}: {' → '.join(values)}"


def _flat(suite: Any, rows: list[str], path: str = "") -> dict[str, Any]:
    """Return a suite's options by dotted names; rows by their names, without those of one run alone."""
    if path == "rows":
        suite = {row["name"]: row for row in suite if row["name"] in rows}
    if not isinstance(suite, Mapping):
        return {path: suite}
    options: dict[str, Any] = {}
    for key, value in suite.items():
        if key not in ("title", "source", "note", "published"):  # words, and the numbers of others
            options |= _flat(value, rows, f"{path}.{key}" if path else key)
    return options


def _count(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1)}"
