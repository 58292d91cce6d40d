"""Did the profiles help, and is it what they say that helps? The tests of a run, and the answer."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from reclm.benchmarks.results import Result, ResultRow
from reclm.benchmarks.significance import LEVEL, PairedTest, average, holm, paired
from reclm.intervals import between, number, p_value, percent
from reclm.recommend.metrics import parse, title

Answer = Literal["helped", "hurt", "no difference shown", "not decided"]


@dataclass(frozen=True)
class Difference:
    """One row against another in one protocol and metric, by the test of ``row - against``.

    ``before`` is the mean of ``against`` over the compared users and seeds. ``p_holm`` is ``test.p`` corrected within
    a family of so many tests; nan where fewer than two users could be compared.
    """

    row: str
    against: str
    protocol: str
    metric: str
    before: float
    test: PairedTest
    p_holm: float
    family: int

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


@dataclass(frozen=True, eq=False)
class Verdict:
    """Did the profiles help? One answer for each protocol, by the headline metric.

    ==================== ==========================================================================
    answer of a row      rule, the first that holds
    ==================== ==========================================================================
    not decided          a comparison that it needs was not tested; nobody has a profile; its base is not above a
                         baseline; most trainings, its own or its base's, still improved when their epochs ended;
                         or every user has the same value with its base: the profiles change nothing
    hurt                 significantly worse than its base
    helped               significantly better than its base and, where controls ran, the best control
    no difference shown  otherwise
    ==================== ==========================================================================

    Rows are those with profiles that are no control and no baseline, and whose base has none; a row without a base (it
    ranks by profiles alone) is compared with its best control only. The answer of a protocol is ``helped`` or ``hurt``
    if any of its rows is and none is the other, ``not decided`` if there are rows of both or nothing was tested, else
    ``no difference shown``.

    Of the headline ``metric`` and the others, ``differences`` are each row's to all rows that it is compared with;
    ``by_base`` has those to its base by (row, protocol, metric), ``by_control`` those to its best control by (row,
    protocol). ``caveats`` limit the answer, the gravest first.
    """

    answers: dict[str, Answer]
    rows: dict[tuple[str, str], Answer]
    metric: str
    differences: tuple[Difference, ...]
    by_base: dict[tuple[str, str, str], Difference]
    by_control: dict[tuple[str, str], Difference]
    caveats: tuple[str, ...] = ()

    def reasons(self) -> list[str]:
        """Return a sentence for each answer of a row: the tests behind it."""
        sentences = []
        for row, protocol in self.rows:
            base = self.by_base.get((row, protocol, self.metric))
            control = self.by_control.get((row, protocol))
            parts = [base.relation()] if base else []
            parts += [control.relation(f"its best control, {control.against}")] if control else []
            sentences.append(f"{protocol}: {row} is {', and '.join(parts)}")
        return sentences

    def __str__(self) -> str:
        if not self.rows:
            return "Not decided: no row with profiles was compared with a row without them."
        answers = "; ".join(f"{protocol} {self._short(protocol)}" for protocol in self.answers)
        caveat = f" But {self.caveats[0]}." if self.caveats else ""
        return f"Profiles, by {title(self.metric)}: {answers}.{caveat}"

    def __repr__(self) -> str:
        return f"<Verdict: {self}>"

    def _short(self, protocol: str) -> str:
        """Return a protocol's answer with its evidence, or with a count of its rows."""
        answer, rows = self.answers[protocol], [row for row, where in self.rows if where == protocol]
        if len(rows) > 1:
            answers = [self.rows[row, protocol] for row in rows]
            counts = f"{answers.count('helped')} helped, {answers.count('hurt')} hurt"
            return f"{answer} ({len(rows)} rows: {counts})"
        base = self.by_base.get((rows[0], protocol, self.metric)) if rows else None
        control = self.by_control.get((rows[0], protocol)) if rows else None
        evidence = base or control
        if evidence is None or answer == "not decided":
            return answer
        against = ""
        if base and base.better and control and not control.better:
            against = f", not significantly better than the control {control.against}"
        return f"{answer} ({evidence.size}, 95 % interval {evidence.interval}{against})"


def judge(result: Result) -> Verdict:
    """Test the rows of a run, and answer for each protocol whether the profiles helped."""
    tests, metric = differences(result), result.headline
    bases = [test for test in tests if test.against == result.row(test.row).base]
    by_base = {(test.row, test.protocol, test.metric): test for test in bases}
    by_control = {(test.row, test.protocol): test for test in against_controls(result)}
    rising = {name for name, seeds, ends in _rising(result) if 2 * ends > seeds}
    rows: dict[tuple[str, str], Answer] = {}
    answers: dict[str, Answer] = {}
    for protocol in (protocol.name for protocol in result.about.whole):
        weak = set(_not_above_baseline(result, protocol)[1])
        for row in result.about.rows:
            base, control = by_base.get((row.name, protocol, metric)), by_control.get((row.name, protocol))
            base_has_profiles = row.base and result.row(row.base).kinds
            candidate = row.kinds and not row.control and not row.baseline
            if candidate and not base_has_profiles and (base or control):
                described = not row.coverage or any(count for count, _ in row.coverage.values())
                fair = (row.base or row.name) not in weak and rising.isdisjoint({row.name, row.base})
                alike = base and base.test.low == base.test.high == base.test.difference == 0
                decided = described and fair and not alike
                rows[row.name, protocol] = _answer(base, control) if decided else "not decided"
        answers[protocol] = _together([rows[key] for key in rows if key[1] == protocol])
    return Verdict(answers, rows, metric, tuple(tests), by_base, by_control, tuple(caveats(result)))


def _answer(base: Difference | None, control: Difference | None) -> Answer:
    """Return the answer of a row from its tests against its base and its best control; None: there is none."""
    tests = [test for test in (base, control) if test]
    if any(np.isnan(test.p_holm) for test in tests):
        return "not decided"
    if base and base.significant and not base.better:
        return "hurt"
    return "helped" if all(test.better for test in tests) else "no difference shown"


def _together(answers: Sequence[Answer]) -> Answer:
    decided: list[Answer] = [answer for answer in ("helped", "hurt") if answer in answers]
    if len(decided) == 2 or set(answers) <= {"not decided"}:
        return "not decided"
    return decided[0] if decided else "no difference shown"


def differences(result: Result) -> list[Difference]:
    """Test every row against each that it is compared with, in every protocol and metric where both have values."""
    names = [protocol.name for protocol in result.about.whole]
    both = [(row.name, against) for row in result.about.rows for against in row.against]
    pairs = [(row, against, protocol) for row, against in both for protocol in names]
    families = (_family(result, pairs, metric) for metric in result.about.metrics)
    return [difference for family in families for difference in family]


def against_controls(result: Result) -> list[Difference]:
    """Test every row that has controls against its best one in each protocol: the headline metric.

    A control of a row has the same base. The best control has the highest mean.
    """
    pairs = [
        (row.name, best, protocol.name)
        for row in result.about.rows
        for protocol in result.about.whole
        if (best := _best_control(result, row, protocol.name))
    ]
    return _family(result, pairs, result.headline)


def caveats(result: Result) -> list[str]:
    """Return what limits the answer: rows not above a baseline, a single seed, trainings that were cut short."""
    one_seed = "with one seed, this holds for these trained models, not for the methods"
    return [
        *_without_profiles(result),
        *_below_baseline(result),
        *_unchanged(result),
        *_unfinished(result),
        *[one_seed] * (result.about.seeds == 1),
        *_all_candidates(result),
    ]


def _family(result: Result, pairs: Sequence[tuple[str, str, str]], metric: str) -> list[Difference]:
    """Test each (row, against, protocol) that share a seed, and correct by Holm across all of them.

    The headline metric of all rows and protocols is one family: a reader looks for a star in any row of the table. Any
    other metric is a family of its own, since the metrics of one run nearly repeat each other; a claim picked from the
    best of several metrics is not covered. The rows against their best controls are another question, and a family.
    """
    tests = []
    for row, against, protocol in pairs:
        before, after = result.paired(against, row, protocol, metric)
        if len(before):
            test = paired(before, after)
            tests.append(Difference(row, against, protocol, metric, average(before), test, float("nan"), 0))
    p = np.array([difference.test.p if difference.test.n >= 2 else np.nan for difference in tests])
    family = int(np.count_nonzero(~np.isnan(p)))
    return [
        replace(difference, p_holm=p, family=family)
        for difference, p in zip(tests, holm(p).tolist(), strict=True)
    ]


def _means(result: Result, rows: Sequence[ResultRow], protocol: str) -> dict[str, float]:
    """Return the mean of the headline metric of those rows that have one."""
    values = {row.name: result.values(row.name, protocol, result.headline) for row in rows}
    return {name: float(by_seed.mean()) for name, by_seed in values.items() if len(by_seed)}


def _best_control(result: Result, row: ResultRow, protocol: str) -> str | None:
    """Return the control with the highest mean of the headline metric; None where the row has none that ran."""
    controls = [other for other in result.about.rows if other.control and not row.control]
    shared = {
        other.name for other in controls if not other.stands_for and row.base and other.base == row.base
    }
    of_row = [other for other in controls if other.stands_for == row.name or other.name in shared]
    means = _means(result, of_row, protocol)
    return max(means, key=lambda name: means[name]) if means else None


def _without_profiles(result: Result) -> Iterator[str]:
    """Say which rows have no profile at all."""
    rows = [row for row in result.about.rows if row.coverage and not row.control]
    if bare := [row.name for row in rows if not any(count for count, _ in row.coverage.values())]:
        yield f"{_some(bare)} {'have' if len(bare) > 1 else 'has'} no profile of anyone: write some with reclm profile"


def _unchanged(result: Result) -> Iterator[str]:
    """Say which rows with profiles have every user's value of their base."""
    for row in result.about.rows:
        pairs = [
            result.paired(row.base, row.name, protocol.name, result.headline)
            for protocol in result.about.whole
            if row.kinds and not row.control and row.base
        ]
        known = [pair for pair in pairs if len(pair[0])]
        if known and all(np.array_equal(before, after, equal_nan=True) for before, after in known):
            yield f"{row.name} ranks as {row.base} does for every user: it reads no profiles, or nothing can be gained"


def _not_above_baseline(result: Result, protocol: str) -> tuple[str, list[str]]:
    """Return the best baseline that was measured, and the rows, no controls, that are not above it."""
    rows = [row for row in result.about.rows if not row.control]
    baselines = _means(result, [row for row in rows if row.baseline], protocol)
    means = _means(result, [row for row in rows if not row.baseline], protocol)
    best = max(baselines, key=lambda name: baselines[name], default="")
    return best, [name for name, mean in means.items() if best and mean <= baselines[best]]


def _below_baseline(result: Result) -> Iterator[str]:
    """Say which rows are not above the best baseline, where one was measured."""
    for protocol in result.about.whole:
        best, below = _not_above_baseline(result, protocol.name)
        if below:
            mean = _means(result, [result.row(best)], protocol.name)[best]
            named = f"{best} ({title(result.headline)} {number(mean)})"
            verb = "are" if len(below) > 1 else "is"
            where = f"in {protocol.name}, {_some(below)} {verb} not above the baseline {named}"
            yield f"{where}, so differences say little about profiles: train it better, or take another"


def _rising(result: Result) -> Iterator[tuple[str, int, int]]:
    """Yield the name, the seeds, and the seeds best in the last tenth of all epochs, of each row that has such."""
    for row in result.about.rows:
        ends = [
            trial.epochs == row.most_epochs and trial.best_epoch > 0.9 * trial.epochs
            for (name, _, where), trial in result.trials.items()
            if name == row.name and where == result.about.whole[0].name
        ]
        if row.most_epochs and any(ends):
            yield row.name, len(ends), sum(ends)


def _all_candidates(result: Result) -> Iterator[str]:
    """Say where a list holds all candidates, so that its hits are the same in any order."""
    for protocol in result.about.whole:
        full = [metric for metric in result.about.metrics if parse(metric)[1] >= protocol.candidates]
        if blind := [title(metric) for metric in full if parse(metric)[0] in ("recall", "precision", "hit")]:
            same = f"so any order has the same {', '.join(blind)}"
            yield f"{protocol.name} ranks {protocol.candidates} items only, {same}"


def _unfinished(result: Result) -> Iterator[str]:
    """Say which rows still improved when their epochs ended: what is gained on them may be training time alone."""
    if cut := [f"{name} ({ends} of {seeds} seeds)" for name, seeds, ends in _rising(result)]:
        count = f"{len(cut)} of {len(result.about.rows)} rows"
        still = f"{count} still improved when their epochs ended ({_some(cut)})"
        yield f"{still}, so more epochs may change the result (--epochs)"


def _some(names: Sequence[str], most: int = 3) -> str:
    """List the first names."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
