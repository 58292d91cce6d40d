"""The tables of a report: the one place that takes numbers from a result; a cell holds one and the text of it."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from reclm.benchmarks.comparisons import Difference
from reclm.benchmarks.results import ProtocolInfo, Result, ResultRow
from reclm.benchmarks.significance import over_users
from reclm.benchmarks.user_groups import PROFILED, UserGroup, by_activity, by_profile
from reclm.intervals import NONE, Estimate, between, duration, number, p_value, percent
from reclm.recommend.metrics import title

ACCURACY = ("recall", "ndcg", "mrr", "precision", "hit", "map")
"""Metrics of which more is better; of others none is called the best."""
MARKS = (
    "Bold: the best of its column. *: significantly different from its base (p < .05, corrected by Holm). "
    "±: standard deviation over seeds. In brackets behind a published number: ours, relative to it."
)

FAMILIES = {
    "base": "rows with profiles against their base",
    "control": "against their best control",
    "reference": "against the best reference",
    "named": "other comparisons",
}
"""Families of tests in words."""
FINDABLE = "Findable: the smallest effect that such a test finds with a probability of 80 %"


@dataclass(frozen=True)
class Cell:
    """A number with its 95 % interval and how it is shown; None: a text, or no number."""

    text: str
    value: float | None = None
    low: float | None = None
    high: float | None = None
    best: bool = False
    significant: bool = False


@dataclass(frozen=True)
class Row:
    """A table row; without cells, ``instead`` is the reason. ``below``: of the row above; ``first``: begins a group."""

    name: str
    cells: tuple[Cell, ...] = ()
    instead: str = ""
    below: bool = False
    first: bool = False


@dataclass(frozen=True)
class Table:
    """A table with its subject in a phrase (``title``) and in a sentence (``about``), and ``notes`` below.

    ``head`` is of all columns, that of the names first; the first ``text`` columns are text, the others numbers.
    """

    title: str
    head: tuple[str, ...]
    rows: tuple[Row, ...]
    about: str = ""
    notes: tuple[str, ...] = ()
    text: int = 1

    def only(self, *columns: str) -> "Table":
        """Return the table with these columns behind the names."""
        places = [at for at, name in enumerate(self.head[1:]) if name in columns]
        rows = (replace(row, cells=tuple(row.cells[at] for at in places if row.cells)) for row in self.rows)
        head = (self.head[0], *(self.head[at + 1] for at in places))
        return replace(self, head=head, rows=tuple(rows), text=1 + sum(at < self.text - 1 for at in places))


def frame(tables: Iterable[Table]) -> pd.DataFrame:
    """Return tables below each other: a column for the title, the name and each number, three for one with an interval.

    Rows below others, and without numbers, are left out.
    """
    records = []
    for table, row in ((part, row) for part in tables for row in part.rows if row.cells and not row.below):
        record: dict[str, str | float | None] = {"protocol": table.title, "row": row.name}
        for at, (name, cell) in enumerate(zip(table.head[1:], row.cells, strict=False), start=1):
            if name != "95 % interval":
                record[name] = cell.text if at < table.text else cell.value
                record |= {} if cell.low is None else {f"{name} low": cell.low, f"{name} high": cell.high}
        records.append(record)
    columns = list(dict.fromkeys(name for record in records for name in record)) or ["protocol", "row"]
    return pd.DataFrame(records, columns=pd.Index(columns))


def results(
    result: Result, protocol: ProtocolInfo, metrics: Sequence[str] = (), extra: Sequence[str] = ()
) -> Table:
    """Tabulate rows by metrics, by default all: the mean ± standard deviation over seeds, published numbers below.

    ``extra``: ``epoch``, the best one where it was selected; ``change``, of the headline metric, and its ``p``.
    """
    about, where = result.about, protocol.name
    metrics = tuple(metrics) or about.metrics
    extra = [name for name in extra if name != "epoch" or about.selected_on]
    best = {metric: _best(result, where, metric) for metric in metrics}
    begins = first_of_groups(result)
    rows, notes = [], []
    for row in about.rows:
        failures = [failure for failure in about.failures if failure.row == row.name]
        failed = "; ".join(f"seed {failure.seed} failed: {failure.reason}" for failure in failures)
        if result.seeds(row.name, where):
            cells = [_mean(result, row.name, where, metric, best[metric]) for metric in metrics]
            cells += [_extra(result, row.name, where, name) for name in extra]
            rows.append(Row(row.name, tuple(cells), first=row.name in begins))
            first = protocol == about.protocols[0]  # the notes are the same for all
            notes += [f"{row.name}: {text}" for text in (row.note, failed) if text and first]
        else:
            why = row.absent or failed or "not measured here"
            rows.append(Row(row.name, instead=why, first=row.name in begins))
        if numbers := row.published.get(where):
            cells = [_published(result, row.name, where, metric, numbers.get(metric)) for metric in metrics]
            rows.append(Row("published", (*cells, *[Cell("")] * len(extra)), below=True))
    of_seeds = f"mean ± standard deviation over {about.seeds} seeds" if about.seeds > 1 else "one seed"
    chosen = f"; epochs chosen on {about.selected_on}" if about.selected_on else ""
    part = f"; a subgroup of {protocol.part_of}, without tests of its own" if protocol.part_of else ""
    size = f"{protocol.users:,} users, {protocol.candidates:,} candidate items"
    head = ("", *map(title, metrics), *extra)
    return Table(protocol.name, head, tuple(rows), f"{size}; {of_seeds}{chosen}{part}", tuple(notes))


def groups(result: Result) -> dict[str, list[ResultRow]]:
    """Return rows by backbone, in the table's order; under no name where no backbone has two."""
    rows = result.about.rows
    names = dict.fromkeys(row.backbone for row in rows)
    grouped = {name: [row for row in rows if row.backbone == name] for name in names}
    return grouped if len(names) < len(rows) else {"": list(rows)}


def first_of_groups(result: Result) -> set[str]:
    """Return the rows that begin a group, without the first of all."""
    return {rows[0].name for rows in list(groups(result).values())[1:]}


def _best(result: Result, protocol: str, metric: str) -> float:
    """Return the highest mean of a metric; nan where there is none, or where more of it is not better."""
    if metric.partition("@")[0] not in ACCURACY:
        return float("nan")
    values = [result.values(row.name, protocol, metric) for row in result.about.rows]
    return max((float(by_seed.mean()) for by_seed in values if len(by_seed)), default=float("nan"))


def _mean(result: Result, row: str, protocol: str, metric: str, best: float) -> Cell:
    values = result.values(row, protocol, metric)
    if not len(values):
        return Cell(NONE)
    mean = float(values.mean())
    spread = f" ± {number(float(values.std(ddof=1)))}" if len(values) > 1 else ""
    around = over_users(result.by_user(row, protocol, metric))
    test = result.verdict.by_base.get((row, protocol, metric))
    bounds = (around.low, around.high) if around else (None, None)
    significant, is_best = test is not None and test.significant, mean > 0 and abs(mean - best) < 1e-12
    return Cell(number(mean) + spread, mean, *bounds, best=is_best, significant=significant)


def _extra(result: Result, row: str, protocol: str, name: str) -> Cell:
    if name == "epoch":
        epochs = [result.trials[row, seed, protocol].best_epoch for seed in result.seeds(row, protocol)]
        return Cell(f"{np.mean(epochs):.0f}", float(np.mean(epochs))) if any(epochs) else Cell("")
    test = result.verdict.by_base.get((row, protocol, result.headline))
    if test is None:
        return Cell(NONE)
    value, write = (test.change, percent) if name == "change" else (test.p_holm, p_value)
    return Cell(write(value), value)


def _published(result: Result, row: str, protocol: str, metric: str, value: float | None) -> Cell:
    """Return the published number and, in brackets, how far ours is from it."""
    if value is None:
        return Cell("")
    ours = result.values(row, protocol, metric)
    compared = len(ours) and value and result.about.comparable
    return Cell(number(value) + (f" ({percent(float(ours.mean()) / value - 1)})" if compared else ""), value)


def comparisons(result: Result) -> list[Table]:
    """Tabulate for each protocol every row against those that it is compared with, in the headline metric."""
    verdict, begins, tables = result.verdict, first_of_groups(result), []
    about = (
        f"{title(result.headline)}; {_families(result)}; intervals are those of the single test. {FINDABLE}"
    )
    head = (
        "",
        "against",
        "change",
        "95 % interval",
        "difference",
        "effect",
        "p",
        "findable",
        "users",
        "seeds",
    )
    for protocol in (protocol.name for protocol in result.about.whole):
        rows: list[Row] = []
        for row in result.about.rows:
            here = (row.name, protocol, result.headline)
            same = (test for test in verdict.differences if (test.row, test.protocol, test.metric) == here)
            tests = [("", test) for test in same]
            best = {"best control": verdict.by_control, "best reference": verdict.by_reference}
            tests += [(name, test) for name, by_row in best.items() if (test := by_row.get(here[:2]))]
            for at, (name, test) in enumerate(tests):
                label = name if at else ", ".join(filter(None, (row.name, name)))
                first = bool(rows) and not at and row.name in begins
                rows.append(Row(label, _comparison(test), first=first, below=at > 0))
        tables += [Table(protocol, head, tuple(rows), about, text=2)] if rows else []
    return tables


def _families(result: Result) -> str:
    """Say in a sentence within which families of tests p is corrected."""
    verdict = result.verdict
    headline = (test for test in verdict.differences if test.metric == result.headline)
    tests = [*headline, *verdict.by_control.values(), *verdict.by_reference.values()]
    sizes: dict[str, int] = {}
    for test in tests:
        sizes[test.of] = max(test.family, sizes.get(test.of, 0))
    parts = [f"{words}: {sizes[family]}" for family, words in FAMILIES.items() if family in sizes]
    corrected = f"p is corrected by Holm within each family of tests, over all protocols ({', '.join(parts)})"
    return corrected + "; controls have no test of their own" * ("none" in sizes)


def _comparison(difference: Difference) -> tuple[Cell, ...]:
    test, tested = difference.test, difference.test.n >= 2
    return (
        Cell(difference.against),
        Cell(difference.size if tested else NONE, difference.change, significant=difference.significant),
        Cell(difference.interval if tested else "not tested"),
        Cell(number(test.difference, sign=True), test.difference, test.low, test.high),
        Cell(number(test.effect, 2, sign=True), test.effect),
        Cell(p_value(difference.p_holm), difference.p_holm),
        Cell(percent(difference.findable, sign=False), difference.findable),
        Cell(f"{test.n:,}", test.n),
        Cell(f"{test.seeds}", test.seeds),
    )


def activity(result: Result) -> list[Table]:
    """Tabulate for each protocol the headline metric by the users' training interactions, differences below."""
    return _by_users(result, activity_groups, "by interactions in training")


def profiled(result: Result) -> list[Table]:
    """Tabulate for each protocol the headline metric of users with a profile and of those without."""

    def groups(result: Result, row: str, protocol: str) -> list[UserGroup]:
        return by_profile(result, row, protocol, result.headline)

    tables = _by_users(result, groups, "of users with a profile and without")
    return [table for table in tables if set(PROFILED) <= set(table.head)]


def _by_users(
    result: Result, groups_of: Callable[[Result, str, str], list[UserGroup]], by: str
) -> list[Table]:
    tables, begins = [], first_of_groups(result)
    for protocol in result.about.whole:
        by_row = {row.name: groups_of(result, row.name, protocol.name) for row in result.about.rows}
        names = list(dict.fromkeys(group.name for groups in by_row.values() for group in groups))
        rows = []
        for row, groups in ((row, groups) for row, groups in by_row.items() if groups):
            by_name, base = {group.name: group for group in groups}, result.row(row).base
            means = [by_name[name].row if name in by_name else None for name in names]
            cells = [Cell(number(mean and mean.mean), mean.mean if mean else np.nan) for mean in means]
            rows.append(Row(row, tuple(cells), first=row in begins))
            if base is not None:
                changes = [by_name[name].difference if name in by_name else None for name in names]
                rows.append(Row(f"less {base}", tuple(map(_estimate, changes)), below=True))
        if rows:
            about = f"{title(result.headline)} {by}"
            tables.append(Table(protocol.name, ("", *map(dashed, names)), tuple(rows), about))
    return tables


def activity_groups(result: Result, row: str, protocol: str) -> list[UserGroup]:
    """Return the headline metric of users who are more and more active; empty where all are of one group."""
    groups = by_activity(result, row, protocol, result.headline)
    return groups if len(groups) > 1 else []


def _estimate(estimate: Estimate | None) -> Cell:
    """Return a difference with its interval: ``+.0020 (+.0010 to +.0030)``."""
    if estimate is None:
        return Cell(NONE)
    around = between(number(estimate.low, sign=True), number(estimate.high, sign=True))
    text = number(estimate.mean, sign=True) + ("" if around == NONE else f" ({around})")
    return Cell(text, estimate.mean, estimate.low, estimate.high)


def dashed(name: str) -> str:
    """Write ``3-5`` as ``3–5``."""
    return name.replace("-", "–")


def cost(result: Result) -> Table:
    """Tabulate the time of a trial of each row, and what it gained in the headline metric."""
    protocols = [protocol.name for protocol in result.about.whole]
    published = any(row.published_seconds for row in result.about.rows)
    written: dict[str, float] = {}
    for quality in result.quality:
        written[quality.writer] = written.get(quality.writer, 0.0) + (quality.seconds or 0.0)
    rows = []
    for row in result.about.rows:
        by_seed = {seed: trial for (name, seed, _), trial in result.trials.items() if name == row.name}
        timed = any(trial.seconds or np.isfinite(trial.epoch_seconds) for trial in by_seed.values())
        if not timed and not row.published_seconds:
            continue
        measured = [(trial.epochs, trial.seconds) for trial in by_seed.values()]
        epochs, whole = np.mean(measured, axis=0).tolist() if timed else (None, None)
        base = result.row(row.base) if row.base else None
        tests = [result.verdict.by_base.get((row.name, protocol, result.headline)) for protocol in protocols]
        texts = [
            duration(result.epoch_seconds(row.name)),
            _added(result.epoch_seconds(row.name), base and result.epoch_seconds(base.name)),
            *[duration(row.published_seconds)] * published,
            *[_added(row.published_seconds, base and base.published_seconds)] * published,
            number(epochs, 0),
            duration(whole),
            *[duration(written.get(row.writer or ""))] * bool(written),
            *(percent(test.change) if test else NONE for test in tests),
        ]
        rows.append(Row(row.name, tuple(map(Cell, texts)), first=row.name in first_of_groups(result)))
    times = ["an epoch", "added", *["published", "added, published"] * published, "epochs", "a trial"]
    head = ("", *times, *["its profiles"] * bool(written), *protocols)
    about = f"Training and evaluation, beside the change in {title(result.headline)} against the base"
    return Table("", head, tuple(rows), about)


def _added(time: float | None, base: float | None) -> str:
    return percent(time / base - 1) if time and base else ""


def profiles(result: Result) -> Table:
    """Tabulate the measures of each writer's profiles."""
    head = ("", "of", "profiles", "distinct", "words", "in format", "prompt tokens", "new tokens", "time")
    rows = []
    for quality in result.quality:
        counts = (quality.profiles, quality.distinct, quality.prompt_tokens, quality.new_tokens)
        count, distinct, *tokens = (NONE if value is None else f"{value:,}" for value in counts)
        words = NONE if quality.words is None else f"{quality.words:.1f}"
        share, time = percent(quality.in_format, sign=False), duration(quality.seconds)
        texts = (f"{quality.kind}s", count, distinct, words, share, *tokens, time)
        rows.append(Row(quality.writer, tuple(map(Cell, texts))))
    return Table("", head, tuple(rows), text=2)


def reach(result: Result) -> Table:
    """Tabulate how far simple recommenders get on each part of the data, as far as the run has them."""
    if (data := result.data) is None:
        return Table("", (), ())
    names = dict.fromkeys(name for values in data.reach.values() for name in values)
    parts = data.reach.values()
    rows = [Row(name, tuple(Cell(number(values.get(name))) for values in parts)) for name in names]
    return Table("", (title(data.metric), *data.reach), tuple(rows), data.histories)


def covered(row: ResultRow) -> str:
    """Write how many have a profile: ``300 of 943 users, 1,682 of 1,682 items``."""
    return ", ".join(
        f"{described:,} of {total:,} {kind}s" for kind, (described, total) in row.coverage.items()
    )


def row_infos(result: Result) -> Table:
    """Tabulate how the rows were made."""
    rows = []
    for row in result.about.rows:
        coverage = covered(row) or ", ".join(row.kinds)
        texts = (row.backbone, row.control or row.writer, coverage, ", ".join(row.against))
        rows.append(Row(row.name, tuple(Cell(text or NONE) for text in texts)))
    return Table("", ("", "backbone", "profiles", "coverage", "compared with"), tuple(rows), text=5)
