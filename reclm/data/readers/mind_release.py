"""The RecLM paper's own MIND split, as its authors released it.

Paper: RecLM: Recommendation Instruction Tuning, https://arxiv.org/abs/2412.19302 (section 6.1); files:
https://github.com/HKUDS/RecLM.
"""

from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import Field

from reclm.config import Config as BaseConfig
from reclm.data.dataset import Dataset, Interactions, ReadReport
from reclm.data.id_map import IdMap
from reclm.data.readers import safe_pickle as plain_pickle
from reclm.data.readers.base import Reader, existing
from reclm.data.splits import Fraction, Seed, from_snapshots, of_busiest, pairs
from reclm.errors import BadInput, NotFound

TEMPLATE = "{category}[, {subcategory}]. {title}[. {abstract}]"
FIELDS = {"category": "cate", "subcategory": "sub_cate", "title": "title", "abstract": "abstract"}


class MindRelease(Reader):
    """57,128 users; a day of 89,734 clicks on 2,386 items, the next day's 87,974 on 2,461.

    A user's id is the row, an item's id the number that the release gives it. Test clicks that repeat a training
    click are not in the authors' test matrix, and so not here.
    """

    name = "mind-release"
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
            parts = of_busiest(config.busiest, *parts, report)
        return from_snapshots(
            self.name,
            *parts,
            config.valid,
            config.seed,
            report,
            TEMPLATE,
        )


def _folder(source: Path) -> Path:
    for folder in (source, source / "mind", source / "data" / "mind"):
        if (folder / "trnMat_zero.pkl").is_file():
            return folder
    raise NotFound(f"no trnMat_zero.pkl in {source} or its data/mind; --source must be {MindRelease.source}")


def _wrong(path: Path, expected: str) -> BadInput:
    return BadInput(f"{path} does not hold {expected}")


def _dict(path: Path, expected: str) -> dict[Any, Any]:
    value = plain_pickle.read(path)
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
    matrix = plain_pickle.read(path)
    if not isinstance(matrix, plain_pickle.CooMatrix) or matrix.shape[1] != len(item_ids):
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
