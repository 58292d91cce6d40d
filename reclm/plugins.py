"""Plug-ins, found through entry-point groups (``reclm.backbones``, ``.profilers``, ``.datasets``, ``.generators``)."""

import os
import platform
import sys
import tomllib
from collections.abc import Mapping
from contextlib import suppress
from contextvars import ContextVar
from functools import cache
from importlib.metadata import EntryPoint, PackageNotFoundError, distribution, entry_points, version
from pathlib import Path
from typing import Any, Literal

from reclm.errors import BadInput, missing_extra, unknown

_TUNABLE = ("reclm.profilers.reclm.", "reclm.profilers.langptune.")
"""Profilers that need the extra ``tune`` as a whole."""

Kind = Literal["backbone", "profiler", "dataset", "generator"]


@cache
def _points(kind: Kind) -> dict[str, EntryPoint]:
    """Return the entry points of a kind by name; those of a clone's pyproject.toml where none are installed."""
    group = f"reclm.{kind}s"
    points = {point.name: point for point in entry_points(group=group)}
    try:
        distribution("reclm-toolkit")
    except PackageNotFoundError:
        project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text("utf-8"))
        declared = project["project"]["entry-points"][group]
        points |= {name: EntryPoint(name, value, group) for name, value in declared.items()}
    return points


def names(kind: Kind) -> list[str]:
    """Return the names of the installed plug-ins of a kind, sorted. Imports none of them."""
    return sorted(_points(kind))


def name_of(kind: Kind, plugin: type) -> str:
    """Return the name that a plug-in is installed under; its class's own name where it is not installed."""
    value = f"{plugin.__module__}:{plugin.__qualname__}"
    return next((name for name, point in _points(kind).items() if point.value == value), plugin.__name__)


def get(kind: Kind, name: str) -> Any:
    """Import and return the plug-in called ``name``, or the class ``module:Class``, also of a module in this folder.

    Raises:
        NotFound: if there is no such plug-in; the nearest name is offered.
        MissingExtra: if it needs a package that is not installed.
        BadInput: if ``module:Class`` cannot be imported or is no plug-in.
    """
    if ":" in name:
        return _own(kind, name)
    points = _points(kind)
    if name not in points:
        raise unknown(kind, name, points)
    try:
        return points[name].load()
    except ModuleNotFoundError as error:
        tunable = points[name].value.startswith(_TUNABLE)
        raise missing_extra(error, f"{kind} {name!r}", {"llm": "tune"} if tunable else {}) from error


CODE = {"backbone", "profiler", "engine", "generator", "reader"}
"""Keys of files under which a plug-in is named."""
_TRUST: ContextVar[bool] = ContextVar("trust", default=False)
_TYPED: set[str] = set()
"""Classes ``module:Class`` that this process was asked for by name: they are trusted."""


def trust_files() -> None:
    """Let files name ``module:Class``, whose code is then run: suites, options in YAML, folders of models."""
    _TRUST.set(True)


def check_trusted(values: Any, where: object) -> None:
    """Raise BadInput if the content of a file names a class ``module:Class``, before its code is run.

    Classes that were asked for by name before, and all after :func:`trust_files`, are trusted.
    """
    if _TRUST.get():
        return
    if isinstance(values, Mapping):
        for key, value in values.items():
            if key in CODE and isinstance(value, str) and ":" in value and value not in _TYPED:
                message = f"{where} names the {key} {value!r}, whose code would be run; if you trust it, add --trust"
                raise BadInput(f"{message} (trust=True)", value=value, where=where, remedy="--trust")
            check_trusted(value, where)
    elif isinstance(values, list | tuple):
        for value in values:
            check_trusted(value, where)


def _own(kind: Kind, name: str) -> Any:
    """Import ``module:Class``."""
    _TYPED.add(name)
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        plugin = EntryPoint(name, name, f"reclm.{kind}s").load()
    except (ImportError, AttributeError, ValueError) as error:
        remedy = f"module:Class names a class of a module that lies in {here} or is installed"
        raise BadInput(f"{kind} {name!r} cannot be imported ({error}); {remedy}", value=name) from error
    if kind in ("backbone", "profiler") and not hasattr(plugin, "Config"):
        message = f"{kind} {name!r} is a {type(plugin).__name__} without a Config, and so is no {kind}"
        raise BadInput(message, value=name)
    if kind == "dataset" and not (isinstance(plugin, type) and hasattr(plugin, "read")):
        raise BadInput(f"{name!r} has no method read, and so is no reader of data sets", value=name)
    return plugin


PACKAGES = (
    *("reclm-toolkit", "torch", "numpy", "scipy", "sentence-transformers", "transformers"),
    *("peft", "trl", "accelerate", "datasets", "optuna"),
)


def environment() -> dict[str, Any]:
    """Return Python, system, processor, threads, GPUs and versions of packages: nothing that identifies the machine."""
    import torch

    gpus = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    values = {
        "python": platform.python_version(),
        "system": platform.system(),
        "machine": platform.machine(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        **({"gpus": gpus} if gpus else {}),
    }
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            values[package] = version(package)
    return values
