"""LLM-written user and item profiles for any recommender, and the truth about whether they helped.

The names of ``__all__`` are imported when they are first used: ``import reclm`` stays light. Their signatures stand
in ``__init__.pyi``.
"""

import sys as _sys
from importlib import import_module as _import_module
from pathlib import Path as _Path
from typing import Any as _Any

__version__ = "0.1.0"

_FACE = {
    "workspace": "folders",
    # data
    "Dataset": "data.dataset",
    "load_dataset": "data.catalog",
    "prepare_dataset": "data.catalog",
    "list_datasets": "data.catalog",
    # profiles
    "Profiles": "profiles.profiles",
    "write_profiles": "profiles.write",
    "estimate_profiles": "profiles.write",
    "list_profiles": "profiles.write",
    "tune": "profiles.tune",
    # recommenders
    "fit": "recommend.fit",
    "Recommender": "recommend.recommender",
    "load_model": "recommend.saved",
    "measure_steering": "recommend.steering",
    # experiments
    "compare": "benchmarks.experiment",
    "run_suite": "benchmarks.experiment",
    "compare_runs": "benchmarks.run_diff",
    "Result": "benchmarks.results",
    # a model of your own
    "augment": "fusion.augment",
    "remove": "fusion.augment",
    "Augmented": "fusion.augment",
    # errors
    "ReclmError": "errors",
    "BadInput": "errors",
    "NotFound": "errors",
    "Damaged": "errors",
    "Busy": "errors",
    "MissingExtra": "errors",
}

__all__ = list(_FACE)


def __getattr__(name: str) -> _Any:
    """Import a name of the face when it is first used."""
    if name not in _FACE:
        raise AttributeError(f"module 'reclm' has no attribute {name!r}")
    from reclm.errors import needs_extra

    with needs_extra(f"reclm.{name}"):
        module = _import_module(f"reclm.{_FACE[name]}")
    globals()[name] = getattr(module, name)
    return globals()[name]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _CloneFinder:
    """Finds ``reclm.backbones``, ``reclm.profilers`` and ``reclm.benchmarks`` in a clone: folders beside ``reclm/``."""

    root = _Path(__file__).parents[1]
    names = frozenset({"reclm.backbones", "reclm.profilers", "reclm.benchmarks"})

    @classmethod
    def find_spec(cls, name: str, path: _Any = None, target: _Any = None) -> _Any:
        from importlib.machinery import PathFinder

        return PathFinder.find_spec(name, [str(cls.root)]) if name in cls.names else None


def _warn_of_namesake(folder: _Path) -> None:
    """Another project owns the name ``reclm`` on the package index; both packages overwrite each other's files."""
    if any(folder.glob("reclm-*.dist-info")):
        import warnings

        warnings.warn(
            "another project's package 'reclm' is installed beside reclm-toolkit, and both write to the folder reclm; "
            "run: pip uninstall reclm && pip install --force-reinstall --no-deps reclm-toolkit",
            stacklevel=3,
        )


if (_CloneFinder.root / "pyproject.toml").is_file() and (_CloneFinder.root / "backbones").is_dir():
    if not any(getattr(finder, "__name__", "") == "_CloneFinder" for finder in _sys.meta_path):
        _sys.meta_path.append(_CloneFinder)
else:
    _warn_of_namesake(_CloneFinder.root)
