"""Run RecBole 1.2.0 beside NumPy 2, SciPy 1.17, pandas 3 and torch 2.13.

RecBole's files are not touched, and neither are NumPy, SciPy, pandas or torch: RecBole's modules are given *views* of
those libraries that have the few missing names (:class:`_View`), and see everything else as it is. Nothing outside
the package ``recbole`` changes, and RecBole's own global change, ``np.float = np.float_`` and the like, is left out.

====================  ==================================================  ====================================
library               what RecBole uses                                   what it gets
====================  ==================================================  ====================================
NumPy ≥ 2             ``np.float``, ``np.float_``, ``np.long``, …         the types these names stood for
SciPy ≥ 1.13          ``dok_matrix._update(entries)``                     a subclass that has it
pandas ≥ 3            ``column.fillna(…, inplace=True)``,                 ``_fill_nan`` that assigns, frames of
                      ``column.agg(len)`` by element, object columns      such columns: :mod:`reclm.recbole.settings`
torch ≥ 2.6           ``torch.load(checkpoint)`` of a ``Config``          ``weights_only=True`` and a list of the
                                                                          classes a checkpoint holds
(none)                ``eval`` of every string in a configuration         ``ast.literal_eval``
(none)                ``import kmeans_pytorch``, which it does not ask    a stand-in during the import; only
                      for, with every general recommender                 LDiffRec needs it
====================  ==================================================  ====================================
"""

import ast
import enum
import importlib
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import numpy as np
import torch
from scipy import sparse

from reclm.errors import MissingExtra

SUPPORTED = ("1.2.0",)
"""Versions that the bridge was tested with."""

INSTALL = "pip install reclm-toolkit[recbole]"

_MODULES = (
    "config.configurator",
    "data",
    "data.dataset",
    "data.interaction",
    "evaluator",
    "trainer",
    "utils",
    "model.general_recommender",
)


def patch() -> None:
    """Make the installed RecBole run beside today's libraries; a second call reaches what was imported since.

    Raises:
        MissingExtra: if RecBole is not installed, has another version, or lacks one of its own dependencies.
    """
    check_version()
    try:
        with _stand_in("kmeans_pytorch", "kmeans"):
            for name in _MODULES:
                importlib.import_module(f"recbole.{name}")
    except ModuleNotFoundError as error:
        raise MissingExtra(
            f"RecBole needs the package {error.name!r}, which is not installed; run: {INSTALL}",
            value=error.name,
            remedy=INSTALL,
        ) from error
    from reclm.recbole.settings import fill_nan

    configurator: Any = sys.modules["recbole.config.configurator"]
    configurator.eval = _literal
    configurator.Config.compatibility_settings = lambda self: None
    sys.modules["recbole.data.dataset.dataset"].Dataset._fill_nan = fill_nan  # pyright: ignore[reportAttributeAccessIssue]
    views = _views()
    for name, module in list(sys.modules.items()):
        if name.startswith("recbole."):
            for alias, seen in list(vars(module).items()):
                if isinstance(seen, ModuleType) and seen.__name__ in views and not isinstance(seen, _View):
                    setattr(module, alias, views[seen.__name__])


def check_version() -> str:
    """Return the version of the installed RecBole.

    Raises:
        MissingExtra: if there is none, or one that is not supported.
    """
    try:
        found = version("recbole")
    except PackageNotFoundError as error:
        raise MissingExtra(
            f"RecBole is not installed; run: {INSTALL}", value="recbole", remedy=INSTALL
        ) from error
    if found not in SUPPORTED:
        raise MissingExtra(
            f"RecBole {found} is installed, but the bridge supports {', '.join(SUPPORTED)}; "
            f"run: pip install recbole=={SUPPORTED[-1]}",
            value=found,
            remedy=f"pip install recbole=={SUPPORTED[-1]}",
        )
    return found


class _View(ModuleType):
    """A module with a few of its names replaced; all others are looked up in the module itself."""

    def __init__(self, module: ModuleType, replaced: Mapping[str, object]) -> None:
        super().__init__(module.__name__)
        self._module = module
        self.__dict__.update(replaced)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


def _views() -> dict[str, _View]:
    """The libraries as RecBole expects them, by module name."""
    import pandas as pd

    from reclm.recbole.settings import VIEW

    names = {
        "float": np.float64,
        "float_": np.float64,
        "int": np.int_,
        "long": np.int_,
        "complex": np.complex128,
        "complex_": np.complex128,
        "object": np.object_,
        "unicode": np.str_,
        "unicode_": np.str_,
    }
    return {
        "numpy": _View(np, names),
        "scipy.sparse": _View(sparse, {"dok_matrix": _DokMatrix}),
        "pandas": _View(pd, VIEW),
        "torch": _View(torch, {"load": _load, "save": _save}),
    }


class _DokMatrix(sparse.dok_matrix):
    """A matrix of entries by position, with the private method that SciPy 1.13 dropped."""

    def _update(self, entries: Mapping[tuple[int, int], float]) -> None:
        """Take entries by ``(row, column)`` without checking them."""
        self._dict.update(entries)  # pyright: ignore[reportAttributeAccessIssue]


def _save(state: Any, file: Any, **_: Any) -> None:
    """``torch.save`` with torch's own pickle protocol, the only one that ``weights_only`` reads; RecBole asks for 4."""
    torch.save(state, file)


def _load(file: Any, map_location: Any = None, **options: Any) -> Any:
    """``torch.load`` that builds tensors and the classes of a RecBole checkpoint, and nothing else."""
    with torch.serialization.safe_globals(_checkpoint_classes()):
        return torch.load(file, map_location=map_location, **options | {"weights_only": True})


def _checkpoint_classes() -> list[Callable[..., Any] | tuple[Callable[..., Any], str]]:
    """What a checkpoint holds besides tensors: RecBole's ``Config``, its enumerations and models, NumPy scalars."""
    import yaml

    enums = vars(sys.modules["recbole.utils.enum_type"]).values()
    general = vars(sys.modules["recbole.model.general_recommender"]).values()
    return [
        sys.modules["recbole.config.configurator"].Config,
        *(one for one in enums if isinstance(one, type) and issubclass(one, enum.Enum)),
        *(one for one in general if isinstance(one, type)),
        yaml.FullLoader,
        (np._core.multiarray.scalar, "numpy.core.multiarray.scalar"),  # pyright: ignore[reportAttributeAccessIssue]
        np._core.multiarray.scalar,  # pyright: ignore[reportAttributeAccessIssue]
        np.dtype,
        np.dtypes.Float64DType,
    ]


def _literal(text: str) -> Any:
    """The Python literal in ``text``; what RecBole's ``eval`` was for.

    Raises:
        SyntaxError: for anything else; RecBole then keeps the string.
    """
    try:
        return ast.literal_eval(text)
    except ValueError as error:
        raise SyntaxError(str(error)) from error


@contextmanager
def _stand_in(name: str, attribute: str) -> Iterator[None]:
    """Provide an empty module ``name`` during an import, if there is no real one."""
    if name in sys.modules or find_spec(name):
        yield
        return
    module = ModuleType(name)

    def missing(*_: object, **__: object) -> None:
        raise MissingExtra(
            f"this model needs the package {name!r}, which RecBole does not install; pip install {name}",
            value=name,
            remedy=f"pip install {name}",
        )

    setattr(module, attribute, missing)
    sys.modules[name] = module
    try:
        yield
    finally:
        del sys.modules[name]
