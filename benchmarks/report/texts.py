"""A report's tables as Markdown and as LaTeX. Names and texts of data show as they are written."""

import re

from reclm import console as markdown
from reclm.benchmarks.report.shown import one_line
from reclm.benchmarks.report.tables import Row, Table, TableCell
from reclm.console import literal

_LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "''",
    "'": r"\textquotesingle{}",
    "`": r"\textasciigrave{}",
    "[": "{[}",
    "]": "{]}",
    "--": "-{}-{}",
    "±": r"$\pm$",
    "−": "$-$",
    "–": "--",
    "…": r"\ldots{}",
}
_SPECIAL = re.compile("|".join(map(re.escape, _LATEX)))


def latex_literal(text: str) -> str:
    r"""LaTeX that prints ``text`` as it is written.

    >>> print(latex_literal(r"50 % of {\bf x}_1"))
    50 \% of \{\textbackslash{}bf x\}\_1
    """
    return _SPECIAL.sub(lambda found: _LATEX[found[0]], one_line(text))


def markdown_table(table: Table) -> str:
    """The table with its notes."""
    body = []
    for row in table.rows:
        name = literal(row.name)
        cells = [literal(row.instead), *[""] * (len(table.head) - 2)] if row.instead else _markdown(row)
        body.append([f"*{name}*" if row.below else name, *cells])
    drawn = markdown.table([literal(one) for one in table.head], body, text=table.text)
    notes = "\n".join(f"- {literal(note)}" for note in table.notes)
    return f"{drawn}\n\n{notes}" if notes else drawn


def _markdown(row: Row) -> list[str]:
    return [_wrapped(literal(cell.text), cell, "**{}**", "\\*") for cell in row.cells]


def latex_table(table: Table, caption: str, label: str) -> str:
    r"""A ``table`` with rules of the package booktabs.

    Args:
        caption: plain text.
        label: for ``\ref``; plain letters.
    """
    width = len(table.head)
    body = []
    for row in table.rows:
        name = (r"\quad " if row.below else "") + latex_literal(row.name)
        if row.first:
            body.append(r"\midrule")
        if row.instead:
            cells = [rf"\multicolumn{{{width - 1}}}{{l}}{{\emph{{{latex_literal(row.instead)}}}}}"]
        else:
            cells = [
                _wrapped(latex_literal(cell.text), cell, r"\textbf{{{}}}", "$^{*}$") for cell in row.cells
            ]
        body.append(" & ".join([name, *cells]) + r" \\")
    notes = [rf"\par\footnotesize {latex_literal(note)}" for note in table.notes]
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{latex_literal(caption)}}}",
            rf"\label{{{label}}}",
            rf"\begin{{tabular}}{{{'l' * table.text}{'r' * (width - table.text)}}}",
            r"\toprule",
            " & ".join(latex_literal(one) for one in table.head) + r" \\",
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
            *notes,
            r"\end{table}",
        ]
    )


def _wrapped(text: str, cell: TableCell, bold: str, mark: str) -> str:
    return (bold.format(text) if cell.best else text) + (mark if cell.mark else "")
