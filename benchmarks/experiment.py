"""The experiment: the rows × seeds of a suite, each a trial, with leak checks, controls and search alike for all."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

from reclm import plugins
from reclm.benchmarks.feature_maker import FeatureMaker
from reclm.benchmarks.features import Shared
from reclm.benchmarks.pool import Trial, run_trials
from reclm.benchmarks.result_files import make_run_folder
from reclm.benchmarks.results import Result
from reclm.benchmarks.search import Searched, run_search, spaces
from reclm.benchmarks.seeds import FIRST_LOOK, run_until_enough
from reclm.benchmarks.suite import Row, Suite, changed, load_suite, row_plan, with_controls, with_references
from reclm.benchmarks.suite_run import SuiteRun
from reclm.benchmarks.trial import Plan, ProfileOptions, SelectOn, TrialCache, TrialRecord
from reclm.data.catalog import load_dataset
from reclm.data.dataset import Dataset, ProfileKind, check_dataset
from reclm.data.sessions import next_item
from reclm.errors import NotFound, at_least, check_type, unknown
from reclm.folders import current, to_path
from reclm.llm.models import find_model, load_tokenizer
from reclm.profiles.profiles import Profiles
from reclm.profiles.store import kinds_of
from reclm.recommend.base import Fusion, check_fusion
from reclm.recommend.evaluate import check_tested, validation_task
from reclm.recommend.fit import split_options
from reclm.recommend.recipes import RecipeName, recipe_options
from reclm.recommend.training import TrainConfig
from reclm.text.encoder import TextEncoder


def compare(
    backbone: str | Sequence[str],
    data: Dataset,
    profiles: Any = None,
    *,
    seeds: int | Literal["auto"] = 3,
    controls: bool = True,
    references: bool = True,
    fusion: Fusion = "dual-mlp",
    recipe: RecipeName = "default",
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
) -> Result:
    """Compare backbones with and without profiles, and with the controls of the profiles.

    Args:
        backbone: a name, or several.
        data: the data set that all are trained and tested on.
        profiles: :class:`~reclm.profiles.profiles.Profiles` (with their edits), the folder of a store,
            :class:`~reclm.benchmarks.trial.ProfileOptions`, or a mapping of names to these; None: the plain backbones
            alone.
        seeds: trials of each row; ``"auto"``: as many as it takes to find effects of 5 %, up to 20, after an estimate
            of the time (:mod:`reclm.benchmarks.seeds`).
        search: options that are tried for every row before its seeds run.
        controls: a row for each control of the profiles, too.
        references: a row for each simple recommender, too: EASE, neighbours, iALS, popularity, random order.
        fusion: how profiles enter, see :data:`~reclm.recommend.base.Fusion`; :class:`ProfileOptions` may have their
            own.
        recipe: options that are not given: ``"default"`` does well on many data sets, ``"paper"`` is each paper's.
        jobs: processes. ``epochs``: at most so many.
        select_on: ``"test"`` is the papers' selection, and flatters.
        kinds: the sides that are augmented.
        encoder: of item text and profiles; by default that of the profiles, or the embedded one.
        fresh: forget cached trials, and what they tuned.
        out: folder of the run; by default a new one in the workspace.
        options: of the backbones and of training, by name.

    Raises NotFound for an unknown backbone, fusion or option, and BadInput for a value that an option cannot have, or
    where there is nothing to select on, or ``out`` holds something else than a run.
    """
    check_dataset(data)
    check_fusion(fusion)
    at_least(1, jobs=jobs)
    at_least(0, search=search)
    make_run_folder(out)
    chosen = kinds_of(kinds)
    named = profiles if isinstance(profiles, Mapping) else {"augment": profiles}
    named = {} if profiles is None else named
    rows = {name: _profile_options(part, chosen) for name, part in named.items()}
    if fusion != "dual-mlp":
        rows = {name: options.model_copy(update={"fusion": fusion}) for name, options in rows.items()}
    if encoder is None:
        encoder = next((part.encoder.source for part in named.values() if isinstance(part, Profiles)), None)
    about: dict[str, Any] = {"seeds": seeds, "encoder": encoder, "references": references}
    suite = comparison(backbone, options, data, rows, select_on, epochs, recipe, **about)
    suite = changed(suite, search=search or None)
    controls = controls and bool(rows)
    run = execute(suite, data, jobs=jobs, fresh=fresh, controls=controls, weights=True, progress=progress)
    names = dict.fromkeys(row.backbone for row in suite.rows)
    return run.save(out, data.name, *names)


def _profile_options(profiles: Any, kinds: tuple[ProfileKind, ...]) -> ProfileOptions:
    """Return the options of a row for profiles, or the folder of their store."""
    if isinstance(profiles, ProfileOptions):
        return profiles
    if not isinstance(profiles, Profiles):
        return ProfileOptions(store=to_path(profiles, "profiles"), kinds=kinds)
    edits: dict[ProfileKind, dict[str, str]] = {}
    for (kind, id), text in profiles.edits.items():
        edits.setdefault(kind, {})[id] = text
    return ProfileOptions(store=profiles.folder, kinds=kinds, edits=edits)


def run_suite(
    suite: str | Path | Suite,
    *,
    rows: Sequence[str] = (),
    dataset: str | None = None,
    seeds: int | Literal["auto"] | None = None,
    epochs: int | None = None,
    search: int | None = None,
    kind: ProfileKind | None = None,
    controls: bool = False,
    jobs: int = 1,
    fresh: bool = False,
    out: str | Path | None = None,
    progress: bool = True,
    trust: bool = False,
) -> Result:
    """Run a suite and return its result.

    Args:
        suite: a name, the path of a YAML file, or a suite.
        rows: only these, by name or pattern, and those that they are compared with.
        dataset, seeds, epochs, search, kind: in place of the suite's own (:func:`~reclm.benchmarks.suite.changed`).
        controls: with a row for each control of each row that has profiles.
        jobs: processes. ``fresh``: forget cached trials, and what they tuned.
        out: folder of the run; by default a new one in the workspace.
        trust: run the code of classes ``module:Class`` that the file names.

    Raises NotFound for an unknown suite or row and, before anything slow, BadInput for a suite that does not fit its
    backbones or its data, and for a folder ``out`` that holds something else than a run.
    """
    at_least(1, jobs=jobs)
    at_least(0, search=search)
    make_run_folder(out)
    chosen = suite if isinstance(suite, Suite) else load_suite(suite, trust=trust)
    chosen = changed(chosen, dataset, seeds, epochs, search, rows, kind)
    run = execute(chosen, controls=controls, jobs=jobs, fresh=fresh, progress=progress)
    name = chosen.title if isinstance(suite, Suite) else Path(suite).stem
    return run.save(out, name)


def comparison(
    backbone: str | Sequence[str],
    settings: Mapping[str, Any],
    dataset: Dataset,
    profiles: ProfileOptions | Mapping[str, ProfileOptions] | None = None,
    select_on: SelectOn = "valid",
    epochs: int | None = None,
    recipe: RecipeName = "default",
    **about: Any,
) -> Suite:
    """Return the suite of backbones plain (``base``) and with each of the profiles (``augment``, or their names).

    A backbone that ranks by profiles alone has no ``base``. ``settings`` are options of the backbones and of the
    training, ``about`` is the suite's own. With ``select_on="test"``, the paper's selection, all epochs run and test
    Recall@20 chooses.
    """
    check_type("backbone", backbone, (str, list, tuple), "name one or several, as in 'lightgcn'")
    names = [backbone] if isinstance(backbone, str) else list(dict.fromkeys(backbone))
    for name in names:
        check_type("backbone", name, str, "name it, as in 'lightgcn'")
    named = {"augment": profiles} if isinstance(profiles, ProfileOptions) else dict(profiles or {})
    configs = {name: plugins.get("backbone", name).Config for name in names}
    model, train = split_options(configs, settings)
    for name, config in configs.items():
        own_model = {key: value for key, value in model.items() if key in config.model_fields}
        config.build(own_model, where=f"backbone {name}")
    train |= {} if epochs is None else {"epochs": epochs}
    trains = [recipe_options(recipe, name, plugins.get("backbone", name), True)[1] for name in names]
    most = max(TrainConfig.build(usual | train, where="training").epochs for usual in trains)
    check_tested(dataset)
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
        augmented = {} if plugins.get("backbone", name).baseline else named  # baselines read no profiles
        for label, options in augmented.items():
            only: dict[str, Any] = {"kinds": (needed,)} if needed in options.kinds else {}
            only |= {"fusion": "dual-mlp"} if needed else {}  # it ranks by profiles themselves
            rows.append(Row(name=f"{prefix}{label}", backbone=name, profiles=options.model_copy(update=only)))
    title = f"{', '.join(names)} on {dataset.name}"
    about |= {
        "dataset": dataset.name,
        "select_on": select_on,
        "model": model,
        "train": train,
        "recipe": recipe,
    }
    return Suite.build({"title": title, "rows": tuple(rows), **about}, where="experiment")


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
    """Run the trials of a suite that are not cached, on ``dataset`` or the data set that the suite names.

    ``weights``: save the trained weights, too; the other options are those of :func:`run_suite`.
    """
    suite = with_controls(suite) if controls else suite
    source = load_dataset(suite.dataset) if dataset is None else dataset
    suite = with_references(suite, source) if suite.references and suite.sessions is None else suite
    absent = _absent(suite, source)
    backboned = [row for row in suite.rows if row.backbone]
    plans = {row.name: row_plan(suite, row, source.has_item_text) for row in backboned}
    known = {name for row in backboned for name in plugins.get("backbone", row.backbone).Config.model_fields}
    for key in suite.model:
        if key not in known:  # none of its backbones has it
            raise unknown("option of the suite's backbones", key, known)
    plans = {row: plan for row, plan in plans.items() if row not in absent}
    search = suite.search if suite.search and suite.search.trials else None
    if search:
        spaces(search, plans)
    dataset_of = _datasets(suite, source, progress)
    datasets = [dataset_of(0)]
    check_tested(datasets[0])
    for protocol in dict.fromkeys(name for row in suite.rows for name in row.published):
        datasets[0].protocol(protocol)
    if suite.select_on == "valid":
        validation_task(datasets[0])
    shared = Shared(suite.encoder)
    makers: dict[Dataset, FeatureMaker] = {}

    def trial_of(plan: Plan, seed: int = 0) -> Trial:
        if (dataset := datasets[seed]) not in makers:
            makers[dataset] = FeatureMaker(dataset, shared, progress)
        return Trial(plan, seed, dataset, makers[dataset].of(plan, seed))

    running: dict[str, Any] = {"jobs": jobs, "progress": progress, "forgotten": set() if fresh else None}
    searched: dict[str, Searched] = {}
    if search:
        # trials of a search save no weights: where weights are wanted, the best ones are trained once more
        cache = TrialCache(current().trials())
        searched = run_search(search, plans, trial_of, cache, title=source.name, fresh=fresh, **running)
        plans = {row: result.plan for row, result in searched.items()}
    cache = TrialCache(current().trials(), weights=weights)
    trials: dict[str, list[Trial]] = {row: [] for row in plans}
    records: dict[str, list[TrialRecord]] = {row: [] for row in plans}
    first_look = FIRST_LOOK if suite.seeds == "auto" else None

    def run_seeds(seeds: range) -> SuiteRun:
        datasets.extend(map(dataset_of, range(len(datasets), seeds.stop)))
        new = [(row, trial_of(plan, seed)) for row, plan in plans.items() for seed in seeds]
        labels = [f"{row} seed {trial.seed}" for row, trial in new]
        ran = run_trials([trial for _, trial in new], cache, title=source.name, labels=labels, **running)
        for (row, trial), record in zip(new, ran, strict=True):
            trials[row].append(trial)
            records[row].append(record)
        whole = suite.model_copy(update={"seeds": seeds.stop})
        so_far = ({row: list(part) for row, part in by_row.items()} for by_row in (trials, records))
        return SuiteRun(whole, source, tuple(datasets), cache, *so_far, searched, absent, first_look)

    if suite.seeds == "auto":
        return run_until_enough(run_seeds, jobs, progress)
    return run_seeds(range(suite.seeds))


def _datasets(suite: Suite, source: Dataset, progress: bool) -> Callable[[int], Dataset]:
    """Return a function of a seed to its data set: sessions are drawn by it, all other data are the same for all."""
    if (sessions := suite.sessions) is None:
        return lambda seed: source
    counters: dict[str, Any] = {}
    if sessions.max_item_tokens is not None:
        counters["encoder_tokens"] = TextEncoder(suite.encoder).tokens
    if sessions.max_history_tokens is not None:
        names = [row.profiles.model for row in suite.rows if row.profiles]
        tokenizer = load_tokenizer(find_model(names[0] if names else None))
        ids = partial(tokenizer, add_special_tokens=False)
        counters["model_tokens"] = lambda texts: list(map(len, ids(list(texts))["input_ids"]))

    def draw(seed: int) -> Dataset:
        return next_item(source, sessions.model_copy(update={"seed": seed}), progress=progress, **counters)

    return draw


def _absent(suite: Suite, dataset: Dataset) -> dict[str, str]:
    """Return why rows cannot run here: their tuned folder is not there, or they need item text."""

    def reason(row: Row) -> str:
        if (profiles := row.profiles) is None:
            return row.absent
        if profiles.control in ("text", "keywords") and not dataset.has_item_text:
            return row.absent or "the data have no item text"
        if (profiles.control, profiles.fusion) == ("random", "text"):
            return row.absent or "random vectors are no text that joins the items' texts"
        folder = profiles.adapter
        if folder and not folder.is_dir() and plugins.get("profiler", profiles.profiler).needs_model:
            return f"nothing is tuned in {folder} (reclm tune --out)"
        return row.absent

    absent = {row.name: why for row in suite.rows if (why := reason(row))}
    if len(absent) == len(suite.rows):
        name, why = next(iter(absent.items()))
        raise NotFound(f"no row of the suite can run here; {name}: {why}")
    return absent
