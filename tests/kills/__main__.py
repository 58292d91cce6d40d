"""Kills commands at random moments: ``python -m tests.kills --kills 20``. Exits with 1 where there is a fault."""

import argparse
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

from .commands import COMMANDS, kill
from .harness import Outcome

PHASES = ("before", "while", "after")


def killed(
    root: Path, names: list[str], kills: int, seed: int, forked: bool, jobs: int
) -> Iterator[tuple[str, list[Outcome]]]:
    """Yield the outcomes of each command, as they come."""
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
        work = {pool.submit(kill, root, name, kills, seed, forked): name for name in names}
        for done in as_completed(work):
            try:
                yield work[done], done.result()
            except RuntimeError as error:
                yield work[done], [Outcome(work[done], failure=str(error))]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.kills", description=__doc__)
    parser.add_argument("--kills", type=int, default=20, help="kills a command")
    parser.add_argument(
        "--command", action="append", choices=list(COMMANDS), help="one command; all by default"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--import", dest="import_", action="store_true", help="interpreters that import, too: slow"
    )
    parser.add_argument("--jobs", type=int, default=2)
    arguments = parser.parse_args()
    options = arguments.kills, arguments.seed, not arguments.import_, arguments.jobs
    names, start = arguments.command or list(COMMANDS), time.monotonic()
    os.environ["PYTHONWARNINGS"] = "ignore:resource_tracker"  # killed processes release no semaphores
    with tempfile.TemporaryDirectory(prefix="kills-") as folder:
        print(f"{'command':18}{'kills':>6}{'rows':>6}" + "".join(f"{phase:>8}" for phase in PHASES), end="")
        print(f"{'equal':>8}{'whole':>8}{'litter':>8}{'seconds':>9}", flush=True)
        faults = 0
        for name, outcomes in killed(Path(folder), names, *options):
            print(line(name, outcomes), flush=True)
            for outcome in outcomes:
                faults += len(outcome.faults)
                if outcome.faults:
                    moments = ", then at ".join(map(str, outcome.moments))
                    print(f"  killed at {moments}:")
                    for fault in outcome.faults[:8]:
                        print(f"    {fault}")
    print(f"{faults} faults, {(time.monotonic() - start) / 60:.0f} minutes")
    return 1 if faults else 0


def line(name: str, outcomes: list[Outcome]) -> str:
    """Return the row of a command."""
    phases = [phase for outcome in outcomes for phase in outcome.phases]
    shares = "".join(f"{phases.count(phase) / max(1, len(phases)):8.0%}" for phase in PHASES)
    equal = sum(not outcome.differs and not outcome.failure for outcome in outcomes)
    whole, litter = (
        sum(not outcome.torn for outcome in outcomes),
        sum(bool(outcome.litter) for outcome in outcomes),
    )
    seconds = sum(outcome.seconds for outcome in outcomes)
    of = len(outcomes)
    return f"{name:18}{len(phases):6}{of:6}{shares}{f'{equal}/{of}':>8}{f'{whole}/{of}':>8}{litter:8}{seconds:9.0f}"


if __name__ == "__main__":
    sys.exit(main())
