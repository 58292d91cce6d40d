"""Look-up of backbones, profilers, datasets and generators by entry point.

The toolkit's own plug-ins are found exactly as anybody else's package is: through the entry-point groups
``reclm.backbones``, ``reclm.profilers``, ``reclm.datasets`` and ``reclm.generators``.
"""

import sys
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, Literal

from reclm.errors import ReclmError, unknown

Kind = Literal["backbone", "profiler", "dataset", "generator"]


@cache
def _found(kind: Kind) -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=f"reclm.{kind}s")}


def names(kind: Kind) -> list[str]:
    """The installed plug-ins of a kind, sorted by name. Imports none of them."""
    return sorted(_found(kind))


def name_of(kind: Kind, plugin: type) -> str:
    """What a plug-in is called; its class's own name where it is not installed as one."""
    value = f"{plugin.__module__}:{plugin.__qualname__}"
    return next((name for name, point in _found(kind).items() if point.value == value), plugin.__name__)


def get(kind: Kind, name: str) -> Any:
    """Import and return the plug-in called ``name``.

    Args:
        name: of an installed plug-in; or ``module:Class``, one of your own, in the folder where the command runs or
            anywhere else that Python imports from.

    Raises:
        ReclmError: if there is no such plug-in (the nearest name is offered), or if it cannot be imported.
    """
    if ":" in name:
        return _own(kind, name)
    found = _found(kind)
    if name not in found:
        raise unknown(kind, name, found)
    try:
        return found[name].load()
    except ModuleNotFoundError as error:
        raise ReclmError(
            f"{kind} {name!r} needs the package {error.name!r}; pip install {error.name}"
        ) from error


def _own(kind: Kind, name: str) -> Any:
    """What ``module:Class`` names."""
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        found = EntryPoint(name, name, f"reclm.{kind}s").load()
    except (ImportError, AttributeError, ValueError) as error:
        raise ReclmError(
            f"{kind} {name!r} cannot be imported ({error}); module:Class names a class of a module that lies in {here} "
            "or is installed"
        ) from error
    if kind in ("backbone", "profiler") and not hasattr(found, "Config"):
        raise ReclmError(f"{kind} {name!r} is a {type(found).__name__} without a Config, and so is no {kind}")
    return found
