"""Suites: tables of results as YAML files, beside the numbers that were published for them."""

from collections.abc import Collection, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from reclm import plugins
from reclm.benchmarks.search import Search
from reclm.benchmarks.trial import CONTROLS, Plan, ProfileOptions, SelectOn
from reclm.config import Config, merged, read_yaml
from reclm.data.dataset import Dataset, ProfileKind
from reclm.data.sessions import SessionOptions
from reclm.errors import BadInput, unknown
from reclm.folders import to_path
from reclm.profiles.store import ProfileStore
from reclm.recommend.evaluate import DEFAULT_METRICS
from reclm.recommend.metrics import BEYOND, parse
from reclm.recommend.recipes import RecipeName, recipe_options
from reclm.recommend.training import TrainConfig

METRICS = (*DEFAULT_METRICS, "map@20", "coverage@20", "novelty@20", "lift@20")
"""Measured unless a suite says otherwise."""
FOLDER = Path(__file__).parent / "suites"
REFERENCES = {
    "ease": "EASE",
    "itemknn": "ItemKNN",
    "ials": "iALS",
    "textknn": "TextKNN",
    "popularity": "MostPopular",
    "random": "Random",
}
"""Recommenders that cost seconds, with the names of their rows."""


def _seeds(value: Any) -> Any:
    """Refuse what is neither a number of seeds nor ``auto``."""
    if value != "auto" and (not str(value).isdecimal() or int(value) < 1):
        raise ValueError("give a whole number of at least 1, or auto")
    return value


Seeds = Annotated[int | Literal["auto"], BeforeValidator(_seeds)]


class Row(Config):
    """A row of the table: a backbone with its options."""

    name: str
    backbone: str = ""
    """A plug-in; a row that is ``absent`` needs none."""
    model: dict[str, Any] = Field(default_factory=dict)
    """Options of the backbone, over those of the suite."""
    train: dict[str, Any] = Field(default_factory=dict)
    """Options of its training, over those of the suite."""
    profiles: ProfileOptions | None = None
    """None: the plain backbone."""
    against: tuple[str, ...] | None = None
    """The row, or rows, that it is compared with; by default the one that is the same but for having no profiles."""
    absent: str = ""
    """Why it cannot run here; it is shown, and not run."""
    published: dict[str, dict[str, float]] = Field(default_factory=dict)
    """Protocol and metric to the published number."""
    published_seconds: float | None = None
    """Published seconds of an epoch."""
    note: str = ""
    """Differences of this row from the published setting."""
    line: str = ""
    """The line of the suite's picture that this row is a point of; none if empty."""
    at: float | None = None
    """The place of the point on that line."""

    @field_validator("against", mode="before")
    @classmethod
    def _names(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _whole(self) -> "Row":
        if not self.backbone and not self.absent:
            raise ValueError(f"row {self.name!r} names no backbone")
        if bool(self.line) != (self.at is not None):
            raise ValueError(f"row {self.name!r}: line and at go together")
        return self


class Suite(Config):
    """A suite's file."""

    title: str
    dataset: str
    """A prepared data set, or one that comes with the toolkit."""
    sessions: SessionOptions | None = None
    """Rank the items that come next after a history (protocol ``next-item``): every seed draws held-out users of its
    own. None: the protocols of the data set, alike for all seeds."""
    source: str = ""
    """Source of the published numbers."""
    comparable: bool = True
    """True if these are of this data and protocol; if not, no difference to them is shown."""
    note: str = ""
    """Differences of all rows from the published setting."""
    seeds: Seeds = 1
    """Trials a row, seeded 0, 1, …; ``auto``: as many as :mod:`reclm.benchmarks.seeds` finds enough, up to 20."""
    metrics: tuple[str, ...] = Field(default=METRICS, min_length=1)
    select_on: SelectOn = "valid"
    """Chooses the epoch; ``test`` flatters."""
    recipe: RecipeName = "paper"
    """Options of all backbones, and of their training, that the suite and its rows do not say."""
    references: bool = False
    """With a row for each simple recommender (:data:`REFERENCES`) that the suite lacks."""
    encoder: str | None = None
    """Text encoder of item text and profiles; by default the one that comes with the toolkit."""
    model: dict[str, Any] = Field(default_factory=dict)
    """Options of all backbones that have them."""
    train: dict[str, Any] = Field(default_factory=dict)
    """Options of every row's training."""
    profiles: dict[str, Any] = Field(default_factory=dict)
    """Options of the profiles of every row that has any, under its own."""
    search: Search | None = None
    """Search options for every row alike before its seeds run; None: they run with what the file says."""
    axis: str = ""
    """Label of the picture's horizontal axis, along which the rows' ``at`` lie."""
    rows: tuple[Row, ...] = Field(min_length=1)

    @model_validator(mode="before")
    @classmethod
    def _shared_profiles(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        shared, rows = values.get("profiles"), values.get("rows")
        if not isinstance(shared, Mapping) or not isinstance(rows, list | tuple):
            return values
        rows = list(rows)
        for at, row in enumerate(rows):
            if isinstance(row, Mapping) and isinstance(options := row.get("profiles"), Mapping):
                rows[at] = {**row, "profiles": merged(shared, options)}
        return {**values, "rows": rows}

    @model_validator(mode="after")
    def _consistent(self) -> "Suite":
        names = [row.name for row in self.rows]
        if len(set(names)) < len(names):
            raise ValueError(f"two rows have the same name: {', '.join(names)}")
        if bad := [name for name in names if not name.isprintable()]:
            raise ValueError(f"a row's name has a control character: {bad[0]!r}")
        for metric in self.metrics:
            name, k = parse(metric)
            if metric != f"{name}@{k}":
                raise ValueError(f"metric {metric!r} is written {name}@{k}")
        if len(set(self.metrics)) < len(self.metrics):
            raise ValueError(f"a metric is named twice: {', '.join(self.metrics)}")
        for row in self.rows:
            for protocol, numbers in row.published.items():
                if other := next((metric for metric in numbers if metric not in self.metrics), None):
                    raise ValueError(f"row {row.name!r}, {protocol}: {other} is not among the metrics")
            for name in row.against or ():
                if name not in names:
                    raise unknown(f"row that row {row.name!r} is against", name, names)
        return self

    def against(self, row: Row) -> tuple[str, ...]:
        """Return the rows that a row is compared with, the first its base."""
        if row.against is not None or row.profiles is None:
            return row.against or ()
        return tuple(filter(None, [self._same(row, None)]))

    def stands_for(self, row: Row) -> str | None:
        """Return the row in whose profiles' place a control stands, if there is one."""
        if row.profiles is None or row.profiles.control is None:
            return None
        return self._same(row, row.profiles.model_copy(update={"control": None}))

    def _same(self, row: Row, profiles: ProfileOptions | None) -> str | None:
        """Return the first row of the same backbone and options with these profiles."""
        wanted = (row.backbone, row.model, row.train, profiles)
        rows = {row.name: (row.backbone, row.model, row.train, row.profiles) for row in self.rows}
        return next((name for name, options in rows.items() if options == wanted), None)


def suite_names() -> list[str]:
    """Return the suites that come with the toolkit."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load_suite(name_or_path: str | Path, *, trust: bool = False) -> Suite:
    """Return a suite of the toolkit by name, or any by the path of its file.

    BadInput where the file names a class ``module:Class``, unless its code is to be ``trust``\\ ed.
    """
    path = to_path(name_or_path, "suite")
    if path.suffix not in (".yaml", ".yml"):
        if str(name_or_path) not in suite_names():
            raise unknown("suite", str(name_or_path), suite_names())
        path = FOLDER / f"{name_or_path}.yaml"
    values = read_yaml(path)
    if not trust:
        plugins.check_trusted(values, path)
    return Suite.build(values, where=str(path))


def changed(
    suite: Suite,
    dataset: str | None = None,
    seeds: int | Literal["auto"] | None = None,
    epochs: int | None = None,
    search: int | None = None,
    rows: Collection[str] = (),
    kind: ProfileKind | None = None,
) -> Suite:
    """Return the suite with another data set, number of seeds, most epochs or trials of a search, where given.

    ``rows``, names or patterns, selects these rows and those that they are compared with; ``kind`` selects profiles of
    that side, and drops rows that have others only. Published numbers are of the suite's own data set: with another
    data set they are shown, and not compared.
    """
    suite = _with_rows(suite, rows) if rows else suite
    suite = _of_kind(suite, kind) if kind is not None else suite
    values = {"dataset": dataset, "seeds": seeds}
    update: dict[str, Any] = {name: value for name, value in values.items() if value is not None}
    if dataset is not None and Path(dataset).name != Path(suite.dataset).name:
        update["comparable"] = False
        if suite.comparable and any(row.published or row.published_seconds for row in suite.rows):
            update["note"] = f"{suite.note}; the published numbers are of {suite.dataset}".removeprefix("; ")
    if search is not None:
        update["search"] = (suite.search or Search()).model_copy(update={"trials": search})
    if epochs is not None:
        update["train"] = suite.train | {"epochs": epochs}
        trains = [{key: row.train[key] for key in row.train if key != "epochs"} for row in suite.rows]
        pairs = zip(suite.rows, trains, strict=True)
        update["rows"] = tuple(row.model_copy(update={"train": train}) for row, train in pairs)
    return Suite.build({**dict(suite), **update}, where=f"suite {suite.title!r}")


def _with_rows(suite: Suite, patterns: Collection[str]) -> Suite:
    """Return the suite with the rows that patterns as ``LightGCN*`` match, and those they are compared with."""
    known, names = [row.name for row in suite.rows], set()
    for pattern in patterns:
        if not (matched := {name for name in known if pattern == name or fnmatchcase(name, pattern)}):
            raise unknown("row", pattern, known)
        names |= matched
    against = {row.name: suite.against(row) for row in suite.rows}
    while more := {other for name in names for other in against[name]} - names:
        names |= more
    rows = tuple(row for row in suite.rows if row.name in names)
    note, end = suite.note, " " if suite.note.endswith(".") else "; "
    if len(rows) < len(known):
        note = f"{note}{end}{len(rows)} of its {len(known)} rows were asked for".removeprefix("; ")
    return suite.model_copy(update={"rows": rows, "note": note})


def _of_kind(suite: Suite, kind: ProfileKind) -> Suite:
    plain = [row for row in suite.rows if row.profiles is None or kind in row.profiles.kinds]
    sides = [row.profiles and row.profiles.model_copy(update={"kinds": (kind,)}) for row in plain]
    rows = tuple(row.model_copy(update={"profiles": side}) for row, side in zip(plain, sides, strict=True))
    note = f"{suite.note}; {kind} profiles alone, whatever the rows are called".removeprefix("; ")
    return suite.model_copy(update={"rows": rows, "note": note})


def with_controls(suite: Suite) -> Suite:
    """Return the suite with a row for each control of each row with profiles; keywords themselves get the others."""
    names, rows = {row.name for row in suite.rows}, []
    for row in suite.rows:
        rows.append(row)
        shared = row.model_dump(include={"backbone", "model", "train"})
        profiles = None if row.absent else row.profiles
        for control in CONTROLS if profiles and not profiles.control else ():
            name = f"{row.name}, {control}"
            if profiles and control != _writer(profiles) and name not in names:
                controlled = profiles.model_copy(update={"control": control})
                rows.append(Row(name=name, **shared, profiles=controlled, against=suite.against(row)[:1]))
    return suite.model_copy(update={"rows": tuple(rows)})


def with_references(suite: Suite, dataset: Dataset) -> Suite:
    """Return the suite with a row for each of :data:`REFERENCES` that it lacks and the data set has what it takes."""
    present, names = {row.backbone for row in suite.rows}, {row.name for row in suite.rows}
    rows = list(suite.rows)
    for backbone, name in REFERENCES.items():
        cls = plugins.get("backbone", backbone)
        lacks_text = cls.reads_text(cls.Config()) and not dataset.has_item_text
        if backbone in present or name in names or lacks_text or dataset.sessions is not None:
            continue
        rows.append(Row(name=cls.row_name(name, dataset), backbone=backbone))
    return suite.model_copy(update={"rows": tuple(rows)})


def _writer(profiles: ProfileOptions) -> str:
    """Return the profiler of a row, or the writer of the store that it takes."""
    return ProfileStore.read(profiles.store).info.writer if profiles.store else profiles.profiler


def row_plan(suite: Suite, row: Row, has_text: bool) -> Plan:
    """Return the plan of a row's trials, on data with item text or without."""
    where, backbone = f"row {row.name!r}", plugins.get("backbone", row.backbone)
    model, training = recipe_options(suite.recipe, row.backbone, backbone, has_text)
    model |= {key: value for key, value in suite.model.items() if key in backbone.Config.model_fields}
    model |= row.model
    backbone.Config.build(model, where=f"{where}: backbone {row.backbone}")
    train = TrainConfig.build(training | suite.train | row.train, where=f"{where}: training")
    if parse(train.metric)[0] in BEYOND:
        message = f"{where}: training: metric = {train.metric!r} says nothing of hits, and cannot choose"
        raise BadInput(f"{message} an epoch; take one that does, as ndcg@20")
    if row.profiles and row.profiles.fusion == "auto" and suite.select_on == "test":
        message = f"{where}: fusion = 'auto' chooses on validation; select on valid, or name a fusion"
        raise BadInput(message, value="auto", where="fusion", remedy="--select-on valid")
    measured: dict[str, Any] = {"select_on": suite.select_on, "metrics": suite.metrics}
    return Plan(backbone=row.backbone, model=model, train=train, profiles=row.profiles, **measured)
