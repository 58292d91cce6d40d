"""``seeds: auto``: how many seeds a run takes, by the smallest effect that the seeds so far could have found."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace

from reclm.benchmarks.comparisons import LARGEST, MOST_SEEDS, Difference, decisive
from reclm.benchmarks.results import Result
from reclm.benchmarks.suite_run import SuiteRun
from reclm.intervals import duration, percent

PILOT = 3
"""Seeds that tell how long one takes."""
FIRST_LOOK = 5
"""The fewest seeds after which the smallest findable effects may stop the run."""


def stopped(result: Result) -> str:
    """Return why no further seed is needed; nothing if one is.

    Seeds go on until every row with profiles, in every protocol, has a smallest findable effect against its base (a row
    without one: against its best control) of at most 5 % of the base's headline metric
    (:attr:`~reclm.benchmarks.significance.Parts.findable`), but for rows that no number of seeds brings there, since
    their users alone exceed it. That is looked at from :data:`FIRST_LOOK` seeds on; if *all* rows are such rows, from
    :data:`PILOT` seeds on. After :data:`~reclm.benchmarks.comparisons.MOST_SEEDS` seeds it ends in any case, and after
    :data:`PILOT` seeds where no row with profiles is compared at all.

    The rule knows the variance of the differences and the mean of the base, never a difference or a p. It does stop
    where the seeds' variance is small by chance: that is why such a run's tests have the degrees of freedom of
    :data:`FIRST_LOOK` seeds at most (:func:`~reclm.benchmarks.significance.paired`).
    """
    seeds, tests = result.about.seeds, decisive(result)
    fixed = [test for test in tests.values() if test.findable_by_users > LARGEST]
    varying = [test for test in tests.values() if test.powerless and test not in fixed]
    alone = f"the users alone leave {_sizes([(test, test.findable_by_users) for test in fixed])}"
    if seeds >= PILOT and not tests:
        return "no row with profiles is compared with one without"
    if seeds >= PILOT and len(fixed) == len(tests):
        return f"{alone}, which takes more users, not seeds"
    if seeds >= FIRST_LOOK and not varying:
        enough = f"effects of {percent(LARGEST, sign=False)} can be found"
        return f"{enough}; elsewhere {alone}, which takes more users, not seeds" if fixed else enough
    if seeds >= MOST_SEEDS:
        left = _sizes([(test, test.findable) for test in varying])
        return f"{seeds} seeds are the most; smallest findable effects are still {left}"
    return ""


def _sizes(tests: Sequence[tuple[Difference, float]]) -> str:
    return ", ".join(f"{percent(size, sign=False)} ({test.row}, {test.protocol})" for test, size in tests)


def expected(result: Result) -> int:
    """Return the number of seeds after which :func:`stopped` ends the run, if the variances stay as they are."""
    tests = [test for test in decisive(result).values() if not test.findable_by_users > LARGEST]

    def found(test: Difference, seeds: int) -> bool:
        parts = test.test.parts
        effect = parts.with_seeds(seeds, FIRST_LOOK).findable if parts else 0.0
        return effect <= LARGEST * test.before

    numbers = range(FIRST_LOOK, MOST_SEEDS)
    return next((seeds for seeds in numbers if all(found(test, seeds) for test in tests)), MOST_SEEDS)


def run_until_enough(run_seeds: Callable[[range], SuiteRun], jobs: int, progress: bool) -> SuiteRun:
    """Run a pilot, say how long the rest may take, and go on seed by seed until :func:`stopped`.

    ``run_seeds`` runs further seeds and returns the run of all so far.
    """
    if progress:
        print(f"seeds auto: {PILOT} seeds first, which tell how long one takes", file=sys.stderr)
    run = run_seeds(range(PILOT))
    while not (reason := stopped(result := run.result())):
        seeds = result.about.seeds
        if progress and seeds == PILOT:
            one = run.new_seconds() / jobs
            number = expected(result)
            likely = f"about {number - seeds} more seeds ({duration(one * (number - seeds))})"
            most = f"at most {MOST_SEEDS - seeds} ({duration(one * (MOST_SEEDS - seeds))})"
            print(f"seeds auto: {duration(one)} a seed; {likely}, {most}", file=sys.stderr)
        run = run_seeds(range(seeds, seeds + 1))
    if progress:
        print(f"seeds auto: {result.about.seeds} seeds: {reason}", file=sys.stderr)
    return replace(run, stopped=reason)
