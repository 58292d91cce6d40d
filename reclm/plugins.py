"""Look-up of backbones, profilers, datasets and generators by entry point.

The toolkit's own plug-ins are found exactly as anybody else's package is: through the entry-point groups
``reclm.backbones``, ``reclm.profilers``, ``reclm.datasets`` and ``reclm.generators``.
"""

from functools import cache
from importlib.metadata import EntryPoint, entry_points
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

    Raises:
        ReclmError: if there is no such plug-in (the nearest name is offered), or if it cannot be imported.
    """
    found = _found(kind)
    if name not in found:
        raise unknown(kind, name, found)
    try:
        return found[name].load()
    except ModuleNotFoundError as error:
        raise ReclmError(
            f"{kind} {name!r} needs the package {error.name!r}; pip install {error.name}"
        ) from error
