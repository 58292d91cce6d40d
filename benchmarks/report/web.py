"""A report as one HTML page, which needs nothing but itself: no network, no script."""

from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from reclm.benchmarks.report import figures, tables
from reclm.benchmarks.report.extras import Example, Quality
from reclm.benchmarks.report.facts import MARKS, NOTHING, facts
from reclm.benchmarks.report.numbers import Numbers
from reclm.benchmarks.report.pages import suite_yaml
from reclm.benchmarks.report.shown import plain
from reclm.benchmarks.report.svg import INK, MUTED, RULE, SERIES
from reclm.recommend.metrics import title


def html_page(numbers: Numbers, examples: Sequence[Example] = (), quality: Sequence[Quality] = ()) -> str:
    """The whole report. Every text of data shows as it is written: Jinja escapes it."""
    about = numbers.about
    return (
        _environment()
        .get_template("page.html.j2")
        .render(
            about=about,
            verdicts=[_unbroken(one) for one in numbers.verdicts] or [NOTHING],
            of_controls=[_unbroken(one) for one in numbers.of_controls],
            headline=title(numbers.headline),
            marks=MARKS,
            results=tables.results(numbers),
            bars=figures.bars(numbers),
            changes=figures.changes(numbers),
            comparisons=tables.comparisons(numbers),
            curves=figures.curves(numbers),
            activity=figures.activity(numbers),
            activity_tables=tables.activity(numbers),
            cost=tables.cost(numbers, quality),
            cost_pictures=figures.cost(numbers),
            profiles=tables.profiles(quality) if quality else None,
            examples=examples,
            facts=facts(numbers),
            lines=tables.lines(numbers),
            suite=suite_yaml(numbers) if about.suite else "",
            colours={"ink": INK, "muted": MUTED, "rule": RULE}
            | {f"c{at}": one for at, one in enumerate(SERIES)},
        )
    )


def _unbroken(sentence: str) -> str:
    """A number stays on the line of its per cent sign."""
    return sentence.replace(" %", "\N{NO-BREAK SPACE}%")


def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: plain(value) if type(value) is str else value,
    )
