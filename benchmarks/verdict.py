"""Did the profiles help, and is it what they say that helps? A record's differences, tested, and in plain sentences.

Tests are :func:`reclm.benchmarks.significance.paired`, corrected by Holm within a family:

- the headline metric of all lines and protocols is one family: whoever reads the table looks for a star in any of its
  rows, and the chance of a false one grows with each;
- any other metric is a family of its own. The metrics of one run nearly repeat each other, so that counting all of
  them would hide real gains; but a claim picked from the best of several metrics is not covered;
- the lines against their best controls (headline metric, all lines and protocols) are a family of their own: it is
  another question.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from reclm.benchmarks.results import Result, ResultRow
from reclm.benchmarks.significance import LEVEL, PairedTest, average, holm, paired, shown_p
from reclm.recommend.metrics import title


@dataclass(frozen=True)
class Difference:
    """One line against another, in one protocol and metric.

    Attributes:
        line, against: the lines' names.
        protocol, metric: where, and what was compared.
        before: mean of ``against`` over the compared users and seeds.
        test: of the difference ``line - against``.
        p_holm: ``test.p`` corrected within its family; nan where fewer than two users could be compared.
        family: tests in the family.
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
        """Whether it is told from noise after the correction."""
        return self.p_holm < LEVEL

    @property
    def change(self) -> float:
        """The difference as a share of ``before``; nan where that is 0."""
        return self.test.difference / self.before if self.before > 0 else float("nan")


Answer = Literal["helped", "hurt", "no difference shown", "not decided"]


@dataclass(frozen=True)
class Verdict:
    """Did the profiles help? One answer for each protocol, by the headline metric.

    ``str()`` is at most two sentences.

    ===================== ==============================================================================
    answer of a row       rule
    ===================== ==============================================================================
    hurt                  significantly worse than its base
    helped                significantly better than its base and, where controls ran, than the best one
    no difference shown   tested, and neither of the above
    not decided           nothing was tested, or no row has profiles
    ===================== ==============================================================================

    A row without a base (it ranks by profiles alone) is compared with its best control only. A protocol's answer is
    that of its rows: one that helped or hurt outweighs those without a difference; both together decide nothing.

    Attributes:
        metric: the headline metric.
        answers: protocol to answer.
        rows: (row, protocol) to answer, of every row that has profiles and is no control.
        differences: each row against all that it is compared with, in every metric.
        controls: each row against its best control, in the headline metric.
    """

    metric: str
    answers: dict[str, Answer]
    rows: dict[tuple[str, str], Answer]
    differences: tuple[Difference, ...]
    controls: tuple[Difference, ...]

    def __str__(self) -> str:
        if not self.rows:
            return "Not decided: no row with profiles was compared with one without."
        by_answer: dict[str, list[str]] = {}
        for protocol, answer in self.answers.items():
            by_answer.setdefault(answer, []).append(protocol)
        said = "; ".join(f"{answer} ({', '.join(protocols)})" for answer, protocols in by_answer.items())
        return f"Profiles, by {title(self.metric)}: {said}."

    def __repr__(self) -> str:
        return f"<Verdict: {self}>"


def judge(result: Result) -> Verdict:
    """Test the rows of a run, and answer for each protocol whether the profiles helped."""
    all_differences = differences(result)
    controls = against_controls(result)
    bases = {
        (one.row, one.protocol): one
        for one in of_lines(result, all_differences)
        if one.against == result.row(one.row).base
    }
    best = {(one.row, one.protocol): one for one in controls}
    rows: dict[tuple[str, str], Answer] = {}
    for protocol in result.about.whole:
        for row in result.about.rows:
            key = row.name, protocol.name
            base = result.row(row.base) if row.base else None
            if row.kinds and not row.control and not (base and base.kinds) and (key in bases or key in best):
                rows[key] = _answer(bases.get(key), best.get(key))
    answers = {
        one.name: _together([rows[key] for key in rows if key[1] == one.name]) for one in result.about.whole
    }
    return Verdict(result.headline, answers, rows, tuple(all_differences), tuple(controls))


def _answer(base: Difference | None, control: Difference | None) -> Answer:
    tests = [one for one in (base, control) if one is not None]
    if any(np.isnan(one.p_holm) for one in tests):
        return "not decided"
    if tests[0].significant and tests[0].test.difference < 0:
        return "hurt"
    better = all(one.significant and one.test.difference > 0 for one in tests)
    return "helped" if better else "no difference shown"


def _together(answers: Sequence[Answer]) -> Answer:
    decided = set(answers) - {"not decided"}
    if not decided or {"helped", "hurt"} <= decided:
        return "not decided"
    strong: set[Answer] = decided - {"no difference shown"}
    return strong.pop() if strong else "no difference shown"


def differences(record: Result, metrics: Sequence[str] | None = None) -> list[Difference]:
    """Every line with each that it is compared with, in every protocol and metric where both have values.

    Args:
        metrics: by default all; each is a family of its own, whose p does not depend on the others.
    """
    pairs = [(one.name, other) for one in record.about.rows for other in one.against]
    protocols = [one.name for one in record.about.whole]
    return [
        found
        for metric in metrics or record.about.metrics
        for found in _family(record, [(*pair, where) for pair in pairs for where in protocols], metric)
    ]


def against_controls(record: Result) -> list[Difference]:
    """Every line that has controls, against its best one in each protocol: the headline metric.

    A control of a line is compared with the same line as it is. The best has the highest mean.
    """
    chosen = []
    for line in record.about.rows:
        for protocol in record.about.whole:
            best = _best_control(record, line, protocol.name)
            if best:
                chosen.append((line.name, best, protocol.name))
    return _family(record, chosen, record.headline)


def verdicts(
    record: Result, found: Sequence[Difference] | None = None, controls: Sequence[Difference] | None = None
) -> list[str]:
    """Did the profiles help? Where there are several comparisons, how many came out well and badly; then a sentence
    a comparison, and one against its best control for each line that has controls.

    As plain for a no as for a yes. The sentences are about the record's headline metric. Their intervals are those
    of the single comparison; the correction is in ``p`` alone. What controls do for themselves: :func:`of_controls`.

    Args:
        found, controls: its :func:`differences` and :func:`against_controls`, where they are known.
    """
    found = differences(record, [record.headline]) if found is None else found
    controls = against_controls(record) if controls is None else controls
    told = of_lines(record, found)
    return [*summary(record, told, controls), *_sentences(record, told, controls)]


def of_lines(record: Result, found: Sequence[Difference]) -> list[Difference]:
    """The differences that verdicts are about: the headline metric, and no control's."""
    return [one for one in found if record.row(one.row).control is None and one.metric == record.headline]


def of_controls(record: Result, found: Sequence[Difference] | None = None) -> list[str]:
    """A sentence on each control and what it is compared with."""
    found = differences(record, [record.headline]) if found is None else found
    told = [one for one in found if record.row(one.row).control and one.metric == record.headline]
    return _sentences(record, told, ())


def summary(record: Result, found: Sequence[Difference], controls: Sequence[Difference]) -> list[str]:
    """How many comparisons came out well, and badly; nothing where one sentence tells it all."""
    if len(found) < 2:
        return []
    better, worse = _counts(found)
    plain = all(record.row(one.row).kinds and not record.row(one.against).kinds for one in found)
    subject, verb = ("Profiles helped", "hurt") if plain else ("The compared line was better", "worse")
    text = f"{subject} in {better} of {len(found)} comparisons ({title(record.headline)}), {verb} in {worse}"
    if controls:
        text += f", and beat the best control in {_counts(controls)[0]} of {len(controls)}"
    return [text + "; what is not significant counts as neither."]


def _counts(found: Sequence[Difference]) -> tuple[int, int]:
    """How many are significantly better, and worse."""
    signs = [np.sign(one.test.difference) for one in found if one.significant]
    return signs.count(1), signs.count(-1)


def _sentences(record: Result, found: Sequence[Difference], controls: Sequence[Difference]) -> list[str]:
    left = {(one.row, one.protocol): one for one in controls}
    named = sum(bool(line.against) for line in record.about.rows) > 1
    said = []
    for one in found:
        said.append(_on_base(record, one, named))
        first = one.against == record.row(one.row).base
        if first and (control := left.pop((one.row, one.protocol), None)):
            said.append(_on_control(record, control, helped=one.significant and one.test.difference > 0))
    # of lines that are compared with nothing else
    return said + [_on_control(record, one, helped=False) for one in left.values()]


def _family(record: Result, pairs: Sequence[tuple[str, str, str]], metric: str) -> list[Difference]:
    """Test each line, against and protocol that share a seed; correct across all of them."""
    found = []
    for line, against, protocol in pairs:
        before, after = record.paired(against, line, protocol, metric)
        if not len(before):
            continue
        test = paired(before, after)
        found.append(Difference(line, against, protocol, metric, average(before), test, float("nan"), 0))
    p = np.array([one.test.p if one.test.n >= 2 else np.nan for one in found])
    count = int(np.count_nonzero(~np.isnan(p)))
    corrected = holm(p).tolist()
    return [replace(one, p_holm=p, family=count) for one, p in zip(found, corrected, strict=True)]


def _best_control(record: Result, line: ResultRow, protocol: str) -> str | None:
    """The control with the highest mean of the headline metric; None where the line has none that ran."""
    if line.control:
        return None
    means = {
        one.name: float(values.mean())
        for one in record.about.rows
        if one.control
        and (one.stands_for == line.name or (not one.stands_for and line.base and one.base == line.base))
        and len(values := record.values(one.name, protocol, record.headline))
    }
    return max(means, key=lambda name: means[name]) if means else None


def _on_base(record: Result, one: Difference, named: bool) -> str:
    """The sentence on a line and what it is compared with."""
    line, base = record.row(one.row), record.row(one.against)
    start = f"{one.protocol}, {one.row} against {one.against}: " if named else f"{one.protocol}: "
    metric = title(one.metric)
    if one.test.n == 0:
        return f"{start}nobody to evaluate (no user has a test item among the candidates)"
    subject, better, worse = "the profiles", "helped", "hurt"
    if line.control:
        subject = f"the control ({line.control})"
    elif base.kinds or not line.kinds:  # both have profiles, or neither
        subject, better, worse = one.row, "did better", "did worse"
    verb = better if one.test.difference > 0 else worse
    said = f"{subject} {verb if one.significant else 'made no significant difference'} in {metric}"
    return f"{start}{_for_one_seed(one)}{said} ({size(one)}, {_evidence(one)})"


def _on_control(record: Result, one: Difference, helped: bool) -> str:
    """The sentence on a line and its best control."""
    control = record.row(one.against)
    start = f"{one.protocol}: {_for_one_seed(one)}{one.row}"
    whom = f"its best control ({control.control}, {value(one.before)})"
    if one.test.n == 0:
        return f"{start} and {whom} share no user"
    if one.significant and one.test.difference > 0:
        return f"{start} beats {whom} by {size(one)} ({_evidence(one)})"
    verb = "falls behind" if one.significant else "does not beat"
    numbers = f"{size(one)}, {_evidence(one)}"
    if helped:
        return f"{start} {verb} {whom}: what helps need not be what the profiles say ({numbers})"
    return f"{start} {verb} {whom}: {numbers}"


def size(one: Difference) -> str:
    """The change, relative where that is defined: ``+1.2 %``."""
    return _percent(one.change) if one.before > 0 else value(one.test.difference)


def _evidence(one: Difference) -> str:
    """Interval, p, users and seeds."""
    test = one.test
    if np.isnan(one.p_holm):
        return f"not tested, {test.n:,} user{'s' * (test.n > 1)}"
    p = shown_p(one.p_holm)
    p = f"p {p}" if p.startswith("<") else f"p = {p}"
    after = f" after Holm over {one.family} tests" if one.family > 1 else ""
    seeds = f"{test.seeds} seed{'s' * (test.seeds > 1)}"
    return f"95 % interval {interval(one)}, {p}{after}, {test.n:,} user{'s' * (test.n > 1)}, {seeds}"


def interval(one: Difference) -> str:
    """``+0.3 % to +2.1 %``, of the single comparison."""
    if one.before > 0:
        low, high = (_percent(bound / one.before) for bound in (one.test.low, one.test.high))
    else:
        low, high = value(one.test.low), value(one.test.high)
    return f"{low} to {high}"


def _for_one_seed(one: Difference) -> str:
    return "for this one seed " if one.test.seeds == 1 else ""


def _percent(share: float) -> str:
    """``0.012`` as ``"+1.2 %"``."""
    return f"{100 * share:+.1f} %".replace("-", "−")


def value(number: float) -> str:
    """A metric's value: ``0.0812`` as ``".0812"``."""
    return f"{number:.4f}".replace("0.", ".", 1).replace("-", "−") if abs(number) < 1 else f"{number:.4f}"
