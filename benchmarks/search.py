"""Hyperparameter search: every row tries as many options, of one space, and keeps those that rank validation best."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pydantic import Field, field_validator, model_validator

from reclm import plugins
from reclm.benchmarks.pool import run_trials
from reclm.benchmarks.results import SearchTrial
from reclm.benchmarks.trial import Plan
from reclm.benchmarks.trial_cache import Trial, TrialCache, TrialRecord
from reclm.config import Config
from reclm.data.dataset import Dataset
from reclm.errors import ReclmError, unknown
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


Choices = tuple[bool | int | float | str, ...]
Space = dict[str, Range | Choices]

DEFAULT_SPACE: Space = {
    "lr": Range(low=1e-4, high=1e-2, log=True),
    "l2": Range(low=1e-6, high=1e-2, log=True),
    "ssl": Range(low=1e-2, high=1.0, log=True),
}
"""Learning rate, weight decay, and the contrastive weight of backbones that have one."""


class Search(Config):
    """What is tried for every row before its seeds run."""

    trials: int = Field(default=20, ge=1)
    """A row."""
    space: Space | None = None
    """Option of backbones or training to its range or list of choices; :data:`DEFAULT_SPACE` if not given. A row
    searches those that its backbone has."""

    @field_validator("space", mode="before")
    @classmethod
    def _plain(cls, space: Any) -> Any:
        if not isinstance(space, Mapping):
            return space
        return {
            name: Range.build(dict(one), where=f"search space of {name}") if isinstance(one, Mapping) else one
            for name, one in space.items()
        }

    @field_validator("space")
    @classmethod
    def _not_empty(cls, space: Space | None) -> Space | None:
        for name, one in (space or {}).items():
            if not isinstance(one, Range) and len(one) == 0:
                raise ValueError(f"{name} has no choice")
        if space is not None and not space:
            raise ValueError("there is nothing to search; name an option, or leave the space out")
        return space


def with_options(plan: Plan, options: Mapping[str, Any], where: str = "search") -> Plan:
    """The plan with options of its backbone or training over its own.

    Raises:
        ReclmError: for a value that an option cannot have.
    """
    config = plugins.get("backbone", plan.backbone).Config
    model = {name: value for name, value in options.items() if name in config.model_fields}
    train = {name: value for name, value in options.items() if name in TrainConfig.model_fields}
    config.build({**plan.model, **model}, where=f"{where}: backbone {plan.backbone}")
    built = TrainConfig.build({**plan.train.model_dump(), **train}, where=f"{where}: training")
    return plan.model_copy(update={"model": {**plan.model, **model}, "train": built})


def spaces(search: Search, plans: Mapping[str, Plan]) -> dict[str, Space]:
    """Row to the part of the space that its backbone and training have.

    Raises:
        ReclmError: for selection on test, an option that no row has, and a value that one cannot have.
    """
    if any(plan.select_on == "test" for plan in plans.values()):
        raise ReclmError(
            "a search chooses by validation, and selection on test leaves no validation part; "
            "select on valid, or leave the search out"
        )
    found = {row: kinds(plan) for row, plan in plans.items()}
    if search.space is not None:
        known = {name for options in found.values() for name in options}
        for name in search.space:
            if name not in known:
                raise unknown("option to search", name, known)
    whole = search.space or DEFAULT_SPACE
    parts = {row: {name: whole[name] for name in whole if name in found[row]} for row in plans}
    for row, part in parts.items():
        for name, one in part.items():
            where = f"row {row!r}, search"
            if isinstance(one, Range) and found[row][name] not in (int, float):
                raise ReclmError(f"{where}: {name} is not a number; give a list of choices, not a range")
            for value in (one.low, one.high) if isinstance(one, Range) else one:
                with_options(plans[row], {name: value}, where)
    return parts


def kinds(plan: Plan) -> dict[str, Any]:
    """Name and type of what can be searched. Trials of another selection metric could not be compared."""
    fields = {**plugins.get("backbone", plan.backbone).Config.model_fields, **TrainConfig.model_fields}
    return {name: one.annotation for name, one in fields.items() if name != "metric"}


def said(search: Search, plans: Mapping[str, Plan]) -> str:
    """How the options were chosen, in a sentence."""
    parts = spaces(search, plans)
    used = {name: one for part in parts.values() for name, one in part.items()}
    space = ", ".join(f"{name} {_range(one)}" for name, one in used.items())
    return (
        f"options were searched: {search.trials} trials for every trained line alike (seed 0), of {space}; the best "
        f"epoch's validation value chose, and all seeds ran with what it chose"
    )


def _range(one: Range | Choices) -> str:
    if isinstance(one, Range):
        return f"{one.low:g} to {one.high:g}" + " (log)" * one.log
    return "/".join(map(str, one))


BATCH = 5
"""Trials that a row asks for at a time. Fixed, so that what is found does not depend on the number of processes."""


@dataclass(frozen=True)
class Searched:
    """What the search of one row came to.

    Attributes:
        plan: the row's, with what was chosen.
        trials: in the order they were asked for; none for a backbone that is not trained.
        chosen: the options of the best; empty where no trial came to a value.
    """

    plan: Plan
    trials: tuple[SearchTrial, ...] = ()
    chosen: dict[str, Any] = field(default_factory=dict)


def run_search(
    search: Search,
    plans: Mapping[str, Plan],
    cell_of: Callable[[str, Plan], Trial],
    dataset: Dataset,
    store: TrialCache,
    *,
    fresh: bool = False,
    jobs: int = 1,
    progress: bool = True,
) -> dict[str, Searched]:
    """What each row's search chose, by the best validation value in the history of a training with seed 0.

    Trials are ordinary cells: killed and called again, the search finds the kept ones and ends the same. The first is
    of the row's own options, where the space holds them; then Optuna's TPE asks, with one seed for all rows.

    Args:
        plans: row to plan.
        cell_of: the cell with seed 0 of a row under a plan.
        fresh: run kept trials again.

    Raises:
        ReclmError: as :func:`spaces`.
    """
    parts = spaces(search, plans)
    rows = {row: _RowSearch(plan, parts[row]) for row, plan in plans.items()}
    forgotten: set[str] = set()
    for done in range(0, search.trials, BATCH):
        cells: list[Trial] = []
        labels: list[str] = []
        asked: list[tuple[_RowSearch, _Asked]] = []
        for row, one in rows.items():
            for place in range(done, min(done + BATCH, search.trials)) if one.trained else ():
                trial = one.ask(lambda plan, row=row: cell_of(row, plan))
                asked.append((one, trial))
                if trial.cell is not None:
                    cells.append(trial.cell)
                    labels.append(f"{row} trial {place + 1}")
        for key in {cell.key for cell in cells} - forgotten if fresh else ():
            store.remove(key)
            forgotten.add(key)
        what = f"{dataset.name}: search, {done} of {search.trials}"
        results = iter(
            run_trials(cells, dataset, store, what=what, labels=labels, jobs=jobs, progress=progress)
        )
        for one, trial in asked:
            one.tell(trial, next(results) if trial.cell is not None else None)
    return {row: one.searched() for row, one in rows.items()}


@dataclass(frozen=True)
class _Asked:
    """A trial that has not run; without a cell one that cannot."""

    trial: "optuna.Trial"
    options: dict[str, Any]
    cell: Trial | None
    error: str = ""


class _RowSearch:
    """The search of one row."""

    def __init__(self, plan: Plan, space: Space) -> None:
        import optuna  # slow to import, and most runs search nothing

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.plan, self.space = plan, space
        self.study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=0))
        own = {**_defaults(plan), **plan.train.model_dump()}
        if all(_holds(one, own[name]) for name, one in space.items()):
            self.study.enqueue_trial({name: own[name] for name in space})
        self.trials: list[SearchTrial] = []
        self.trained = True

    def ask(self, cell_of: Callable[[Plan], Trial]) -> _Asked:
        """The next options. Those that do not go together count as tried, and failed."""
        trial = self.study.ask()
        options = {name: _suggest(trial, name, one, kinds(self.plan)) for name, one in self.space.items()}
        try:
            return _Asked(trial, options, cell_of(with_options(self.plan, options)))
        except ReclmError as error:
            return _Asked(trial, options, None, str(error))

    def tell(self, asked: _Asked, result: TrialRecord | None) -> None:
        """What the trial came to: nothing but its history and whether it failed is looked at."""
        import optuna

        error = asked.error if result is None else result.error
        if result is not None and error is None and not result.history:
            self.trained = False  # a floor, or no epochs: whatever the options, the same
        metric = f"valid {self.plan.train.metric}"
        values = [row[metric] for row in result.history if metric in row] if result is not None else []
        value = max((one for one in values if not math.isnan(one)), default=None)
        if error is None and value is None:
            error = f"no {metric}"
        if error is None:
            self.study.tell(asked.trial, value)
        else:
            self.study.tell(asked.trial, state=optuna.trial.TrialState.FAIL)
        self.trials.append(
            SearchTrial(options=asked.options, value=None if error else value, error=error or "")
        )

    def searched(self) -> Searched:
        """The first of the best trials; the row's own options where none came to a value."""
        if not self.trained:
            return Searched(self.plan)
        known = [one for one in self.trials if one.value is not None]
        if not known:
            return Searched(self.plan, tuple(self.trials))
        best = max(known, key=lambda one: one.value or 0.0)
        return Searched(with_options(self.plan, best.options), tuple(self.trials), best.options)


def _defaults(plan: Plan) -> dict[str, Any]:
    config = plugins.get("backbone", plan.backbone).Config.build(dict(plan.model))
    return config.model_dump()


def _holds(one: Range | Choices, value: Any) -> bool:
    return one.low <= value <= one.high if isinstance(one, Range) else value in one


def _suggest(trial: "optuna.Trial", name: str, one: Range | Choices, types: Mapping[str, Any]) -> Any:
    if not isinstance(one, Range):
        return trial.suggest_categorical(name, one)
    if types[name] is int:
        return trial.suggest_int(name, int(one.low), int(one.high), log=one.log)
    return trial.suggest_float(name, one.low, one.high, log=one.log)
