"""A suite: a table of results as a YAML file, beside the numbers that were published for it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field, model_validator

import reclm.data
from reclm import plugins
from reclm.adapter import ProfileMatrix
from reclm.backbones.base import Inputs
from reclm.benchmarks.cells import Cell, CellStore, Result
from reclm.benchmarks.compare import Plan, SelectOn, validation_task
from reclm.benchmarks.grid import run_grid
from reclm.config import Config
from reclm.data.dataset import Dataset, Interactions, ProfileKind
from reclm.errors import ReclmError, unknown
from reclm.ranking.evaluate import DEFAULT_METRICS
from reclm.ranking.metrics import parse
from reclm.training import TrainConfig
from reclm.workspace import Workspace

if TYPE_CHECKING:
    from reclm.text.encoder import TextEncoder

FOLDER = Path(__file__).parent / "suites"


class Profiles(Config):
    """Profiles that a row is augmented with; see :class:`~reclm.profiles.ensure.ProfilerChoice`."""

    profiler: str = "zero-shot"
    settings: dict[str, Any] = Field(default_factory=dict)
    model: str | None = None
    engine: str | None = None
    adapter: Path | None = None
    """Of a tuned profiler; a relative path starts where the command runs."""
    limit: int | None = Field(default=None, ge=0)
    kinds: tuple[ProfileKind, ...] = ("user", "item")


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
    published: dict[str, dict[str, float]] = Field(default_factory=dict)
    """Protocol and metric to the published number."""
    note: str = ""
    """Where this row differs from what was published."""


class Suite(Config):
    """What a suite file says."""

    title: str
    dataset: str
    """A prepared data set, or one that comes with the toolkit."""
    source: str = ""
    """Where the published numbers stand."""
    note: str = ""
    """Where all rows differ from what was published."""
    seeds: int = Field(default=1, ge=1)
    """Runs a row, seeded 0, 1, …"""
    metrics: tuple[str, ...] = Field(default=DEFAULT_METRICS, min_length=1)
    select_on: SelectOn = "valid"
    """What chooses the epoch; ``test`` flatters."""
    encoder: str | None = None
    """Of item text and profiles; by default the one that comes with the toolkit."""
    model: dict[str, Any] = Field(default_factory=dict)
    """Options of all backbones that have them."""
    train: dict[str, Any] = Field(default_factory=dict)
    """Options of every row's training."""
    rows: tuple[Row, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _consistent(self) -> "Suite":
        names = [row.name for row in self.rows]
        if len(set(names)) < len(names):
            raise ValueError(f"two rows have the same name: {', '.join(names)}")
        for metric in self.metrics:
            parse(metric)
        for row in self.rows:
            for protocol, numbers in row.published.items():
                for metric in numbers:
                    if metric not in self.metrics:
                        raise ValueError(f"row {row.name!r}, {protocol}: {metric} is not among the metrics")
        return self


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
    suite: Suite, dataset: str | None = None, seeds: int | None = None, epochs: int | None = None
) -> Suite:
    """The suite with another data set, number of seeds or most epochs, where these are given."""
    update: dict[str, Any] = {}
    if dataset is not None:
        update["dataset"] = dataset
    if seeds is not None:
        update["seeds"] = seeds
    if epochs is not None and not isinstance(suite, Suite):
        raise ReclmError(
            "--epochs does not go with a suite of sessions; its file says cl.steps and rlso.steps"
        )
    if epochs is not None:
        update["train"] = suite.train | {"epochs": epochs}
        rows = [
            row.model_copy(update={"train": {key: row.train[key] for key in row.train if key != "epochs"}})
            for row in suite.rows
        ]
        update["rows"] = tuple(rows)
    return suite.model_copy(update=update)


def row_plan(suite: Suite, row: Row) -> Plan:
    """What a row's cells do.

    Raises:
        ReclmError: for an unknown backbone or option, naming the row.
    """
    where = f"row {row.name!r}"
    config = plugins.get("backbone", row.backbone).Config
    shared = {key: value for key, value in suite.model.items() if key in config.model_fields}
    model = shared | row.model
    config.build(model, where=f"{where}: backbone {row.backbone}")
    train = TrainConfig.build(suite.train | row.train, where=f"{where}: training")
    return Plan(
        backbone=row.backbone, model=model, train=train, select_on=suite.select_on, metrics=suite.metrics
    )


@dataclass(frozen=True, eq=False)
class SuiteRun:
    """A suite that ran: a result for each row and seed.

    Attributes:
        suite: with the seeds, epochs and data set it ran with.
        dataset: the data.
        cells, results: row name to one each seed.
    """

    suite: Suite
    dataset: Dataset
    cells: dict[str, list[Cell]]
    results: dict[str, list[Result]]

    def values(self, row: str, protocol: str, metric: str) -> list[float]:
        """The mean over users of each seed that has one."""
        found = [result.means.get(protocol, {}).get(metric) for result in self.results[row]]
        return [value for value in found if value is not None]

    def failures(self) -> Iterator[tuple[str, int, str]]:
        """Row, seed and reason of each cell that failed."""
        for row, results in self.results.items():
            for cell, result in zip(self.cells[row], results, strict=True):
                if result.error is not None:
                    yield row, cell.seed, result.error


def run_suite(
    suite: Suite, workspace: Workspace, *, jobs: int = 1, fresh: bool = False, progress: bool = True
) -> SuiteRun:
    """Run what has not run yet of a suite's cells.

    Args:
        suite: see :func:`load_suite`.
        workspace: where the data lie and the cells are kept.
        jobs: processes.
        fresh: forget this suite's cells, and run all again.
        progress: show progress bars.

    Raises:
        ReclmError: before anything slow, for a suite that does not fit its backbones or its data.
    """
    plans = _plans(suite)
    dataset = reclm.data.load(suite.dataset, workspace)
    _check(suite, dataset)
    inputs = _Inputs(dataset, workspace, suite.encoder, progress)
    cells = {
        row.name: [
            Cell(plans[row.name], seed, given, dataset.fingerprint)
            for given in [inputs.of(plans[row.name], row.profiles)]
            for seed in range(suite.seeds)
        ]
        for row in suite.rows
    }
    flat = [cell for row in suite.rows for cell in cells[row.name]]
    store = CellStore(workspace.cells())
    if fresh:
        for cell in flat:
            store.remove(cell.key)
    labels = [f"{row.name} seed {cell.seed}" for row in suite.rows for cell in cells[row.name]]
    found = iter(
        run_grid(flat, dataset, store, what=dataset.name, labels=labels, jobs=jobs, progress=progress)
    )
    results = {name: [next(found) for _ in row] for name, row in cells.items()}
    return SuiteRun(suite, dataset, cells, results)


def _plans(suite: Suite) -> dict[str, Plan]:
    """Row name to what it does. An option of the suite that none of its backbones has is a mistake."""
    plans = {row.name: row_plan(suite, row) for row in suite.rows}
    configs = [plugins.get("backbone", row.backbone).Config for row in suite.rows]
    known = {name for config in configs for name in config.model_fields}
    for key in suite.model:
        if key not in known:
            raise unknown("option of the suite's backbones", key, known)
    return plans


def _check(suite: Suite, dataset: Dataset) -> None:
    """The published numbers are of protocols that the data offer, and there is something to select on."""
    for row in suite.rows:
        for protocol in row.published:
            dataset.protocol(protocol)
    if suite.select_on == "valid":
        validation_task(dataset)


class _Inputs:
    """Item text and profiles, each made once however many rows need it, and not at all if none does."""

    def __init__(self, dataset: Dataset, workspace: Workspace, encoder: str | None, progress: bool) -> None:
        self.dataset, self.workspace, self.progress = dataset, workspace, progress
        self.encoder_name = encoder
        self.made: dict[str, Any] = {}

    def of(self, plan: Plan, profiles: Profiles | None) -> Inputs:
        """What a row's backbone is built from."""
        config = plugins.get("backbone", plan.backbone).Config.build(dict(plan.model))
        text = None
        if config.items != "id":
            if not self.dataset.item_text.num_columns:
                raise ReclmError(
                    f"data set {self.dataset.name!r} has no item text, which backbone {plan.backbone} with "
                    f"items = {config.items!r} needs; set items: id in the suite"
                )
            text = self._once("text", self._text)
        sides: dict[ProfileKind, ProfileMatrix] = {}
        if profiles is not None:
            sides = self._once(profiles.model_dump_json(), lambda: self._profiles(profiles))
        return Inputs(
            len(self.dataset.users),
            len(self.dataset.items),
            Interactions.empty(),
            text,
            sides.get("user"),
            sides.get("item"),
        )

    def _once(self, key: str, make: Callable[[], Any]) -> Any:
        if key not in self.made:
            self.made[key] = make()
        return self.made[key]

    def _encoder(self) -> "TextEncoder":
        from reclm.text.encoder import TextEncoder  # slow to import, and not needed where items are IDs

        return self._once("encoder", lambda: TextEncoder(self.encoder_name))

    def _text(self) -> np.ndarray:
        from reclm.text.encoder import item_text_features

        return item_text_features(self.dataset.view(), self._encoder(), self.workspace, self.progress)

    def _profiles(self, profiles: Profiles) -> dict[ProfileKind, ProfileMatrix]:
        from reclm.benchmarks.bench import ProfileSource
        from reclm.profiles.embeddings import embed
        from reclm.profiles.ensure import ProfilerChoice

        choice = ProfilerChoice(
            profiles.profiler, profiles.settings, profiles.model, profiles.engine, profiles.adapter
        )
        store = ProfileSource(choice, profiles.limit, profiles.kinds).open(self.dataset, self.workspace)
        view = self.dataset.view()
        return {
            kind: ProfileMatrix(*embed(store, self._encoder(), kind, view.idmap(kind), self.progress))
            for kind in profiles.kinds
        }
