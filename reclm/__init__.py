"""LLM-written user and item profiles for any recommender, and the truth about whether they helped."""

from pathlib import Path as _Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reclm.fusion.augment import Augmented, augment, remove

__all__ = ["Augmented", "augment", "remove"]

# In a clone backbones/, profilers/ and benchmarks/ lie beside reclm/: they are imported under its roof all the same.
_root = _Path(__file__).parents[1]
_project = _root / "pyproject.toml"
if (_root / "backbones").is_dir() and _project.is_file() and "reclm-toolkit" in _project.read_text("utf-8"):
    __path__.append(str(_root))


def __getattr__(name: str) -> Any:
    """The names above, imported when they are first asked for: ``import reclm`` stays light."""
    if name not in __all__:
        raise AttributeError(f"module 'reclm' has no attribute {name!r}")
    from reclm.fusion import augment

    return getattr(augment, name)
