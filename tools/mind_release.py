"""A reader of the RecLM paper's own MIND split, as its authors released it (https://github.com/HKUDS/RecLM).

From the repository's root:

    reclm data prepare tools.mind_release:MindRelease --source PATH --name mind-release
    reclm data prepare tools.mind_release:MindRelease --source PATH --name mind-200 --set busiest=200

It is one file: a copy in any folder is read there as ``mind_release:MindRelease``. Paper: RecLM: Recommendation
Instruction Tuning, https://arxiv.org/abs/2412.19302 (section 6.1).
"""

import pickle
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from reclm.config import Config as BaseConfig
from reclm.data.dataset import Dataset, Interactions, ReadReport
from reclm.data.id_map import IdMap
from reclm.data.readers.base import Reader, existing
from reclm.data.splits import Fraction, Seed, finished, hold_out_validation, pairs, protocols_of
from reclm.errors import BadInput, NotFound


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
    """An array that ``numpy._reconstruct`` begins and its state completes."""

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


class _Unpickler(pickle._Unpickler):  # pyright: ignore[reportAttributeAccessIssue]
    """The unpickling machine that is written in Python, which can look at keys before they are hashed.

    A tuple that names another one many times, and so on, takes 2^n steps to hash, in C, where nothing stops it.
    """

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

    dispatch: ClassVar = dict(pickle._Unpickler.dispatch)  # pyright: ignore[reportAttributeAccessIssue]

    def _check(self, keys: list[Any]) -> None:
        if odd := [key for key in keys if not isinstance(key, str | int | float | bytes | _Scalar | None)]:
            raise pickle.UnpicklingError(f"a key that is a {type(odd[0]).__name__}")

    def load_setitem(self) -> None:
        self._check(self.stack[-2:-1])
        super().load_setitem()

    def load_setitems(self) -> None:
        self._check(self.stack[::2])
        super().load_setitems()

    def load_dict(self) -> None:
        self._check(self.stack[::2])
        super().load_dict()

    def load_additems(self) -> None:
        self._check(self.stack)
        super().load_additems()

    def load_frozenset(self) -> None:
        self._check(self.stack)
        super().load_frozenset()

    dispatch[pickle.SETITEM[0]] = load_setitem
    dispatch[pickle.SETITEMS[0]] = load_setitems
    dispatch[pickle.DICT[0]] = load_dict
    dispatch[pickle.ADDITEMS[0]] = load_additems
    dispatch[pickle.FROZENSET[0]] = load_frozenset

    def find_class(self, module: str, name: str) -> type:
        if (module, name) not in self.ALLOWED:
            raise BadInput(
                f"{self.path} holds {module}.{name}; only arrays, COO matrices, dicts, lists, strings and "
                "numbers are opened, as a pickle of anything else could run code: get the file from its authors"
            )
        return self.ALLOWED[module, name]


_OPEN = object()


def _plain(value: Any, seen: dict[int, Any] | None = None) -> Any:
    seen = {} if seen is None else seen
    if isinstance(value, dict | list):
        # what is named in many places is read once: a few bytes can name 2^30 lists
        if id(value) not in seen:
            seen[id(value)] = _OPEN
            if isinstance(value, dict):
                seen[id(value)] = {_plain(key, seen): _plain(one, seen) for key, one in value.items()}
            else:
                seen[id(value)] = [_plain(one, seen) for one in value]
        if seen[id(value)] is _OPEN:
            raise ValueError("a list or dict that holds itself")
        return seen[id(value)]
    if isinstance(value, (_Array, _Buffer, _Coo, _Scalar)):
        return value.plain()
    if isinstance(value, (str, int, float)):
        return value
    raise TypeError(f"a value of type {type(value).__name__.strip('_')}")


def read_pickle(path: Path) -> Any:
    """Return the content of a pickle: arrays, COO matrices (:class:`CooMatrix`), dicts, lists, strings and numbers.

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


TEMPLATE = "{category}[, {subcategory}]. {title}[. {abstract}]"
FIELDS = {"category": "cate", "subcategory": "sub_cate", "title": "title", "abstract": "abstract"}


class MindRelease(Reader):
    """57,128 users; a day of 89,734 clicks on 2,386 items, the next day's 87,974 on 2,461.

    A user's id is the row, an item's id the number that the release gives it. Test clicks that repeat a training
    click are not in the authors' test matrix, and so not here.
    """

    name = "mind-release"
    noun = "news"
    summary = "the RecLM paper's own two days of MIND, as its authors released them (pickles)"
    source = "the folder that holds trnMat_zero.pkl, or one above it (HKUDS/RecLM's data/mind)"

    class Config(BaseConfig):
        """Options of the reader."""

        valid: Fraction = 0.1
        """Fraction of the training clicks set aside to choose the model; 0 gives the paper's training set."""
        seed: Seed = 0
        """Chooses the validation clicks."""
        busiest: int | None = Field(default=None, ge=1)
        """Only so many users, those with most training clicks, and the items that they click."""

    def read(self, source: Path | None, config: BaseConfig, *, strict: bool = False) -> Dataset:
        """See :class:`Reader`. The release has no lines that could be malformed: it is consistent or refused."""
        assert isinstance(config, self.Config)
        folder = _folder(existing(source, self))
        train_map, test_map, cold_map = (
            _item_ids(folder / f"item_id_map_{part}.pkl") for part in ("train", "test", "zero")
        )
        users, train = _pairs(folder / "trnMat_zero.pkl", train_map)
        _, test = _pairs(folder / "tstMat_zero_.pkl", test_map)
        _, masked = _pairs(folder / "maskMat_zero.pkl", test_map)
        _, cold = _pairs(folder / "tstMat_zero_shot.pkl", cold_map)
        item_ids, item_text = _item_text(folder / "item_info_dict.pkl")

        def check(good: bool, what: str) -> None:
            if not good:
                raise BadInput(f"{folder} is no consistent release: {what}")

        def same(one: np.ndarray, other: np.ndarray) -> bool:
            return len(one) == len(other) and np.array_equal(np.sort(one), np.sort(other))

        check(
            same(item_ids, np.union1d(train_map, test_map)),
            "item_info_dict does not describe just the items of both days",
        )
        width = int(item_ids.max()) + 1
        train_pairs, test_pairs, masked_pairs, cold_pairs = (
            pairs(part[:, 0], part[:, 1], width) for part in (train, test, masked, cold)
        )
        clicked = _dict_pairs(folder / "user_item_dict_train.pkl", users, width)
        clicked_next = _dict_pairs(folder / "user_item_dict_test.pkl", users, width)
        check(
            same(cold_map, np.setdiff1d(test_map, train_map)),
            "item_id_map_zero is not the test items absent from training",
        )
        check(same(clicked, train_pairs), "user_item_dict_train and trnMat_zero differ")
        check(
            same(np.setdiff1d(clicked_next, clicked), test_pairs),
            "user_item_dict_test less the training clicks and tstMat_zero_ differ",
        )
        check(
            same(masked_pairs, train_pairs[np.isin(train[:, 1], test_map)]),
            "maskMat_zero is not the training clicks on test items",
        )
        check(
            same(cold_pairs, test_pairs[np.isin(test[:, 1], cold_map)]),
            "tstMat_zero_shot is not the test clicks on items absent from training",
        )
        report = ReadReport()
        report.drop("test click that repeats a training click", len(clicked_next) - len(test_pairs))
        items = IdMap(pa.array(item_ids), "item")

        def clicks(part: np.ndarray) -> Interactions:
            return Interactions(part[:, 0], np.searchsorted(item_ids, part[:, 1]))

        people = IdMap(pa.array(np.arange(users)), "user")
        parts = (people, items, clicks(train), clicks(test), np.searchsorted(item_ids, test_map), item_text)
        if config.busiest:
            parts = _busiest(config.busiest, *parts, report)
        people, items, known, test, candidates, item_text = parts
        candidates = np.sort(candidates)
        protocols = protocols_of(candidates, np.setdiff1d(candidates, known.item_idx))
        aside = hold_out_validation(known.user_idx, None, config.valid, np.random.default_rng(config.seed))
        splits = (known.take(~aside), known.take(aside), test)
        return finished(Dataset(self.name, people, items, *splits, item_text, protocols, TEMPLATE, report))


def _busiest(
    count: int,
    users: IdMap,
    items: IdMap,
    train: Interactions,
    test: Interactions,
    candidates: np.ndarray,
    item_text: pa.Table,
    report: ReadReport,
) -> tuple[IdMap, IdMap, Interactions, Interactions, np.ndarray, pa.Table]:
    """Return ``users`` to ``item_text`` of the users with most training clicks, and of the items they touch."""
    clicks = np.bincount(train.user_idx, minlength=len(users))
    kept = np.sort(np.argsort(-clicks, kind="stable")[:count])
    parts = [one.take(np.isin(one.user_idx, kept)) for one in (train, test)]
    item_rows = np.unique(np.concatenate([one.item_idx for one in parts]))
    report.drop("user beyond the busiest", len(users) - len(kept))
    report.drop("item that none of the busiest users touches", len(items) - len(item_rows))
    train, test = (
        Interactions(np.searchsorted(kept, one.user_idx), np.searchsorted(item_rows, one.item_idx))
        for one in parts
    )
    return (
        users.take(kept),
        items.take(item_rows),
        train,
        test,
        np.searchsorted(item_rows, np.intersect1d(candidates, item_rows)),
        item_text.take(pa.array(item_rows)),
    )


def _folder(source: Path) -> Path:
    for folder in (source, source / "mind", source / "data" / "mind"):
        if (folder / "trnMat_zero.pkl").is_file():
            return folder
    raise NotFound(f"no trnMat_zero.pkl in {source} or its data/mind; --source must be {MindRelease.source}")


def _wrong(path: Path, expected: str) -> BadInput:
    return BadInput(f"{path} does not hold {expected}")


def _dict(path: Path, expected: str) -> dict[Any, Any]:
    value = read_pickle(path)
    if not isinstance(value, dict) or not value or not all(type(key) is int and key >= 0 for key in value):
        raise _wrong(path, expected)
    return value


def _item_ids(path: Path) -> np.ndarray:
    """``(c,)`` the item id of each column, from a dict of item id to column."""
    expected = "a dict of item ids to columns 0, 1, …"
    columns = _dict(path, expected)
    if {type(column) for column in columns.values()} != {int} or set(columns.values()) != set(
        range(len(columns))
    ):
        raise _wrong(path, expected)
    return np.array(sorted(columns, key=columns.__getitem__))


def _pairs(path: Path, item_ids: np.ndarray) -> tuple[int, np.ndarray]:
    """Number of users, and the matrix's entries as ``(n, 2)`` user and item ids."""
    matrix = read_pickle(path)
    if not isinstance(matrix, CooMatrix) or matrix.shape[1] != len(item_ids):
        raise _wrong(path, f"a COO matrix of users × {len(item_ids)} items")
    if not (matrix.data == 1).all():
        raise _wrong(path, "a matrix of ones")
    return matrix.shape[0], np.stack([matrix.row.astype(np.int64), item_ids[matrix.col]], axis=1)


def _dict_pairs(path: Path, users: int, width: int) -> np.ndarray:
    """The clicks of a dict of user to item ids, each as one number (:func:`pairs`)."""
    expected = f"a dict of {users} users to lists of item ids"
    histories = _dict(path, expected)
    if len(histories) != users or not all(isinstance(history, list) for history in histories.values()):
        raise _wrong(path, expected)
    rows = np.repeat(list(histories), [len(history) for history in histories.values()])
    items = np.array(list(chain.from_iterable(histories.values())))
    if items.dtype.kind != "i" or items.min() < 0 or items.max() >= width:
        raise _wrong(path, f"item ids from 0 to {width - 1}")
    return pairs(rows, items, width)


def _item_text(path: Path) -> tuple[np.ndarray, pa.Table]:
    """Item ids in ascending order, and a table of their text fields."""
    info = _dict(path, "a dict of item ids to texts")
    for fields in info.values():
        if not isinstance(fields, dict) or not all(type(fields.get(key)) is str for key in FIELDS.values()):
            raise _wrong(path, f"the texts {', '.join(FIELDS.values())} for each item")
    ids = sorted(info)
    table = pa.table({name: pa.array([info[one][key] for one in ids]) for name, key in FIELDS.items()})
    return np.array(ids), table
