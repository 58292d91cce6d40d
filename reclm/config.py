"""The base of all options: typed, bounded, without unknown keys, read from and written to YAML."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo, field_validator

from reclm.errors import BadInput, NotFound, unknown
from reclm.files import write_text

NOT_YAML = (yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError, RecursionError)
"""Errors of PyYAML for a text that is none: an impossible date is a ValueError, ``!!int ""`` an IndexError, …"""
MOST_VALUES = 1_000_000
"""Of a file of options, where a value that an alias repeats counts each time."""


class Config(BaseModel):
    """A frozen set of options. Unknown keys are errors, with the nearest known key offered."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    @field_validator("*", mode="before")
    @classmethod
    def _no_empty_path(cls, value: Any, info: ValidationInfo) -> Any:
        kind = cls.model_fields[info.field_name or ""].annotation
        if value == "" and Path in (kind, *get_args(kind)) and str not in get_args(kind):
            raise ValueError("name a file or folder; an empty path would be the folder one is in")
        return value

    @classmethod
    def build(cls, values: dict[str, Any], where: str = "config") -> Self:
        """Validate ``values`` (as read from YAML or ``--set``); strings are converted to the field's type.

        Raises:
            NotFound: for an unknown key; the nearest known one is offered.
            BadInput: for a value that the field does not take.
        """
        if not isinstance(values, Mapping):
            message = f"{where} must hold a mapping of options, found {type(values).__name__}"
            raise BadInput(message, value=values, where=where)
        for key in values:
            if key not in cls.model_fields:
                raise unknown(f"{where} key", str(key), cls.model_fields)
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            first = error.errors()[0]
            key, value = ".".join(map(str, first["loc"])) or where, first["input"]
            known = _fields(cls, first["loc"][:-1])
            if first["type"] == "extra_forbidden" and known:
                raise unknown(f"{where} key", key, known) from error
            reason = first["msg"].removeprefix("Value error, ")
            fault = f"{where}: {key} = {value!r}: {reason}" if first["loc"] else f"{where}: {reason}"
            raise BadInput(fault, value=value, where=key) from error

    @classmethod
    def from_yaml(cls, path: Path) -> Self:
        """Read a file written by :meth:`to_yaml`, or by hand."""
        return cls.build(read_yaml(path), where=str(path))

    def to_yaml(self, path: Path) -> None:
        """Write every option, defaults included: the file whole or not at all."""
        write_text(path, yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False))


def _fields(cls: Any, path: tuple[str | int, ...]) -> list[str]:
    """Return the dotted names of the fields of the config at ``path`` within ``cls``; none if no config is there."""
    for name in path:
        field = getattr(cls, "model_fields", {}).get(name)
        cls = field and field.annotation
    return [".".join(map(str, (*path, name))) for name in getattr(cls, "model_fields", {})]


class _OneOfEach(yaml.SafeLoader):
    """PyYAML's safe loader that refuses a key which a mapping has twice; PyYAML takes the last."""

    def compose_mapping_node(self, anchor: Any) -> Any:
        node = super().compose_mapping_node(anchor)
        keys = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and (key.tag, key.value) in keys:
                raise yaml.MarkedYAMLError(None, None, f"key {key.value!r} stands twice", key.start_mark)
            keys.add((key.tag, str(key.value)))
        return node


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file that holds a mapping."""
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), _OneOfEach)
    except OSError as error:
        raise NotFound(f"cannot read {path}: {error.strerror}", value=path) from error
    except NOT_YAML as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise BadInput(f"{path} is not YAML: {reason[:300]}", where=path) from error
    if not _is_tree(values):
        raise BadInput(f"{path} holds a list or mapping that is a part of itself, or too much", where=path)
    if not isinstance(values, dict):
        raise BadInput(f"{path} must hold a mapping of options, found {type(values).__name__}", where=path)
    return values


def _is_tree(value: Any) -> bool:
    """Tell whether no list or mapping is a part of itself, and all of them together are of a size to be read."""
    count = 0

    def walk(value: Any, above: tuple[int, ...]) -> bool:
        nonlocal count
        count += 1
        if not isinstance(value, dict | list | set):
            return True
        parts = [*value, *value.values()] if isinstance(value, dict) else value
        fits = id(value) not in above and count <= MOST_VALUES and len(above) < 100
        return fits and all(walk(part, (*above, id(value))) for part in parts)

    return walk(value, ())


def parse_settings(settings: list[str], option: str = "--set") -> dict[str, Any]:
    """Return the values of ``--set``, or another ``option``, as a mapping.

    ``["kd.epochs=3"]`` is ``{"kd": {"epochs": 3}}``.

    Values are read as YAML. Text that is not YAML (``[. {title}``, ``2019-11-31``) or would be a mapping (``{title}``)
    stays a string.
    """
    values: dict[str, Any] = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals or not key:
            message = f"{option} {setting!r}: write key=value, as in {option} name=0.001"
            raise BadInput(message, value=setting, where=option)
        *parents, last = key.strip().split(".")
        place: Any = values
        for parent in parents:
            place = place.setdefault(parent, {})
            if not isinstance(place, dict):
                raise _twice(option, setting, f"{parent} has a value of its own, too")
        if isinstance(place.get(last), dict):
            raise _twice(option, setting, f"settings of {last} are given, too")
        place[last] = _value(text)
    return values


def _twice(option: str, setting: str, clash: str) -> BadInput:
    return BadInput(f"{option} {setting!r}: {clash}; leave one of them out", value=setting, where=option)


def _value(text: str) -> Any:
    try:
        value = yaml.safe_load(text)
    except NOT_YAML:
        return text
    return text if isinstance(value, dict) or not _is_tree(value) else value


def merged(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``values`` updated by ``changes``, mapping by mapping.

    >>> merged({"a": {"b": 1, "c": 2}}, {"a": {"c": 3}})
    {'a': {'b': 1, 'c': 3}}
    """
    result = dict(values)
    for key, value in changes.items():
        old = result.get(key)
        result[key] = merged(old, value) if isinstance(value, Mapping) and isinstance(old, Mapping) else value
    return result
