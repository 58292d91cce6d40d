"""``reclm bench --backbone X --augment``: a suite of a backbone with and without profiles, and its trained models."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
from safetensors.torch import load_file

import reclm.data
from reclm import plugins
from reclm.benchmarks import results as records
from reclm.benchmarks.features import Given, SuiteInputs
from reclm.benchmarks.pool import run_trials
from reclm.benchmarks.search import Searched, run_search, spaces
from reclm.benchmarks.search import said as search_said
from reclm.benchmarks.subgroups import item_slices
from reclm.benchmarks.suite import Profiles, Row, Suite, row_plan, with_controls
from reclm.benchmarks.trial import Plan, SelectOn
from reclm.benchmarks.trial_cache import Trial, TrialCache, TrialRecord
from reclm.data.dataset import Dataset
from reclm.environment import environment
from reclm.errors import ReclmError, unknown
from reclm.folders import Workspace
from reclm.recommend.saved import SavedModel, build_model, save_model
from reclm.recommend.tasks import test_tasks as tasks_of
from reclm.recommend.tasks import trained_on, validation_task
from reclm.recommend.training import TrainConfig

BASELINES = ("popularity", "random")
"""Backbones that do not learn."""


@dataclass(frozen=True, eq=False)
class SuiteRun:
    """A suite that ran: a result for each seed of each row that can run here.

    Attributes:
        suite: with the seeds, epochs and data set it ran with.
        dataset: the data.
        store: where the cells are kept.
        cells, results: row name to one each seed.
        given: row name to what it was built from.
        searched: row name to what a search tried and chose; empty without one.
        absent: row name to why it cannot run here.
    """

    suite: Suite
    dataset: Dataset
    store: TrialCache
    cells: dict[str, list[Trial]]
    results: dict[str, list[TrialRecord]]
    given: dict[str, Given]
    searched: dict[str, Searched] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)

    def failures(self) -> Iterator[records.Failure]:
        """The cells that failed, with their reason."""
        for row, results in self.results.items():
            for cell, result in zip(self.cells[row], results, strict=True):
                if result.error is not None:
                    yield records.Failure(row=row, seed=cell.seed, reason=result.error)

    def record(self) -> records.Result:
        """What it came to, read from the kept cells."""
        suite, dataset = self.suite, self.dataset
        test = suite.select_on == "test"
        train = trained_on(dataset, test)
        activity = np.bincount(train.user_idx, minlength=len(dataset.users))
        cells = {}
        for row, results in self.results.items():
            for cell, result in zip(self.cells[row], results, strict=True):
                cells |= {
                    (row, cell.seed, protocol): one
                    for protocol, one in self._cells(cell.key, result, activity).items()
                }
        remarks = suite.note.split("\n") if suite.note else []
        if suite.search:
            remarks.append(search_said(suite.search, {row: one.plan for row, one in self.searched.items()}))
        about = records.RunInfo(
            title=suite.title,
            dataset=dataset.name,
            fingerprint=dataset.fingerprint,
            source=suite.source,
            comparable=suite.comparable,
            selected_on="the TEST set, which flatters" if test else "validation",
            seeds=suite.seeds,
            metrics=suite.metrics,
            protocols=tuple(
                records.ProtocolInfo(
                    name=part, users=len(one.users), candidates=len(one.candidates), part_of=whole
                )
                for name, task in tasks_of(dataset, test).items()
                for part, one, whole in [
                    (name, task, None),
                    *((part, one, name) for part, one in item_slices(name, task, train).items()),
                ]
            ),
            rows=tuple(self._line(row) for row in suite.rows),
            remarks=(*remarks, *self._checked()),
            failures=tuple(self.failures()),
            suite=suite.model_dump(mode="json", exclude_defaults=True),
            environment=environment(),
        )
        history = {
            (row, cell.seed): result.history
            for row, results in self.results.items()
            for cell, result in zip(self.cells[row], results, strict=True)
        }
        return records.Result(about, cells, history)

    def _checked(self) -> tuple[str, ...]:
        """What was looked at for leaks, each thing once."""
        said = dict.fromkeys(one for given in self.given.values() for one in given.checked)
        return (f"checked for leaks: {'; '.join(said)}",) if said else ()

    def _line(self, row: Row) -> records.ResultRow:
        given = self.given.get(row.name)
        store = given and given.store
        searched = self.searched.get(row.name)
        return records.ResultRow(
            name=row.name,
            backbone=row.backbone,
            baseline=row.backbone in BASELINES,
            against=self.suite.base(row),
            control=row.profiles.control if row.profiles else None,
            stands_for=self.suite.stands_for(row),
            writer=store.info.writer if store else None,
            kinds=row.profiles.kinds if row.profiles else (),
            coverage=given.coverage if given else {},
            published=row.published,
            published_seconds=row.published_seconds,
            note=row.note,
            absent=self.absent.get(row.name, ""),
            options=options(self.cells[row.name][0].plan) if row.name in self.cells else {},
            most_epochs=self.cells[row.name][0].plan.train.epochs if row.name in self.cells else 0,
            trials=searched.trials if searched else (),
            chosen=searched.chosen if searched else {},
        )

    def _cells(self, key: str, result: TrialRecord, activity: np.ndarray) -> dict[str, records.TrialResult]:
        """A cell's protocols."""
        if not result.means:  # it failed
            return {}
        users = self.store.users(key)
        times = sorted(row["seconds"] for row in result.history)
        found = {}
        for protocol, means in result.means.items():
            part = users.filter(pc.equal(users.column("protocol"), protocol))
            values = {name: part.column(name).to_numpy() for name in means if name in part.column_names}
            found[protocol] = records.TrialResult(
                user_ids=part.column("user_id").cast("string").to_numpy(),
                activity=activity[self.dataset.users.find(part.column("user_id").combine_chunks())],
                values=values,
                overall={
                    name: float("nan") if value is None else value
                    for name, value in means.items()
                    if name not in values
                },
                best_epoch=result.best_epoch[protocol],
                epochs=len(result.history),
                seconds=result.seconds,
                epoch_seconds=times[len(times) // 2] if times else float("nan"),
                key=key,
            )
        return found


def options(plan: Plan) -> dict[str, Any]:
    """Return every option of a plan's backbone and training by name; ``train.NAME`` where both have it."""
    model = plugins.get("backbone", plan.backbone).Config.build(dict(plan.model)).model_dump(mode="json")
    train = {
        f"train.{name}" if name in model else name: value
        for name, value in plan.train.model_dump(mode="json").items()
    }
    return {"backbone": plan.backbone, "select_on": plan.select_on, **model, **train}


def run_suite(
    suite: Suite,
    workspace: Workspace,
    *,
    jobs: int = 1,
    fresh: bool = False,
    controls: bool = False,
    weights: bool = False,
    progress: bool = True,
) -> SuiteRun:
    """Run what has not run yet of a suite's cells.

    Args:
        suite: see :func:`~reclm.benchmarks.suite.load_suite`.
        workspace: where the data lie and the cells are kept.
        jobs: processes.
        fresh: forget this suite's cells, and run all again.
        controls: with a row for each control of each row that has profiles by a language model.
        weights: keep the trained weights, too.
        progress: show progress bars.

    Raises:
        ReclmError: before anything slow, for a suite that does not fit its backbones or its data.
    """
    suite = with_controls(suite) if controls else suite
    dataset = reclm.data.load(suite.dataset, workspace)
    absent = _absent(suite, dataset)
    rows = [row for row in suite.rows if row.name not in absent]
    plans = _plans(suite)
    plans = {row.name: plans[row.name] for row in rows}
    if suite.search:
        spaces(suite.search, plans)
    _check(suite, dataset)
    inputs = SuiteInputs(dataset, workspace, suite.encoder, progress)
    profiles = {row.name: row.profiles for row in rows}

    def cell_of(row: str, plan: Plan, seed: int = 0) -> Trial:
        return Trial(plan, seed, inputs.of(plan, profiles[row]).inputs, dataset.fingerprint)

    given = {row: inputs.of(plan, profiles[row]) for row, plan in plans.items()}
    store = TrialCache(workspace.cells(), weights=weights)
    searched: dict[str, Searched] = {}
    if suite.search:
        # trials keep no weights: what was chosen is trained once more where they are asked for
        trials = TrialCache(workspace.cells())
        searched = run_search(
            suite.search, plans, cell_of, dataset, trials, fresh=fresh, jobs=jobs, progress=progress
        )
        plans = {row: one.plan for row, one in searched.items()}
        given = {row: inputs.of(plan, profiles[row]) for row, plan in plans.items()}
    cells = {
        row: [Trial(plan, seed, given[row].inputs, dataset.fingerprint) for seed in range(suite.seeds)]
        for row, plan in plans.items()
    }
    flat = [cell for row in rows for cell in cells[row.name]]
    if fresh:
        new = {cells[row][0].key for row, one in searched.items() if one.chosen}  # the search trained them
        for cell in flat:
            if cell.key not in new:
                store.remove(cell.key)
    labels = [f"{row.name} seed {cell.seed}" for row in rows for cell in cells[row.name]]
    found = iter(
        run_trials(flat, dataset, store, what=dataset.name, labels=labels, jobs=jobs, progress=progress)
    )
    results = {name: [next(found) for _ in row] for name, row in cells.items()}
    return SuiteRun(suite, dataset, store, cells, results, given, searched, absent)


def _absent(suite: Suite, dataset: Dataset) -> dict[str, str]:
    """The rows that cannot run here, and why: whose tuned folder is not there, say, or that want item text.

    Raises:
        ReclmError: if none is left.
    """

    def missing(row: Row) -> str:
        given = row.profiles
        if given and given.control in ("text", "keywords") and not dataset.item_text.num_columns:
            return row.absent or "the data have no item text"
        if given is None or given.adapter is None or not plugins.get("profiler", given.profiler).needs_model:
            return row.absent
        tuned = given.adapter.is_dir()
        return row.absent if tuned else f"nothing is tuned in {given.adapter} (reclm tune --out)"

    found = {row.name: why for row in suite.rows if (why := missing(row))}
    if len(found) == len(suite.rows):
        name, why = next(iter(found.items()))
        raise ReclmError(f"no row of the suite can run here; {name}: {why}")
    return found


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


def comparison(
    backbone: str,
    settings: dict[str, Any],
    dataset: Dataset,
    profiles: Profiles | None = None,
    *,
    place: str | None = None,
    seeds: int = 1,
    epochs: int | None = None,
    select_on: SelectOn = "valid",
    encoder: str | None = None,
) -> Suite:
    """The suite of a backbone plain (``base``) and, where there are profiles, with them (``augment``).

    A backbone that ranks by profiles alone has no ``base``.

    Args:
        settings: options of the backbone and of the training, by name.
        place: name or folder of the data set, if not its own name.
        select_on: with ``"test"`` the paper's selection: all epochs run, test Recall@20 chooses.

    Raises:
        ReclmError: for an unknown backbone or option, and where there is no validation part to select on.
    """
    model_config = plugins.get("backbone", backbone).Config
    known = {*model_config.model_fields, *TrainConfig.model_fields}
    for key in settings:
        if key not in known:
            raise unknown(f"option of backbone {backbone} and its training", key, known)
    model = {key: value for key, value in settings.items() if key in model_config.model_fields}
    model_config.build(model, where=f"backbone {backbone}")
    train = {key: value for key, value in settings.items() if key in TrainConfig.model_fields}
    if epochs is not None:
        train["epochs"] = epochs
    most = TrainConfig.build(train, where="training").epochs
    if select_on == "test":
        train = {"metric": "recall@20", "patience": max(most, 1), **train}
    else:
        validation_task(dataset)
    needed = plugins.get("backbone", backbone).needs_profiles
    rows = [] if needed and profiles else [Row(name="base", backbone=backbone)]
    if profiles is not None:
        if needed in profiles.kinds:
            profiles = profiles.model_copy(update={"kinds": (needed,)})
        rows.append(Row(name="augment", backbone=backbone, profiles=profiles))
    return Suite(
        title=f"{backbone} on {dataset.name}",
        dataset=place or dataset.name,
        seeds=seeds,
        select_on=select_on,
        encoder=encoder,
        model=model,
        train=train,
        rows=tuple(rows),
    )


def keep_models(run: SuiteRun, folder: Path, dataset_folder: Path | None = None) -> None:
    """Write the last seed's model of every row that ran to ``folder/ROW``, for ``reclm recommend``.

    Args:
        run: of :func:`~reclm.benchmarks.experiment.run_suite` with ``weights=True``.
        dataset_folder: where the data set is, for the models' record.
    """
    for name, cells in run.cells.items():
        cell, given = cells[-1], run.given[name]
        if run.results[name][-1].error is not None:
            continue
        config = plugins.get("backbone", cell.plan.backbone).Config.build(dict(cell.plan.model))
        encoder, source = given.encoder or ("", None)
        saved = SavedModel(
            backbone=cell.plan.backbone,
            config=config.model_dump(mode="json"),
            variant=name,
            seed=cell.seed,
            dataset=run.dataset.name,
            dataset_folder=dataset_folder and str(dataset_folder.resolve()),
            fingerprint=run.dataset.fingerprint,
            trained_on=("train", "valid") if cell.plan.select_on == "test" else ("train",),
            encoder=encoder,
            encoder_source=source,
            profiles={"writer": given.store.info.writer, "store": str(given.store.folder)}
            if given.store
            else None,
            environment=environment(),
        )
        model = build_model(saved, given.inputs, run.dataset)
        model.load_state_dict(load_file(run.store.weights_of(cell.key)))
        save_model(folder / name, saved, model, given.inputs)
