"""Count the false alarms of whole tables, and how often a planted effect is found: ``python -m tools.null_tables``.

A table has two protocols, two backbones with and without profiles, two controls each, and two references. Every row but
the references ranks alike, up to what users, seeds and the rest of a training add; the standard deviations of these are
drawn anew for each table, from those of data that many users make certain to those that depend on the seed. The seeds
are five, or as many as ``seeds: auto`` takes. A false alarm is an answer *helped* or *hurt*, or any significant test of
a family: in either direction, but for the best control, which a row claims to be better than. An effect of 5 % is
planted in the rows with profiles, and counted where ``auto`` ended since the smallest findable effect is at most 5 %.
"""

import argparse
from collections.abc import Sequence
from functools import partial

import numpy as np

from reclm import intervals
from reclm.benchmarks.comparisons import LARGEST, MOST_SEEDS, decisive
from reclm.benchmarks.results import ProtocolInfo, Result, ResultRow, RunInfo, TrialResult
from reclm.benchmarks.seeds import FIRST_LOOK, PILOT, stopped
from reclm.benchmarks.significance import LEVEL

BACKBONES, CONTROLS, REFERENCES = ("A", "B"), ("shuffled", "random"), ("EASE", "ItemKNN")
PROTOCOLS = ("full-shot", "zero-shot")
MEAN = 0.1
"""Of every row that learns, in every protocol."""
USERS = (0.003, 0.04)
SEEDS = (0.001, 0.04)
"""Standard deviations, as shares of :data:`MEAN`: of the mean over users of what a row and user add, and of what a row
and seed add. Each table draws them between these, evenly on the logarithm."""
REST = 0.3
"""What a row, seed and user add."""


def rows() -> tuple[ResultRow, ...]:
    """Return the rows of a table."""
    made = []
    for base in BACKBONES:
        with_profiles = partial(ResultRow, against=(base,), kinds=("user",))
        made += [ResultRow(name=base), with_profiles(name=f"{base} +")]
        made += [with_profiles(name=f"{base} {control}", control=control) for control in CONTROLS]
    return (*made, *(ResultRow(name=name, reference=True) for name in REFERENCES))


def table(rng: np.random.Generator, users: int, gain: float = 0.0) -> Result:
    """Return a table of :data:`MOST_SEEDS` seeds; ``gain`` is added to rows with profiles, as a share of the mean."""
    low, high = np.log([USERS, SEEDS]).T
    of_users, of_seeds = np.exp(rng.uniform(low, high)).tolist()
    about = RunInfo(
        title="null",
        dataset="null",
        fingerprint="null",
        seeds=MOST_SEEDS,
        first_look=FIRST_LOOK,
        metrics=("ndcg@20",),
        protocols=tuple(ProtocolInfo(name=name, users=users, candidates=1_000) for name in PROTOCOLS),
        rows=rows(),
    )
    ids, activity, trials = (
        np.array([f"u{user}" for user in range(users)], object),
        np.ones(users, np.int64),
        {},
    )
    for protocol in PROTOCOLS:
        ease = rng.gamma(1.0, 1.0, users)
        for row in about.rows:
            apart = of_users * np.sqrt(users) * rng.normal(size=users) + gain * row.name.endswith("+")
            by_seed = of_seeds * rng.normal(size=MOST_SEEDS) * (not row.reference)
            for seed in range(MOST_SEEDS):
                rest = REST * rng.normal(size=users) * (not row.reference)
                values = {"ndcg@20": (MEAN * (ease + apart + by_seed[seed] + rest)).astype(np.float32)}
                trials[row.name, seed, protocol] = TrialResult(ids, activity, values)
    return Result(about, trials)


def with_seeds(whole: Result, seeds: int, first_look: int | None) -> Result:
    """Return the table of its first seeds."""
    about = whole.about.model_copy(update={"seeds": seeds, "first_look": first_look})
    return Result(about, {key: trial for key, trial in whole.trials.items() if key[1] < seeds})


def auto(whole: Result) -> Result:
    """Return the table of as many seeds as ``seeds: auto`` takes."""
    numbers = range(PILOT, MOST_SEEDS + 1)
    return next(some for seeds in numbers if stopped(some := with_seeds(whole, seeds, FIRST_LOOK)))


def alarms(result: Result) -> dict[str, bool]:
    """Return by kind whether a table in which there is nothing to find raises a false alarm."""
    verdict = result.verdict
    return {
        "rows with profiles differ from their base": any(test.significant for test in verdict.differences),
        "better than the best control": any(test.better for test in verdict.by_control.values()),
        "rows with profiles differ from the best reference": any(
            test.significant for test in verdict.by_reference.values()
        ),
        "helped or hurt": not {"helped", "hurt"}.isdisjoint(verdict.rows.values()),
    }


def found(result: Result) -> list[tuple[bool, bool]]:
    """Return whether each row and protocol of a smallest findable effect of at most 5 % is better than its base.

    By its own test, which that effect is about, and corrected by Holm.
    """
    tests = [test for test in decisive(result).values() if test.findable <= LARGEST]
    return [(test.test.p < LEVEL and test.test.difference > 0, test.better) for test in tests]


def report(title: str, raised: Sequence[dict[str, bool]], seeds: Sequence[int]) -> None:
    """Print the rate of each kind of false alarm."""
    print(title)
    for kind in raised[0]:
        print(f"  {kind}: {written([of_table[kind] for of_table in raised])}")
    print(f"  seeds: {np.mean(seeds):.1f}", flush=True)


def written(hits: Sequence[bool]) -> str:
    """Write a share with its interval."""
    share = intervals.share(hits)
    if share is None or share.low is None or share.high is None:
        return "none"
    return f"{share.mean:.1%} [{share.low:.1%}, {share.high:.1%}] of {share.n}"


def main() -> None:
    """Print rates of false alarms and of effects found."""
    parser = argparse.ArgumentParser(description="Count the false alarms of whole tables.")
    parser.add_argument("--tables", type=int, default=1000)
    parser.add_argument("--users", type=int, default=300)
    options = parser.parse_args()
    rng, number = np.random.default_rng(0), options.tables
    fixed, stopping, seeds = [], [], []
    for _ in range(number):
        whole = table(rng, options.users)
        enough = auto(whole)
        fixed.append(alarms(with_seeds(whole, FIRST_LOOK, None)))
        stopping.append(alarms(enough))
        seeds.append(enough.about.seeds)
    report(f"Nothing to find, {number} tables of {FIRST_LOOK} seeds:", fixed, [FIRST_LOOK])
    report(f"Nothing to find, {number} tables of as many seeds as auto takes:", stopping, seeds)
    planted = max(number // 4, 1)
    hits = [hit for _ in range(planted) for hit in found(auto(table(rng, options.users, LARGEST)))]
    own, corrected = (written([hit[at] for hit in hits]) for at in (0, 1))
    print(
        f"5 % planted, {planted} tables, where auto ended below 5 %: found in {own}; corrected by Holm in {corrected}"
    )


if __name__ == "__main__":
    main()
