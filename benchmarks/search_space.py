"""What a search tries: a space of options, and the part of it that each row's backbone and training have."""

from collections.abc import Mapping
from typing import Any

from pydantic import Field, field_validator, model_validator

from reclm import plugins
from reclm.benchmarks.runner import Plan
from reclm.config import Config
from reclm.errors import ReclmError, unknown
from reclm.training import TrainConfig


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
