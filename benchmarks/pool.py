"""Runs the cells of a grid: each once, in one process or several, beside other runs in the same workspace."""

import multiprocessing
import os
import signal
import time
import uuid
from collections.abc import Callable, Sequence
from multiprocessing.connection import wait
from multiprocessing.context import SpawnProcess
from typing import Any

import torch

from reclm.benchmarks.trial_cache import Trial, TrialCache, TrialRecord, run_trial
from reclm.console import progress_bar
from reclm.data.dataset import Dataset
from reclm.errors import ReclmError

PAUSE = 0.2
"""Seconds between looks at cells that another process has."""

Tell = Callable[[int, tuple[int, int] | None], None]
"""Told the place of a cell, and its epoch of how many while it runs or None once it is finished."""


def run_trials(
    cells: Sequence[Trial],
    dataset: Dataset,
    store: TrialCache,
    *,
    what: str = "cells",
    labels: Sequence[str] | None = None,
    jobs: int = 1,
    progress: bool = True,
) -> list[TrialRecord]:
    """The results of ``cells``, in their order. What is kept already is not run again, unless it had failed.

    Killed at any time and called again, it goes on with the cells that were not finished. Several runs may share a
    store: they divide the work between them.

    Args:
        cells: what to run; equal cells run once.
        dataset: what they run on.
        store: where results are kept.
        what: the progress bar's title.
        labels: what the bar calls each cell.
        jobs: processes; the cores are divided between them.
        progress: show the bar.
    """
    run, labels = uuid.uuid4().hex, labels or [cell.plan.backbone for cell in cells]
    left = {place for place, cell in enumerate(cells) if not store.finished(cell.key, run)}
    with progress_bar(f"{what}: epochs", sum(cell.plan.train.epochs for cell in cells), progress) as advance:
        shown = dict.fromkeys(left, 0)
        advance(sum(cell.plan.train.epochs for place, cell in enumerate(cells) if place not in left))

        def tell(place: int, epoch: tuple[int, int] | None) -> None:
            at, most = epoch or (cells[place].plan.train.epochs, 0)
            if place in left:
                advance(at - shown[place], f"{what}: {labels[place]}, epoch {at}/{most}" if most else None)
                shown[place] = at
            if epoch is None:
                left.discard(place)

        if jobs == 1:
            _work([(place, cells[place]) for place in sorted(left)], dataset, store, run, tell)
        elif left:
            _in_processes(cells, left, dataset, store, run, jobs, tell)
    return [_kept(store, cell) for cell in cells]


def _kept(store: TrialCache, cell: Trial) -> TrialRecord:
    result = store.get(cell.key)
    if result is None:
        raise ReclmError(f"{store.folder / cell.key} was removed while the grid ran; run it again")
    return result


def _work(
    cells: Sequence[tuple[int, Trial]], dataset: Dataset, store: TrialCache, run: str, tell: Tell
) -> None:
    """Run all cells that nobody else runs, then wait for those that somebody does."""
    while cells:
        busy = []
        for place, cell in cells:
            with store.claim(cell.key) as ours:
                if not ours:
                    busy.append((place, cell))
                    continue
                if not store.finished(cell.key, run):
                    epochs = cell.plan.train.epochs

                    def on_epoch(row: dict[str, float], place: int = place, epochs: int = epochs) -> None:
                        tell(place, (int(row["epoch"]), epochs))

                    run_trial(cell, dataset, store, run, on_epoch)
            tell(place, None)
        if len(busy) == len(cells):
            time.sleep(PAUSE)
        cells = busy


def _in_processes(
    cells: Sequence[Trial],
    left: set[int],
    dataset: Dataset,
    store: TrialCache,
    run: str,
    jobs: int,
    tell: Tell,
) -> None:
    """Several processes that all walk the cells. If one dies, its cell is recorded as failed by the next to claim it.

    Args:
        left: places of what is to do; ``tell`` takes the finished ones out.
    """
    codes: list[int | None] = []
    in_vain = 0
    while left and in_vain < 2:  # a round in which all died settles nothing, the next records why
        before = len(left)
        codes = _round([(place, cells[place]) for place in sorted(left)], dataset, store, run, jobs, tell)
        in_vain = 0 if len(left) < before else in_vain + 1
    if not left:
        return
    ended = ", ".join(map(str, codes))
    raise ReclmError(f"the worker processes ended early (exit codes {ended}); try --jobs 1")


def _round(
    cells: Sequence[tuple[int, Trial]],
    dataset: Dataset,
    store: TrialCache,
    run: str,
    jobs: int,
    tell: Tell,
) -> list[int | None]:
    """The exit codes of processes that walked the cells until the last of them ended."""
    context = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
    threads = max(1, torch.get_num_threads() // jobs)
    pipes: list[Any] = []
    workers: list[SpawnProcess] = []
    try:
        for _ in range(min(jobs, len(cells))):
            receiver, sender = context.Pipe(duplex=False)
            worker = context.Process(
                target=_worker, args=(sender, threads, cells, dataset, store, run), daemon=True
            )
            worker.start()
            sender.close()
            pipes.append(receiver)
            workers.append(worker)
        while pipes:
            ready: list[Any] = wait(pipes)
            for pipe in ready:
                try:
                    tell(*pipe.recv())
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
    cells: Sequence[tuple[int, Trial]],
    dataset: Dataset,
    store: TrialCache,
    run: str,
) -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # the parent says what there is to say
    torch.set_num_threads(threads)
    parent = multiprocessing.parent_process()

    def tell(place: int, epoch: tuple[int, int] | None) -> None:
        if parent is not None and not parent.is_alive():
            os._exit(1)  # killed: nobody waits for this
        sender.send((place, epoch))

    _work(cells, dataset, store, run, tell)
