"""The files of a run's folder: ``about.json``, ``results.parquet`` (a row for each row, seed, protocol and metric),
``users.parquet`` (for each row, seed, protocol and user, a column for each metric), ``history.parquet`` (for each row,
seed and epoch) and, where there are any, ``examples.json``, ``profiles.json`` and ``data.json`` for the report."""

import json
from collections.abc import Collection, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import Field, model_validator

from reclm.benchmarks.results import PROFILE, Result, RunInfo, TrialResult
from reclm.config import Config
from reclm.data.dataset import ProfileKind
from reclm.errors import Damaged, NotFound
from reclm.files import CHECKSUMS, atomic_change, check_files, write_checksums
from reclm.folders import check_folder, make_folder, to_path
from reclm.recommend.check import DataCheck
from reclm.recommend.metrics import METRICS, parse

ABOUT, EXAMPLES, PROFILES, DATA = "about.json", "examples.json", "profiles.json", "data.json"
FILES = (ABOUT, "results.parquet", "users.parquet", "history.parquet", EXAMPLES, PROFILES, DATA)
"""The files that are read again; ``checksums.json`` tells whether they are as they were written."""

_TRIAL = ("best_epoch", "epochs", "seconds", "epoch_seconds", "key")
_COLUMNS = {
    **{"row": pa.string(), "seed": pa.int64(), "protocol": pa.string(), "metric": pa.string()},
    **{"value": pa.float64(), "best_epoch": pa.int64(), "epochs": pa.int64()},
    **{"seconds": pa.float64(), "epoch_seconds": pa.float64(), "key": pa.string()},
}
_KEY = ("row", "seed", "protocol")
_EPOCH = {"row": pa.string(), "seed": pa.int64()}
_USER = {**_EPOCH, "protocol": pa.string(), "user_id": pa.string(), "activity": pa.int64()}


class Example(Config):
    """A user: their history, the profile that was written for them, and what each row recommends them."""

    user_id: str
    history: tuple[str, ...]
    """Item texts, the newest first."""
    profile: str | None = None
    top: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Row to the texts of the items that it ranks highest, the best first."""
    hits: dict[str, tuple[bool, ...]] = Field(default_factory=dict)
    """Row to whether each of those is in the user's test part; a row that is not in it has no hit."""

    @model_validator(mode="after")
    def _consistent(self) -> "Example":
        for row, hits in self.hits.items():
            if len(hits) != (items := len(self.top.get(row, ()))):
                raise ValueError(f"{row}: {len(hits)} hits of {items} items")
        return self

    def ranked(self, row: str) -> list[tuple[str, bool]]:
        """Return the items of a row, each with whether it is a hit."""
        return list(zip(self.top[row], self.hits.get(row, (False,) * len(self.top[row])), strict=True))


class Quality(Config):
    """Measures of the profiles of one writer and kind; None: not measured."""

    writer: str
    kind: ProfileKind
    profiles: int = Field(ge=0)
    distinct: int | None = Field(default=None, ge=0)
    """Different texts."""
    words: float | None = Field(default=None, ge=0)
    """Mean words of a profile."""
    in_format: float | None = Field(default=None, ge=0, le=1)
    """The share that has the format asked for."""
    prompt_tokens: int | None = Field(default=None, ge=0)
    """Sum over all prompts, as ``new_tokens`` and ``seconds``."""
    new_tokens: int | None = Field(default=None, ge=0)
    seconds: float | None = Field(default=None, ge=0)


Key = tuple[str, int, str]
Users = tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]
"""Ids, activities, and values by metric; also ``profile``: 1 or 0."""
Extra = TypeVar("Extra", Example, Quality)


def make_run_folder(folder: str | Path | None) -> None:
    """Make the folder of a run, if one is named, or refuse one that cannot be made or holds something else."""
    if folder is not None:
        check_folder(place := to_path(folder, "out"), "about.json", "a run", "--out")
        make_folder(place, "--out")


def save(result: Result, folder: Path) -> None:
    """Write a run, whole or not at all; what else is in the folder of a run stays."""
    make_run_folder(folder)
    with atomic_change(folder, (*FILES, CHECKSUMS)) as draft:
        write(result, draft)


def write(result: Result, folder: Path) -> None:
    """Write the files of a run into an empty folder."""
    _write_json(folder / "about.json", result.about.model_dump(mode="json"))
    for name, rows in ((EXAMPLES, result.examples), (PROFILES, result.quality)):
        if rows:
            _write_json(folder / name, [row.model_dump(mode="json") for row in rows])
    if result.data is not None:
        _write_json(folder / DATA, result.data.model_dump(mode="json"))
    numbers, users = [], []
    for key, trial in result.trials.items():
        fixed = dict(zip(_KEY, key, strict=True))
        about = {name: getattr(trial, name) for name in _TRIAL}
        for metric, value in trial.means.items():
            numbers.append({**fixed, "metric": metric, "value": None if np.isnan(value) else value, **about})
        n, ids = len(trial.user_ids), pa.array(trial.user_ids.tolist(), pa.string())
        repeated = {name: pa.repeat(pa.scalar(fixed[name], _COLUMNS[name]), n) for name in _KEY}
        known = {} if trial.profiled is None else {PROFILE: trial.profiled}
        about_users = {"user_id": ids, "activity": trial.activity, **known, **trial.values}
        users.append(pa.table({**repeated, **about_users}))
    schema = pa.schema(list(_COLUMNS.items()))
    pq.write_table(pa.Table.from_pylist(numbers, schema), folder / "results.parquet")
    if users:
        table = pa.concat_tables(users, promote_options="permissive")
        pq.write_table(table, folder / "users.parquet", compression="zstd")
    steps = [({"row": row, "seed": seed}, epochs) for (row, seed), epochs in result.history.items()]
    epochs = [key | epoch for key, logged in steps for epoch in logged]
    names = dict.fromkeys(name for epoch in epochs for name in epoch)
    history = pa.table({name: [epoch.get(name) for epoch in epochs] for name in names})
    pq.write_table(history, folder / "history.parquet")
    write_checksums(folder, FILES)


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False), encoding="utf-8")


def load(folder: Path) -> Result:
    """Load a run."""
    path = folder / "about.json"
    if not path.is_file():
        message = f"no run in {folder} (it has no about.json); reclm bench writes one"
        raise NotFound(message, value=folder, where=path)
    check_files(folder, "run", "run reclm bench again")
    try:
        about = RunInfo.build(json.loads(path.read_text(encoding="utf-8")), where=str(path))
        path = folder / "users.parquet"
        users = _read_users(_read_table(path, _USER, numbers=True)) if path.is_file() else {}
        path = folder / "results.parquet"
        trials = _read_trials(_read_table(path, _COLUMNS, {"value"}), users, about.metrics)
        history: dict[tuple[str, int], list[dict[str, float]]] = {}
        path = folder / "history.parquet"
        for epoch in _read_table(path, _EPOCH, numbers=True).to_pylist():
            known = {name: value for name, value in epoch.items() if value is not None}
            history.setdefault((known.pop("row"), known.pop("seed")), []).append(known)
        path = folder / EXAMPLES
        examples = _read_list(path, Example)
        path = folder / PROFILES
        quality = _read_list(path, Quality)
        path, data = folder / DATA, None
        if path.is_file():
            data = DataCheck.build(json.loads(path.read_text(encoding="utf-8")))
        path = folder / "results.parquet"
        _check_complete(about, trials, users)
    except (
        OSError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        pa.ArrowException,
        RecursionError,
    ) as error:
        reason = f"no {error}" if type(error) is KeyError else " ".join(str(error).split())[:300]
        message = f"{path} is damaged, or of another version ({reason}); run reclm bench again"
        raise Damaged(message, where=path) from error
    return Result(about, trials, history, examples, quality, data, folder)


def _read_table(
    path: Path, columns: Mapping[str, pa.DataType], nulls: Collection[str] = (), numbers: bool = False
) -> pa.Table:
    """Return a table, these columns first; further ones hold ``numbers``, or say who has a profile.

    ValueError where a column lacks or has another type, and for nulls in those that are not in ``nulls``.
    """
    table = pq.read_table(path)
    if not table.num_columns:  # no epoch was logged
        return table
    names = table.column_names
    if lost := columns.keys() - {*names}:
        raise ValueError(f"no column {min(lost)}")
    if len({*names}) < len(names):
        raise ValueError("two columns have the same name")
    for field, column in zip(table.schema, table.columns, strict=True):
        whole, real = pa.types.is_integer(field.type), pa.types.is_floating(field.type)
        kind = columns.get(field.name)
        if kind is None:
            fits = not numbers or whole or real or pa.types.is_null(field.type)
            fits |= field.name == PROFILE and pa.types.is_boolean(field.type)
        else:
            number = whole or (real and pa.types.is_floating(kind))
            fits = field.type == kind or (number and not pa.types.is_string(kind))
            fits &= field.name in nulls or not column.null_count
        if not fits:
            raise ValueError(f"column {field.name} has type {field.type}, and {column.null_count} nulls")
    return table.select([*columns, *(name for name in names if name not in columns)])


def _check_complete(about: RunInfo, trials: dict[Key, TrialResult], users_of: Mapping[Key, Any]) -> None:
    """Raise ValueError where users have no results, or a result has no users."""
    if lost := sorted(users_of.keys() - trials.keys()):
        raise ValueError(f"no results of row {lost[0][0]!r}")
    for (row, seed, protocol), trial in trials.items():
        means = [trial.overall.get(metric, np.nan) for metric in about.metrics if parse(metric)[0] in METRICS]
        if not len(trial.user_ids) and np.isfinite(means).any():
            raise ValueError(f"no users of row {row!r}, seed {seed}, {protocol}")


def _read_list(path: Path, kind: type[Extra]) -> tuple[Extra, ...]:
    if not path.is_file():
        return ()
    rows = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError("it should hold a list of mappings")
    return tuple(kind.build(row, where=f"number {at}") for at, row in enumerate(rows, start=1))


def _read_trials(
    table: pa.Table, users: dict[Key, Users], metrics: tuple[str, ...]
) -> dict[Key, TrialResult]:
    numbers: dict[Key, list[dict[str, Any]]] = {}
    for row in table.to_pylist():
        numbers.setdefault((row["row"], row["seed"], row["protocol"]), []).append(row)
    trials: dict[Key, TrialResult] = {}
    for key, rows in numbers.items():
        ids, activity, values = users.get(key, (np.empty(0, object), np.empty(0, np.int64), {}))
        measured = {row["metric"]: float("nan") if row["value"] is None else row["value"] for row in rows}
        trials[key] = TrialResult(
            user_ids=ids,
            activity=activity,
            profiled=values[PROFILE].astype(bool) if PROFILE in values else None,
            values={name: column for name, column in values.items() if name in measured and name in metrics},
            overall={name: value for name, value in measured.items() if name not in values},
            **{name: rows[0][name] for name in _TRIAL},
        )
    return trials


def _read_users(table: pa.Table) -> dict[Key, Users]:
    """Return the rows of ``users.parquet`` by trial; those of a trial are contiguous, as they were written."""
    if not table.num_rows:
        return {}
    codes = [pc.dictionary_encode(table.column(name)).combine_chunks().indices.to_numpy() for name in _KEY]
    change = np.any([np.diff(code) != 0 for code in codes], axis=0)
    starts = [0, *(np.flatnonzero(change) + 1).tolist(), table.num_rows]
    users: dict[Key, Users] = {}
    for start, stop in pairwise(starts):
        part = table.slice(start, stop - start)
        row, seed, protocol, ids, activity, *columns = part.columns
        named = zip(part.column_names[5:], columns, strict=True)
        known = {name: column for name, column in named if column.null_count < len(part)}
        values = {name: column.to_numpy().astype(np.float32) for name, column in known.items()}
        key = (row[0].as_py(), seed[0].as_py(), protocol[0].as_py())
        if key in users or pc.count_distinct(ids).as_py() < len(ids):
            raise ValueError(f"users of row {key[0]!r}, seed {key[1]}, {key[2]} occur twice")
        if wrong := [name for name, column in values.items() if np.isinf(column).any()]:
            raise ValueError(f"{wrong[0]} of a user is infinite")
        users[key] = (ids.to_numpy(), activity.to_numpy(), values)
    return users
