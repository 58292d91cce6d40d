"""Verdicts as a table, where they are too many to read sentence by sentence."""

from dataclasses import dataclass
from typing import Self

import numpy as np

from reclm.benchmarks.results import Result
from reclm.benchmarks.significance import shown_p
from reclm.benchmarks.verdict import (
    Difference,
    against_controls,
    differences,
    interval,
    of_lines,
    size,
    summary,
)
from reclm.recommend.metrics import title

FEW = 4
"""Comparisons that are told in a sentence each."""

HEAD = ("", "line", "against", "change", "95 % interval", "p", "users", "seeds")


@dataclass(frozen=True)
class Comparisons:
    """What :func:`~reclm.benchmarks.verdict.verdicts` says in sentences.

    Attributes:
        summary: how many came out well, and badly.
        cells: a row of :data:`HEAD` each; behind a line's comparison that with its best control.
        tested: of whom, and how.
    """

    summary: str
    cells: list[tuple[str, ...]]
    tested: str

    @classmethod
    def many(cls, record: Result) -> Self | None:
        """Those of a record; None where they are few."""
        found, controls = of_lines(record, differences(record, [record.headline])), against_controls(record)
        if len(found) + len(controls) <= FEW:
            return None
        best = {(one.row, one.protocol): one for one in controls}
        cells = []
        for one in found:
            cells.append(_cells(one, one.against))
            first = one.against == record.row(one.row).base
            if first and (control := best.pop((one.row, one.protocol), None)):
                cells.append(_cells(control, f"{control.against} (best control)"))
        cells += [_cells(one, f"{one.against} (best control)") for one in best.values()]
        return cls(" ".join(summary(record, found, controls)), cells, _tested(record, found, controls))


def _cells(one: Difference, against: str) -> tuple[str, ...]:
    tested = (size(one), interval(one), shown_p(one.p_holm) + " *" * one.significant)
    numbers = ("", "not tested", "") if np.isnan(one.p_holm) else tested
    return one.protocol, one.row, against, *numbers, f"{one.test.n:,}", f"{one.test.seeds}"


def _tested(record: Result, found: list[Difference], controls: list[Difference]) -> str:
    families = {"tests": found, "tests of best controls": controls}
    over = " and ".join(
        f"{some[0].family} {what}" for what, some in families.items() if some and some[0].family
    )
    alone = any(one.test.seeds == 1 for one in (*found, *controls))
    seed = " With one seed a difference is one between these trained models, not between methods." * alone
    p = (
        f"; p is after Holm over {over}, * below .05, intervals are those of the single comparison"
        if over
        else ""
    )
    return f"{title(record.headline)}{p}.{seed}"
