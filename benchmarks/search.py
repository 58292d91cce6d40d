"""Hyperparameter search: every row tries as many options, of one space, and takes those that rank validation best."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from filelock import FileLock
from pydantic import BaseModel, Field, field_validator, model_validator

from reclm import plugins
from reclm.benchmarks.pool import Trial, run_trials
from reclm.benchmarks.results import SearchTrial
from reclm.benchmarks.row_profiles import key_of
from reclm.benchmarks.trial import Plan, TrialCache, TrialRecord
from reclm.config import Config, merged
from reclm.errors import BadInput, ReclmError, unknown
from reclm.recommend.cold_validation import NEW
from reclm.recommend.training import TrainConfig

if TYPE_CHECKING:
    import optuna


class Range(Config):
    """Numbers from ``low`` to ``high``, both included; whole ones for an option that is a whole number."""

    low: float
    high: float
    log: bool = False
    """Draw the logarithm uniformly: as many trials from 1e-4 to 1e-3 as from 1e-3 to 1e-2."""

    @model_validator(mode="after")
    def _ordered(self) -> "Range":
        if not self.low < self.high or (self.log and self.low <= 0):
            above = ", and a logarithm needs low above 0" if self.log else ""
            raise ValueError(f"low = {self.low:g} must be below high = {self.high:g}{above}")
        return self

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high

    def __str__(self) -> str:
        return f"{self.low:g} to {self.high:g}" + " (log)" * self.log


Choices = tuple[bool | int | float | str, ...]
Space = dict[str, Range | Choices]

DEFAULT_SPACE: Space = {
    "lr": Range(low=1e-4, high=1e-2, log=True),
    "l2": Range(low=1e-6, high=1e-2, log=True),
    "ssl": Range(low=1e-2, high=1.0, log=True),
}
"""Learning rate, weight decay, and the contrastive weight of backbones that have one."""


class Search(Config):
    """Trials of every row before its seeds run."""

    trials: int = Field(default=20, ge=0)
    """Trials of each row; 0: none, unless ``--search`` asks for them."""
    space: Space | None = None
    """Option of backbones or training, or ``profiles.NAME`` of the profiler that a trial tunes, to its range or list of
    choices; :data:`DEFAULT_SPACE` if not given. A row searches those that it has."""

    @field_validator("space", mode="before")
    @classmethod
    def _plain(cls, space: Any) -> Any:
        if not isinstance(space, Mapping):
            return space
        ranges = [name for name, values in space.items() if isinstance(values, Mapping)]
        built = {name: Range.build(dict(space[name]), where=f"search space of {name}") for name in ranges}
        return {**space, **built}

    @field_validator("space")
    @classmethod
    def _not_empty(cls, space: Space | None) -> Space | None:
        if empty := [name for name, values in (space or {}).items() if values == ()]:
            raise ValueError(f"{empty[0]} has no choice")
        if space is not None and not space:
            raise ValueError("there is nothing to search; name an option, or leave the space out")
        return space


OF_PROFILER = "profiles."
"""Prefix of the options of the profiler that a trial tunes."""
BATCH = 5
"""Trials that a row asks for at a time. Fixed, so that the result does not depend on the number of processes."""


def with_options(plan: Plan, options: Mapping[str, Any], where: str = "search") -> Plan:
    """Return the plan with options of its backbone, its training or its profiler over its own."""
    config = plugins.get("backbone", plan.backbone).Config
    model = plan.model | {name: value for name, value in options.items() if name in config.model_fields}
    train = {name: value for name, value in options.items() if name in TrainConfig.model_fields}
    config.build(model, where=f"{where}: backbone {plan.backbone}")
    built = TrainConfig.build({**plan.train.model_dump(), **train}, where=f"{where}: training")
    profiles = plan.profiles
    for name, value in options.items():
        if profiles and name.startswith(OF_PROFILER):
            nested: Any = value
            for part in reversed(name.removeprefix(OF_PROFILER).split(".")):
                nested = {part: nested}
            settings = merged(profiles.settings, nested)
            of_profiler = plugins.get("profiler", profiles.profiler).Config
            of_profiler.build(settings, where=f"{where}: profiler {profiles.profiler}")
            profiles = profiles.model_copy(update={"settings": settings})
    return plan.model_copy(update={"model": model, "train": built, "profiles": profiles})


def spaces(search: Search, plans: Mapping[str, Plan]) -> dict[str, Space]:
    """Return for each row the part of the space that its backbone, training and profiler have."""
    if any(plan.select_on == "test" for plan in plans.values()):
        message = "a search chooses by validation, and selection on test leaves no validation part"
        raise BadInput(f"{message}; select on valid, or leave the search out")
    types = {row: option_types(plan) for row, plan in plans.items()}
    known = {name for options in types.values() for name in options}
    for name in search.space or ():
        if name not in known:
            raise unknown("option to search", name, known)
    whole = search.space or DEFAULT_SPACE
    parts = {row: {name: whole[name] for name in whole if name in types[row]} for row in plans}
    for row, part in parts.items():
        where = f"row {row!r}, search"
        for name, values in part.items():
            if isinstance(values, Range) and types[row][name] not in (int, float):
                raise BadInput(f"{where}: {name} is not a number; give a list of choices, not a range")
            for value in _ends(values):
                with_options(plans[row], {name: value}, where)
    return parts


def option_types(plan: Plan) -> dict[str, Any]:
    """Return name and type of what can be searched. Trials of another selection metric could not be compared."""
    fields = {**plugins.get("backbone", plan.backbone).Config.model_fields, **TrainConfig.model_fields}
    types = {name: info.annotation for name, info in fields.items() if name != "metric"}
    options = plan.profiles
    if options is None or options.adapter or options.store or not options.tune:
        return types
    cls = plugins.get("profiler", options.profiler)
    return types | (dict(_nested(cls.Config, OF_PROFILER)) if cls.tunable else {})


def _nested(config: type[BaseModel], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, info in config.model_fields.items():
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            yield from _nested(info.annotation, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", info.annotation


def sentence(search: Search, plans: Mapping[str, Plan]) -> str:
    """Return how the options were chosen, in a sentence."""
    used = {name: values for part in spaces(search, plans).values() for name, values in part.items()}
    written = {name: "/".join(map(str, values)) for name, values in used.items() if isinstance(values, tuple)}
    space = ", ".join(f"{name} {values}" for name, values in (used | written).items())
    tried = f"options were searched: {search.trials} trials for every trained row alike (seed 0), of {space}"
    new = "; for zero-shot that on new validation items" * any(
        plan.train.cold_validation for plan in plans.values()
    )
    return f"{tried}; the best epoch's validation value chose{new}, and all seeds ran with what it chose"


def _ends(values: Range | Choices) -> tuple[Any, ...]:
    return (values.low, values.high) if isinstance(values, Range) else values


@dataclass(frozen=True)
class Searched:
    """The search of one row: its plan with the options that were ``chosen``, none where no trial has a value."""

    plan: Plan
    trials: tuple[SearchTrial, ...] = ()
    chosen: dict[str, Any] = field(default_factory=dict)


def run_search(
    search: Search,
    plans: Mapping[str, Plan],
    trial_of: Callable[[Plan], Trial],
    cache: TrialCache,
    *,
    title: str = "",
    fresh: bool = False,
    **running: Any,
) -> dict[str, Searched]:
    """Return for each row the options with the best validation value, with seed 0.

    Trials are ordinary ones, and the study of each row lies beside them: killed and called again, the search goes on
    and ends the same. The first trial has the row's own options, where the space holds them; then Optuna's TPE asks.
    With ``fresh`` the studies are forgotten. ``running`` are options of :func:`~reclm.benchmarks.pool.run_trials`.
    """
    parts, about = spaces(search, plans), (trial_of, cache.folder, fresh)
    studies = {row: _RowSearch(plans[row], part, *about) for row, part in parts.items()}
    for done in range(0, search.trials, BATCH):
        count = min(BATCH, search.trials - done)
        searching = {row: study.ask(done, count) for row, study in studies.items() if study.searches}
        pairs = [(row, trial) for row, trials in searching.items() for trial in trials]
        ready = {f"{row} trial {trial.number + 1}": trial.trial for row, trial in pairs if trial.trial}
        head = f"{title}: search, {done} of {search.trials}"
        records = iter(run_trials(list(ready.values()), cache, title=head, labels=list(ready), **running))
        for row, trial in pairs:
            studies[row].tell(trial, next(records) if trial.trial else None)
    return {row: study.searched() for row, study in studies.items()}


class _Asked(NamedTuple):
    """A trial of a study; without ``trial`` its options do not go together: they count as tried, and failed."""

    number: int
    options: dict[str, Any]
    trial: Trial | None
    error: str = ""


class _RowSearch:
    """The search of one row: a study in a journal file, which another process may share."""

    def __init__(
        self, plan: Plan, space: Space, trial_of: Callable[[Plan], Trial], folder: Path, fresh: bool
    ) -> None:
        import optuna  # slow to import, and most runs search nothing
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.plan, self.trial_of = plan, trial_of
        self.space = {name: values for name, values in space.items() if self._changes(name, values)}
        self.types, self.searches = option_types(plan), bool(self.space)
        self._results: dict[int, SearchTrial] = {}
        dumped = Search(space=self.space or None).model_dump()["space"] or {}
        key = key_of({"own": trial_of(plan).definition, "space": dumped})
        path = folder / "searches" / f"{key}.log"
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(path.with_suffix(".lock"))
        with self._lock:
            if fresh:
                path.unlink(missing_ok=True)
            storage = JournalStorage(JournalFileBackend(str(path)))
            place: dict[str, Any] = {"storage": storage, "study_name": key}
            self.study = optuna.create_study(**place, direction="maximize", load_if_exists=True)
            defaults = self._own()
            holds = all(defaults[name] in values for name, values in self.space.items())
            if self.space and not self.study.trials and holds:
                self.study.enqueue_trial({name: defaults[name] for name in self.space})

    def _changes(self, name: str, values: Range | Choices) -> bool:
        """Return whether an option changes the row's trials: those of its profiler may not."""
        plans = (with_options(self.plan, {name: value}) for value in _ends(values))
        return not name.startswith(OF_PROFILER) or len({self.trial_of(plan).key for plan in plans}) > 1

    def _own(self) -> dict[str, Any]:
        """Return the row's own value of every option."""
        config = plugins.get("backbone", self.plan.backbone).Config.build(dict(self.plan.model))
        values = {**config.model_dump(), **self.plan.train.model_dump()}
        if profiles := self.plan.profiles:
            cls = plugins.get("profiler", profiles.profiler)
            values |= _flat(cls.Config.build(dict(profiles.settings)).model_dump(), OF_PROFILER)
        return values

    def ask(self, done: int, count: int) -> list[_Asked]:
        """Return trials ``done … done + count - 1``: those in the study, of a run that was killed say, and new ones."""
        import optuna

        proposals = []
        with self._lock:
            for number in range(done, done + count):
                trials = {trial.number: trial for trial in self.study.get_trials(deepcopy=False)}
                known = trials.get(number)
                if known and known.state != optuna.trial.TrialState.WAITING:
                    options = dict(known.params)
                    if options.keys() != self.space.keys():  # the run was killed between two suggestions
                        options = self._suggested(optuna.trial.Trial(self.study, known._trial_id))
                else:
                    # a seed a trial: what is asked does not depend on where a run was killed
                    self.study.sampler = optuna.samplers.TPESampler(seed=number)
                    options = self._suggested(self.study.ask())
                try:
                    proposals.append(_Asked(number, options, self.trial_of(with_options(self.plan, options))))
                except ReclmError as error:
                    proposals.append(_Asked(number, options, None, str(error)))
        return proposals

    def _suggested(self, trial: "optuna.Trial") -> dict[str, Any]:
        for name, values in self.space.items():
            if not isinstance(values, Range):
                trial.suggest_categorical(name, values)
            elif self.types[name] is int:
                trial.suggest_int(name, int(values.low), int(values.high), log=values.log)
            else:
                trial.suggest_float(name, values.low, values.high, log=values.log)
        return trial.params

    def tell(self, asked: _Asked, record: TrialRecord | None) -> None:
        """Report a trial's validation value, or its error, to the study; nothing else of the trial is used."""
        import optuna

        error = asked.error if record is None else record.error or ""
        tunes = any(name.startswith(OF_PROFILER) for name in asked.options)
        if record is not None and not error and not record.history and not tunes:
            self.searches = False  # nothing is trained: whatever the options, the same
        metric = self.plan.train.metric
        value = None if record is None else record.validation.get(metric)
        if not error and (value is None or math.isnan(value)):
            error = f"no valid {metric}"
        new_value = None if error or record is None else record.validation.get(f"{NEW} {metric}")
        value, state = (None, optuna.trial.TrialState.FAIL) if error else (value, None)
        with self._lock, suppress(ValueError, RuntimeError):  # another process may have reported it
            self.study.tell(asked.number, value, state)
        about = {"options": asked.options, "value": value, "new_value": new_value, "error": error}
        self._results[asked.number] = SearchTrial(**about)

    def searched(self) -> Searched:
        """Return the first of the best trials; the row's own options where none has a value.

        Where new items were validated on, the trial that ranked these best has the options of the training for them.
        """
        if not self.searches:
            return Searched(self.plan)
        trials = tuple(self._results[number] for number in sorted(self._results))
        with_value = [trial for trial in trials if trial.value is not None]
        best = max(with_value, key=lambda trial: trial.value or 0.0, default=SearchTrial(options={}))
        plan, chosen = with_options(self.plan, best.options), best.options
        new = max(trials, key=lambda trial: trial.new_value or 0.0, default=best)
        # the profiler is the same for all protocols
        options = {name: value for name, value in new.options.items() if not name.startswith(OF_PROFILER)}
        if new.new_value is not None and options.items() - best.options.items():
            plan = plan.model_copy(update={"new_items": options})
            chosen = chosen | {f"{name}, new items": value for name, value in options.items()}
        return Searched(plan, trials, chosen)


def _flat(settings: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return flat
