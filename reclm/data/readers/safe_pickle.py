"""Pickles from strangers, opened without letting them run anything.

A pickle is a program that may call whatever it can name. Here it can name only NumPy's array, dtype and
scalar and SciPy's COO matrix, and for each it is given a stand-in of ours that only keeps the data handed to
it. Nothing of NumPy, SciPy or any other package is called by the pickle itself.
"""

import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from reclm.errors import BadInput


@dataclass(frozen=True)
class CooMatrix:
    """Entries ``data[k]`` at ``(row[k], col[k])`` of a matrix of the given shape; ``n`` of each."""

    row: np.ndarray
    col: np.ndarray
    data: np.ndarray
    shape: tuple[int, int]

    def __post_init__(self) -> None:
        if not len(self.row) == len(self.col) == len(self.data):
            raise ValueError("a matrix whose rows, columns and values differ in number")
        for index, size in zip((self.row, self.col), self.shape, strict=True):
            if index.dtype.kind != "i" or (len(index) and not 0 <= index.min() <= index.max() < size):
                raise ValueError(f"a matrix of shape {self.shape} with entries outside")


class _Dtype:
    """A plain number type such as ``<i4``; objects, strings and records are refused."""

    def __init__(self, code: str, *_: object) -> None:
        self.order = "="
        self.code = code

    def __setstate__(self, state: tuple) -> None:
        self.order = state[1]

    def plain(self) -> np.dtype:
        if self.code[:1] not in ("b", "i", "u", "f") or self.order not in ("<", ">", "=", "|"):
            raise TypeError(f"an array of type {self.order}{self.code}")
        return np.dtype(self.order + self.code)


class _Array:
    """What ``numpy._reconstruct`` begins and its state completes."""

    def __init__(self, *_: object) -> None:
        self.state: tuple = ()

    def __setstate__(self, state: tuple) -> None:
        self.state = state

    def plain(self) -> np.ndarray:
        _, shape, dtype, fortran, data = self.state
        array = np.frombuffer(data, dtype.plain()).reshape(shape, order="F" if fortran else "C")
        return array.astype(array.dtype.newbyteorder("="))


class _Buffer:
    """An array as pickle protocol 5 has it; arrays that are neither C nor Fortran ordered are refused."""

    def __init__(
        self, data: bytes, dtype: _Dtype, shape: tuple, order: Literal["C", "F"], *_: object
    ) -> None:
        self.array = _Array()
        self.array.state = (None, shape, dtype, {"C": False, "F": True}[order], data)

    def __setstate__(self, state: object) -> None:
        raise pickle.UnpicklingError("a NumPy buffer with a state")

    def plain(self) -> np.ndarray:
        return self.array.plain()


class _Scalar:
    def __init__(self, dtype: _Dtype, data: bytes) -> None:
        self.dtype, self.data = dtype, data

    def __setstate__(self, state: object) -> None:
        raise pickle.UnpicklingError("a NumPy scalar with a state")

    def plain(self) -> int | float:
        return np.frombuffer(self.data, self.dtype.plain(), count=1)[0].item()


class _Coo:
    """A COO matrix, of SciPy before 1.13 (``row``, ``col``) or since (``coords``)."""

    def __init__(self, *_: object) -> None:
        self.state: dict[str, Any] = {}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.state = state

    def plain(self) -> CooMatrix:
        row, col = self.state.get("coords") or (self.state["row"], self.state["col"])
        rows, columns = (_plain(size) for size in self.state["_shape"])
        return CooMatrix(row.plain(), col.plain(), self.state["data"].plain(), (rows, columns))


class _Unpickler(pickle.Unpickler):
    ALLOWED: ClassVar = {
        **{(f"numpy.{core}.multiarray", "_reconstruct"): _Array for core in ("core", "_core")},
        **{(f"numpy.{core}.multiarray", "scalar"): _Scalar for core in ("core", "_core")},
        **{(f"numpy.{core}.numeric", "_frombuffer"): _Buffer for core in ("core", "_core")},
        **{(f"scipy.sparse.{module}", "coo_matrix"): _Coo for module in ("_coo", "coo")},
        ("numpy", "ndarray"): _Array,
        ("numpy", "dtype"): _Dtype,
    }

    def __init__(self, path: Path, stream: Any) -> None:
        super().__init__(stream)
        self.path = path

    def find_class(self, module: str, name: str) -> type:
        if (module, name) not in self.ALLOWED:
            raise BadInput(
                f"{self.path} holds {module}.{name}; only arrays, COO matrices, dicts, lists, strings and "
                "numbers are opened, as a pickle of anything else could run code: get the file from its authors"
            )
        return self.ALLOWED[module, name]


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {_plain(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_plain(one) for one in value]
    if isinstance(value, (_Array, _Buffer, _Coo, _Scalar)):
        return value.plain()
    if isinstance(value, (str, int, float)):
        return value
    raise TypeError(f"a value of type {type(value).__name__.strip('_')}")


def read(path: Path) -> Any:
    """What a pickle holds: arrays, COO matrices (:class:`CooMatrix`), dicts, lists, strings and numbers.

    Raises:
        BadInput: if the file is missing or broken, or names any other class or function: which file, which class.
    """
    try:
        with path.open("rb") as stream:
            return _plain(_Unpickler(path, stream).load())
    except OSError as error:
        raise BadInput(f"cannot read {path}: {error.strerror}") from error
    # what the unpickling machine and the constructors above raise for bytes that are no such pickle
    except (
        pickle.UnpicklingError,
        ArithmeticError,
        AttributeError,
        EOFError,
        LookupError,
        MemoryError,
        RecursionError,
        TypeError,
        ValueError,
    ) as error:
        raise BadInput(f"{path} is not a pickle of arrays, matrices and dicts: {error}") from error
