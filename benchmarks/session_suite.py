"""A suite of rankings by text: users' sessions, ranked by profiles that a language model writes, or without one."""

from collections.abc import Collection
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from reclm.benchmarks.suite import checked_names, chosen_names, suite_path, told_rows
from reclm.config import Config, merged, read_yaml
from reclm.errors import ReclmError, unknown
from reclm.profilers.langptune.config import LangPTuneConfig
from reclm.profilers.langptune.evaluation import METRICS

FLOORS = ("Random", "MostPopular")
"""Rankings that every run measures beside its own."""


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
        if taken := sorted({*names} & {*FLOORS}):
            raise ValueError(
                f"row {taken[0]!r} has the name of a ranking that every run measures; take another"
            )
        for name in {one for pair in self.pairs for one in pair}:
            if name not in {*names, *FLOORS}:
                raise unknown("row", name, names)
        first = self.config(self.rows[0], 0)
        for row in self.rows:
            config = self.config(row, 0)
            if (config.sessions, config.measured) != (first.sessions, first.measured):
                raise ValueError(
                    f"row {row.name!r} ranks other sessions than row {self.rows[0].name!r}: say sessions and "
                    "measured once, in the suite's settings"
                )
            if bool(row.line) != (row.at is not None):
                raise ValueError(f"row {row.name!r}: line and at go together")
            for metric in row.published:
                if metric not in METRICS:
                    raise unknown("metric", metric, METRICS)
        return self

    def config(self, row: SessionRow, seed: int) -> LangPTuneConfig:
        """What a row is, for a seed: a change of what it does not use leaves it as it was, and what it came to."""
        values = merged(merged(self.settings, row.settings), {"seed": seed, "sessions": {"seed": seed}})
        return LangPTuneConfig.build(values, where=f"row {row.name!r}").needed()

    def changed(
        self,
        dataset: str | None = None,
        seeds: int | None = None,
        epochs: int | None = None,
        rows: Collection[str] = (),
    ) -> "SessionSuite":
        """The suite with another data set or number of seeds, or some of its rows and what they are compared with,
        where these are given.

        Published numbers are of other data in any case: they are shown, and not compared.

        Raises:
            ReclmError: for epochs, which it has none of, and for a row that it has not.
        """
        if epochs is not None:
            raise ReclmError(
                "--epochs does not go with a suite of sessions; its file says cl.steps and rlso.steps"
            )
        update: dict[str, Any] = {"seeds": seeds} if seeds is not None else {}
        if dataset is not None:
            update["dataset"] = dataset
            if Path(dataset).name != Path(self.dataset).name:
                update["title"] = f"{self.title}; here: {Path(dataset).name}"
        if rows:
            names = chosen_names([row.name for row in self.rows], list(rows))
            names |= {first for first, second in self.pairs if second in names}
            kept = tuple(row for row in self.rows if row.name in names)
            there = names | set(FLOORS)
            update |= {
                "rows": kept,
                "pairs": tuple(pair for pair in self.pairs if there.issuperset(pair)),
                "note": told_rows(self.note, len(kept), len(self.rows)),
            }
        return self.model_copy(update=update)


def load_session_suite(name_or_path: str) -> SessionSuite | None:
    """A suite of sessions (see :func:`~reclm.benchmarks.suite.suite_path`); None if it is one of backbones.

    Raises:
        ReclmError: if there is none, or it says something that no suite can.
    """
    path = suite_path(name_or_path)
    return SessionSuite.from_yaml(path) if "kind" in read_yaml(path) else None
