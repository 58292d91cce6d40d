"""A report as Markdown, and its tables as LaTeX."""

from collections.abc import Sequence

import yaml

from reclm.benchmarks.report import tables
from reclm.benchmarks.report.extras import Example, Quality
from reclm.benchmarks.report.facts import MARKS, NOTHING, facts
from reclm.benchmarks.report.numbers import Numbers
from reclm.benchmarks.report.shown import one_line
from reclm.benchmarks.report.tables import Table
from reclm.benchmarks.report.texts import latex_table, markdown_table
from reclm.console import fenced, literal

LONGEST = 400
"""Characters of an item or a profile that are shown."""


def markdown_page(numbers: Numbers, examples: Sequence[Example] = (), quality: Sequence[Quality] = ()) -> str:
    """The whole report but its pictures."""
    first, *others = numbers.verdicts or [NOTHING]
    parts = [f"# {literal(numbers.about.title)}", f"**{literal(first)}**"]
    parts += ["\n".join(f"- {literal(one)}" for one in [*others, *numbers.of_controls])]
    parts += _section("Results", tables.results(numbers), MARKS)
    parts += _section("Comparisons", tables.comparisons(numbers))
    parts += _section("By activity", tables.activity(numbers))
    parts += _section("Cost and gain", [tables.cost(numbers, quality)])
    if quality:
        parts += _section("Profiles", [tables.profiles(quality)])
    if examples:
        parts += ["## Users", *(part for one in examples for part in _example(one))]
    parts += ["## How it was made"]
    parts += ["\n".join(f"- {literal(name)}: {literal(text)}" for name, text in facts(numbers))]
    parts += [markdown_table(tables.lines(numbers))]
    if numbers.about.suite:
        parts += [fenced(suite_yaml(numbers), "yaml")]
    return "\n\n".join(parts) + "\n"


def latex_page(numbers: Numbers) -> str:
    """The tables of results and of comparisons, to be read in by a paper."""
    title, dataset = numbers.about.title, numbers.about.dataset
    parts = [r"% \usepackage{booktabs}", *(f"% {one_line(one)}" for one in numbers.verdicts)]
    for at, table in enumerate(tables.results(numbers), start=1):
        parts.append(
            latex_table(
                table, f"{title} ({dataset}), {table.title}: {table.about}. {MARKS}", f"tab:results-{at}"
            )
        )
    for at, table in enumerate(tables.comparisons(numbers), start=1):
        parts.append(
            latex_table(table, f"{title} ({dataset}), {table.title}: {table.about}", f"tab:compared-{at}")
        )
    return "\n\n".join(parts) + "\n"


def suite_yaml(numbers: Numbers) -> str:
    """The suite's file."""
    return yaml.safe_dump(numbers.about.suite, sort_keys=False, allow_unicode=True)


def _section(title: str, found: Sequence[Table], note: str = "") -> list[str]:
    found = [table for table in found if table.rows]
    if not found:
        return []
    parts = [f"## {title}"] + [literal(note)] * bool(note)
    for table in found:
        parts += [f"### {literal(table.title)}"] * bool(table.title)
        parts += [literal(table.about)] * bool(table.about)
        parts.append(markdown_table(table))
    return parts


def _example(one: Example) -> list[str]:
    parts = [f"### User {literal(one.user_id)}", "History, the newest first:"]
    parts.append("\n".join(f"- {literal(text, LONGEST)}" for text in one.history) or "nothing")
    parts.append("Profile: " + (literal(one.profile, LONGEST) if one.profile else "none"))
    for line in one.top:
        items = [
            f"{at}. {literal(text, LONGEST)}" + " **(in the test part)**" * hit
            for at, (text, hit) in enumerate(one.ranked(line), start=1)
        ]
        parts += [f"{literal(line)} recommends:", "\n".join(items)]
    return parts
