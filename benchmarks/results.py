"""A finished run: all that shows results (tables, figures, reports, trackers) reads a :class:`Result` alone."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from pydantic import Field

from reclm.config import Config
from reclm.data.dataset import ProfileKind
from reclm.errors import BadInput, NotFound, unknown
from reclm.folders import to_path

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.console import Console, ConsoleOptions, RenderResult

    from reclm.benchmarks.result_files import Example, Quality
    from reclm.benchmarks.verdict import Verdict
    from reclm.recommend.check import DataCheck

HEADLINE = "ndcg@20"
"""The metric that the verdict is about, where it was measured."""
KEPT = "fusion in "
"""Prefix of a protocol in what a row with ``fusion="auto"`` chose."""
SHOWN = ("NDCG@20", "Recall@20")
"""Metrics of :meth:`Result.table`, those of them that were measured."""
PROFILE = "profile"
"""Column of users that says who has a profile; there are none in rows without profiles of users."""


class SearchTrial(Config):
    """Options that a search tried for a row (:mod:`reclm.benchmarks.search`)."""

    options: dict[str, Any]
    value: float | None = None
    """The best epoch's validation value; None: it failed, for the reason ``error``."""
    new_value: float | None = None
    """That on new validation items; None where there are none."""
    error: str = ""


class ResultRow(Config):
    """A row of the table."""

    name: str
    backbone: str = ""
    baseline: bool = False
    """It is not trained: popularity, random order."""
    reference: bool = False
    """It costs seconds: EASE, neighbours, iALS."""
    against: tuple[str, ...] = ()
    """The rows that it is compared with. The first is its base: the same without profiles, say."""
    control: str | None = None
    """The control in place of the profiles (``shuffled``, ``random``, …); None: it is no control."""
    stands_for: str | None = None
    """The row that a control belongs to; None: every row of the same base."""
    writer: str | None = None
    """The profiler, with its model, that wrote its profiles."""
    kinds: tuple[ProfileKind, ...] = ()
    """The sides that have profiles."""
    coverage: dict[ProfileKind, tuple[int, int]] = Field(default_factory=dict)
    """For each side: how many have a profile, and how many there are."""
    published: dict[str, dict[str, float]] = Field(default_factory=dict)
    """Protocol and metric to the published number; ``published_seconds`` are those of an epoch."""
    published_seconds: float | None = None
    note: str = ""
    """Differences from the published setting."""
    absent: str = ""
    """Why it was not run here; it has no numbers then."""
    most_epochs: int = 0
    """The most epochs that it may train; 0: no bound."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Every option of its backbone and training by name, those that a search chose included."""
    trials: tuple[SearchTrial, ...] = ()
    """The trials of its search, failed ones included."""
    chosen: dict[str, Any] = Field(default_factory=dict)
    """Options of the best trial of the search or, without one, those that the backbone chose on validation,
    and the fusion that ``auto`` did for each protocol (:data:`KEPT`)."""

    @property
    def base(self) -> str | None:
        """The row that the verdict compares it with; None where there is none."""
        return self.against[0] if self.against else None


class ProtocolInfo(Config):
    """A protocol, or a subgroup of the ranking of ``part_of``."""

    name: str
    users: int
    candidates: int
    part_of: str | None = None


class Failure(Config):
    """A trial that failed."""

    row: str
    seed: int
    reason: str


class RunInfo(Config):
    """The settings and the origin of a run: everything that is not a measured value."""

    title: str
    dataset: str
    fingerprint: str
    source: str = ""
    """Source of the published numbers."""
    comparable: bool = True
    """True if they are of the same data and protocol; if not, no differences to them are shown."""
    selected_on: str = ""
    """The part that chose the best epoch, in words; empty: none did."""
    seeds: int = 1
    first_look: int | None = None
    """The fewest seeds after which ``seeds: auto`` could have stopped; None: their number was fixed beforehand."""
    metrics: tuple[str, ...]
    protocols: tuple[ProtocolInfo, ...]
    rows: tuple[ResultRow, ...]
    remarks: tuple[str, ...] = ()
    failures: tuple[Failure, ...] = ()
    suite: dict[str, Any] = Field(default_factory=dict)
    """The suite, as it ran."""
    environment: dict[str, Any] = Field(default_factory=dict)

    @property
    def whole(self) -> tuple[ProtocolInfo, ...]:
        """The protocols without their subgroups."""
        return tuple(protocol for protocol in self.protocols if protocol.part_of is None)


@dataclass(frozen=True, eq=False)
class TrialResult:
    """One row, seed and protocol: values of ``n`` users by metric, float32, with ids and training interactions of each.

    ``profiled`` says who of them has a profile; None where the row reads no profiles of users.
    ``overall`` has numbers that are no mean over users (coverage, say). ``best_epoch`` is 0 where nothing was trained;
    ``seconds`` are of training and evaluation, ``epoch_seconds`` of an epoch (median); ``key`` is the cached trial's.
    """

    user_ids: np.ndarray
    activity: np.ndarray
    values: dict[str, np.ndarray]
    overall: dict[str, float] = field(default_factory=dict)
    best_epoch: int = 0
    epochs: int = 0
    seconds: float = 0.0
    epoch_seconds: float = float("nan")
    key: str = ""
    profiled: np.ndarray | None = None

    @cached_property
    def means(self) -> dict[str, float]:
        """Every metric's mean over the users that have a value (nan where none has), or its overall number."""
        measured = {name: values[~np.isnan(values)] for name, values in self.values.items()}
        means = {name: float(known.mean(dtype=np.float64)) for name, known in measured.items() if len(known)}
        return dict.fromkeys(measured, float("nan")) | means | self.overall


@dataclass(frozen=True, eq=False)
class Result:
    """A finished run. A notebook shows its table, ``print(result.verdict)`` the answer.

    ``trials`` are by row, seed and protocol. ``history`` maps row and seed to the epochs: ``epoch``, ``loss``,
    ``seconds``, selection metrics. ``examples``, ``quality`` (measures of the profiles) and ``data`` (what simple
    recommenders tell of the data set) are for the report. ``folder``: where it was loaded from or saved to.
    """

    about: RunInfo
    trials: dict[tuple[str, int, str], TrialResult]
    history: dict[tuple[str, int], list[dict[str, float]]] = field(default_factory=dict)
    examples: "tuple[Example, ...]" = ()
    quality: "tuple[Quality, ...]" = ()
    data: "DataCheck | None" = None
    folder: Path | None = None

    @classmethod
    def load(cls, folder: str | Path) -> "Result":
        """Load the run that :meth:`save` wrote to ``folder``; NotFound if there is none, Damaged if a file is."""
        from reclm.benchmarks.result_files import load

        return load(to_path(folder, "folder"))

    def save(self, folder: str | Path) -> None:
        """Write the run to ``folder`` (:mod:`reclm.benchmarks.result_files`), whole or not at all.

        What else lies in the folder of a run, such as its models, stays. BadInput if it holds something else.
        """
        from reclm.benchmarks.result_files import save

        save(self, to_path(folder, "folder"))
        object.__setattr__(self, "folder", Path(folder))

    @cached_property
    def verdict(self) -> "Verdict":
        """Return the verdict: ``str()`` is at most two sentences, ``.answers[protocol]`` one of four answers."""
        from reclm.benchmarks.verdict import judge

        return judge(self)

    def table(self, metrics: Sequence[str] = SHOWN) -> pd.DataFrame:
        """Return a row for each protocol and row: means with 95 % intervals, and the change against the base.

        ``change`` is that of the headline metric, ``p`` its p-value, corrected by Holm. A metric that was not measured
        raises NotFound.
        """
        from reclm.benchmarks.report.tables import frame, results

        names = [name.lower() for name in metrics]
        missing = [name for name in names if name not in self.about.metrics]
        if missing and tuple(metrics) != SHOWN:
            raise unknown("metric of this run", missing[0], self.about.metrics)
        names = [name for name in names if name not in missing] or [self.headline]
        return frame(results(self, protocol, names, ("change", "p")) for protocol in self.about.protocols)

    def per_user(self) -> pd.DataFrame:
        """Return a row for each row, seed, protocol and user: ``activity``, and a column for each metric."""
        columns = ["row", "seed", "protocol", "user_id", "activity"]
        shared = [(*key, trial.user_ids, trial.activity) for key, trial in self.trials.items()]
        pairs = zip(shared, self.trials.values(), strict=True)
        parts = [pd.DataFrame(dict(zip(columns, ids, strict=True)) | trial.values) for ids, trial in pairs]
        return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)

    def plot(self) -> "Figure":
        """Draw the headline metric of every row with its 95 % interval, a panel for each protocol."""
        from reclm.benchmarks.report.figures import plot

        return plot(self)

    def to_html(self, path: str | Path) -> None:
        """Write the report as one page that needs no network."""
        from reclm.benchmarks.report.page import html_page
        from reclm.files import write_text

        write_text(to_path(path, "path"), html_page(self))

    def to_latex(self) -> str:
        """Return the tables of results and of comparisons as LaTeX, which needs the package ``booktabs``."""
        from reclm.benchmarks.report.page import latex_page

        return latex_page(self)

    def to_markdown(self) -> str:
        """Return the verdict, the tables and how the run was made as Markdown."""
        from reclm.benchmarks.report.page import markdown_page

        return markdown_page(self)

    @property
    def best(self) -> Any:
        """The trained recommender that the run saved: the one with profiles, else the plain one; NotFound if none."""
        from reclm.recommend.saved import load_model

        models = self.folder / "models" if self.folder else None
        for name in ("augment", "base"):
            if models and (models / name).is_dir():
                return load_model(models / name)
        message = "no model is saved with the run; reclm.compare saves models, suites do not"
        raise NotFound(message, where=models)

    def __repr__(self) -> str:
        about, protocols = self.about, ", ".join(protocol.name for protocol in self.about.whole)
        seeds = f"{about.seeds} seed{'s' * (about.seeds != 1)}"
        return f"<Result {about.title}: {len(about.rows)} rows, {seeds}, {protocols}. {self.verdict}>"

    def _repr_html_(self) -> str:
        table = self.table().to_html(index=False, float_format="{:.4f}".format, na_rep="", border=0)
        return f"<p>{escape(str(self.verdict))}</p>\n{table}"

    def __rich_console__(self, console: "Console", options: "ConsoleOptions") -> "RenderResult":
        from reclm.benchmarks.report.page import terminal

        yield from terminal(self)

    @property
    def headline(self) -> str:
        """The metric that the verdict is about: :data:`HEADLINE` where it was measured, else the first one."""
        if not self.about.metrics:
            raise BadInput("the run has no metric", where=self.folder)
        return HEADLINE if HEADLINE in self.about.metrics else self.about.metrics[0]

    def row(self, name: str) -> ResultRow:
        """Return the row of this name."""
        return {row.name: row for row in self.about.rows}[name]

    def seeds(self, row: str, protocol: str) -> list[int]:
        """Return the seeds that ran."""
        return [seed for name, seed, where in self.trials if (name, where) == (row, protocol)]

    def values(self, row: str, protocol: str, metric: str) -> np.ndarray:
        """Return the finite number of each seed that has one, ``(s,)``."""
        means = [self.trials[row, seed, protocol].means for seed in self.seeds(row, protocol)]
        values = np.array([mean[metric] for mean in means if metric in mean], np.float64)
        return values[np.isfinite(values)]

    def epoch_seconds(self, row: str) -> float:
        """Return the seconds of an epoch without evaluation: the median over seeds, nan where nothing was trained."""
        times = {seed: trial.epoch_seconds for (name, seed, _), trial in self.trials.items() if name == row}
        known = [time for time in times.values() if not np.isnan(time)]
        return float(np.median(known)) if known else float("nan")

    def by_user(self, row: str, protocol: str, metric: str) -> np.ndarray:
        """Return every user's value with each seed, ``(s, n)``; nan where a seed has none of a user."""
        return self.aligned([row], protocol, metric)[1][0]

    def paired(self, before: str, after: str, protocol: str, metric: str) -> tuple[np.ndarray, np.ndarray]:
        """Return every user's values of two rows, ``(s, n)`` each: the same seeds and users in the same order.

        Users who lack a value in one of them (lift without history, say) are left out. Where seeds have users of their
        own (held-out users drawn by seed), nan marks the users that a seed did not draw.
        """
        first, second = self.aligned([before, after], protocol, metric)[1]
        return first, second

    def aligned(self, rows: Sequence[str], protocol: str, metric: str) -> tuple[np.ndarray, list[np.ndarray]]:
        """Return the ids ``(n,)`` of the users that all rows have, and each row's values ``(s, n)`` by common seeds."""
        keys = [[(row, seed, protocol) for row in rows] for seed in self.seeds(rows[0], protocol)]
        groups = [[self.trials[key] for key in group] for group in keys if self.trials.keys() >= set(group)]
        groups = [group for group in groups if all(metric in trial.values for trial in group)]
        if not groups:
            return np.empty(0, object), [np.zeros((0, 0))] * len(rows)
        users = groups[0][0].user_ids
        ids = [trial.user_ids for group in groups for trial in group]
        same = all(np.array_equal(user_ids, users) for user_ids in ids)
        if not same:
            users = np.unique(np.concatenate(ids).astype(str))
        arrays = [np.full((len(groups), len(users)), np.nan) for _ in rows]
        for at, group in enumerate(groups):
            for values, trial in zip(arrays, group, strict=True):
                places = slice(None) if same else np.searchsorted(users, trial.user_ids.astype(str))
                values[at, places] = trial.values[metric]
        known = ~np.isnan(sum(arrays))
        if same and len(rows) > 1:
            chosen = known.all(0)
            return users[chosen], [values[:, chosen] for values in arrays]
        index = np.ix_(known.any(1), known.any(0))
        return users[index[1][0]], [np.where(known, values, np.nan)[index] for values in arrays]
