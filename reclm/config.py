"""The base of every configuration: typed, bounded, closed to unknown keys, YAML in and out."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from reclm.errors import ReclmError, unknown


class Config(BaseModel):
    """A frozen set of options. Unknown keys are errors, with the nearest known key offered."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    @classmethod
    def build(cls, values: dict[str, Any], where: str = "config") -> Self:
        """Validate ``values`` (as read from YAML or ``--set``); strings are converted to the field's type.

        Raises:
            ReclmError: one line naming the key, the value and what it should be.
        """
        for key in values:
            if key not in cls.model_fields:
                raise unknown(f"{where} key", str(key), cls.model_fields)
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(map(str, first["loc"])) or where
            known = _fields(cls, first["loc"][:-1])
            if first["type"] == "extra_forbidden" and known:
                raise unknown(f"{where} key", key, known) from error
            reason = first["msg"].removeprefix("Value error, ")
            raise ReclmError(f"{where}: {key} = {first['input']!r}: {reason}") from error

    @classmethod
    def from_yaml(cls, path: Path) -> Self:
        """Read a file written by :meth:`to_yaml`, or by hand."""
        return cls.build(read_yaml(path), where=str(path))

    def to_yaml(self, path: Path) -> None:
        """Write every option, defaults included."""
        path.write_text(yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False), encoding="utf-8")


def _fields(cls: Any, path: tuple[str | int, ...]) -> list[str]:
    """Dotted names of what the config at ``path`` within ``cls`` may hold; none where no config is there."""
    for name in path:
        field = getattr(cls, "model_fields", {}).get(name)
        cls = field and field.annotation
    return [".".join(map(str, (*path, name))) for name in getattr(cls, "model_fields", {})]


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file that holds a mapping.

    Raises:
        ReclmError: if the file is missing, is not YAML or holds something else.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ReclmError(f"cannot read {path}: {error.strerror}") from error
    except (yaml.YAMLError, ValueError) as error:  # an impossible date is a ValueError
        raise ReclmError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise ReclmError(f"{path} must hold a mapping of options, found {type(values).__name__}")
    return values


def parse_settings(settings: list[str]) -> dict[str, Any]:
    """``["lr=1e-3", "kd.epochs=3"]`` (the values of ``--set``) as a mapping, ``{"lr": 1e-3, "kd": {"epochs": 3}}``.

    Values are read as YAML.

    What is no YAML (``[. {title}``, ``2019-11-31``) or would be a mapping (``{title}``) stays a string.

    Raises:
        ReclmError: for a setting without ``=``.
    """
    values: dict[str, Any] = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals or not key:
            raise ReclmError(f"--set {setting!r}: write key=value, as in --set lr=0.001")
        *parts, last = key.strip().split(".")
        place = values
        for part in parts:
            place = place.setdefault(part, {})
            if not isinstance(place, dict):
                raise ReclmError(
                    f"--set {setting!r}: {part} is given a value of its own, too; leave one of them out"
                )
        if isinstance(place.get(last), dict):
            raise ReclmError(f"--set {setting!r}: settings of {last} are given, too; leave one of them out")
        place[last] = _value(text)
    return values


def _value(text: str) -> Any:
    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError):
        return text
    return text if isinstance(value, dict) else value


def merged(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """``values`` with ``changes`` over them, mapping by mapping.

    >>> merged({"a": {"b": 1, "c": 2}}, {"a": {"c": 3}})
    {'a': {'b': 1, 'c': 3}}
    """
    both = dict(values)
    for key, one in changes.items():
        known = both.get(key)
        both[key] = merged(known, one) if isinstance(one, Mapping) and isinstance(known, Mapping) else one
    return both
