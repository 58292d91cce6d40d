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
                      ``column.agg(len)`` by element, object columns      such columns
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
import os
import random
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import torch
import yaml
from scipy import sparse

from reclm.errors import MissingExtra

SUPPORTED = "1.2.0"
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
    """Make the installed RecBole run beside today's libraries; a second call reaches the modules imported since.

    Raises:
        MissingExtra: if RecBole is not installed, has another version, or lacks one of its own dependencies.
    """
    _check_version()
    try:
        with _stand_in("kmeans_pytorch", "kmeans"):
            for name in _MODULES:
                importlib.import_module(f"recbole.{name}")
    except ModuleNotFoundError as error:
        message = f"RecBole needs the package {error.name!r}, which is not installed; run: {INSTALL}"
        raise MissingExtra(message, value=error.name, remedy=INSTALL) from error
    configurator: Any = sys.modules["recbole.config.configurator"]
    configurator.eval = _literal
    configurator.Config.compatibility_settings = lambda self: None
    sys.modules["recbole.data.dataset.dataset"].Dataset._fill_nan = _fill_nan  # pyright: ignore[reportAttributeAccessIssue]
    views = _views()
    for name, module in list(sys.modules.items()):
        if name.startswith("recbole."):
            for alias, seen in list(vars(module).items()):
                if isinstance(seen, ModuleType) and seen.__name__ in views and not isinstance(seen, _View):
                    setattr(module, alias, views[seen.__name__])


def _check_version() -> None:
    """Check that the installed RecBole is the one that the bridge was tested with."""
    try:
        installed = version("recbole")
    except PackageNotFoundError as error:
        message = f"RecBole is not installed; run: {INSTALL}"
        raise MissingExtra(message, value="recbole", remedy=INSTALL) from error
    if installed != SUPPORTED:
        remedy = f"pip install recbole=={SUPPORTED}"
        message = f"RecBole {installed} is installed, but the bridge supports {SUPPORTED}; run: {remedy}"
        raise MissingExtra(message, value=installed, remedy=remedy)


class _View(ModuleType):
    """A module with a few of its names replaced; all others are looked up in the module itself."""

    def __init__(self, module: ModuleType, replaced: Mapping[str, object]) -> None:
        super().__init__(module.__name__)
        self._module = module
        self.__dict__.update(replaced)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


def _views() -> dict[str, _View]:
    """Return the libraries as RecBole expects them, by module name."""
    kinds = {np.float64: "float float_", np.complex128: "complex complex_", np.int_: "int long"}
    kinds |= {np.str_: "unicode unicode_", np.object_: "object"}
    names = {name: kind for kind, names in kinds.items() for name in names.split()}
    frames = {"read_csv": _read_csv, "merge": lambda *args, **options: Frame(pd.merge(*args, **options))}
    return {
        "numpy": _View(np, names),
        "scipy.sparse": _View(sparse, {"dok_matrix": _DokMatrix}),
        "pandas": _View(pd, frames),
        "torch": _View(torch, {"load": _load, "save": _save}),
    }


class _DokMatrix(sparse.dok_matrix):
    """A matrix of entries by position, with the private method that SciPy 1.13 dropped."""

    def _update(self, entries: Mapping[tuple[int, int], float]) -> None:
        self._dict.update(entries)  # pyright: ignore[reportAttributeAccessIssue]


def _save(state: Any, file: Any, **_: Any) -> None:
    """Save with torch's own pickle protocol, the only one that ``weights_only`` reads; RecBole asks for 4."""
    torch.save(state, file)


def _load(file: Any, map_location: Any = None, **options: Any) -> Any:
    """Load tensors and the classes of a RecBole checkpoint, and nothing else."""
    with torch.serialization.safe_globals(_checkpoint_classes()):
        return torch.load(file, map_location=map_location, **options | {"weights_only": True})


def _checkpoint_classes() -> list[Callable[..., Any] | tuple[Callable[..., Any], str]]:
    """Return the classes in a checkpoint: RecBole's ``Config``, its enumerations and models, NumPy scalars."""
    enums = vars(sys.modules["recbole.utils.enum_type"]).values()
    general = vars(sys.modules["recbole.model.general_recommender"]).values()
    return [
        sys.modules["recbole.config.configurator"].Config,
        *(value for value in enums if isinstance(value, type) and issubclass(value, enum.Enum)),
        *(value for value in general if isinstance(value, type)),
        yaml.FullLoader,
        (np._core.multiarray.scalar, "numpy.core.multiarray.scalar"),  # pyright: ignore[reportAttributeAccessIssue]
        np._core.multiarray.scalar,  # pyright: ignore[reportAttributeAccessIssue]
        np.dtype,
        np.dtypes.Float64DType,
    ]


def _literal(text: str) -> Any:
    """Return the Python literal in ``text``; after a SyntaxError RecBole takes the string itself."""
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
        remedy = f"pip install {name}"
        message = f"this model needs the package {name!r}, which RecBole does not install; {remedy}"
        raise MissingExtra(message, value=name, remedy=remedy)

    setattr(module, attribute, missing)
    sys.modules[name] = module
    try:
        yield
    finally:
        del sys.modules[name]


class Column(pd.Series):
    """A series whose ``agg(len)`` gives each element's length, as before pandas 3."""

    @property
    def _constructor(self) -> Any:
        return Column

    def agg(self, func: Any = None, axis: Any = 0, *args: Any, **options: Any) -> Any:
        return self.map(len) if func is len else super().agg(func, axis, *args, **options)


class Frame(pd.DataFrame):
    """A data frame of such columns."""

    @property
    def _constructor(self) -> Any:
        return Frame

    @property
    def _constructor_sliced(self) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        return Column


def _read_csv(*args: Any, **options: Any) -> Frame:
    """Read as ``pandas.read_csv`` with object columns for strings, and empty ones in place of missing sequences."""
    frame = Frame(pd.read_csv(*args, **options))
    for name in frame.columns:
        if options["dtype"][name] is str:
            text = frame[name].astype(object)
            frame[name] = text.where(text.notna(), "" if name.endswith("_seq") else None)
    return frame


def _fill_nan(self: Any) -> None:
    """Fill as RecBole's ``Dataset._fill_nan``, by assignments: pandas 3 does not fill a column in place.

    Missing tokens become 0 (padding), missing numbers the column's mean, missing sequences empty ones.
    """
    from recbole.utils import FeatureType

    for name in self.feat_name_list:
        feat = getattr(self, name)
        for field in feat:
            kind = self.field2type[field]
            if kind == FeatureType.TOKEN:
                feat[field] = feat[field].fillna(0)
            elif kind == FeatureType.FLOAT:
                feat[field] = feat[field].fillna(feat[field].mean())
            else:
                empty = np.array([], np.int64 if kind == FeatureType.TOKEN_SEQ else np.float64)
                feat[field] = [empty if isinstance(value, float) else value for value in feat[field]]


@contextmanager
def as_a_library(folder: Path) -> Iterator[None]:
    """Undo RecBole's changes of the process: ``CUDA_VISIBLE_DEVICES`` and the seeds of Python, NumPy and torch.

    It sees an empty ``sys.argv``, which it reads as settings, and writes TensorBoard events into ``folder``, not below
    the working directory; warnings of its deprecated calls are silenced.
    """
    from torch.utils.tensorboard import SummaryWriter

    configurator: Any = sys.modules["recbole.config.configurator"]
    trainer: Any = sys.modules["recbole.trainer.trainer"]
    devices = os.environ.get("CUDA_VISIBLE_DEVICES")
    states = random.getstate(), np.random.get_state()  # noqa: NPY002 — it is the global state that RecBole draws from
    before = configurator.sys, trainer.get_tensorboard
    try:
        configurator.sys = SimpleNamespace(argv=[""])
        trainer.get_tensorboard = lambda logger: SummaryWriter(str(folder / "tensorboard"))
        with warnings.catch_warnings(), torch.random.fork_rng():
            warnings.filterwarnings("ignore", module=r"recbole\.")
            warnings.filterwarnings("ignore", "__array_wrap__ must accept context", DeprecationWarning)
            yield
    finally:
        configurator.sys, trainer.get_tensorboard = before
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        if devices is None:
            os.environ.pop("CUDA_VISIBLE_DEVICES", None)
        else:
            os.environ["CUDA_VISIBLE_DEVICES"] = devices
