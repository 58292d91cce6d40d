"""Say what limits a verdict: weak rows, trainings that were cut short, profiles that nobody has, references above."""

from collections.abc import Iterator, Sequence

import numpy as np

from reclm.benchmarks.comparisons import Difference, best_row, means
from reclm.benchmarks.results import KEPT, Result
from reclm.intervals import number
from reclm.recommend.metrics import parse, title


def caveats(result: Result, references: Sequence[Difference]) -> list[str]:
    """Return what limits the answer, the gravest first; ``references`` are the tests against the best reference."""
    one_seed = "with one seed, this holds for these trained models, not for the methods"
    return [
        *_without_profiles(result),
        *_below_baseline(result),
        *below_reference(references),
        *_unchanged(result),
        *_unfinished(result),
        *[one_seed] * (result.about.seeds == 1),
        *_all_candidates(result),
    ]


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
            kept = {value for name, value in row.chosen.items() if name.startswith(KEPT)}
            why = "it reads no profiles, or nothing can be gained"
            why = "validation left its profiles out" if kept == {"none"} else why
            yield f"{row.name} ranks as {row.base} does for every user: {why}"


def not_above_baseline(result: Result, protocol: str) -> tuple[str, list[str]]:
    """Return the best baseline that was measured, and the rows, no controls, that are not above it."""
    rows = [row for row in result.about.rows if not row.control and not row.reference]
    baselines = [row for row in rows if row.baseline]
    best, of_all = best_row(result, baselines, protocol) or "", means(result, rows, protocol)
    names = [row.name for row in rows if not row.baseline and row.name in of_all]
    return best, [name for name in names if best and of_all[name] <= of_all[best]]


def below_reference(references: Sequence[Difference]) -> list[str]:
    """Say where the best reference is above the best row with profiles or, where no row has any, the best row."""
    sentences = []
    for protocol in dict.fromkeys(test.protocol for test in references):
        best = max(
            (test for test in references if test.protocol == protocol), key=lambda test: test.test.difference
        )
        if best.test.difference < 0:
            relation = best.relation(f"the best reference, {best.against}")
            sentences.append(f"in {protocol}, {best.row} is {relation}, which costs seconds")
    return sentences


def _below_baseline(result: Result) -> Iterator[str]:
    """Say which rows are not above the best baseline, where one was measured."""
    for protocol in result.about.whole:
        best, below = not_above_baseline(result, protocol.name)
        if below:
            mean = means(result, [result.row(best)], protocol.name)[best]
            named = f"{best} ({title(result.headline)} {number(mean)})"
            verb = "are" if len(below) > 1 else "is"
            where = f"in {protocol.name}, {_some(below)} {verb} not above the baseline {named}"
            yield f"{where}, so differences say little about profiles: train it better, or take another"


def rising(result: Result) -> Iterator[tuple[str, int, int]]:
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
    if cut := [f"{name} ({ends} of {seeds} seeds)" for name, seeds, ends in rising(result)]:
        count = f"{len(cut)} of {len(result.about.rows)} rows"
        still = f"{count} still improved when their epochs ended ({_some(cut)})"
        yield f"{still}, so more epochs may change the result (--epochs)"


def _some(names: Sequence[str], most: int = 3) -> str:
    """List the first names."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
