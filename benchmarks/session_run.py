"""Runs a suite of sessions, and the record of what it came to."""

import hashlib
import json
import shutil
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

import reclm.data
from reclm.benchmarks.results import Failure, ProtocolInfo, Result, ResultRow, RunInfo, TrialResult
from reclm.benchmarks.session_suite import FLOORS, SessionRow, SessionSuite
from reclm.benchmarks.trial_cache import TrialCache
from reclm.data.dataset import TrainingView
from reclm.data.sessions import Sessions
from reclm.environment import environment
from reclm.errors import ReclmError
from reclm.folders import Workspace
from reclm.intervals import rise
from reclm.llm.models import LanguageModel, find_model
from reclm.profilers.langptune.config import LangPTuneConfig
from reclm.profilers.langptune.evaluation import METRICS
from reclm.profilers.langptune.rewards import by_pass
from reclm.profilers.tuning.metrics_log import Metrics, read_metrics
from reclm.text.encoder import TextEncoder

if TYPE_CHECKING:
    from reclm.profilers.langptune.measure import Measured
    from reclm.profilers.langptune.pipeline import Tuning

PROTOCOL = "next items"
"""What the sessions' ranking is called in a record."""

CONTROLS = ("shuffled", "random", "text")
"""See :meth:`reclm.profilers.langptune.measure.Measurement.run`."""

_CURVES = {"cl": ("loss",), "rlso": ("reward", "kl", "copying", "readability", "compliance")}


@dataclass(frozen=True, eq=False)
class Ran:
    """A row with a seed.

    Attributes:
        measured: what came out; ``name`` is the row's among its rankings.
        users: ``(n,)`` the users of its test sessions, by their place in the data.
        learned: sessions that it learned from.
        curves: of each part that was trained.
    """

    name: str
    measured: "Measured"
    users: np.ndarray
    learned: int
    curves: dict[str, Metrics]

    @property
    def seconds(self) -> float:
        """What its training took."""
        return sum(
            float(curve.values.sum())
            for part in self.curves.values()
            for name, curve in part.items()
            if name in ("rollout_seconds", "reward_seconds", "update_seconds")
        )

    @property
    def steps(self) -> int:
        """Batches and updates."""
        return sum(max(len(curve.values) for curve in part.values()) for part in self.curves.values())

    def history(self) -> Iterator[dict[str, float]]:
        """What was logged step by step, for the report's curves."""
        for part, names in _CURVES.items():
            for name in names:
                if name in self.curves.get(part, {}):
                    curve = self.curves[part][name]
                    for step, value in zip(curve.steps.tolist(), curve.values.tolist(), strict=True):
                        yield {"epoch": step, name: value}


@dataclass(frozen=True, eq=False)
class SessionRun:
    """A suite that ran.

    Attributes:
        ran: by row and seed.
        failures: row, seed, why.
        tunings: of each seed that ran, one of its rows': the sessions are those of all.
    """

    suite: SessionSuite
    view: TrainingView
    ran: dict[tuple[str, int], Ran] = field(default_factory=dict)
    failures: list[tuple[str, int, str]] = field(default_factory=list)
    tunings: dict[int, "Tuning"] = field(default_factory=dict)

    def record(self) -> Result:
        """What it came to: a protocol of its own, whose users are those of each seed."""
        suite = self.suite
        cells: dict[tuple[str, int, str], TrialResult] = {}
        for (name, seed), ran in self.ran.items():
            for floor in FLOORS:
                cells.setdefault((floor, seed, PROTOCOL), self._cell(ran, floor))
            cells[name, seed, PROTOCOL] = self._cell(ran, ran.name, ran)
            for control in CONTROLS:
                if control in ran.measured.rankings:
                    cells[f"{name}, {control}", seed, PROTOCOL] = self._cell(ran, control)
        users = {user for ran in self.ran.values() for user in ran.users.tolist()}
        items = max((len(tuning.sessions.items) for tuning in self.tunings.values()), default=0)
        about = RunInfo(
            title=suite.title,
            dataset=self.view.name,
            fingerprint=self.view.fingerprint,
            source=suite.source,
            comparable=False,
            seeds=suite.seeds,
            metrics=METRICS,
            protocols=(ProtocolInfo(name=PROTOCOL, users=len(users), candidates=items),),
            rows=tuple(self._lines({name for name, _, _ in cells})),
            remarks=tuple(self._remarks()),
            failures=tuple(Failure(row=row, seed=seed, reason=why) for row, seed, why in self.failures),
            suite=suite.model_dump(mode="json", exclude_defaults=True),
            environment=environment(),
        )
        history = {key: list(ran.history()) for key, ran in self.ran.items() if ran.curves}
        return Result(about, cells, history)

    def _lines(self, there: set[str]) -> Iterator[ResultRow]:
        for floor in FLOORS:
            yield ResultRow(name=floor, baseline=True)
        for row in self.suite.rows:
            before = tuple(one for one, other in self.suite.pairs if other == row.name)
            written = not row.absent and self.suite.config(row, 0).source == "profile"
            yield ResultRow(
                name=row.name,
                against=before,
                writer="langptune" if written else None,
                kinds=("user",) if written else (),
                published={PROTOCOL: row.published} if row.published else {},
                note=row.note,
                absent=row.absent,
            )
            for control in CONTROLS:
                name = f"{row.name}, {control}"
                if name in there:
                    yield ResultRow(name=name, control=control, stands_for=row.name, kinds=("user",))

    def _cell(self, ran: Ran, ranking: str, trained: Ran | None = None) -> TrialResult:
        return TrialResult(
            np.array(list(map(str, self.view.users.ids(ran.users))), object),
            self._activity[ran.users],
            ran.measured.rankings[ranking].values,
            dict(ran.measured.texts) if trained else {},
            epochs=trained.steps if trained else 0,
            seconds=trained.seconds if trained else 0.0,
        )

    @cached_property
    def _activity(self) -> np.ndarray:
        """``(U,)`` training interactions of every user."""
        return np.bincount(self.view.train.user_idx, minlength=len(self.view.users))

    def _remarks(self) -> Iterator[str]:
        if self.suite.note:
            yield self.suite.note
        yield "each seed has held-out users of its own; a fixed number of steps is trained, and nothing is selected"
        if self.tunings:
            yield "checked for leaks: no item to be found stands in its session's history; no user has two sessions"
        for row in self.suite.rows:
            ran = [one for (name, _), one in self.ran.items() if name == row.name]
            if ran:
                yield from _of_row(row.name, ran, self.suite.config(row, 0))


def _of_row(name: str, ran: list[Ran], config: LangPTuneConfig) -> Iterator[str]:
    """How a row's profiles read, what the encoder cuts of them, and whether the reward rose."""
    if texts := [one.measured.texts for one in ran if one.measured.texts]:
        means = {key: float(np.nanmean([one[key] for one in texts])) for key in texts[0]}
        yield (
            f"profiles of {name}: {means['words']:.0f} words, reading ease {means['readability']:.0f}, "
            f"{means['compliance']:.0%} in order, {means['copying']:.0%} of word triples copied"
        )
    if cut := float(np.mean([one.measured.truncated for one in ran])):
        yield f"{name}: the encoder's window cuts {cut:.1%} of the texts"
    trained = [one for one in ran if "rlso" in one.curves]
    rewards = [
        by_pass(one.curves["rlso"]["reward"].values, one.learned, config.rlso.batch_size) for one in trained
    ]
    series = [values for values, _ in rewards]
    found = rise(series)
    if found and found.low is not None and found.high is not None:
        better = "rose" if found.low > 0 else "fell" if found.high < 0 else "did not change beyond noise"
        between = " (and the recommender was trained in between)" * config.alternates
        yield (
            f"the mean reward of {name}'s {rewards[0][1]}, second half less first{between}, {better}: "
            f"{found.mean:+.4f} [{found.low:+.4f}, {found.high:+.4f}] of {np.concatenate(series).mean():.4f}, "
            f"{found.n} of them"
        )


def run_session_suite(
    suite: SessionSuite,
    workspace: Workspace,
    *,
    controls: bool = False,
    fresh: bool = False,
    progress: bool = True,
) -> SessionRun:
    """Run what has not run yet; a row that fails does not cost the others.

    Each row and seed has a folder in the workspace, named by the hash of all that defines it: what was done there goes
    on, or is not done again. Several processes may share a workspace: a folder is one's at a time.

    Args:
        controls: rank by what could stand in the place of each row's written profiles, too.
        fresh: train again what was trained before.

    Raises:
        ReclmError: before anything slow, for a data set, model or encoder that is not there.
    """
    view = reclm.data.load(suite.dataset, workspace).view()
    model, encoder = find_model(suite.model), TextEncoder(suite.encoder)
    run, store = SessionRun(suite, view), TrialCache(workspace.cells() / "sessions")
    # rows that write with the same model write the same profiles: once is enough
    kept = store.folder / "profiles"
    if fresh:
        shutil.rmtree(kept, ignore_errors=True)
    for seed in range(suite.seeds):
        for row in suite.rows:
            if row.absent:
                continue
            config = suite.config(row, seed)
            key = _key(config, view, model, encoder)
            folder = store.folder / key
            try:
                with store.claim(key, wait=-1):
                    if fresh:
                        shutil.rmtree(folder, ignore_errors=True)
                    _run_row(run, row, seed, folder, kept, config, model, encoder, controls, progress)
            except Exception as error:  # recorded and shown
                line = " ".join(str(error).split()) or "no message"
                line = line if isinstance(error, ReclmError) else f"{type(error).__name__}: {line}"
                run.failures.append((row.name, seed, line))
                folder.mkdir(parents=True, exist_ok=True)
                (folder / "error.partial").write_text(traceback.format_exc(), encoding="utf-8")
    return run


def _key(config: LangPTuneConfig, view: TrainingView, model: LanguageModel, encoder: TextEncoder) -> str:
    """Hash of what defines a training, 20 hex digits."""
    known = {
        "toolkit": version("reclm-toolkit"),
        "dataset": view.fingerprint,
        "model": model.name,
        "encoder": encoder.name,
        "config": config.model_dump(mode="json"),
    }
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()[:20]


def _run_row(
    run: SessionRun,
    row: SessionRow,
    seed: int,
    folder: Path,
    kept: Path,
    config: LangPTuneConfig,
    model: LanguageModel,
    encoder: TextEncoder,
    controls: bool,
    progress: bool,
) -> None:
    from reclm.profilers.langptune.measure import Measurement
    from reclm.profilers.langptune.pipeline import Tuning

    tuning = Tuning(
        run.view,
        config,
        model,
        folder,
        asked_model=run.suite.model,
        encoder=encoder,
        kept=kept,
        progress=progress,
    )
    tuning.say(f"{row.name}, seed {seed}:")
    tuning.run()
    check(tuning.sessions)
    measurement = Measurement(tuning)
    measured = measurement.run(controls)
    curves = {part: read_metrics(folder / part) for part in ("cl", "rlso")}
    run.tunings.setdefault(seed, tuning)
    run.ran[row.name, seed] = Ran(
        measurement.name,
        measured,
        tuning.sessions.users[measured.rows],
        len(tuning.train_rows),
        {part: one for part, one in curves.items() if one},
    )


def check(sessions: Sessions) -> None:
    """Look for leaks of what is to be found.

    Raises:
        ReclmError: if an item to be found stands in its session's history, or a user has two sessions.
    """
    told = (sessions.history[:, :, None] == sessions.future[:, None, :]).any((1, 2))
    if told.any():
        raise ReclmError(
            f"leak: the history of session {int(told.argmax())} holds an item that is to be found"
        )
    if len(np.unique(sessions.users)) < len(sessions.users):
        raise ReclmError("leak: a user has two sessions, which may lie in different parts")
