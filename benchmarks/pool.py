"""Runs trials: each once, in one process or several, beside other runs in the same workspace."""

import multiprocessing
import os
import signal
import sys
import time
import traceback
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from importlib.metadata import version
from multiprocessing.connection import wait
from multiprocessing.context import SpawnProcess
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn

from reclm import plugins
from reclm.benchmarks import auto_trials
from reclm.benchmarks.features import TUNED, Features, TunedFeatures
from reclm.benchmarks.results import PROFILE
from reclm.benchmarks.row_profiles import key_of
from reclm.benchmarks.trial import VALIDATION, Plan, Runner, TrialCache, TrialRecord
from reclm.console import progress_bar
from reclm.data.dataset import Dataset
from reclm.errors import Damaged, ReclmError
from reclm.folders import current, workspace
from reclm.intervals import duration
from reclm.plugins import environment
from reclm.profiles.matrix import ProfileMatrix
from reclm.recommend.evaluate import PerUser

FORMAT = 4
"""Version of a record and its files; raised when they hold more."""
WATCHED, TOP = 10, 10
"""Users, evenly spread over those of the first protocol, whose top lists are recorded, and items of each."""
PAUSE = 0.2
"""Seconds between looks at trials that another process has."""
LONG = 60
"""Seconds that all trials may take without a message after the first epoch."""

Report = Callable[[int, tuple[int, int] | None], None]
"""Called with the place of a trial, and its epoch and number of epochs while it runs, or None once it is finished."""


@dataclass(frozen=True, eq=False)
class Trial:
    """One plan on one data set, with one seed; ``features`` are its item text and profiles, or how it makes them."""

    plan: Plan
    seed: int
    dataset: Dataset
    features: Features | TunedFeatures

    @property
    def draws(self) -> int:
        """Return the seed of all draws: that of the trial or, for a backbone that draws nothing, the first."""
        return self.seed if plugins.get("backbone", self.plan.backbone).seeded else 0

    @cached_property
    def definition(self) -> dict[str, Any]:
        """All that the numbers depend on, defaults written out: two trials of equal definition are the same."""
        backbone = plugins.get("backbone", self.plan.backbone)
        config = backbone.Config.build(dict(self.plan.model))
        # one that is not trained chooses the options that it is not given
        given = {} if backbone.trains else {"given": sorted(self.plan.model)}
        return {
            "toolkit": version("reclm-toolkit"),
            "format": FORMAT,
            "dataset": self.dataset.fingerprint,
            **self.plan.model_dump(mode="json", exclude={"model", "profiles"}),
            "model": config.model_dump(mode="json"),
            **given,
            **self.features.definition,
            "seed": self.draws,
        }

    @cached_property
    def key(self) -> str:
        return key_of(self.definition)

    @property
    def parts(self) -> "tuple[Trial, ...]":
        """The trials that an automatic one is made of, where they are known before it runs."""
        features = self.features
        automatic = isinstance(features, Features) and features.inputs.fusion == "auto"
        return tuple(auto_trials.parts(self, features).values()) if automatic else ()

    @property
    def locks(self) -> tuple[str, ...]:
        """Return the keys that one process at a time may hold: the trial's, and that of its profiler's training."""
        features = self.features
        return (self.key, *([TUNED + features.training_key] if isinstance(features, TunedFeatures) else []))


def run_trials(
    trials: Sequence[Trial],
    cache: TrialCache,
    *,
    title: str = "trials",
    labels: Sequence[str] | None = None,
    jobs: int = 1,
    progress: bool = True,
    forgotten: set[str] | None = None,
) -> list[TrialRecord]:
    """Return the records of ``trials``, in their order. What is cached is not run again, unless it had failed.

    Killed at any time and called again, it goes on with the trials that were not finished. Several runs may share a
    cache: they divide the work between them. Equal trials run once. The cores are divided between ``jobs`` processes.

    ``forgotten``: if given, cached results are removed first, except those of its keys; their keys are added to it.
    """
    if forgotten is not None:
        _forget(trials, cache, forgotten)
    run, labels = uuid.uuid4().hex, labels or [trial.plan.backbone for trial in trials]
    left = {place for place, trial in enumerate(trials) if not cache.finished(trial.key, run)}
    epochs = [trial.plan.train.epochs for trial in trials]
    with progress_bar(f"{title}: epochs", sum(epochs), progress) as advance:
        reported = dict.fromkeys(left, 0)
        advance(sum(epochs[place] for place in range(len(trials)) if place not in left))
        started = time.monotonic() if progress else None

        def report(place: int, epoch: tuple[int, int] | None) -> None:
            nonlocal started
            at, most = epoch or (epochs[place], 0)
            if place in left:
                text = f"{title}: {labels[place]}, epoch {at}/{most}" if most else None
                advance(at - reported[place], text)
                reported[place] = at
                if started is not None and most:
                    first, all_epochs = time.monotonic() - started, sum(epochs[other] for other in left)
                    started, longest = None, first * all_epochs / jobs
                    if longest > LONG:  # all epochs may take so long, by the first one
                        most_time = f"{first:.1f} s the first: up to {duration(longest)}"
                        print(f"{title}: {all_epochs:,} epochs at most, {most_time}", file=sys.stderr)
            if epoch is None:
                left.discard(place)
                started = started and time.monotonic()

        if jobs == 1:
            _work([(place, trials[place]) for place in sorted(left)], cache, run, report)
        elif left:
            _in_processes(trials, left, cache, run, jobs, report)
    records = [cache.get(trial.key) for trial in trials]
    if None in records:
        message = f"a trial was removed from {cache.folder} while all ran; run them again"
        raise Damaged(message, where=cache.folder)
    return [record for record in records if record]


def _forget(trials: Sequence[Trial], cache: TrialCache, forgotten: set[str]) -> None:
    """Remove cached results, trainings of profilers and their samples, but for those that another process works on."""
    known = [part for trial in trials for part in (trial, *trial.parts)]
    for key in dict.fromkeys(key for trial in known for key in trial.locks if key not in forgotten):
        forgotten.add(key)
        with cache.claim(key) as ours:
            if ours:
                cache.remove(key)
        if key.startswith(TUNED):
            for samples in cache.folder.glob("samples/*.jsonl"):
                samples.unlink(missing_ok=True)
    for trial in trials:
        if isinstance(trial.features, TunedFeatures):
            trial.features.shared.forget()


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
                    run_trial(trial, cache, run, partial(_on_epoch, report, place, trial))
            report(place, None)
        if len(busy) == len(trials):
            time.sleep(PAUSE)
        trials = busy


def _on_epoch(report: Report, place: int, trial: Trial, row: dict[str, float]) -> None:
    report(place, (int(row["epoch"]), trial.plan.train.epochs))


def _in_processes(
    trials: Sequence[Trial], left: set[int], cache: TrialCache, run: str, jobs: int, report: Report
) -> None:
    """Run the trials at the places ``left``. If a process dies, the next to claim its trial records a failure."""
    codes: list[int | None] = []
    idle_rounds = 0
    while left and idle_rounds < 2:  # where all processes died, the next round records why
        before = len(left)
        codes = _round([(place, trials[place]) for place in sorted(left)], cache, run, jobs, report)
        idle_rounds = 0 if len(left) < before else idle_rounds + 1
    if left:
        ended = ", ".join(map(str, codes))
        raise ReclmError(f"the worker processes ended early (exit codes {ended}); try --jobs 1")


def _round(
    trials: Sequence[tuple[int, Trial]], cache: TrialCache, run: str, jobs: int, report: Report
) -> list[int | None]:
    """Run the trials in up to ``jobs`` processes, each over all trials, and return the exit codes of the processes."""
    context = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
    threads = max(1, torch.get_num_threads() // jobs)
    pipes: list[Any] = []
    workers: list[SpawnProcess] = []
    arguments = (threads, str(current().root.resolve()), trials, cache, run)
    try:
        for _ in range(min(jobs, len(trials))):
            receiver, sender = context.Pipe(duplex=False)
            worker = context.Process(target=_worker, args=(sender, *arguments), daemon=True)
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
    sender: Any, threads: int, root: str, trials: Sequence[tuple[int, Trial]], cache: TrialCache, run: str
) -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # the parent reports it
    torch.set_num_threads(threads)
    workspace(root)
    parent = multiprocessing.parent_process()

    def report(place: int, epoch: tuple[int, int] | None) -> None:
        if parent is not None and not parent.is_alive():
            os._exit(1)  # killed: nobody waits for this
        sender.send((place, epoch))

    _work(trials, cache, run, report)


def run_trial(
    trial: Trial, cache: TrialCache, run: str, on_epoch: Callable[[dict[str, float]], None] | None = None
) -> TrialRecord:
    """Train and evaluate a claimed trial, and cache the result as one of ``run``; a failure is a result too."""
    users, weights = None, None
    try:
        if not cache.begin(trial.key, run):
            raise ReclmError("the process that ran it died (out of memory?)")
        record, users, weights = _trained(trial, cache, run, on_epoch)
    except Exception as error:  # recorded and shown: one trial's failure must not cost the others
        kind = "" if isinstance(error, ReclmError) else f"{type(error).__name__}: "
        line, trace = kind + (" ".join(str(error).split()) or "no message"), traceback.format_exc()
        record = TrialRecord(definition=trial.definition, run=run, error=line, traceback=trace)
    cache.end(trial.key)  # first: killed between the two it is run again, and no note is left
    cache.put(trial.key, record, users, weights)
    return record


def _trained(
    trial: Trial, cache: TrialCache, run: str, on_epoch: Callable[[dict[str, float]], None] | None
) -> tuple[TrialRecord, pa.Table, dict[str, Tensor] | None]:
    """Return the record of a trial, its users' values and, if asked for, its weights."""
    weights: dict[str, Tensor] = {}
    dataset, runner = trial.dataset, Runner(trial.plan, trial.dataset)

    def top(lists: Mapping[int, np.ndarray]) -> dict[str, list[str]]:
        users = dataset.users.ids(np.array(list(lists), np.int64))
        return {user: dataset.items.ids(lists[idx][:TOP]) for user, idx in zip(users, lists, strict=True)}

    def on_model(model: nn.Module) -> None:
        if cache.weights:
            weights.update({name: value.clone().contiguous() for name, value in model.state_dict().items()})

    features = trial.features.make()
    if features.inputs.fusion == "auto":
        tried = auto_trials.parts(trial, features)
        _work(list(enumerate(tried.values())), cache, run, partial(_on_part, on_epoch, trial, len(tried)))
        fields, values, best = auto_trials.compose(trial, tried, cache, runner.layout)
        weights.update(best)
    else:
        users = next(iter(runner.tasks.values())).users.numpy()
        watched = users[np.linspace(0, len(users) - 1, min(WATCHED, len(users))).astype(int)].tolist()
        begun = time.perf_counter()
        trained = runner.run(features.inputs, trial.draws, on_epoch, on_model, watched)
        fields = {
            "means": {protocol: _numbers(values.mean()) for protocol, values in trained.results.items()},
            "best_epoch": trained.best_epoch,
            "history": trained.fit.history,
            "seconds": time.perf_counter() - begun,
            "top": {protocol: top(trained.results[protocol].top) for protocol in runner.tasks},
            "validation": trained.validation,
            "chosen": trained.chosen,
        }
        valid = {VALIDATION + name: values for name, values in trained.valid.items()}
        values = _per_user(dataset, trained.results | valid)
    # what a profiler's training takes does not depend on which trial did it
    fields["seconds"] += sum(row["seconds"] for row in features.log)
    about = {"definition": trial.definition, "run": run, "environment": environment()}
    record = TrialRecord(**about, **fields)
    if isinstance(trial.features, TunedFeatures):  # known only once they are made
        names = ("coverage", "checked", "encoder", "writer")
        known: dict[str, Any] = {name: getattr(features, name) for name in names}
        known |= {"log": list(features.log), "measures": _numbers(features.measures)}
        record = record.model_copy(update={**known, "store": features.store and features.store.folder})
    values = _marked(values, dataset, features.inputs.user_profiles)
    return record, values, weights if cache.weights else None


def _on_part(
    on_epoch: Callable[[dict[str, float]], None] | None,
    trial: Trial,
    count: int,
    place: int,
    epoch: tuple[int, int] | None,
) -> None:
    """Report the epochs of ``count`` trials, one after the other, as those of the trial that they are parts of."""
    if on_epoch and epoch:
        done = place * trial.plan.train.epochs + epoch[0]
        on_epoch({"epoch": done // count})


def _per_user(dataset: Dataset, results: Mapping[str, PerUser]) -> pa.Table:
    tables = []
    for protocol, measured in results.items():
        names = pa.array([protocol] * len(measured.users), pa.string())
        ids = dataset.users.array.take(pa.array(measured.users))
        tables.append(pa.table({"protocol": names, "user_id": ids, **measured.values}))
    return pa.concat_tables(tables, promote_options="default")


def _marked(users: pa.Table, dataset: Dataset, profiles: ProfileMatrix | None) -> pa.Table:
    """Return the users of a trial with a column that tells who has a profile, where the row has profiles of users."""
    if PROFILE in users.column_names:
        users = users.drop_columns(PROFILE)
    if profiles is None:
        return users
    rows = dataset.users.find(users["user_id"])
    return users.append_column(PROFILE, pa.array(profiles.present[rows]))


def _numbers(values: Mapping[str, float]) -> dict[str, float | None]:
    return {name: None if np.isnan(value) else value for name, value in values.items()}
