"""Runs trials: each once, in one process or several, beside other runs in the same workspace."""

import multiprocessing
import os
import signal
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from multiprocessing.connection import wait
from multiprocessing.context import SpawnProcess
from typing import Any

import torch

from reclm.benchmarks.trial_cache import Trial, TrialCache, TrialRecord, run_trial
from reclm.console import duration, progress_bar
from reclm.errors import Damaged, ReclmError
from reclm.folders import current, workspace

PAUSE = 0.2
"""Seconds between looks at trials that another process has."""

LONG = 60
"""Seconds from which on the time that all trials may take is said after the first epoch."""

Report = Callable[[int, tuple[int, int] | None], None]
"""Called with the place of a trial, and its epoch of how many while it runs or None once it is finished."""


def run_trials(
    trials: Sequence[Trial],
    cache: TrialCache,
    *,
    title: str = "trials",
    labels: Sequence[str] | None = None,
    jobs: int = 1,
    progress: bool = True,
) -> list[TrialRecord]:
    """Return the records of ``trials``, in their order. What is cached is not run again, unless it had failed.

    Killed at any time and called again, it goes on with the trials that were not finished. Several runs may share a
    cache: they divide the work between them.

    Args:
        trials: equal ones run once.
        title: of the progress bar.
        labels: of each trial in the bar.
        jobs: processes; the cores are divided between them.
        progress: show the bar.
    """
    run, labels = uuid.uuid4().hex, labels or [trial.plan.backbone for trial in trials]
    left = {place for place, trial in enumerate(trials) if not cache.finished(trial.key, run)}
    epochs = [trial.plan.train.epochs for trial in trials]
    with progress_bar(f"{title}: epochs", sum(epochs), progress) as advance:
        shown = dict.fromkeys(left, 0)
        advance(sum(epochs[place] for place in range(len(trials)) if place not in left))
        started = time.monotonic() if progress else None

        def report(place: int, epoch: tuple[int, int] | None) -> None:
            nonlocal started
            at, most = epoch or (epochs[place], 0)
            if place in left:
                advance(at - shown[place], f"{title}: {labels[place]}, epoch {at}/{most}" if most else None)
                shown[place] = at
                if started is not None and most:
                    _estimate(time.monotonic() - started, sum(epochs[one] for one in left), jobs, title)
                    started = None
            if epoch is None:
                left.discard(place)
                started = started and time.monotonic()

        if jobs == 1:
            _work([(place, trials[place]) for place in sorted(left)], cache, run, report)
        elif left:
            _in_processes(trials, left, cache, run, jobs, report)
    return [_cached(cache, trial) for trial in trials]


def _estimate(seconds: float, epochs: int, jobs: int, title: str) -> None:
    """Say how long all epochs may take, by the first one."""
    if seconds * epochs / jobs > LONG:
        most = duration(seconds * epochs / jobs)
        print(f"{title}: {epochs:,} epochs at most, {seconds:.1f} s the first: up to {most}", file=sys.stderr)


def _cached(cache: TrialCache, trial: Trial) -> TrialRecord:
    record = cache.get(trial.key)
    if record is None:
        raise Damaged(f"{cache.folder / trial.key} was removed while the trials ran; run them again")
    return record


def _work(trials: Sequence[tuple[int, Trial]], cache: TrialCache, run: str, report: Report) -> None:
    """Run all trials that nobody else runs, then wait for those that somebody does."""
    while trials:
        busy = []
        for place, trial in trials:
            with cache.claim(*trial.locks) as ours:
                if not ours:
                    busy.append((place, trial))
                    continue
                if not cache.finished(trial.key, run):
                    epochs = trial.plan.train.epochs

                    def on_epoch(row: dict[str, float], place: int = place, epochs: int = epochs) -> None:
                        report(place, (int(row["epoch"]), epochs))

                    run_trial(trial, cache, run, on_epoch)
            report(place, None)
        if len(busy) == len(trials):
            time.sleep(PAUSE)
        trials = busy


def _in_processes(
    trials: Sequence[Trial], left: set[int], cache: TrialCache, run: str, jobs: int, report: Report
) -> None:
    """Run trials in several processes. If one dies, its trial is recorded as failed by the next to claim it.

    Args:
        left: places of what is to do; ``report`` takes the finished ones out.
    """
    codes: list[int | None] = []
    in_vain = 0
    while left and in_vain < 2:  # a round in which all died settles nothing, the next records why
        before = len(left)
        codes = _round([(place, trials[place]) for place in sorted(left)], cache, run, jobs, report)
        in_vain = 0 if len(left) < before else in_vain + 1
    if not left:
        return
    ended = ", ".join(map(str, codes))
    raise ReclmError(f"the worker processes ended early (exit codes {ended}); try --jobs 1")


def _round(
    trials: Sequence[tuple[int, Trial]], cache: TrialCache, run: str, jobs: int, report: Report
) -> list[int | None]:
    """Return the exit codes of processes that walked the trials until the last of them ended."""
    context = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
    threads = max(1, torch.get_num_threads() // jobs)
    pipes: list[Any] = []
    workers: list[SpawnProcess] = []
    root = str(current().root.resolve())
    try:
        for _ in range(min(jobs, len(trials))):
            receiver, sender = context.Pipe(duplex=False)
            worker = context.Process(
                target=_worker, args=(sender, threads, root, trials, cache, run), daemon=True
            )
            worker.start()
            sender.close()
            pipes.append(receiver)
            workers.append(worker)
        while pipes:
            ready: list[Any] = wait(pipes)
            for pipe in ready:
                try:
                    report(*pipe.recv())
                except EOFError:
                    pipes.remove(pipe)
        for worker in workers:
            worker.join()
    finally:
        for worker in workers:
            worker.terminate()
    return [worker.exitcode for worker in workers]


def _worker(
    sender: Any,
    threads: int,
    root: str,
    trials: Sequence[tuple[int, Trial]],
    cache: TrialCache,
    run: str,
) -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # the parent says what there is to say
    torch.set_num_threads(threads)
    workspace(root)
    parent = multiprocessing.parent_process()

    def report(place: int, epoch: tuple[int, int] | None) -> None:
        if parent is not None and not parent.is_alive():
            os._exit(1)  # killed: nobody waits for this
        sender.send((place, epoch))

    _work(trials, cache, run, report)
