"""What a run of a benchmark came to, whatever ran: its lines, every user's values, and how it was made.

Everything that shows results (tables, pictures, reports) reads a :class:`Result`, and nothing else.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import Field, field_validator

from reclm.config import Config
from reclm.data.dataset import ProfileKind
from reclm.errors import NotFound, ReclmError

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

    from reclm.benchmarks.verdict import Verdict

HEADLINE = "ndcg@20"
"""The metric that a verdict is about, where it was measured."""


class SearchTrial(Config):
    """Options that a search tried for a line (:mod:`reclm.benchmarks.search`)."""

    options: dict[str, Any]
    value: float | None = None
    """The best epoch's validation value; None: it failed."""
    error: str = ""
    """Why it failed."""


class ResultRow(Config):
    """A line of the table."""

    name: str
    backbone: str = ""
    baseline: bool = False
    """It does not learn: what anyone gets."""
    against: tuple[str, ...] = ()
    """The rows that it is compared with. The first is its base: the same without profiles, say."""
    control: str | None = None
    """What stands in the place of a language model's profiles (``shuffled``, ``random``, …); None: no control."""
    stands_for: str | None = None
    """The line that a control is of; None: any that is compared with the same line."""
    writer: str | None = None
    """Of its profiles."""
    kinds: tuple[ProfileKind, ...] = ()
    """The sides that have profiles."""
    coverage: dict[ProfileKind, tuple[int, int]] = Field(default_factory=dict)
    """How many of a side have a profile, of how many."""
    published: dict[str, dict[str, float]] = Field(default_factory=dict)
    """Protocol and metric to the published number."""
    published_seconds: float | None = None
    """Of an epoch."""
    note: str = ""
    """Where it differs from what was published."""
    absent: str = ""
    """Why it was not run here; it has no numbers then."""
    most_epochs: int = 0
    """That a training of it may take; 0 where nothing ends it early."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Every option of its backbone and training by dotted name, those that a search chose included."""
    trials: tuple[SearchTrial, ...] = ()
    """What a search tried, failed ones included; none where nothing was searched."""
    chosen: dict[str, Any] = Field(default_factory=dict)
    """The options that it chose of them."""

    @field_validator("against", mode="before")
    @classmethod
    def _names(cls, value: Any) -> Any:
        return () if value is None else (value,) if isinstance(value, str) else value

    @property
    def base(self) -> str | None:
        """The row that the verdict compares it with; None where there is none."""
        return self.against[0] if self.against else None


class ProtocolInfo(Config):
    """A protocol: who is ranked for, and among how many items."""

    name: str
    users: int
    candidates: int
    part_of: str | None = None
    """The protocol whose ranking this is a slice of."""


class Failure(Config):
    """A training that failed."""

    row: str
    seed: int
    reason: str


class RunInfo(Config):
    """What ran: all that is not a number of a user."""

    title: str
    dataset: str
    fingerprint: str
    source: str = ""
    """Where the published numbers stand."""
    comparable: bool = True
    """Whether they are of the same data and protocol: if not, ours are shown beside them and not measured by them."""
    selected_on: str = ""
    """What chose the epoch, in words; empty where nothing did."""
    seeds: int = 1
    metrics: tuple[str, ...]
    protocols: tuple[ProtocolInfo, ...]
    rows: tuple[ResultRow, ...]
    remarks: tuple[str, ...] = ()
    """What a reader must know besides."""
    failures: tuple[Failure, ...] = ()
    suite: dict[str, Any] = Field(default_factory=dict)
    """The suite's file, as it ran."""
    environment: dict[str, Any] = Field(default_factory=dict)
    """Machine and versions."""

    @property
    def whole(self) -> tuple[ProtocolInfo, ...]:
        """The protocols themselves, without slices of them."""
        return tuple(one for one in self.protocols if one.part_of is None)


@dataclass(frozen=True, eq=False)
class TrialResult:
    """One line, seed and protocol.

    Attributes:
        user_ids: ``(n,)`` str, who was ranked for.
        activity: ``(n,)`` int, training interactions of each.
        values: metric to ``(n,)`` float32.
        overall: metric to a number that is not a mean over users (coverage, say).
        best_epoch: 0 where nothing was trained.
        epochs: how many were trained; ``seconds`` of training and evaluation, ``epoch_seconds`` of an epoch (median).
        key: of the kept cell.
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

    def means(self) -> dict[str, float]:
        """Every metric: its mean over the users that have a value (nan where none has), or the number of the whole."""
        return self._means

    @cached_property
    def _means(self) -> dict[str, float]:  # tables ask for every metric of every cell again and again
        kept = {name: one[~np.isnan(one)] for name, one in self.values.items()}
        means = {
            name: float(one.mean(dtype=np.float64)) if len(one) else float("nan")
            for name, one in kept.items()
        }
        return means | self.overall


@dataclass(frozen=True, eq=False)
class Result:
    """A run.

    Attributes:
        about: what ran.
        cells: by line, seed and protocol.
        history: line and seed to the rows of its epochs (``epoch``, ``loss``, ``seconds``, selection metrics).
    """

    about: RunInfo
    cells: dict[tuple[str, int, str], TrialResult]
    history: dict[tuple[str, int], list[dict[str, float]]] = field(default_factory=dict)
    folder: Path | None = None
    """The folder that it was loaded from or saved to."""

    @cached_property
    def verdict(self) -> "Verdict":
        """Did the profiles help? ``str()`` is at most two sentences; ``.answers[protocol]`` is one of four words."""
        from reclm.benchmarks.verdict import judge

        return judge(self)

    def table(self, metrics: Sequence[str] = ("NDCG@20", "Recall@20")) -> "DataFrame":
        """Return a row for each protocol and row: each metric's mean and 95 % interval, change and p against the base.

        ``change`` and ``p`` are those of the headline metric; ``p`` is corrected by Holm.
        """
        import pandas as pd

        from reclm.benchmarks.significance import over_users
        from reclm.recommend.metrics import title

        names = [one.lower() for one in metrics]
        names = [one for one in names if one in self.about.metrics] or [self.headline]
        tests = {
            (one.protocol, one.row): one
            for one in self.verdict.differences
            if one.metric == self.headline and one.against == self.row(one.row).base
        }
        rows = []
        for protocol in self.about.protocols:
            for row in self.about.rows:
                if not self.seeds(row.name, protocol.name):
                    continue
                cells: dict[str, Any] = {"protocol": protocol.name, "row": row.name}
                for name in names:
                    values, around = (
                        self.values(row.name, protocol.name, name),
                        over_users(self.by_user(row.name, protocol.name, name)),
                    )
                    cells[title(name)] = float(values.mean()) if len(values) else float("nan")
                    cells[f"{title(name)} low"], cells[f"{title(name)} high"] = (
                        (around.low, around.high) if around else (None, None)
                    )
                test = tests.get((protocol.name, row.name))
                rows.append(
                    cells
                    | {
                        "change": test.change if test else float("nan"),
                        "p": test.p_holm if test else float("nan"),
                    }
                )
        return pd.DataFrame(rows)

    def per_user(self) -> "DataFrame":
        """Return a row for each row, seed, protocol and user: a column for each metric that users have."""
        import pandas as pd

        parts = [
            pd.DataFrame(
                {
                    "row": row,
                    "seed": seed,
                    "protocol": protocol,
                    "user_id": trial.user_ids,
                    "activity": trial.activity,
                    **trial.values,
                }
            )
            for (row, seed, protocol), trial in self.cells.items()
        ]
        return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()

    def plot(self) -> "Figure":
        """Draw the headline metric of every row, a panel for each protocol."""
        from reclm.benchmarks.picture import figure

        return figure(self)

    def to_markdown(self) -> str:
        """Return the verdict and the tables as Markdown."""
        from reclm.benchmarks.suite_table import markdown

        return markdown(self)

    def to_latex(self) -> str:
        """Return the tables as LaTeX (package ``booktabs``)."""
        from reclm.benchmarks.report.numbers import Numbers
        from reclm.benchmarks.report.pages import latex_page

        return latex_page(Numbers(self))

    def to_html(self, path: str | Path) -> None:
        """Write the report as one page that needs no network."""
        from reclm.benchmarks.report.extras import read_examples, read_profiles
        from reclm.benchmarks.report.numbers import Numbers
        from reclm.benchmarks.report.web import html_page

        extras = (read_examples(self.folder), read_profiles(self.folder)) if self.folder else ((), ())
        Path(path).write_text(html_page(Numbers(self), *extras), encoding="utf-8", errors="backslashreplace")

    @property
    def best(self) -> Any:
        """The trained model: the one with profiles where there is one, else the plain one."""
        from reclm.folders import current
        from reclm.recommend import saved

        models = self.folder / "models" if self.folder else None
        for name in ("augment", "base"):
            if models is not None and (models / name).is_dir():
                return saved.load_model(models / name, current())
        raise NotFound("this run kept no models; reclm.compare and reclm bench keep them", where=models)

    def __repr__(self) -> str:
        about = self.about
        held = f"{len(about.rows)} rows, {about.seeds} seeds, {', '.join(one.name for one in about.whole)}"
        return f"<Result {about.title}: {held}. {self.verdict}>"

    def _repr_html_(self) -> str:
        return f"<p>{escape(str(self.verdict))}</p>{self.table().to_html(index=False, float_format='{:.4f}'.format)}"

    @property
    def headline(self) -> str:
        """The metric a verdict is about: :data:`HEADLINE` where it was computed, else the first."""
        return HEADLINE if HEADLINE in self.about.metrics else self.about.metrics[0]

    def row(self, name: str) -> ResultRow:
        """The line of this name."""
        return next(one for one in self.about.rows if one.name == name)

    def seeds(self, line: str, protocol: str) -> list[int]:
        """The seeds that ran."""
        return [seed for name, seed, found in self.cells if (name, found) == (line, protocol)]

    def values(self, line: str, protocol: str, metric: str) -> np.ndarray:
        """The number of each seed that ran, ``(s,)``; empty where none did, or none has the metric."""
        means = [self.cells[line, seed, protocol].means() for seed in self.seeds(line, protocol)]
        found = np.array([one[metric] for one in means if metric in one], np.float64)
        return found[~np.isnan(found)]

    def epoch_seconds(self, line: str) -> float:
        """Seconds of an epoch without evaluation: the median over the seeds, nan where nothing was trained."""
        times = {
            (name, seed): cell.epoch_seconds for (name, seed, _), cell in self.cells.items() if name == line
        }
        known = [one for one in times.values() if not np.isnan(one)]
        return float(np.median(known)) if known else float("nan")

    def paired(self, before: str, after: str, protocol: str, metric: str) -> tuple[np.ndarray, np.ndarray]:
        """Every user's values of two lines, ``(s, n)`` each: the same seeds and users in the same order.

        Users who lack a value (lift without history, say) are left out. Where seeds have users of their own
        (held-out users drawn by seed), values are nan for users whom a seed did not draw. Zero seeds where the lines
        share none.
        """
        both = [one for one in self.seeds(before, protocol) if one in self.seeds(after, protocol)]
        pairs = [(self.cells[before, seed, protocol], self.cells[after, seed, protocol]) for seed in both]
        pairs = [(one, other) for one, other in pairs if metric in one.values and metric in other.values]
        if not pairs:
            return np.zeros((0, 0)), np.zeros((0, 0))
        first = pairs[0][0].user_ids
        if all(np.array_equal(cell.user_ids, first) for pair in pairs for cell in pair):
            one, other = (np.stack([pair[side].values[metric] for pair in pairs]) for side in (0, 1))
            known = ~np.isnan(one + other).any(0)
            return one[:, known].astype(np.float64), other[:, known].astype(np.float64)
        users = np.unique(np.concatenate([cell.user_ids for pair in pairs for cell in pair]).astype(str))
        one, other = (_spread([pair[side] for pair in pairs], metric, users) for side in (0, 1))
        there = ~np.isnan(one + other)
        kept = np.ix_(there.any(1), there.any(0))
        one, other = (np.where(there, values, np.nan)[kept] for values in (one, other))
        return one, other

    def by_user(self, line: str, protocol: str, metric: str) -> np.ndarray:
        """Every user's values of a line with each seed, ``(s, n)``; nan where a seed has none of a user."""
        cells = [self.cells[line, seed, protocol] for seed in self.seeds(line, protocol)]
        cells = [cell for cell in cells if metric in cell.values and len(cell.user_ids)]
        if not cells:
            return np.zeros((0, 0))
        if all(np.array_equal(cell.user_ids, cells[0].user_ids) for cell in cells):
            values = np.stack([cell.values[metric] for cell in cells]).astype(np.float64)
        else:
            users = np.unique(np.concatenate([cell.user_ids for cell in cells]).astype(str))
            values = _spread(cells, metric, users)
        there = ~np.isnan(values)
        return values[np.ix_(there.any(1), there.any(0))]

    def save(self, folder: str | Path) -> None:
        """Write the record: ``about.json``, ``results.parquet``, ``users.parquet`` and ``history.parquet``.

        - ``results.parquet``: a row a line, seed, protocol and metric;
        - ``users.parquet``: a row a line, seed, protocol and user, a column a metric;
        - ``history.parquet``: a row a line, seed and epoch.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        object.__setattr__(self, "folder", folder)
        text = json.dumps(self.about.model_dump(mode="json"), indent=1, ensure_ascii=False)
        (folder / "about.json").write_text(text, encoding="utf-8")
        results, users = [], []
        for (line, seed, protocol), cell in self.cells.items():
            key = {"row": line, "seed": seed, "protocol": protocol}
            kept = {
                name: getattr(cell, name)
                for name in ("best_epoch", "epochs", "seconds", "epoch_seconds", "key")
            }
            results += [
                {**key, "metric": metric, "value": None if np.isnan(value) else value, **kept}
                for metric, value in cell.means().items()
            ]
            fixed = {
                name: pa.array([value] * len(cell.user_ids), _TYPES[name]) for name, value in key.items()
            }
            ids = pa.array(cell.user_ids.tolist(), pa.string())
            users.append(pa.table({**fixed, "user_id": ids, "activity": cell.activity, **cell.values}))
        schema = pa.schema(list(_TYPES.items()))
        pq.write_table(pa.Table.from_pylist(results, schema), folder / "results.parquet")
        (folder / "users.parquet").unlink(missing_ok=True)  # of an earlier run, perhaps
        if users:
            table = pa.concat_tables(users, promote_options="permissive")
            pq.write_table(table, folder / "users.parquet", compression="zstd")
        rows = [
            {"row": line, "seed": seed, **row}
            for (line, seed), epochs in self.history.items()
            for row in epochs
        ]
        names = dict.fromkeys(name for row in rows for name in row)
        columns = {name: [row.get(name) for row in rows] for name in names}
        pq.write_table(pa.table(columns), folder / "history.parquet")

    @classmethod
    def read(cls, folder: str | Path) -> "Result":
        """The record in ``folder``.

        Raises:
            ReclmError: if there is none, or it is damaged.
        """
        folder = Path(folder)
        path = folder / "about.json"
        if not path.is_file():
            raise ReclmError(f"no run in {folder} (it has no about.json); reclm bench writes one")
        try:
            about = RunInfo.build(json.loads(path.read_text(encoding="utf-8")), where=str(path))
            users = folder / "users.parquet"
            blocks = _blocks(pq.read_table(users)) if users.is_file() else {}
            cells = _cells(pq.read_table(folder / "results.parquet"), blocks, about.metrics)
            history: dict[tuple[str, int], list[dict[str, float]]] = {}
            for row in pq.read_table(folder / "history.parquet").to_pylist():
                kept = {name: value for name, value in row.items() if value is not None}
                history.setdefault((kept.pop("row"), kept.pop("seed")), []).append(kept)
        except KeyError as error:
            raise ReclmError(f"the run in {folder} is damaged (no {error}); run reclm bench again") from error
        except (OSError, ValueError, pa.ArrowException) as error:
            raise ReclmError(f"the run in {folder} is damaged ({error}); run reclm bench again") from error
        return cls(about, cells, history, folder)

    load = read


_TYPES = {
    "row": pa.string(),
    "seed": pa.int64(),
    "protocol": pa.string(),
    "metric": pa.string(),
    "value": pa.float64(),
    "best_epoch": pa.int64(),
    "epochs": pa.int64(),
    "seconds": pa.float64(),
    "epoch_seconds": pa.float64(),
    "key": pa.string(),
}


def _spread(cells: list[TrialResult], metric: str, users: np.ndarray) -> np.ndarray:
    """``(s, n)`` values of the users, who are sorted; nan where a cell does not have them."""
    values = np.full((len(cells), len(users)), np.nan)
    for row, cell in zip(values, cells, strict=True):
        row[np.searchsorted(users, cell.user_ids.astype(str))] = cell.values[metric]
    return values


Key = tuple[str, int, str]
Block = tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]


def _cells(results: pa.Table, blocks: dict[Key, Block], metrics: tuple[str, ...]) -> dict[Key, TrialResult]:
    """The rows of ``results.parquet`` as cells, with their users' values."""
    numbers: dict[Key, list[dict[str, Any]]] = {}
    for row in results.to_pylist():
        numbers.setdefault((row["row"], row["seed"], row["protocol"]), []).append(row)
    cells: dict[Key, TrialResult] = {}
    for key, rows in numbers.items():
        ids, activity, values = blocks.get(key, (np.empty(0, object), np.empty(0, np.int64), {}))
        known = {name for row in rows if (name := row["metric"]) in metrics}
        cells[key] = TrialResult(
            user_ids=ids,
            activity=activity,
            values={name: one for name, one in values.items() if name in known},
            overall={
                row["metric"]: float("nan") if row["value"] is None else row["value"]
                for row in rows
                if row["metric"] not in values
            },
            **{name: rows[0][name] for name in ("best_epoch", "epochs", "seconds", "epoch_seconds", "key")},
        )
    return cells


def _blocks(users: pa.Table) -> dict[Key, Block]:
    """The rows of each line, seed and protocol; they stand together, as they were written."""
    if not users.num_rows:
        return {}
    codes = [
        pc.dictionary_encode(users.column(name)).combine_chunks().indices.to_numpy()
        for name in ("row", "seed", "protocol")
    ]
    change = np.any([np.diff(one) != 0 for one in codes], axis=0)
    starts = np.concatenate([[0], np.flatnonzero(change) + 1, [users.num_rows]])
    metrics = [
        name for name in users.column_names if name not in _TYPES and name not in ("user_id", "activity")
    ]
    found = {}
    for start, stop in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True):
        part = users.slice(start, stop - start)
        key = tuple(part.column(name)[0].as_py() for name in ("row", "seed", "protocol"))
        values = {
            name: part.column(name).to_numpy().astype(np.float32)
            for name in metrics
            if part.column(name).null_count < len(part)
        }
        found[key] = (part.column("user_id").to_numpy(), part.column("activity").to_numpy(), values)
    return found
