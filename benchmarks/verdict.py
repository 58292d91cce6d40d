"""Did the profiles help, and is it what they say that helps? The tests of a run, and the answer."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from reclm.benchmarks.caveats import below_reference, caveats, not_above_baseline, rising
from reclm.benchmarks.comparisons import (
    LARGEST,
    Difference,
    against_controls,
    against_references,
    differences,
    has_profiles,
)
from reclm.benchmarks.results import KEPT, Result
from reclm.intervals import percent
from reclm.recommend.metrics import title

Answer = Literal["helped", "hurt", "no difference shown", "not decided"]


@dataclass(frozen=True, eq=False)
class Verdict:
    """Did the profiles help? One answer for each protocol, by the headline metric.

    ==================== ==========================================================================
    answer of a row      rule, the first that holds
    ==================== ==========================================================================
    not decided          a comparison that it needs was not tested; nobody has a profile; its base is not above a
                         baseline; most trainings, its own or its base's, still improved when their epochs ended;
                         every user has the same value with its base: the profiles change nothing;
                         or the smallest effect that the run could have found is above 5 % of its base
    hurt                 significantly worse than its base
    helped               significantly better than its base and, where controls ran, the best control
    no difference shown  otherwise
    ==================== ==========================================================================

    The smallest findable effect counts before the difference, even where that is significant: what so small a run
    finds overstates the effect (Gelman and Carlin, "Beyond power calculations", Perspectives on Psychological Science
    9(6), 2014). The sentence then says both, and what to do. The effect is that of the single test
    (:attr:`~reclm.benchmarks.significance.Parts.findable`) against the base, or the best control where a row has none.

    Rows are those with profiles that are no control and no baseline, and whose base has none; a row without a base (it
    ranks by profiles alone) is compared with its best control only. The answer of a protocol is ``helped`` or ``hurt``
    if any of its rows is and none is the other, ``not decided`` if there are rows of both or no row is decided, else
    ``no difference shown``.

    p is corrected by Holm within each family of tests (:data:`~reclm.benchmarks.comparisons.Family`), over all rows and
    protocols: rows with profiles against their base; against their best control; rows with profiles (where there are
    none, all learned rows) against the best reference; other comparisons that a suite names. Controls are in none.

    Of the headline ``metric`` and the others, ``differences`` are each row's to all rows that it is compared with;
    ``by_base`` has those to its base by (row, protocol, metric), ``by_control`` those to its best control and
    ``by_reference`` those to the best reference by (row, protocol). ``caveats`` limit the answer, the gravest first;
    the sentence has the first one, and all about references. ``kept`` is the fusion that ``auto`` chose on validation,
    ``none`` where it left the profiles out, by (row, protocol).
    """

    answers: dict[str, Answer]
    rows: dict[tuple[str, str], Answer]
    metric: str
    differences: tuple[Difference, ...]
    by_base: dict[tuple[str, str, str], Difference]
    by_control: dict[tuple[str, str], Difference]
    by_reference: dict[tuple[str, str], Difference]
    caveats: tuple[str, ...] = ()
    kept: dict[tuple[str, str], str] = field(default_factory=dict)

    def decisive(self, row: str, protocol: str) -> Difference | None:
        """Return the test that shows whether profiles help: against the base, else the best control."""
        return self.by_base.get((row, protocol, self.metric)) or self.by_control.get((row, protocol))

    @property
    def needs_seeds(self) -> bool:
        """Return whether more seeds may lower a smallest findable effect that is above 5 %."""
        tests = [self.decisive(*key) for key in self.rows]
        return any(test and test.powerless and not test.findable_by_users > LARGEST for test in tests)

    def reasons(self) -> list[str]:
        """Return a sentence for each row and protocol: the tests behind the answer, and what they could have found."""
        sentences = []
        for row, protocol in dict.fromkeys([*self.rows, *self.by_reference]):
            answered = (row, protocol) in self.rows
            base = self.by_base.get((row, protocol, self.metric)) if answered else None
            control = self.by_control.get((row, protocol)) if answered else None
            reference = self.by_reference.get((row, protocol))
            parts = [base.relation()] if base else []
            parts += [control.relation(f"its best control, {control.against}")] if control else []
            parts += [reference.relation(f"the best reference, {reference.against}")] if reference else []
            sentence = f"{protocol}: {row} is {', and '.join(parts)}"
            if kept := self.kept.get((row, protocol)):
                sentence += f"; its fusion, by validation: {kept}"
            test = self.decisive(row, protocol) if answered else None
            if test and np.isfinite(test.findable):
                sentence += (
                    f"; smallest findable effect with {test.sample}: {percent(test.findable, sign=False)}"
                )
                if np.isfinite(test.findable_by_users):
                    sentence += f", of these users alone {percent(test.findable_by_users, sign=False)}"
            sentences.append(sentence)
        return sentences

    def power(self) -> list[str]:
        """Return a sentence for each protocol: the smallest effects that the run could have found."""
        found: dict[tuple[str, str], list[str]] = {}
        for row, protocol in self.rows:
            test = self.decisive(row, protocol)
            if test and np.isfinite(test.findable):
                size = percent(test.findable, sign=False)
                found.setdefault((protocol, test.sample), []).append(f"{row} {size}")
        return [f"{protocol}, with {sample}: {', '.join(rows)}" for (protocol, sample), rows in found.items()]

    def __str__(self) -> str:
        shown = dict.fromkeys([*self.caveats[:1], *below_reference([*self.by_reference.values()])])
        caveat = f" But {'; '.join(shown)}." if shown else ""
        if not self.rows:
            return f"Not decided: no row with profiles was compared with a row without them.{caveat}"
        answers = "; ".join(f"{protocol} {self._short(protocol)}" for protocol in self.answers)
        return f"Profiles, by {title(self.metric)}: {answers}.{caveat}"

    def __repr__(self) -> str:
        return f"<Verdict: {self}>"

    def _short(self, protocol: str) -> str:
        """Return a protocol's answer with its evidence, or with a count of its rows."""
        answer, rows = self.answers[protocol], [row for row, where in self.rows if where == protocol]
        if len(rows) > 1:
            answers = [self.rows[row, protocol] for row in rows]
            counts = f"{answers.count('helped')} helped, {answers.count('hurt')} hurt"
            return f"{answer} ({len(rows)} rows: {counts}{self._missed(protocol, rows)})"
        base = self.by_base.get((rows[0], protocol, self.metric)) if rows else None
        control = self.by_control.get((rows[0], protocol)) if rows else None
        evidence = base or control
        if evidence is None:
            return answer
        kept = self.kept.get((rows[0], protocol), "")
        if kept == "none":
            return f"{answer} (profiles left out, by validation)"
        if answer == "not decided":
            missed = self._missed(protocol, rows).removeprefix("; ")
            return f"{answer} ({evidence.relation()}, but {missed})" if missed else answer
        against, kept = "", f"; fusion by validation: {kept}" * bool(kept)
        if base and base.better and control and not control.better:
            against = f", not significantly better than the control {control.against}"
        return f"{answer} ({evidence.size}, 95 % interval {evidence.interval}{against}{kept})"

    def _missed(self, protocol: str, rows: Sequence[str]) -> str:
        """Say which effects could have been missed, and what to do; nothing where they are all small."""
        tests = [test for row in rows if (test := self.decisive(row, protocol)) and test.powerless]
        if not tests:
            return ""
        worst = max(tests, key=lambda test: test.findable)
        sizes = (
            f"below {percent(worst.findable, sign=False)}" if np.isfinite(worst.findable) else "of any size"
        )
        return f"; effects {sizes} could have been missed with {worst.sample}: {worst.remedy}"


def judge(result: Result) -> Verdict:
    """Test the rows of a run, and answer for each protocol whether the profiles helped."""
    tests, metric = differences(result), result.headline
    bases = [test for test in tests if test.against == result.row(test.row).base]
    by_base = {(test.row, test.protocol, test.metric): test for test in bases}
    by_control = {(test.row, test.protocol): test for test in against_controls(result)}
    by_reference = {(test.row, test.protocol): test for test in against_references(result)}
    unfinished = {name for name, seeds, ends in rising(result) if 2 * ends > seeds}
    rows: dict[tuple[str, str], Answer] = {}
    answers: dict[str, Answer] = {}
    for protocol in (protocol.name for protocol in result.about.whole):
        weak = set(not_above_baseline(result, protocol)[1])
        for row in result.about.rows:
            base, control = by_base.get((row.name, protocol, metric)), by_control.get((row.name, protocol))
            base_has_profiles = row.base and result.row(row.base).kinds
            if has_profiles(row) and not base_has_profiles and (base or control):
                described = not row.coverage or any(count for count, _ in row.coverage.values())
                fair = (row.base or row.name) not in weak and unfinished.isdisjoint({row.name, row.base})
                alike = base and base.test.low == base.test.high == base.test.difference == 0
                decided = described and fair and not alike
                rows[row.name, protocol] = _answer(base, control) if decided else "not decided"
        answers[protocol] = _together([rows[key] for key in rows if key[1] == protocol])
    limits = tuple(caveats(result, [*by_reference.values()]))
    kept = {key: value for key in rows if (value := result.row(key[0]).chosen.get(KEPT + key[1]))}
    return Verdict(answers, rows, metric, tuple(tests), by_base, by_control, by_reference, limits, kept)


def _answer(base: Difference | None, control: Difference | None) -> Answer:
    """Return the answer of a row from its tests against its base and its best control; None: there is none."""
    tests = [test for test in (base, control) if test]
    if any(np.isnan(test.p_holm) for test in tests) or tests[0].powerless:
        return "not decided"
    if base and base.significant and not base.better:
        return "hurt"
    return "helped" if all(test.better for test in tests) else "no difference shown"


def _together(answers: Sequence[Answer]) -> Answer:
    decided: list[Answer] = [answer for answer in ("helped", "hurt") if answer in answers]
    if len(decided) == 2 or set(answers) <= {"not decided"}:
        return "not decided"
    return decided[0] if decided else "no difference shown"
