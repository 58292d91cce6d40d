"""The page of a run, as Markdown and on the terminal: quality by stage, failures, the same subjects side by side."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from rich import box
from rich.markup import escape
from rich.table import Table

from reclm import console as markdown
from reclm.console import literal, printable
from reclm.errors import ReclmError
from reclm.intervals import Estimate
from reclm.profilers.reclm.report.compare import Comparison
from reclm.profilers.reclm.report.quality import StageQuality

LONGEST = 400
"""Characters of a profile that are shown; what goes wrong may go on for long."""
HISTORY = 10
"""Lines of a history that are shown, of at most ``LINE`` characters."""
LINE = 160

COLUMNS = (
    "n",
    "in format",
    "words",
    "distinct-1",
    "distinct-2",
    "repeated",
    "teacher",
    "another's teacher",
    "neighbours",
    "strangers",
)
NOTES = (
    "**n**: subjects that have a profile. Brackets hold 95 % intervals: Wilson's of shares, Student's of means.",
    "**in format**: profiles of the form asked for, with as many phrases as asked for.",
    "**distinct-1**, **distinct-2**: different words, and different pairs of successive words, over all of them; the "
    "headings of the format are left out.",
    "**repeated**: profiles that say a phrase twice.",
    "**teacher**: cosine to the teacher's profile of the same subject. **another's teacher**: cosine to the teacher's "
    "profiles of the others, which is what a profile of nobody in particular gets.",
    "**neighbours**: cosine to the profiles that the same stage wrote for a subject's neighbours. **strangers**: to "
    "all others. The profiles of a stage are over-smoothed where neighbours are closer than they are by the teacher's "
    "own profiles and by their histories.",
)
_NONE = "–"

Row = tuple[str, list[tuple[str, str]]]


def quality_rows(comparison: Comparison) -> list[Row]:
    """A name and, for each of ``COLUMNS``, a number and its interval (or nothing): stages, teacher, histories."""
    measured = [*comparison.quality, *([comparison.teacher] if comparison.teacher else [])]
    rows = [(one.stage, _cells(one)) for one in measured]
    # of the stages the one that wrote for most: a history has no stage
    told = [one for one in comparison.quality if one.history_neighbours is not None]
    if told:
        most = max(told, key=lambda one: one.subjects)
        cells = [("", "")] * (len(COLUMNS) - 2)
        cells += [(_number(most.history_neighbours), ""), (_number(most.history_strangers), "")]
        rows.append(("histories", cells))
    return rows


def terminal_table(comparison: Comparison) -> Table:
    """The quality of the stages, a column each, so that it fits a terminal; intervals are below their numbers."""
    count, kind = len(comparison.held_out.subjects), comparison.held_out.kind
    grid = Table(
        title=f"profiles of {count:,} held-out {kind}s by stage",
        caption="below a number its 95 % interval",
        title_justify="left",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    rows = quality_rows(comparison)
    grid.add_column("", no_wrap=True)
    for name, _ in rows:
        grid.add_column(escape(printable(name)), justify="right")
    for at, measure in enumerate(COLUMNS):
        found = (cells[at] for _, cells in rows)
        grid.add_row(
            measure, *(number + f"\n[dim]{interval}[/]" * bool(interval) for number, interval in found)
        )
    return grid


def quality_table(comparison: Comparison) -> str:
    """The same as a Markdown table, a row a stage; intervals are behind their numbers."""
    body = [
        [literal(name), *(number + f" [{interval}]" * bool(interval) for number, interval in cells)]
        for name, cells in quality_rows(comparison)
    ]
    return markdown.table(["", *COLUMNS], body)


def page(
    comparison: Comparison, title: str, examples: int | Sequence[str] = 5, remarks: Sequence[str] = ()
) -> str:
    """The whole page as Markdown. Texts, ids and names stand in it as they are: they cannot act as Markdown.

    Args:
        title: of the page.
        examples: subjects that are shown side by side: ids, or how many.
        remarks: what else is to be said about the run, a line each (plain text).

    Raises:
        ReclmError: if no stage wrote for an example that is named.
    """
    kind = comparison.held_out.kind
    parts = [
        f"# {literal(title)}",
        f"Profiles of {len(comparison.held_out.subjects):,} held-out {kind}s, whom no stage was tuned on.",
        *([_bullets(remarks)] if remarks else []),
        "## Quality by stage",
        quality_table(comparison),
        "\n".join(f"- {note}" for note in NOTES),
        "## Profiles that are not in the format",
        *(_failures(comparison, measured) for measured in comparison.quality),
        "## The same subjects, stage by stage",
    ]
    chosen = comparison.chosen(examples)
    if isinstance(examples, int):
        parts.append("Evenly spread over those whom every stage wrote for.")
    parts += [_side_by_side(comparison, one) for one in chosen]
    return "\n\n".join(parts) + "\n"


def save(
    comparison: Comparison,
    folder: Path,
    title: str,
    examples: int | Sequence[str] = 5,
    remarks: Sequence[str] = (),
) -> None:
    """Write ``report.md`` (see :func:`page`) and ``report.json``, all numbers of all stages (null: none).

    Raises:
        ReclmError: if they cannot be written, or no stage wrote for an example that is named.
    """
    numbers = {
        "title": title,
        "kind": comparison.held_out.kind,
        "subjects": len(comparison.held_out.subjects),
        "stages": [asdict(one) for one in comparison.quality],
        "teacher": asdict(comparison.teacher) if comparison.teacher else None,
        "remarks": list(remarks),
    }
    text = page(comparison, title, examples, remarks)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "report.md").write_text(text, encoding="utf-8")
        (folder / "report.json").write_text(json.dumps(numbers, indent=2), encoding="utf-8")
    except OSError as error:
        raise ReclmError(f"cannot write the report in {folder}: {error.strerror or error}") from error


def _cells(one: StageQuality) -> list[tuple[str, str]]:
    return [
        (f"{one.subjects:,}", ""),
        _share(one.compliance),
        (_NONE if one.words is None else f"{one.words:.1f}", ""),
        (_number(one.distinct_1), ""),
        (_number(one.distinct_2), ""),
        (_NONE if one.repetition is None else f"{one.repetition:.1%}", ""),
        _cosine(one.teacher),
        (_number(one.other_teacher), ""),
        _cosine(one.neighbours),
        (_number(one.strangers), ""),
    ]


def _share(found: Estimate | None) -> tuple[str, str]:
    if found is None or found.low is None or found.high is None:
        return _NONE, ""
    return f"{found.mean:.1%}", f"{found.low * 100:.3g}–{found.high * 100:.3g}"


def _cosine(found: Estimate | None) -> tuple[str, str]:
    if found is None:
        return _NONE, ""
    known = found.low is not None and found.high is not None
    return _number(found.mean), f"{_number(found.low)}–{_number(found.high)}" * known


def _number(value: float | None) -> str:
    """``.862``, ``1.000``, ``-.050``."""
    return _NONE if value is None else f"{value:.3f}".replace("0.", ".", 1)


def _bullets(lines: Sequence[str], longest: int | None = None) -> str:
    return "\n".join(f"- {literal(line, longest)}" for line in lines)


def _failures(comparison: Comparison, measured: StageQuality) -> str:
    """How many of a stage's profiles are malformed, and how, with an example of each fault."""
    name = literal(measured.stage)
    many = sum(measured.faults.values())
    if not many:
        return (
            f"**{name}**: none of {measured.subjects:,}." if measured.subjects else f"**{name}**: no profile."
        )
    examples = comparison.malformed(measured.stage)
    body = [
        [literal(why), literal(examples[why][0]), _text(examples[why][1]), f"{count:,}"]
        for why, count in measured.faults.items()
    ]
    head = ["fault", "first of them", "text", "profiles"]
    return f"**{name}**: {many:,} of {measured.subjects:,}.\n\n{markdown.table(head, body, text=3)}"


def _side_by_side(comparison: Comparison, one: str) -> str:
    """One subject: its history, and what the teacher and each stage made of it."""
    history = comparison.held_out.histories.get(one, "").splitlines()
    shown = [line for line in history if line.strip()]
    more = [f"and {len(shown) - HISTORY:,} more"] if len(shown) > HISTORY else []
    parts = [f"### {comparison.held_out.kind.capitalize()} {literal(one)}"]
    parts += ["History:", _bullets([*shown[:HISTORY], *more], LINE)] if shown else []
    parts.append(markdown.table(["", "profile"], list(_written(comparison, one)), text=2))
    return "\n\n".join(parts)


def _written(comparison: Comparison, one: str) -> Iterator[list[str]]:
    if one in comparison.held_out.teacher:
        yield ["teacher", _text(comparison.held_out.teacher[one])]
    for stage, texts in comparison.texts.items():
        yield [literal(stage), _text(texts[one]) if one in texts else _NONE]


def _text(text: str) -> str:
    return literal(text, LONGEST) or "(empty)"
