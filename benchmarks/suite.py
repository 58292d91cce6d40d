"""A suite: a table of results as a YAML file, beside the numbers that were published for it."""

from collections.abc import Collection, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from reclm import plugins
from reclm.benchmarks.controls import CONTROLS, Control
from reclm.benchmarks.search import Search
from reclm.benchmarks.trial import Plan, SelectOn
from reclm.config import Config
from reclm.data.dataset import ProfileKind
from reclm.errors import ReclmError, unknown
from reclm.recommend.evaluate import DEFAULT_METRICS
from reclm.recommend.metrics import BEYOND, parse
from reclm.recommend.training import TrainConfig

METRICS = (*DEFAULT_METRICS, "map@20", "coverage@20", "novelty@20", "lift@20")
"""What is measured unless a suite says otherwise."""

FOLDER = Path(__file__).parent / "suites"


def checked_names(names: list[str]) -> list[str]:
    """The names of a suite's rows.

    Raises:
        ValueError: where two are the same, or one has a character that a terminal would obey.
    """
    if len(set(names)) < len(names):
        raise ValueError(f"two rows have the same name: {', '.join(names)}")
    if bad := [name for name in names if not name.isprintable()]:
        raise ValueError(f"a row's name has a control character: {bad[0]!r}")
    return names


def chosen_names(names: Sequence[str], patterns: Sequence[str]) -> set[str]:
    """Those of the rows' names that are given, or matched by a pattern as ``LightGCN*``.

    Raises:
        ReclmError: for a pattern that matches none.
    """
    found = {
        pattern: {name for name in names if pattern == name or fnmatchcase(name, pattern)}
        for pattern in patterns
    }
    for pattern, some in found.items():
        if not some:
            raise unknown("row", pattern, names)
    return set().union(*found.values())


def told_rows(note: str, kept: int, of: int) -> str:
    """The note of a suite of which only some rows are run."""
    if kept == of:
        return note
    end = " " if note.endswith(".") else "; "
    return f"{note}{end}{kept} of its {of} rows were asked for".removeprefix("; ")


class Profiles(Config):
    """Profiles that a row is augmented with; see :class:`~reclm.profiles.ensure.ProfilerChoice`."""

    profiler: str = "zero-shot"
    settings: dict[str, Any] = Field(default_factory=dict)
    model: str | None = None
    engine: str | None = None
    adapter: Path | None = None
    """Of a tuned profiler; a relative path starts where the command runs."""
    limit: int | None = Field(default=None, ge=0)
    """Missing profiles are written of the first so many users, and items, 0 for all. By default of 300 with a
    language model and of all without one."""
    kinds: tuple[ProfileKind, ...] = ("user", "item")
    """The sides that are augmented."""
    store: Path | None = None
    """A store to take as it is: nothing is generated."""
    control: Control | None = None
    """What takes the profiles' place, for whoever has one (see :mod:`reclm.benchmarks.controls`)."""


class Row(Config):
    """A line of the table: a backbone with its options."""

    name: str
    """What the table calls it."""
    backbone: str
    """A plug-in."""
    model: dict[str, Any] = Field(default_factory=dict)
    """Options of the backbone, over those of the suite."""
    train: dict[str, Any] = Field(default_factory=dict)
    """Options of its training, over those of the suite."""
    profiles: Profiles | None = None
    """None: the plain backbone."""
    against: str | None = None
    """The row that it is compared with; by default the one that is the same but for having no profiles."""
    absent: str = ""
    """Why it cannot run here; it is shown, and not run."""
    published: dict[str, dict[str, float]] = Field(default_factory=dict)
    """Protocol and metric to the published number."""
    published_seconds: float | None = None
    """Of an epoch."""
    note: str = ""
    """Where this row differs from what was published."""


class Suite(Config):
    """What a suite file says."""

    title: str
    dataset: str
    """A prepared data set, or one that comes with the toolkit."""
    source: str = ""
    """Where the published numbers stand."""
    comparable: bool = True
    """Whether these are of this data and protocol; if not, no difference to them is told."""
    note: str = ""
    """Where all rows differ from what was published."""
    seeds: int = Field(default=1, ge=1)
    """Runs a row, seeded 0, 1, …"""
    metrics: tuple[str, ...] = Field(default=METRICS, min_length=1)
    select_on: SelectOn = "valid"
    """What chooses the epoch; ``test`` flatters."""
    encoder: str | None = None
    """Of item text and profiles; by default the one that comes with the toolkit."""
    model: dict[str, Any] = Field(default_factory=dict)
    """Options of all backbones that have them."""
    train: dict[str, Any] = Field(default_factory=dict)
    """Options of every row's training."""
    search: Search | None = None
    """Search options for every row alike before its seeds run; None: they run with what the file says."""
    rows: tuple[Row, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _consistent(self) -> "Suite":
        names = checked_names([row.name for row in self.rows])
        for metric in self.metrics:
            name, k = parse(metric)
            if metric != f"{name}@{k}":
                raise ValueError(f"metric {metric!r} is written {name}@{k}")
        if len(set(self.metrics)) < len(self.metrics):
            raise ValueError(f"a metric is named twice: {', '.join(self.metrics)}")
        for row in self.rows:
            for protocol, numbers in row.published.items():
                for metric in numbers:
                    if metric not in self.metrics:
                        raise ValueError(f"row {row.name!r}, {protocol}: {metric} is not among the metrics")
            if row.against is not None and row.against not in names:
                raise unknown(f"row that row {row.name!r} is against", row.against, names)
        return self

    def base(self, row: Row) -> str | None:
        """The row that a row is compared with, if there is one."""
        if row.against is not None or row.profiles is None:
            return row.against
        return self._same(row, None)

    def stands_for(self, row: Row) -> str | None:
        """The row in whose profiles' place a control stands, if there is one."""
        if row.profiles is None or row.profiles.control is None:
            return None
        return self._same(row, row.profiles.model_copy(update={"control": None}))

    def _same(self, row: Row, profiles: Profiles | None) -> str | None:
        """The first row of the same backbone and options with these profiles."""
        what = (row.backbone, row.model, row.train, profiles)
        return next(
            (one.name for one in self.rows if (one.backbone, one.model, one.train, one.profiles) == what),
            None,
        )


def suite_names() -> list[str]:
    """The suites that come with the toolkit."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def suite_path(name_or_path: str) -> Path:
    """The file of a suite of the toolkit by name, or of any by its path.

    Raises:
        ReclmError: for an unknown name.
    """
    path = Path(name_or_path)
    if path.suffix in (".yaml", ".yml"):
        return path
    if name_or_path not in suite_names():
        raise unknown("suite", name_or_path, suite_names())
    return FOLDER / f"{name_or_path}.yaml"


def load_suite(name_or_path: str) -> Suite:
    """A suite of backbones; see :func:`suite_path`.

    Raises:
        ReclmError: if there is none, or it says something that no suite can.
    """
    return Suite.from_yaml(suite_path(name_or_path))


def changed(
    suite: Suite,
    dataset: str | None = None,
    seeds: int | None = None,
    epochs: int | None = None,
    search: int | None = None,
    rows: Collection[str] = (),
    kind: ProfileKind | None = None,
) -> Suite:
    """The suite with another data set, number of seeds, most epochs or trials of a search, where these are given.

    Of ``rows``, names or patterns, it keeps those alone, and what they are compared with. With ``kind`` it has the
    profiles of that side only, and no rows that have none of them.

    Published numbers are of the suite's own data set: beside another one's they are shown, and not compared.
    """
    if rows:
        names = chosen_names([row.name for row in suite.rows], list(rows))
        bases = {row.name: suite.base(row) for row in suite.rows}
        while bring := {base for name in names if (base := bases[name])} - names:
            names |= bring
        kept = tuple(row for row in suite.rows if row.name in names)
        note = told_rows(suite.note, len(kept), len(suite.rows))
        suite = suite.model_copy(update={"rows": kept, "note": note})
    if kind is not None:
        kept = tuple(
            row.model_copy(
                update={"profiles": row.profiles and row.profiles.model_copy(update={"kinds": (kind,)})}
            )
            for row in suite.rows
            if row.profiles is None or kind in row.profiles.kinds
        )
        note = f"{suite.note}; {kind} profiles alone, whatever the rows are called".removeprefix("; ")
        suite = suite.model_copy(update={"rows": kept, "note": note})
    update: dict[str, Any] = {}
    if dataset is not None and Path(dataset).name != Path(suite.dataset).name:
        update["comparable"] = False
        if any(row.published or row.published_seconds for row in suite.rows):
            update["note"] = f"{suite.note}; the published numbers are of {suite.dataset}".removeprefix("; ")
    if dataset is not None:
        update["dataset"] = dataset
    if seeds is not None:
        update["seeds"] = seeds
    if search is not None:
        update["search"] = (suite.search or Search()).model_copy(update={"trials": search})
    if epochs is not None:
        update["train"] = suite.train | {"epochs": epochs}
        update["rows"] = tuple(
            row.model_copy(update={"train": {key: row.train[key] for key in row.train if key != "epochs"}})
            for row in suite.rows
        )
    return suite.model_copy(update=update)


def with_controls(suite: Suite) -> Suite:
    """The suite with a row for each control of each row that has profiles.

    Keywords, which are a control themselves, are set against the others.
    """
    rows: list[Row] = []
    names = {row.name for row in suite.rows}
    for row in suite.rows:
        rows.append(row)
        given = row.profiles
        if given is None or given.control or row.absent:
            continue
        rows += [
            row.model_copy(
                update={
                    "name": f"{row.name}, {control}",
                    "profiles": given.model_copy(update={"control": control}),
                    "against": suite.base(row),
                    "published": {},
                    "published_seconds": None,
                    "note": "",
                }
            )
            for control in CONTROLS
            if control != given.profiler and f"{row.name}, {control}" not in names
        ]
    return suite.model_copy(update={"rows": tuple(rows)})


def row_plan(suite: Suite, row: Row) -> Plan:
    """What a row's cells do.

    Raises:
        ReclmError: for an unknown backbone, option or metric, naming the row.
    """
    where = f"row {row.name!r}"
    config = plugins.get("backbone", row.backbone).Config
    shared = {key: value for key, value in suite.model.items() if key in config.model_fields}
    model = shared | row.model
    config.build(model, where=f"{where}: backbone {row.backbone}")
    train = TrainConfig.build(suite.train | row.train, where=f"{where}: training")
    if parse(train.metric)[0] in BEYOND:
        raise ReclmError(
            f"{where}: training: metric = {train.metric!r} says nothing of hits, and cannot choose an epoch; "
            "take one that does, as ndcg@20"
        )
    return Plan(
        backbone=row.backbone, model=model, train=train, select_on=suite.select_on, metrics=suite.metrics
    )
