"""A suite of rankings by text: users' sessions, ranked by profiles that a language model writes, or without one."""

import hashlib
import json
import traceback
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field, model_validator

import reclm.data
from reclm.benchmarks.record import About, Cell, Failure, Line, Ranked, Record
from reclm.benchmarks.suite import checked_names, suite_path
from reclm.config import Config, merged, read_yaml
from reclm.data.dataset import TrainingView
from reclm.environment import environment
from reclm.errors import ReclmError, unknown
from reclm.profilers.langptune.config import LangPTuneConfig
from reclm.profilers.langptune.evaluation import METRICS
from reclm.text.encoder import TextEncoder
from reclm.text.models import LanguageModel, find_model
from reclm.workspace import Workspace

FLOORS = ("Random", "MostPopular")
"""Rankings that every run measures beside its own."""

PROTOCOL = "next item"
"""What the sessions' ranking is called in a record."""


class SessionRow(Config):
    """A line of the table."""

    name: str
    settings: dict[str, Any] = Field(default_factory=dict)
    """Of :class:`~reclm.profilers.langptune.config.LangPTuneConfig`, over those of the suite."""
    published: dict[str, float] = Field(default_factory=dict)
    """Metric to the published number."""
    line: str = ""
    """The line of the picture that this row is a point of; none if empty."""
    at: float | None = None
    """Where on it."""
    note: str = ""
    absent: str = ""
    """Why it cannot run here; its published numbers are shown."""


class SessionSuite(Config):
    """What the file of a suite of ``kind: sessions`` says."""

    kind: Literal["sessions"]
    title: str
    dataset: str
    source: str = ""
    """Where the published numbers stand."""
    note: str = ""
    seeds: int = Field(default=1, ge=1)
    """Runs a row, seeded 0, 1, …: each draws its own held-out users, too."""
    model: str | None = None
    encoder: str | None = None
    settings: dict[str, Any] = Field(default_factory=dict)
    """Of every row."""
    rows: tuple[SessionRow, ...] = Field(min_length=1)
    pairs: tuple[tuple[str, str], ...] = ()
    """Rows whose difference is told: second less first, user by user."""
    axis: str = ""
    """What ``at`` is, for the picture."""

    @model_validator(mode="after")
    def _consistent(self) -> "SessionSuite":
        names = checked_names([row.name for row in self.rows])
        for name in {one for pair in self.pairs for one in pair}:
            if name not in {*names, *FLOORS}:
                raise unknown("row", name, names)
        for row in self.rows:
            self.config(row, 0)
            if bool(row.line) != (row.at is not None):
                raise ValueError(f"row {row.name!r}: line and at go together")
            for metric in row.published:
                if metric not in METRICS:
                    raise unknown("metric", metric, METRICS)
        return self

    def config(self, row: SessionRow, seed: int) -> LangPTuneConfig:
        """What a row is, for a seed."""
        values = merged(merged(self.settings, row.settings), {"seed": seed, "sessions": {"seed": seed}})
        return LangPTuneConfig.build(values, where=f"row {row.name!r}")

    def changed(
        self, dataset: str | None = None, seeds: int | None = None, epochs: int | None = None
    ) -> "SessionSuite":
        """The suite with another data set or number of seeds, where these are given.

        Raises:
            ReclmError: for epochs, which it has none of.
        """
        if epochs is not None:
            raise ReclmError(
                "--epochs does not go with a suite of sessions; its file says cl.steps and rlso.steps"
            )
        given = {"dataset": dataset, "seeds": seeds}
        return self.model_copy(update={name: one for name, one in given.items() if one is not None})


def load_session_suite(name_or_path: str) -> SessionSuite | None:
    """A suite of sessions (see :func:`~reclm.benchmarks.suite.suite_path`); None if it is one of backbones.

    Raises:
        ReclmError: if there is none, or it says something that no suite can.
    """
    path = suite_path(name_or_path)
    return SessionSuite.from_yaml(path) if "kind" in read_yaml(path) else None


@dataclass(frozen=True, eq=False)
class SessionRun:
    """A suite that ran.

    Attributes:
        users: row name to seed to user_id to place in ``values``.
        values: row name to seed to metric to ``(n,)``.
        failures: row, seed, why.
        texts: row name to seed to what its profiles are like.
        rewards: row name to seed to the mean reward of each of RLSO's updates, where it was trained by that.
        folders: where each was trained, by row and seed.
    """

    suite: SessionSuite
    view: TrainingView
    users: dict[str, dict[int, list[Any]]] = field(default_factory=dict)
    values: dict[str, dict[int, dict[str, np.ndarray]]] = field(default_factory=dict)
    failures: list[tuple[str, int, str]] = field(default_factory=list)
    texts: dict[str, dict[int, dict[str, float]]] = field(default_factory=dict)
    rewards: dict[str, dict[int, np.ndarray]] = field(default_factory=dict)
    folders: dict[tuple[str, int], Path] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """The rows that have numbers, floors first."""
        names = [*FLOORS, *[row.name for row in self.suite.rows]]
        return [name for name in names if self.values.get(name)]

    def record(self) -> Record:
        """What it came to: a protocol of its own, whose users are those of each seed."""
        suite, rows = self.suite, {row.name: row for row in self.suite.rows}
        written = {
            name for name, row in rows.items() if not row.absent and suite.config(row, 0).source == "profile"
        }
        lines = [
            Line(
                name=name,
                against=before[0] if before else None,
                beside=before[1:],
                writer="langptune" if name in written else None,
                kinds=("user",) if name in written else (),
                published={PROTOCOL: row.published} if row and row.published else {},
                note=row.note if row else "",
                absent=row.absent if row else "",
            )
            for name in [*FLOORS, *rows]
            for row in [rows.get(name)]
            for before in [tuple(one for one, other in suite.pairs if other == name)]
        ]
        history = np.bincount(self.view.train.user_idx, minlength=len(self.view.users))
        cells = {
            (name, seed, PROTOCOL): Cell(
                np.array(list(map(str, users)), object),
                history[self.view.users.find(users)],
                self.values[name][seed],
                {} if name in FLOORS else self.texts.get(name, {}).get(seed, {}),
            )
            for name in self.names
            for seed, users in self.users[name].items()
        }
        ranked = {user for users in self.users.get(FLOORS[0], {}).values() for user in users}
        about = About(
            title=suite.title,
            dataset=self.view.name,
            fingerprint=self.view.fingerprint,
            source=suite.source,
            selected_on="nothing (a fixed number of steps)",
            seeds=suite.seeds,
            metrics=METRICS,
            protocols=(Ranked(name=PROTOCOL, users=len(ranked), candidates=len(self.view.items)),),
            lines=tuple(lines),
            remarks=(suite.note,) if suite.note else (),
            failures=tuple(Failure(line=row, seed=seed, reason=why) for row, seed, why in self.failures),
            suite=suite.model_dump(mode="json", exclude_defaults=True),
            environment=environment(),
        )
        return Record(about, cells)

    def by_user(self, name: str, metric: str) -> dict[Any, float]:
        """The metric of each user that a row was tested on: its mean over the seeds that drew the user."""
        found: dict[Any, list[float]] = {}
        for seed, users in self.users[name].items():
            for user, value in zip(users, self.values[name][seed][metric].tolist(), strict=True):
                found.setdefault(user, []).append(value)
        return {user: float(np.mean(values)) for user, values in found.items()}

    def paired(self, before: str, after: str, metric: str) -> tuple[np.ndarray, np.ndarray]:
        """The metric of the users that both rows were tested on, in the same order."""
        one, other = self.by_user(before, metric), self.by_user(after, metric)
        both = [user for user in one if user in other]
        return np.array([one[user] for user in both]), np.array([other[user] for user in both])


def run_session_suite(suite: SessionSuite, workspace: Workspace, *, progress: bool = True) -> SessionRun:
    """Run what has not run yet; a row that fails does not cost the others.

    Each row and seed has a folder in the workspace, named by the hash of all that defines it: what was done there goes
    on, or is not done again.

    Raises:
        ReclmError: before anything slow, for a data set, model or encoder that is not there.
    """
    view = reclm.data.load(suite.dataset, workspace).view()
    model, encoder = find_model(suite.model), TextEncoder(suite.encoder)
    run = SessionRun(suite, view)
    for seed in range(suite.seeds):
        for row in suite.rows:
            if row.absent:
                continue
            config = suite.config(row, seed)
            folder = workspace.cells() / "sessions" / _key(config, view, model, encoder)
            run.folders[row.name, seed] = folder
            try:
                _run_row(run, row, seed, config, model, encoder, progress)
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
    config: LangPTuneConfig,
    model: LanguageModel,
    encoder: TextEncoder,
    progress: bool,
) -> None:
    from reclm.profilers.curves import read_metrics
    from reclm.profilers.langptune.measure import Measurement
    from reclm.profilers.langptune.tuning import Tuning

    folder = run.folders[row.name, seed]
    tuning = Tuning(
        run.view, config, model, folder, asked_model=run.suite.model, encoder=encoder, progress=progress
    )
    tuning.say(f"{row.name}, seed {seed}:")
    tuning.run()
    # rows that write with the same model write the same profiles: once is enough
    measurement = Measurement(tuning, folder.parent / "profiles")
    measured = measurement.run()
    users = run.view.users.array.take(pa.array(tuning.sessions.users[measured.rows])).to_pylist()
    run.texts.setdefault(row.name, {})[seed] = measured.texts
    if config.trains[1]:
        run.rewards.setdefault(row.name, {})[seed] = read_metrics(folder / "rlso")["reward"].values
    for name, ours in ((row.name, measurement.name), *((one, one) for one in FLOORS)):
        run.users.setdefault(name, {})[seed] = users
        run.values.setdefault(name, {})[seed] = measured.rankings[ours].values
