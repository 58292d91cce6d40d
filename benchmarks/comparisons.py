"""Compare the rows of a run by paired tests, corrected by Holm within the families of tests that a reader asks for."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from reclm.benchmarks.results import Result, ResultRow
from reclm.benchmarks.significance import LEVEL, PairedTest, average, holm, paired
from reclm.intervals import between, number, p_value, percent

LARGEST = 0.05
"""Share of Base's mean that the smallest findable effect may have where a verdict decides."""
MOST_SEEDS = 20
"""Seeds that ``--seeds auto`` runs at most."""

Family = Literal["base", "control", "reference", "named", "none"]
"""The question that a test answers; within one, and within one metric, p is corrected by Holm.

``base``: a row with profiles against its base, in any protocol; ``control``: against its best control; ``reference``:
a row with profiles (or, where no row has any, a learned one) against the best reference; ``named``: another comparison
that the suite names; ``none``: a control against its base, which is shown without a star and belongs to no family.
"""

Pair = tuple[str, str, str, Family]
"""Row, the row that it is compared with, protocol and family."""


@dataclass(frozen=True)
class Difference:
    """One row against another in one protocol and metric, by the test of ``row - against``.

    ``before`` is the mean of ``against`` over the compared users and seeds. ``p_holm`` is ``test.p`` corrected within
    the family ``of``, which has so many tests (``family``); nan where fewer than two users could be compared, and of a
    control, which is in no family.
    """

    row: str
    against: str
    protocol: str
    metric: str
    before: float
    test: PairedTest
    p_holm: float
    family: int
    of: Family

    @property
    def significant(self) -> bool:
        """Return whether the corrected p is below the level."""
        return self.p_holm < LEVEL

    @property
    def better(self) -> bool:
        return self.significant and self.test.difference > 0

    @property
    def change(self) -> float:
        """The difference as a share of ``before``; nan where that is 0."""
        return self.test.difference / self.before if self.before > 0 else float("nan")

    @property
    def size(self) -> str:
        """The change in per cent, or the difference where ``before`` is 0."""
        return self._written(self.test.difference)

    @property
    def interval(self) -> str:
        """The 95 % interval of :attr:`size`, of this test alone: the correction is in ``p`` only."""
        return between(self._written(self.test.low), self._written(self.test.high))

    @property
    def findable(self) -> float:
        """Return the smallest effect that this test finds (:attr:`Parts.findable`), as a share of ``before``."""
        return self._share(self.test.findable)

    @property
    def findable_by_users(self) -> float:
        """Return the same with infinitely many seeds; nan where one seed tells nothing of them."""
        return self._share(self.test.findable_by_users)

    @property
    def powerless(self) -> bool:
        """Return whether effects above :data:`LARGEST` could have been missed."""
        return self.findable > LARGEST

    @property
    def sample(self) -> str:
        """Write how much was compared: ``5 seeds and 943 users``."""
        seeds, users = self.test.seeds, self.test.n
        return f"{seeds} seed{'s' * (seeds != 1)} and {users:,} user{'s' * (users != 1)}"

    @property
    def remedy(self) -> str:
        """Say what lowers the smallest findable effect: more seeds or, if the users alone exceed the limit, users."""
        if self.findable_by_users > LARGEST:
            alone = percent(self.findable_by_users, sign=False)
            return f"these users alone leave {alone}, so no number of seeds helps: test more users"
        if self.test.seeds >= MOST_SEEDS:
            return "run still more seeds, or test more users"
        return "run more seeds (--seeds auto)"

    def _share(self, difference: float) -> float:
        return difference / self.before if self.before > 0 else float("inf") if difference > 0 else difference

    def _written(self, difference: float) -> str:
        return percent(difference / self.before) if self.before > 0 else number(difference, sign=True)

    def relation(self, name: str = "") -> str:
        """Say it in words: ``significantly better than base (+3.4 %, 95 % interval …, p = .002)``."""
        name = name or self.against
        if np.isnan(self.p_holm):
            return f"not tested against {name} ({self.test.n} users in both)"
        relation = "not significantly different from"
        if self.significant:
            relation = f"significantly {'better' if self.better else 'worse'} than"
        p = f"p = {p_value(self.p_holm)}".replace("= <", "<")
        return f"{relation} {name} ({self.size}, 95 % interval {self.interval}, {p})"


def has_profiles(row: ResultRow) -> bool:
    """Return whether a row has profiles, and is neither a control nor a baseline."""
    return bool(row.kinds) and not row.control and not row.baseline


def differences(result: Result) -> list[Difference]:
    """Test every row against each that it is compared with, in every protocol and metric where both have values.

    The metrics of one run nearly repeat each other, so each has families of its own; a claim picked from the best of
    several metrics is not covered.
    """
    both = [(row, against) for row in result.about.rows for against in row.against]
    pairs: list[Pair] = [
        (row.name, against, protocol.name, _family(result, row, against))
        for row, against in both
        for protocol in result.about.whole
    ]
    return [difference for metric in result.about.metrics for difference in _tested(result, pairs, metric)]


def _family(result: Result, row: ResultRow, against: str) -> Family:
    if row.control:
        return "none"
    return "base" if has_profiles(row) and against == row.base and not result.row(against).kinds else "named"


def against_controls(result: Result, rows: Sequence[ResultRow] | None = None) -> list[Difference]:
    """Test every row with profiles, or only ``rows``, against its best control in each protocol: the headline metric.

    A control of a row has the same base. The best control has the highest mean.
    """
    rows = [row for row in result.about.rows if has_profiles(row)] if rows is None else rows
    pairs: list[Pair] = [
        (row.name, best, protocol.name, "control")
        for row in rows
        for protocol in result.about.whole
        if (best := _best_control(result, row, protocol.name))
    ]
    return _tested(result, pairs, result.headline)


def against_references(result: Result) -> list[Difference]:
    """Test every row with profiles against the best reference in each protocol: the headline metric.

    Where no row has profiles, every learned one. The best reference has the highest mean.
    """
    simple = [row for row in result.about.rows if row.reference and not row.kinds]
    learned = [row for row in result.about.rows if not (row.reference or row.baseline or row.control)]
    rows = [row for row in result.about.rows if has_profiles(row)] or learned
    best = {where.name: best_row(result, simple, where.name) for where in result.about.whole}
    pairs: list[Pair] = [
        (row.name, name, where, "reference") for row in rows for where, name in best.items() if name
    ]
    return _tested(result, pairs, result.headline)


def decisive(result: Result) -> dict[tuple[str, str], Difference]:
    """Return by row and protocol the test that shows whether profiles help: against the base, else the best control.

    Rows are those with profiles whose base has none, the metric is the headline metric.
    """
    rows = [row for row in result.about.rows if has_profiles(row)]
    alone = against_controls(result, [row for row in rows if not row.base])
    bases = [(row.name, row.base) for row in rows if row.base and _family(result, row, row.base) == "base"]
    pairs: list[Pair] = [
        (row, base, where.name, "base") for row, base in bases for where in result.about.whole
    ]
    tests = [*_tested(result, pairs, result.headline), *alone]
    return {(test.row, test.protocol): test for test in tests}


def _tested(result: Result, pairs: Sequence[Pair], metric: str) -> list[Difference]:
    """Test each pair that shares a seed, and correct by Holm within each family."""
    tests: list[Difference] = []
    for row, against, protocol, family in pairs:
        before, after = result.paired(against, row, protocol, metric)
        if len(before):
            test = paired(before, after, result.about.first_look)
            mean, untested = average(before), float("nan")
            tests.append(Difference(row, against, protocol, metric, mean, test, untested, 0, family))
    for family in dict.fromkeys(test.of for test in tests if test.of != "none"):
        places = [place for place, test in enumerate(tests) if test.of == family]
        p = np.array([tests[at].test.p if tests[at].test.n >= 2 else np.nan for at in places])
        size = int(np.count_nonzero(~np.isnan(p)))
        for at, of_test in zip(places, holm(p).tolist(), strict=True):
            tests[at] = replace(tests[at], p_holm=of_test, family=size)
    return tests


def means(result: Result, rows: Sequence[ResultRow], protocol: str) -> dict[str, float]:
    """Return the mean of the headline metric of those rows that have one."""
    values = {row.name: result.values(row.name, protocol, result.headline) for row in rows}
    return {name: float(by_seed.mean()) for name, by_seed in values.items() if len(by_seed)}


def best_row(result: Result, rows: Sequence[ResultRow], protocol: str) -> str | None:
    """Return the row with the highest mean of the headline metric; None where none has one."""
    known = means(result, rows, protocol)
    return max(known, key=lambda name: known[name]) if known else None


def _best_control(result: Result, row: ResultRow, protocol: str) -> str | None:
    """Return the control with the highest mean of the headline metric; None where the row has none that ran."""
    controls = [other for other in result.about.rows if other.control and not row.control]
    shared = {
        other.name for other in controls if not other.stands_for and row.base and other.base == row.base
    }
    of_row = [other for other in controls if other.stands_for == row.name or other.name in shared]
    return best_row(result, of_row, protocol)
