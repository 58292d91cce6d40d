"""Fuzzes everything that reads files: ``python -m tests.fuzz --cases 2000``. Exits with 1 where there is a fault."""

import argparse
import json
import multiprocessing
import os
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import TimeoutError as Late
from itertools import repeat
from pathlib import Path
from typing import Any

import coverage
from pebble import ProcessExpired, ProcessPool

from reclm.console import progress_bar

from .harness import SECONDS, Outcome
from .targets import TARGETS, run

OUTCOMES = ("read", "refused", "traceback", "wrong", "hangs", "memory", "died")


def fuzz(names: list[str], cases: range, jobs: int) -> list[Outcome]:
    """Return the outcomes of those cases of each target; a case that hangs costs its process, which is replaced."""
    outcomes = []
    context: Any = multiprocessing.get_context("spawn")
    with ProcessPool(max_workers=jobs, max_tasks=2_000, context=context) as pool:
        for name in names:
            # the first one of a process writes the sound files, and imports
            results, at = pool.map(run, repeat(name), cases, timeout=SECONDS + 50).result(), 0
            with progress_bar(f"fuzzing {name}", len(cases)) as advance:
                while True:
                    try:
                        outcome = next(results)
                    except StopIteration:
                        break
                    except Late:
                        outcome = Outcome(name, cases[at], "hangs")
                    except ProcessExpired as error:
                        outcome = Outcome(name, cases[at], "died", str(error))
                    if outcome.seconds > SECONDS and not outcome.fault:
                        outcome = Outcome(
                            name, cases[at], "hangs", f"{outcome.seconds:.0f} s", outcome.seconds
                        )
                    outcomes.append(outcome)
                    at += 1
                    advance(1)
    return outcomes


def branches(names: list[str], cases: range) -> dict[str, float]:
    """Return the share of the branches of each target's modules that these cases reach, in percent."""
    modules = sorted({module for name in names for module in TARGETS[name].modules})
    measured = coverage.Coverage(branch=True, data_file=None, source_pkgs=["reclm"], config_file=False)
    with measured.collect():
        for name in names:
            for case in cases:
                run(name, case)
    with tempfile.NamedTemporaryFile("r", suffix=".json") as file:
        measured.json_report(outfile=file.name)
        files = {Path(path).resolve(): about["summary"] for path, about in json.load(file)["files"].items()}
    counts = {module: files[Path(str(sys.modules[module].__file__)).resolve()] for module in modules}
    return {module: 100 * n["covered_branches"] / max(1, n["num_branches"]) for module, n in counts.items()}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--cases", type=int, default=2_000, help="cases a target")
    parser.add_argument("--first", type=int, default=0, help="the number of the first case")
    parser.add_argument("--target", action="append", choices=list(TARGETS), help="one target; all by default")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument(
        "--branches", type=int, default=200, help="cases a target in which branches are counted"
    )
    arguments = parser.parse_args()
    names, start = arguments.target or list(TARGETS), time.monotonic()
    cases = range(arguments.first, arguments.first + arguments.cases)
    with tempfile.TemporaryDirectory() as folder:  # whatever a process that is killed leaves goes with it
        os.environ["TMPDIR"] = tempfile.tempdir = folder
        return report(names, cases, fuzz(names, cases, arguments.jobs), arguments.branches, start)


def report(names: list[str], cases: range, outcomes: list[Outcome], counted: int, start: float) -> int:
    """Print the table, up to three faults of a kind, and the branches; return the exit code."""
    print(
        f"{'target':18}{'cases':>8}"
        + "".join(f"{kind:>11}" for kind in OUTCOMES)
        + f"{'slowest':>9}{'most MiB':>10}"
    )
    for name in names:
        mine = [outcome for outcome in outcomes if outcome.target == name]
        count = Counter(outcome.kind for outcome in mine)
        slowest, most = max(outcome.seconds for outcome in mine), max(outcome.mib for outcome in mine)
        numbers = "".join(f"{count[kind]:11,}" for kind in OUTCOMES)
        print(f"{name:18}{len(mine):8,}{numbers}{slowest:7.1f} s{most:10,.0f}")
    faults = [outcome for outcome in outcomes if outcome.fault]
    seen: Counter[str] = Counter()
    for fault in faults:
        place = f"{fault.target} {fault.kind} {fault.detail.split(': ')[1:2]}"
        seen[place] += 1
        if seen[place] <= 3:
            print(f"{fault.kind}: {fault.target} --first {fault.case} --cases 1: {fault.detail}")
    if counted:
        print("branches reached:")
        first = cases[:counted]
        for module, share in branches([name for name in names if not _killed(name, faults)], first).items():
            print(f"  {module:36}{share:6.1f} %")
    minutes = (time.monotonic() - start) / 60
    print(f"{len(outcomes):,} cases, {len(faults):,} faults, {minutes:.0f} minutes")
    return 1 if faults else 0


def _killed(name: str, faults: list[Outcome]) -> bool:
    """Return whether a case of the target hung or died, which would end this process as well."""
    return any(fault.target == name and fault.kind in ("hangs", "died") for fault in faults)


if __name__ == "__main__":
    sys.exit(main())
