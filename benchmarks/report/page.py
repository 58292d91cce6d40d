"""Renders a result as HTML, Markdown, LaTeX and for the terminal. Texts of data show as they are written."""

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from rich import box
from rich.markup import escape
from rich.table import Table as Grid
from rich.text import Text

from reclm.benchmarks.report import tables
from reclm.benchmarks.report.tables import MARKS, Table
from reclm.benchmarks.result_files import Example
from reclm.benchmarks.results import Result, ResultRow
from reclm.console import fenced, literal, pipe_table, printable, progress_bar
from reclm.files import write_text
from reclm.folders import make_folder
from reclm.intervals import NONE, number
from reclm.recommend.metrics import title

LONGEST = 400
"""Characters of an item or a profile that the Markdown report shows."""
TERMINAL_METRICS = 4
"""Metrics that a terminal of 80 columns has room for; published ones first."""
FEW = 6
"""Most comparisons that the page lists as sentences; of more it has the tables alone."""
UNBROKEN = "\N{NO-BREAK SPACE}%"

_LATEX: dict[str, str] = {
    **{character: rf"\{character}" for character in "{}$&#%_"},
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "|": r"\textbar{}"},
    **{"<": r"\textless{}", ">": r"\textgreater{}", '"': "''", "'": r"\textquotesingle{}"},
    **{"`": r"\textasciigrave{}", "[": "{[}", "]": "{]}", "--": "-{}-{}"},
    **{"±": r"$\pm$", "−": "$-$", "–": "--", "…": r"\ldots{}"},
}
"""Characters that LaTeX would read as commands, or set otherwise."""
_SPECIAL = re.compile("|".join(map(re.escape, _LATEX)))


def write_report(run: Path, out: Path | None = None, progress: bool = True) -> list[Path]:
    """Write :data:`FILES` of the run in ``run`` to ``out``, or beside it; return their paths, or raise ReclmError."""
    result, folder = Result.load(run), out or run
    make_folder(folder, "--out")
    with progress_bar("report", total=len(_PAGES), show=progress) as advance:
        for name, page in _PAGES.items():
            advance(0, name)
            write_text(folder / name, page(result))
            advance(1)
    return [folder / name for name in _PAGES]


def provenance(result: Result) -> list[tuple[str, str]]:
    """Return how the run was made and what limits it: a name and a text each."""
    about = result.about
    pairs = [
        ("data set", f"{about.dataset}, fingerprint {about.fingerprint}"),
        ("seeds", f"{about.seeds}"),
        ("epoch chosen by", about.selected_on or "nothing"),
        ("published numbers", about.source),
        *_coverage(result),
        *(("smallest findable effect", text) for text in result.verdict.power()),
        *(("search", _searched(row)) for row in about.rows if row.trials or row.chosen),
        *(("remark", text) for text in (*about.remarks, *result.verdict.caveats)),
        *(("failed", f"{failure.row}, seed {failure.seed}: {failure.reason}") for failure in about.failures),
    ]
    return [(name, text) for name, text in pairs if text]


def _coverage(result: Result) -> list[tuple[str, str]]:
    """Return who wrote profiles, and for how many."""
    rows = [row for row in result.about.rows if row.coverage and row.control is None]
    pairs = dict.fromkeys((f"profiles by {row.writer}", tables.covered(row)) for row in rows)
    if any(described < total for row in result.about.rows for described, total in row.coverage.values()):
        alone = all(row.writer for row in result.about.rows)
        rest = "gets tied scores" if alone else "is ranked by the rest of the model"
        text = f"a user or item without one {rest}; reclm profile writes the missing ones"
        pairs["no profile", text] = None
    return list(pairs)


def _searched(row: ResultRow) -> str:
    """Return what a search tried and chose."""
    options = ", ".join(
        f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in row.chosen.items()
    )
    if not row.trials:
        return f"{row.name}: {options}, the best on validation"
    tried, failed = len(row.trials), [trial for trial in row.trials if trial.value is None]
    if len(failed) == tried:
        return f"{row.name}: all {tried} trials of the search failed ({failed[0].error}); its own options ran"
    best = max(trial.value for trial in row.trials if trial.value is not None)
    lost = f", {len(failed)} failed" if failed else ""
    return f"{row.name}: {options} (validation {number(best)}), the best of {tried} trials{lost}"


def terminal(result: Result) -> Iterator[Grid | Text]:
    """Yield tables that fit 80 columns if names are short, how the run was made, and the verdict."""
    published = {
        metric for row in result.about.rows for numbers in row.published.values() for metric in numbers
    }
    order = sorted(result.about.metrics, key=lambda metric: metric not in published)[:TERMINAL_METRICS]
    metrics = [metric for metric in result.about.metrics if metric in order]
    for protocol in result.about.whole:
        table = tables.results(result, protocol, metrics, ["epoch"])
        size = f"{protocol.users:,} users × {protocol.candidates:,} items"
        yield terminal_table(table, f"{result.about.title}: {protocol.name}, {size}", stars=False)
    if any(row.published_seconds for row in result.about.rows):
        cost = tables.cost(result).only("an epoch", "added", "published", "added, published")
        yield terminal_table(cost, "Cost")
    for table in tables.comparisons(result):
        narrow = table.only("against", "change", "95 % interval", "p")
        yield terminal_table(narrow, f"{table.title}: {title(result.headline)} compared")
    rows = [row for row in result.about.rows if row.note or row.absent]
    for name, text in [*((row.name, row.absent or row.note) for row in rows), *provenance(result)]:
        yield Text(printable(f"{name}: {text}"))
    yield Text("\n" + printable(str(result.verdict)), style="bold")


def terminal_table(table: Table, caption: str, stars: bool = True) -> Grid:
    """Return a table of rich, in which names cannot style anything. ``stars`` mark significant differences."""
    grid = Grid(title=escape(printable(caption)), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    grid.collapse_padding = True
    for at, name in enumerate(table.head):
        width = {"min_width": 9, "max_width": 24} if not at else {"no_wrap": at >= table.text}
        grid.add_column(escape(name), justify="left" if at < table.text else "right", **width)  # pyright: ignore[reportArgumentType]
    starred = {at for row in table.rows for at, cell in enumerate(row.cells) if stars and cell.significant}
    last = None
    for row in table.rows:
        marks = [(" *" if cell.significant else "  ") * (at in starred) for at, cell in enumerate(row.cells)]
        # ``.10 ± .01`` becomes ``.10 ±.01``, ``.10 (+3.4 %)`` becomes ``.10 +3.4%``
        narrow = [re.sub(r" \((\S+) %\)", r" \1%", cell.text.replace("± ", "±")) for cell in row.cells]
        cells = [text + mark for text, mark in zip(narrow, marks, strict=True)]
        texts = ["" if row.name == last else row.name, *(cells or [NONE] * (len(table.head) - 1))]
        grid.add_row(*(escape(printable(text)) for text in texts), style="dim" if row.below else None)
        last = row.name
    return grid


def markdown_page(result: Result, whole: bool = False) -> str:
    """Return the report as Markdown; ``whole``, with activity, cost, profiles, example users and suite."""
    parts = [f"# {literal(result.about.title)}", f"**{literal(str(result.verdict))}**"]
    parts += ["\n".join(f"- {literal(reason)}" for reason in reasons(result))]
    results = [tables.results(result, protocol) for protocol in result.about.protocols]
    parts += _section("Results", results, MARKS)
    parts += _section("Comparisons", tables.comparisons(result))
    if whole:
        parts += _section("By activity", [*tables.activity(result), *tables.profiled(result)])
    if whole or any(row.published_seconds for row in result.about.rows):
        parts += _section("Cost and gain", [tables.cost(result)])
    if whole:
        parts += _section("Profiles", [tables.profiles(result)])
        parts += ["## Users"] * bool(result.examples)
        parts += [part for example in result.examples for part in _example(example)]
    if whole:
        parts += _section("What the data can tell", [tables.reach(result)], data_paragraph(result))
    parts += ["## How it was made"]
    parts += ["\n".join(f"- {literal(name)}: {literal(text)}" for name, text in provenance(result))]
    parts += [markdown_table(tables.row_infos(result))]
    parts += [fenced(suite_yaml(result), "yaml")] * bool(whole and result.about.suite)
    return "\n\n".join(part for part in parts if part) + "\n"


def _example(example: Example) -> Iterator[str]:
    yield f"### User {literal(example.user_id)}\n\nHistory, the newest first:"
    yield "\n".join(f"- {literal(text, LONGEST)}" for text in example.history) or "none"
    yield "Profile: " + (literal(example.profile, LONGEST) if example.profile else "none")
    for row in example.top:
        part = " **(in the test part)**"
        items = [literal(text, LONGEST) + part * hit for text, hit in example.ranked(row)]
        lines = "\n".join(f"{at}. {item}" for at, item in enumerate(items, start=1))
        yield f"{literal(row)} recommends:\n\n{lines}"


def markdown_table(table: Table) -> str:
    """Return the table with its notes."""
    body = []
    for row in table.rows:
        name, bold = literal(row.name), ["**" * cell.best for cell in row.cells]
        texts = [f"{mark}{literal(cell.text)}{mark}" for cell, mark in zip(row.cells, bold, strict=True)]
        cells = [text + "\\*" * cell.significant for text, cell in zip(texts, row.cells, strict=True)]
        cells = [literal(row.instead), *[""] * (len(table.head) - 2)] if row.instead else cells
        body.append([f"*{name}*" if row.below and name else name, *cells])
    drawn = pipe_table([literal(name) for name in table.head], body, text=table.text)
    notes = "\n".join(f"- {literal(note)}" for note in table.notes)
    return f"{drawn}\n\n{notes}" if notes else drawn


def _section(name: str, content: Sequence[Table], note: str = "") -> list[str]:
    filled = [table for table in content if table.rows]
    parts = [f"## {name}", literal(note)] if filled else []
    for table in filled:
        parts += [f"### {literal(table.title)}"] * bool(table.title)
        parts += [literal(table.about), markdown_table(table)]
    return parts


def data_paragraph(result: Result) -> str:
    """Return what the data can tell, in a paragraph."""
    return " ".join((*result.data.findings, result.data.answer)) if result.data else ""


def reasons(result: Result) -> list[str]:
    """Return the tests behind the verdict in sentences, where they are few; else the tables of comparisons say it."""
    sentences = result.verdict.reasons()
    return sentences if len(sentences) <= FEW else []


def suite_yaml(result: Result) -> str:
    return yaml.safe_dump(result.about.suite, sort_keys=False, allow_unicode=True)


def latex_page(result: Result) -> str:
    """Return the tables of results and of comparisons, for a paper to read in."""
    about = result.about
    parts = [r"% \usepackage{booktabs}", f"% {_one_line(str(result.verdict))}"]
    results = [tables.results(result, protocol) for protocol in about.protocols]
    sections = {"results": (results, f". {MARKS}"), "comparisons": (tables.comparisons(result), "")}
    for name, (of_section, note) in sections.items():
        for at, table in enumerate(of_section, start=1):
            caption = f"{about.title} ({about.dataset}), {table.title}: {table.about}{note}"
            parts.append(latex_table(table, caption, f"tab:{name}-{at}"))
    return "\n\n".join(parts) + "\n"


def latex_literal(text: str) -> str:
    r"""Return LaTeX that prints ``text`` as it is written.

    >>> print(latex_literal(r"50 % of {\bf x}_1"))
    50 \% of \{\textbackslash{}bf x\}\_1
    """
    return _SPECIAL.sub(lambda special: _LATEX[special[0]], _one_line(text))


def latex_table(table: Table, caption: str, label: str) -> str:
    r"""Return a ``table`` with rules of the package booktabs; the caption is plain text."""
    width, head = len(table.head), " & ".join(map(latex_literal, table.head))
    lines = [r"\begin{table}", r"\centering", rf"\caption{{{latex_literal(caption)}}}", rf"\label{{{label}}}"]
    lines += [rf"\begin{{tabular}}{{{'l' * table.text}{'r' * (width - table.text)}}}", r"\toprule"]
    lines += [rf"{head} \\", r"\midrule"]
    for row in table.rows:
        name = (r"\quad " if row.below else "") + latex_literal(row.name)
        cells = [(latex_literal(cell.text), cell) for cell in row.cells]
        cells = [(rf"\textbf{{{text}}}" if cell.best else text, cell) for text, cell in cells]
        texts = [text + "$^{*}$" * cell.significant for text, cell in cells]
        if row.instead:
            texts = [rf"\multicolumn{{{width - 1}}}{{l}}{{\emph{{{latex_literal(row.instead)}}}}}"]
        lines += [r"\midrule"] * row.first + [" & ".join([name, *texts]) + r" \\"]
    lines += [r"\bottomrule", r"\end{tabular}"]
    lines += [rf"\par\footnotesize {latex_literal(note)}" for note in table.notes]
    return "\n".join([*lines, r"\end{table}"])


def _one_line(text: str) -> str:
    return printable(" ".join(text.split()))


def html_page(result: Result) -> str:
    """Return the whole report. Every text of data shows as it is written: Jinja escapes it."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    from reclm.benchmarks.report import figures

    about = result.about
    environment = [("environment", _plain(about.environment))] if about.environment else []

    def finalize(value: object) -> object:  # spells out the control characters of a text
        return "\n".join(map(printable, value.splitlines())) if type(value) is str else value

    loader = FileSystemLoader(Path(__file__).parent)
    options: dict[str, Any] = {"trim_blocks": True, "lstrip_blocks": True, "finalize": finalize}
    template = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, **options)
    return template.get_template("page.html.j2").render(
        about=about,
        verdict=str(result.verdict).replace(" %", UNBROKEN),
        reasons=[reason.replace(" %", UNBROKEN) for reason in reasons(result)],
        headline=title(result.headline),
        data_paragraph=data_paragraph(result),
        reach=tables.reach(result),
        marks=MARKS,
        results=[tables.results(result, protocol, extra=["epoch"]) for protocol in about.protocols],
        bars=figures.bars(result),
        changes=figures.changes(result),
        comparisons=tables.comparisons(result),
        curves=figures.curves(result),
        activity=figures.activity(result),
        activity_tables=[*tables.activity(result), *tables.profiled(result)],
        cost=tables.cost(result),
        profiles=tables.profiles(result),
        examples=result.examples,
        provenance=[*provenance(result), *environment],
        rows=tables.row_infos(result),
        suite=suite_yaml(result) if about.suite else "",
    )


def _plain(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_plain(part)}" for name, part in value.items())
    return ", ".join(map(_plain, value)) if isinstance(value, list | tuple) else str(value)


_PAGES: dict[str, Callable[[Result], str]] = {
    "report.html": html_page,
    "report.md": lambda result: markdown_page(result, whole=True),
    "report.tex": latex_page,
    "results.csv": lambda result: result.table(result.about.metrics).to_csv(index=False, lineterminator="\n"),
}
FILES = tuple(_PAGES)
