"""The experiment: the rows × seeds of a suite, each a trial, with leak checks, controls and search alike for all."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
from safetensors.torch import load_file

from reclm import plugins
from reclm.benchmarks import results
from reclm.benchmarks.features import FeatureMaker, Features, TunedFeatures
from reclm.benchmarks.pool import run_trials
from reclm.benchmarks.search import Searched, run_search, sentence, spaces
from reclm.benchmarks.subgroups import item_subgroups
from reclm.benchmarks.suite import Row, Suite, changed, load_suite, row_plan, with_controls
from reclm.benchmarks.trial import Plan, ProfileOptions, SelectOn, layout
from reclm.benchmarks.trial_cache import Trial, TrialCache, TrialRecord
from reclm.data.catalog import load_dataset
from reclm.data.dataset import Dataset, ProfileKind
from reclm.data.sessions import next_item
from reclm.environment import environment
from reclm.errors import NotFound, unknown
from reclm.folders import current
from reclm.intervals import rise
from reclm.recommend.evaluate import validation_task
from reclm.recommend.saved import SavedModel, build_model, save_model
from reclm.recommend.training import TrainConfig

BASELINES = ("popularity", "random")
"""Backbones that do not learn."""


def compare(
    backbone: str | Sequence[str],
    data: Dataset,
    profiles: Any = None,
    *,
    seeds: int = 3,
    controls: bool = True,
    search: int = 0,
    jobs: int = 1,
    epochs: int | None = None,
    select_on: SelectOn = "valid",
    kinds: Sequence[ProfileKind] = ("user", "item"),
    encoder: str | None = None,
    fresh: bool = False,
    out: str | Path | None = None,
    progress: bool = True,
    **options: Any,
) -> results.Result:
    """Compare backbones with and without profiles, and with the controls of the profiles.

    Args:
        backbone: a name, or several.
        profiles: :class:`~reclm.profiles.profiles.Profiles`, the folder of a store,
            :class:`~reclm.benchmarks.trial.ProfileOptions`, or a mapping of names to these; None: the plain backbones
            alone.
        seeds: trials of each row.
        controls: a row for each control of the profiles, too.
        search: options that are tried for every row before its seeds run.
        jobs: processes.
        epochs: most epochs.
        select_on: ``"test"`` is the papers' selection, and flatters.
        kinds: the sides that are augmented.
        encoder: of item text and profiles; by default that of the profiles, or the embedded one.
        fresh: forget cached trials.
        out: folder of the run; by default a new one in the workspace.
        options: of the backbones and of training, by name.

    Raises:
        NotFound: for an unknown backbone or option.
        BadInput: for a value that an option cannot have, and where there is nothing to select on.
    """
    names = [backbone] if isinstance(backbone, str) else list(backbone)
    named = (
        profiles if isinstance(profiles, Mapping) else {"augment": profiles} if profiles is not None else {}
    )
    chosen: dict[str, ProfileOptions] = {}
    for name, one in named.items():
        if isinstance(one, ProfileOptions):
            chosen[name] = one
            continue
        store = getattr(one, "store", one)
        chosen[name] = ProfileOptions(store=Path(getattr(store, "folder", store)), kinds=tuple(kinds))
        own = getattr(one, "encoder", None)
        encoder = encoder or getattr(own, "source", own)
    suite = comparison(
        names, options, data, chosen, seeds=seeds, epochs=epochs, select_on=select_on, encoder=encoder
    )
    run = execute(
        changed(suite, search=search or None),
        data,
        jobs=jobs,
        fresh=fresh,
        controls=controls and bool(chosen),
        weights=True,
        progress=progress,
    )
    return run.save(Path(out) if out else current().new_run(data.name, *names))


def run_suite(
    suite: str | Path | Suite,
    *,
    rows: Sequence[str] = (),
    dataset: str | None = None,
    seeds: int | None = None,
    epochs: int | None = None,
    search: int | None = None,
    kind: ProfileKind | None = None,
    controls: bool = False,
    jobs: int = 1,
    fresh: bool = False,
    out: str | Path | None = None,
    progress: bool = True,
) -> results.Result:
    """Run a suite and return its result.

    Args:
        suite: a name, the path of a YAML file, or a suite.
        rows: only these, by name or pattern, and those that they are compared with.
        dataset, seeds, epochs, search, kind: in place of the suite's own (:func:`~reclm.benchmarks.suite.changed`).
        controls: with a row for each control of each row that has profiles.
        jobs: processes.
        fresh: forget cached trials.
        out: folder of the run; by default a new one in the workspace.

    Raises:
        NotFound: for an unknown suite or row.
        BadInput: before anything slow, for a suite that does not fit its backbones or its data.
    """
    chosen = suite if isinstance(suite, Suite) else load_suite(suite)
    chosen = changed(chosen, dataset, seeds, epochs, search, rows, kind)
    run = execute(chosen, controls=controls, jobs=jobs, fresh=fresh, progress=progress)
    return run.save(
        Path(out)
        if out
        else current().new_run(Path(str(suite)).stem if isinstance(suite, str | Path) else chosen.title)
    )


@dataclass(frozen=True, eq=False)
class SuiteRun:
    """A suite that ran: a trial for each seed of each row that can run here.

    Attributes:
        suite: with the seeds, epochs and data set it ran with.
        source: the data set; ``datasets`` are those of the seeds, the same one but for sessions.
        cache: holds the trials.
        trials, records: row name to one each seed.
        searched: row name to its search; empty without one.
        absent: row name to why it cannot run here.
    """

    suite: Suite
    source: Dataset
    datasets: tuple[Dataset, ...]
    cache: TrialCache
    trials: dict[str, list[Trial]]
    records: dict[str, list[TrialRecord]]
    searched: dict[str, Searched] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)

    def pairs(self) -> Iterator[tuple[str, Trial, TrialRecord]]:
        """Yield row name, trial and record."""
        for row, records in self.records.items():
            for trial, record in zip(self.trials[row], records, strict=True):
                yield row, trial, record

    def failures(self) -> list[results.Failure]:
        """Return the trials that failed, with their reason."""
        return [
            results.Failure(row=row, seed=trial.seed, reason=record.error)
            for row, trial, record in self.pairs()
            if record.error is not None
        ]

    def result(self) -> results.Result:
        """Return the result, read from the cached trials."""
        suite, test = self.suite, self.suite.select_on == "test"
        cells = {
            (row, trial.seed, protocol): values
            for row, trial, record in self.pairs()
            for protocol, values in self._protocols(trial, record).items()
        }
        about = results.RunInfo(
            title=suite.title,
            dataset=self.source.name,
            fingerprint=self.source.fingerprint,
            source=suite.source,
            comparable=suite.comparable,
            selected_on="the TEST set, which flatters" if test else "validation",
            seeds=suite.seeds,
            metrics=suite.metrics,
            protocols=tuple(self._protocol_infos(test)),
            rows=tuple(self._row(row) for row in suite.rows),
            remarks=tuple(self._remarks()),
            failures=tuple(self.failures()),
            suite=suite.model_dump(mode="json", exclude_defaults=True),
            environment=environment(),
        )
        history = {
            (row, trial.seed): record.log + record.history
            for row, trial, record in self.pairs()
            if record.log or record.history
        }
        return results.Result(about, cells, history)

    def save(self, folder: Path) -> results.Result:
        """Write the result to ``folder``, with picture, examples, suite and, where they were kept, models."""
        from reclm.benchmarks import examples
        from reclm.charts import save as save_picture

        result = self.result()
        result.save(folder)
        if any(row.line for row in self.suite.rows):
            examples.draw_lines(self.suite, result, folder / "comparison.png")
        else:
            save_picture(result.plot(), folder / "comparison.png")
        examples.write(self, folder)
        self.suite.to_yaml(folder / "suite.yaml")
        if self.cache.weights:
            save_models(self, folder / "models")
        return result

    def _protocol_infos(self, test: bool) -> Iterator[results.ProtocolInfo]:
        """Yield protocols and their subgroups; where seeds have users of their own, all of them count."""
        users: dict[str, set[str]] = {}
        sizes: dict[str, tuple[int, str | None]] = {}
        for dataset in dict.fromkeys(self.datasets):
            parts = layout(dataset, test)
            for name, task in parts.tasks.items():
                subgroups = item_subgroups(name, task, parts.train)
                for part, one, whole in [(name, task, None), *((p, t, name) for p, t in subgroups.items())]:
                    sizes.setdefault(part, (len(one.candidates), whole))
                    users.setdefault(part, set()).update(dataset.users.ids(one.users.numpy()))
        for part, (candidates, whole) in sizes.items():
            yield results.ProtocolInfo(
                name=part, users=len(users[part]), candidates=candidates, part_of=whole
            )

    def _row(self, row: Row) -> results.ResultRow:
        searched, known = self.searched.get(row.name), self._known(row.name)
        trials = self.trials.get(row.name)
        learns = bool(trials) and any(record.history for record in self.records[row.name])
        return results.ResultRow(
            name=row.name,
            backbone=row.backbone,
            baseline=row.backbone in BASELINES,
            against=self.suite.against(row),
            control=row.profiles.control if row.profiles else None,
            stands_for=self.suite.stands_for(row),
            writer=known.writer,
            kinds=row.profiles.kinds if row.profiles else (),
            coverage=known.coverage,
            published=row.published,
            published_seconds=row.published_seconds,
            note=row.note,
            absent=self.absent.get(row.name, ""),
            options=options(trials[0].plan) if trials else {},
            most_epochs=trials[0].plan.train.epochs if trials and learns else 0,
            trials=searched.trials if searched else (),
            chosen=searched.chosen if searched else {},
        )

    def _known(self, row: str) -> "_Known":
        """Return what is known of the features of a row's first trial that has any."""
        for trial, record in zip(self.trials.get(row, ()), self.records.get(row, ()), strict=True):
            if isinstance(trial.features, Features):
                return _Known.of(trial.features)
            if record.error is None:
                return _Known(record.writer, record.coverage, record.checked, record.measures)
        return _Known()

    def _remarks(self) -> Iterator[str]:
        if self.suite.note:
            yield from self.suite.note.split("\n")
        if self.suite.sessions:
            yield "each seed has held-out users of its own"
        if self.searched:
            assert self.suite.search is not None
            yield sentence(self.suite.search, {row: one.plan for row, one in self.searched.items()})
        checked = dict.fromkeys(one for row in self.trials for one in self._known(row).checked)
        if checked:
            yield f"checked for leaks: {'; '.join(checked)}"
        for row in self.suite.rows:
            if row.name in self.records and not (row.profiles and row.profiles.control):
                yield from self._of_profiles(row.name)

    def _of_profiles(self, row: str) -> Iterator[str]:
        """Yield how a row's profiles read, what the encoder cuts of them, and whether the reward rose."""
        measures = [
            one
            for trial, record in zip(self.trials[row], self.records[row], strict=True)
            if (one := _measures(trial, record))
        ]
        means = {
            name: _mean([one.get(name) for one in measures]) for name in (measures[0] if measures else ())
        }
        if "words" in means:
            yield (
                f"profiles of {row}: {means['words']:.0f} words, reading ease {means['readability']:.0f}, "
                f"{means['compliance']:.0%} in order, {means['copying']:.0%} of word triples copied"
            )
        if means.get("truncated", 0) > 0:
            yield f"{row}: the encoder's window cuts {means['truncated']:.1%} of the texts"
        logs = [record.log for record in self.records[row] if any("reward" in step for step in record.log)]
        series, unit = _rewards(logs)
        change = rise(series) if series else None
        if change and change.low is not None and change.high is not None:
            verb = "rose" if change.low > 0 else "fell" if change.high < 0 else "did not change significantly"
            yield (
                f"the mean reward of {row}'s {unit}, second half less first, {verb}: {change.mean:+.4f} "
                f"[{change.low:+.4f}, {change.high:+.4f}] of {np.concatenate(series).mean():.4f}, {change.n} of them"
            )

    @cached_property
    def _activity(self) -> dict[Dataset, np.ndarray]:
        test = self.suite.select_on == "test"
        return {
            dataset: np.bincount(layout(dataset, test).train.user_idx, minlength=len(dataset.users))
            for dataset in dict.fromkeys(self.datasets)
        }

    def _protocols(self, trial: Trial, record: TrialRecord) -> dict[str, results.TrialResult]:
        if not record.means:  # it failed
            return {}
        users = self.cache.users(trial.key)
        times = sorted(row["seconds"] for row in record.history)
        measures = _measures(trial, record)
        protocols = {}
        for protocol, means in record.means.items():
            part = users.filter(pc.equal(users.column("protocol"), protocol))
            values = {name: part.column(name).to_numpy() for name in means if name in part.column_names}
            overall = {name: value for name, value in means.items() if name not in values} | measures
            ids = part.column("user_id").combine_chunks()
            protocols[protocol] = results.TrialResult(
                user_ids=part.column("user_id").cast("string").to_numpy(),
                activity=self._activity[trial.dataset][trial.dataset.users.find(ids)],
                values=values,
                overall={name: float("nan") if value is None else value for name, value in overall.items()},
                best_epoch=record.best_epoch[protocol],
                epochs=len(record.history),
                seconds=record.seconds,
                epoch_seconds=times[len(times) // 2] if times else float("nan"),
                key=trial.key,
            )
        return protocols


@dataclass(frozen=True)
class _Known:
    """Origin, coverage and checks of a row's features."""

    writer: str | None = None
    coverage: dict[ProfileKind, tuple[int, int]] = field(default_factory=dict)
    checked: tuple[str, ...] = ()
    measures: Mapping[str, float | None] = field(default_factory=dict)

    @classmethod
    def of(cls, features: Features) -> "_Known":
        writer = features.store.info.writer if features.store else None
        return cls(writer, features.coverage, features.checked, features.measures)


def _measures(trial: Trial, record: TrialRecord) -> Mapping[str, float | None]:
    """Return how the profiles of a trial read."""
    return trial.features.measures if isinstance(trial.features, Features) else record.measures


def _mean(values: Iterable[float | None]) -> float:
    known = [value for value in values if value is not None and not np.isnan(value)]
    return float(np.mean(known)) if known else float("nan")


def _rewards(logs: Sequence[Sequence[Mapping[str, float]]]) -> tuple[list[np.ndarray], str]:
    """Return the mean reward of each pass over the prompts, where the logs tell passes apart; else of each update."""
    steps = [[step for step in log if "reward" in step] for log in logs]
    if steps and all("pass" in step for log in steps for step in log):
        series = []
        for log in steps:
            numbers = np.array([int(step["pass"]) for step in log])
            rewards = np.array([step["reward"] for step in log])
            series.append(np.array([rewards[numbers == number].mean() for number in np.unique(numbers)]))
        return series, "passes over the prompts"
    return [np.array([step["reward"] for step in log]) for log in steps], "updates"


def options(plan: Plan) -> dict[str, Any]:
    """Return every option of a plan's backbone and training by name; ``train.NAME`` where both have it."""
    model = plugins.get("backbone", plan.backbone).Config.build(dict(plan.model)).model_dump(mode="json")
    train = {
        f"train.{name}" if name in model else name: value
        for name, value in plan.train.model_dump(mode="json").items()
    }
    return {"backbone": plan.backbone, "select_on": plan.select_on, **model, **train}


def execute(
    suite: Suite,
    dataset: Dataset | None = None,
    *,
    jobs: int = 1,
    fresh: bool = False,
    controls: bool = False,
    weights: bool = False,
    progress: bool = True,
) -> SuiteRun:
    """Run what has not run yet of a suite's trials.

    Args:
        suite: see :func:`~reclm.benchmarks.suite.load_suite`.
        dataset: in place of the one that the suite names.
        jobs: processes.
        fresh: forget this suite's trials, and run all again.
        controls: with a row for each control of each row that has profiles.
        weights: keep the trained weights, too.
        progress: show progress bars.

    Raises:
        ReclmError: before anything slow, for a suite that does not fit its backbones or its data.
    """
    suite = with_controls(suite) if controls else suite
    source = load_dataset(suite.dataset) if dataset is None else dataset
    absent = _absent(suite, source)
    plans = {row: plan for row, plan in _plans(suite).items() if row not in absent}
    searches = suite.search is not None and suite.search.trials > 0
    if searches:
        spaces(suite.search, plans)
    datasets = _datasets(suite, source, progress)
    _check(suite, datasets[0])
    makers = {one: FeatureMaker(one, suite.encoder, progress) for one in datasets}

    def trial_of(plan: Plan, seed: int) -> Trial:
        return Trial(plan, seed, datasets[seed], makers[datasets[seed]].of(plan, seed))

    cache = TrialCache(current().cells(), weights=weights)
    searched: dict[str, Searched] = {}
    if searches:
        # its trials keep no weights: the chosen ones are trained once more where they are asked for
        searched = run_search(
            suite.search,
            plans,
            lambda row, plan: trial_of(plan, 0),
            TrialCache(current().cells()),
            title=source.name,
            fresh=fresh,
            jobs=jobs,
            progress=progress,
        )
        plans = {row: one.plan for row, one in searched.items()}
    trials = {row: [trial_of(plan, seed) for seed in range(suite.seeds)] for row, plan in plans.items()}
    flat = [trial for row in trials.values() for trial in row]
    if fresh:
        new = {trials[row][0].key for row, one in searched.items() if one.chosen}  # the search trained them
        for trial in flat:
            if trial.key not in new:
                cache.remove(trial.key)
    labels = [f"{row} seed {trial.seed}" for row, some in trials.items() for trial in some]
    records = iter(run_trials(flat, cache, title=source.name, labels=labels, jobs=jobs, progress=progress))
    by_row = {row: [next(records) for _ in some] for row, some in trials.items()}
    return SuiteRun(suite, source, datasets, cache, trials, by_row, searched, absent)


def _datasets(suite: Suite, source: Dataset, progress: bool) -> tuple[Dataset, ...]:
    """Return the data set of each seed: sessions are drawn by it, all else is alike for all."""
    if suite.sessions is None:
        return (source,) * suite.seeds
    counters: dict[str, Any] = {}
    if suite.sessions.max_item_tokens is not None:
        from reclm.text.encoder import TextEncoder

        counters["encoder_tokens"] = TextEncoder(suite.encoder).tokens
    if suite.sessions.max_history_tokens is not None:
        from reclm.llm.models import find_model, load_tokenizer

        names = [row.profiles.model for row in suite.rows if row.profiles]
        tokenizer = load_tokenizer(find_model(names[0] if names else None))
        counters["model_tokens"] = lambda texts: [
            len(ids) for ids in tokenizer(list(texts), add_special_tokens=False)["input_ids"]
        ]
    return tuple(
        next_item(source, suite.sessions.model_copy(update={"seed": seed}), progress=progress, **counters)
        for seed in range(suite.seeds)
    )


def _absent(suite: Suite, dataset: Dataset) -> dict[str, str]:
    """Return the rows that cannot run here, and why: whose tuned folder is not there, say, or that want item text.

    Raises:
        NotFound: if none is left.
    """

    def missing(row: Row) -> str:
        given = row.profiles
        if given and given.control in ("text", "keywords") and not dataset.item_text.num_columns:
            return row.absent or "the data have no item text"
        if given is None or given.adapter is None or not plugins.get("profiler", given.profiler).needs_model:
            return row.absent
        tuned = given.adapter.is_dir()
        return row.absent if tuned else f"nothing is tuned in {given.adapter} (reclm tune --out)"

    absent = {row.name: reason for row in suite.rows if (reason := missing(row))}
    if len(absent) == len(suite.rows):
        name, reason = next(iter(absent.items()))
        raise NotFound(f"no row of the suite can run here; {name}: {reason}")
    return absent


def _plans(suite: Suite) -> dict[str, Plan]:
    """Return row name to plan. An option of the suite that none of its backbones has is a mistake."""
    rows = [row for row in suite.rows if row.backbone]
    plans = {row.name: row_plan(suite, row) for row in rows}
    configs = [plugins.get("backbone", row.backbone).Config for row in rows]
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
    backbone: str | Sequence[str],
    settings: Mapping[str, Any],
    dataset: Dataset,
    profiles: ProfileOptions | Mapping[str, ProfileOptions] | None = None,
    *,
    place: str | None = None,
    seeds: int = 1,
    epochs: int | None = None,
    select_on: SelectOn = "valid",
    encoder: str | None = None,
) -> Suite:
    """Return the suite of backbones plain (``base``) and with each of the profiles (``augment``, or their names).

    A backbone that ranks by profiles alone has no ``base``.

    Args:
        settings: options of the backbones and of the training, by name.
        place: name or folder of the data set, if not its own name.
        select_on: with ``"test"`` the paper's selection: all epochs run, test Recall@20 chooses.

    Raises:
        NotFound: for an unknown backbone or option.
        BadInput: for a value that an option cannot have, and where there is no validation part to select on.
    """
    names = [backbone] if isinstance(backbone, str) else list(backbone)
    named = {"augment": profiles} if isinstance(profiles, ProfileOptions) else dict(profiles or {})
    configs = {name: plugins.get("backbone", name).Config for name in names}
    of_backbones = {field for config in configs.values() for field in config.model_fields}
    known = of_backbones | {*TrainConfig.model_fields}
    for key in settings:
        if key not in known:
            raise unknown(f"option of backbone {', '.join(names)} and its training", key, known)
    model = {key: value for key, value in settings.items() if key in of_backbones}
    for name, config in configs.items():
        own = {key: value for key, value in model.items() if key in config.model_fields}
        config.build(own, where=f"backbone {name}")
    train = {key: value for key, value in settings.items() if key in TrainConfig.model_fields}
    if epochs is not None:
        train["epochs"] = epochs
    most = TrainConfig.build(train, where="training").epochs
    if select_on == "test":
        train = {"metric": "recall@20", "patience": max(most, 1), **train}
    else:
        validation_task(dataset)
    rows: list[Row] = []
    for name in names:
        prefix = f"{name} " if len(names) > 1 else ""
        needed: ProfileKind | None = plugins.get("backbone", name).needs_profiles
        if not (needed and named):
            rows.append(Row(name=f"{prefix}base", backbone=name))
        for label, one in named.items():
            only = {"kinds": (needed,)} if needed in one.kinds else {}
            rows.append(Row(name=f"{prefix}{label}", backbone=name, profiles=one.model_copy(update=only)))
    return Suite(
        title=f"{', '.join(names)} on {dataset.name}",
        dataset=place or dataset.name,
        seeds=seeds,
        select_on=select_on,
        encoder=encoder,
        model=model,
        train=train,
        rows=tuple(rows),
    )


def save_models(run: SuiteRun, folder: Path) -> None:
    """Write the last seed's model of every row that ran to ``folder/ROW``, for ``reclm recommend``."""
    for name, trials in run.trials.items():
        trial, record = trials[-1], run.records[name][-1]
        if record.error is not None:
            continue
        features = trial.features
        features = features.make() if isinstance(features, TunedFeatures) else features
        config = plugins.get("backbone", trial.plan.backbone).Config.build(dict(trial.plan.model))
        encoder, source = features.encoder or ("", None)
        place = getattr(run.source, "folder", None)
        saved = SavedModel(
            backbone=trial.plan.backbone,
            config=config.model_dump(mode="json"),
            variant=name,
            seed=trial.seed,
            dataset=run.source.name,
            dataset_folder=str(place.resolve()) if place else None,
            fingerprint=run.source.fingerprint,
            trained_on=("train", "valid") if trial.plan.select_on == "test" else ("train",),
            encoder=encoder,
            encoder_source=source,
            profiles={"writer": features.store.info.writer, "store": str(features.store.folder)}
            if features.store
            else None,
            environment=environment(),
        )
        model = build_model(saved, features.inputs, trial.dataset)
        model.load_state_dict(load_file(run.cache.weights_of(trial.key)))
        save_model(folder / name, saved, model, features.inputs)
