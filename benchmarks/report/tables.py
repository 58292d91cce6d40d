"""The tables of a report, before they become HTML, Markdown or LaTeX: cells are plain text."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from reclm.benchmarks.report import shown
from reclm.benchmarks.report.extras import Quality
from reclm.benchmarks.report.numbers import Numbers
from reclm.benchmarks.report.shown import MARK, NONE
from reclm.benchmarks.results import ProtocolInfo, ResultRow
from reclm.benchmarks.significance import shown_p
from reclm.benchmarks.subgroups import ActivitySlice
from reclm.benchmarks.verdict import Difference
from reclm.recommend.metrics import title


@dataclass(frozen=True)
class TableCell:
    """A text; ``best`` of its column, or marked."""

    text: str
    best: bool = False
    mark: str = ""


@dataclass(frozen=True)
class Row:
    """A row.

    Attributes:
        cells: behind the name; empty where ``instead`` says why.
        below: it belongs to the row above (published numbers).
        first: of a group.
    """

    name: str
    cells: tuple[TableCell, ...] = ()
    instead: str = ""
    below: bool = False
    first: bool = False


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        title, about: what it shows, in a phrase, and in a sentence.
        head: of all columns, the names' first.
        notes: below it.
        text: so many columns are text, the others numbers.
    """

    title: str
    head: tuple[str, ...]
    rows: tuple[Row, ...]
    about: str = ""
    notes: tuple[str, ...] = field(default=())
    text: int = 1


def results(numbers: Numbers) -> list[Table]:
    """A table a protocol: lines by metrics, mean ± standard deviation over seeds, published numbers below."""
    return [_results(numbers, protocol) for protocol in numbers.about.protocols]


def _results(numbers: Numbers, protocol: ProtocolInfo) -> Table:
    about = numbers.about
    rows = [row for line in about.rows for row in _line(numbers, line, protocol.name)]
    lines = [line for line in about.rows if numbers.record.seeds(line.name, protocol.name)]
    notes = [f"{line.name}: {line.note}" for line in lines if line.note]
    notes += [f"{line.name}: {reason}" for line in lines for reason in numbers.failures(line.name)]
    seeds = f"mean ± standard deviation over {about.seeds} seeds" if about.seeds > 1 else "one seed"
    chosen = f"; epochs chosen on {about.selected_on}" if about.selected_on else ""
    part = f"; a part of {protocol.part_of}, without tests of its own" if protocol.part_of else ""
    return Table(
        protocol.name,
        ("", *map(title, about.metrics)),
        tuple(rows),
        f"{protocol.users:,} users, {protocol.candidates:,} candidate items; {seeds}{chosen}{part}",
        tuple(notes),
    )


def _line(numbers: Numbers, line: ResultRow, protocol: str) -> Iterator[Row]:
    metrics = numbers.about.metrics
    first = line.name in numbers.begins
    if numbers.record.seeds(line.name, protocol):
        yield Row(line.name, tuple(_value(numbers, line.name, protocol, one) for one in metrics), first=first)
    else:
        yield Row(line.name, instead=numbers.why_none(line), first=first)
    published = line.published.get(protocol, {})
    if published:
        cells = [_published(numbers, line.name, protocol, one, published.get(one)) for one in metrics]
        yield Row("published", tuple(TableCell(text) for text in cells), below=True)


def _value(numbers: Numbers, line: str, protocol: str, metric: str) -> TableCell:
    values = numbers.values(line, protocol, metric)
    if not len(values):
        return TableCell(NONE)
    mean = float(values.mean())
    spread = f" ± {shown.number(float(values.std(ddof=1)))}" if len(values) > 1 else ""
    found = numbers.differences.get((line, protocol, metric))
    mark = MARK if found and found.significant else ""
    best = mean > 0 and abs(mean - numbers.best(protocol, metric)) < 1e-12
    return TableCell(shown.number(mean) + spread, best, mark)


def _published(numbers: Numbers, line: str, protocol: str, metric: str, value: float | None) -> str:
    """The published number and, in brackets, how far ours is from it."""
    if value is None:
        return NONE
    ours = numbers.values(line, protocol, metric)
    compared = len(ours) and numbers.about.comparable
    differs = f" ({shown.number(float(ours.mean()) - value, sign=True)})" if compared else ""
    return shown.number(value) + differs


def comparisons(numbers: Numbers) -> list[Table]:
    """A table a protocol: each line against the one it is compared with, in the headline metric."""
    return [table for one in numbers.about.protocols if (table := _compared(numbers, one.name)).rows]


def _compared(numbers: Numbers, protocol: str) -> Table:
    rows, last = [], None
    for line in numbers.about.rows:
        found = [("", one) for one in numbers.against(line.name, protocol)]
        if control := numbers.controls.get((line.name, protocol)):
            found.append(("its best control", control))
        for at, (name, one) in enumerate(found):
            first = not at and last is not None and last != line.backbone
            said = name if at else f"{line.name}, {name}".removesuffix(", ")
            rows.append(Row(said, _comparison(numbers, one), first=first, below=at > 0))
        last = line.backbone if found else last
    head = (
        "",
        "against",
        "change",
        "difference",
        "95 % interval",
        "bootstrap",
        "effect",
        "p",
        "p, Holm",
        "users",
        "seeds",
    )
    about = f"difference in {title(numbers.headline)}, the mean over users and seeds"
    return Table(protocol, head, tuple(rows), about, text=2)


def _comparison(numbers: Numbers, found: Difference) -> tuple[TableCell, ...]:
    test = found.test
    low, high = numbers.resampled(found)
    return (
        TableCell(found.against),
        TableCell(shown.change(found.change), mark=MARK * found.significant),
        TableCell(shown.number(test.difference, sign=True)),
        TableCell(f"{shown.number(test.low, sign=True)} to {shown.number(test.high, sign=True)}"),
        TableCell(f"{shown.number(low, sign=True)} to {shown.number(high, sign=True)}"),
        TableCell(shown.number(test.effect, 2, sign=True)),
        TableCell(shown_p(test.p)),
        TableCell(shown_p(found.p_holm)),
        TableCell(f"{test.n:,}"),
        TableCell(f"{test.seeds}"),
    )


def activity(numbers: Numbers) -> list[Table]:
    """A table a protocol: the headline metric by how active users were in training, and differences below."""
    tables = []
    for protocol in numbers.about.whole:
        found = {line.name: numbers.activity(line.name, protocol.name) for line in numbers.about.rows}
        groups = dict.fromkeys(one.name for slices in found.values() for one in slices)
        rows = [
            row
            for line in numbers.about.rows
            for row in _activity(numbers, line, found[line.name], list(groups))
        ]
        if rows:
            about = f"{title(numbers.headline)} by interactions in training"
            tables.append(Table(protocol.name, ("", *map(shown.interval, groups)), tuple(rows), about))
    return tables


def _activity(
    numbers: Numbers, line: ResultRow, slices: Sequence[ActivitySlice], groups: Sequence[str]
) -> Iterator[Row]:
    """The means of a line, and below them how far they are from those of the line that it is compared with."""
    if not slices:
        return
    means = {one.name: shown.number(one.row and one.row.mean) for one in slices}
    cells = tuple(TableCell(means.get(name, NONE)) for name in groups)
    yield Row(line.name, cells, first=line.name in numbers.begins)
    if any(one.difference for one in slices):
        differences = {one.name: shown.estimate(one.difference) for one in slices}
        name = f"less {line.base}"
        yield Row(name, tuple(TableCell(differences.get(name, NONE)) for name in groups), below=True)


def cost(numbers: Numbers, quality: Sequence[Quality] = ()) -> Table:
    """What each line took, and what it gained in the headline metric; numbered as in the pictures."""
    protocols = [one.name for one in numbers.about.whole]
    written: dict[str, float] = {}
    for one in quality:
        written[one.writer] = written.get(one.writer, 0.0) + (one.seconds or 0.0)
    published = any(line.published_seconds for line in numbers.about.rows)
    rows = []
    for at, line in enumerate(numbers.about.rows, start=1):
        spent = numbers.cost(line.name)
        if spent is None:
            continue
        gains = [numbers.differences.get((line.name, one, numbers.headline)) for one in protocols]
        cells = [
            line.name,
            shown.seconds(spent.epoch_seconds),
            *([shown.seconds(line.published_seconds)] if published else []),
            f"{spent.epochs:.0f}",
            shown.seconds(spent.seconds),
            *([shown.seconds(written.get(line.writer or ""))] if written else []),
            *(shown.change(gain.change) if gain else NONE for gain in gains),
        ]
        rows.append(Row(f"{at}", tuple(map(TableCell, cells)), first=line.name in numbers.begins))
    head = ["", "line", "an epoch", *["published"] * published, "epochs", "a run"]
    head += [*["its profiles"] * bool(written), *protocols]
    return Table("", tuple(head), tuple(rows), text=2)


def profiles(quality: Sequence[Quality]) -> Table:
    """The profiles of each writer, measured."""
    head = ("", "of", "profiles", "distinct", "words", "in format", "prompt tokens", "new tokens", "time")
    rows = [
        Row(
            one.writer,
            tuple(
                TableCell(text)
                for text in (
                    f"{one.kind}s",
                    f"{one.profiles:,}",
                    _count(one.distinct),
                    NONE if one.words is None else f"{one.words:.1f}",
                    NONE if one.in_format is None else f"{one.in_format * 100:.1f} %",
                    _count(one.prompt_tokens),
                    _count(one.new_tokens),
                    shown.seconds(one.seconds),
                )
            ),
        )
        for one in quality
    ]
    return Table("", head, tuple(rows), text=2)


def lines(numbers: Numbers) -> Table:
    """What each line is."""
    rows = []
    for line in numbers.about.rows:
        covered = ", ".join(f"{some:,} of {all_:,} {kind}s" for kind, (some, all_) in line.coverage.items())
        compared = ", ".join(line.against)
        cells = (line.backbone, line.control or line.writer, covered or ", ".join(line.kinds), compared)
        rows.append(Row(line.name, tuple(TableCell(text or NONE) for text in cells)))
    head = ("", "backbone", "profiles", "who has one", "compared with")
    return Table("", head, tuple(rows), text=5)


def _count(value: int | None) -> str:
    return NONE if value is None else f"{value:,}"
