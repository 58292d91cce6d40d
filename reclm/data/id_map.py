"""Ids of a data set and the rows they stand for."""

from collections.abc import Iterable
from hashlib import blake2b
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from reclm.errors import BadInput, NotFound, near


def id_strings(ids: Iterable[object] | pa.Array) -> pa.Array:
    """Return ids as strings: a whole number without a decimal point, also where it is a float; no number is null.

    >>> id_strings([104, 104.0, "104", 1.5, "u1"]).to_pylist()
    ['104', '104', '104', '1.5', 'u1']
    """
    if isinstance(ids, pa.ChunkedArray):
        return pa.chunked_array([id_strings(chunk) for chunk in ids.chunks], pa.string()).combine_chunks()
    if not isinstance(ids, pa.Array):
        texts = [str(int(x)) if isinstance(x, float) and x.is_integer() else str(x) for x in ids]
        return pa.array(texts, pa.string())
    column: Any = ids
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_floating(column.type) or pa.types.is_decimal(column.type):
        column = column.cast(pa.float64())
        column = pc.if_else(pc.is_finite(column), column, None)
        whole = pc.and_(pc.equal(pc.floor(column), column), pc.less(pc.abs(column), 2.0**63))
        digits = pc.if_else(whole, column, 0.0).cast(pa.int64(), safe=False).cast(pa.string())
        return pc.if_else(whole, digits, column.cast(pa.string()))
    try:
        return column.cast(pa.string())
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid) as error:
        raise unreadable(column.type, "string") from error


def whole_numbers(ids: pa.Array) -> pa.Array:
    """Write whole numbers among strings without a decimal point, as :func:`id_strings` writes them of floats.

    >>> whole_numbers(pa.array(["104.0", "007", "1.50", "v2.0"])).to_pylist()
    ['104', '007', '1.50', 'v2.0']
    """
    return pc.replace_substring_regex(ids, r"^(-?\d+)\.0+$", r"\1")


def unreadable(kind: pa.DataType, wanted: object) -> BadInput:
    """Return the error for a column of a type that cannot be converted."""
    return BadInput(f"a column of type {kind} cannot be read as {wanted}; convert it first", value=str(kind))


class IdMap:
    """A fixed order of distinct ids, strings, of ``what``: ``user_id ↔ user_idx`` or ``item_id ↔ item_idx``."""

    def __init__(self, ids: Iterable[object] | pa.Array, what: str) -> None:
        self.array: pa.Array = id_strings(ids)
        if pc.count_distinct(self.array, mode="all").as_py() != len(self.array):
            counts = pc.value_counts(self.array).to_pylist()
            first = next(row["values"] for row in counts if row["counts"] > 1)
            raise BadInput(f"{what} id {first!r} occurs twice; ids must be distinct", value=first)
        self.what = what

    def __len__(self) -> int:
        return len(self.array)

    def ids(self, idx: np.ndarray | None = None) -> list[str]:
        """Return the ids of some rows (all rows, in order, by default)."""
        return (self.array if idx is None else self.array.take(pa.array(idx))).to_pylist()

    def take(self, rows: np.ndarray) -> "IdMap":
        """Return the map of ``rows`` ``(n,)``, in their order."""
        return IdMap(self.array.take(pa.array(rows)), self.what)

    def shuffled(self, rows: np.ndarray) -> np.ndarray:
        """Return ``rows`` ``(n,)`` in a random order of their ids: that of two ids is the same among any others."""
        lots = b"".join(blake2b(id.encode(), digest_size=8).digest() for id in self.ids(rows))
        return rows[np.argsort(np.frombuffer(lots, np.uint64), kind="stable")]

    def find(self, ids: Iterable[object] | pa.Array | pa.ChunkedArray) -> np.ndarray:
        """Return the rows ``(n,)`` int64 of some ids, -1 where an id is unknown; ``104.0`` finds ``104``, too."""
        names = ids if isinstance(ids, pa.ChunkedArray) else id_strings(ids)
        rows = pc.index_in(names, value_set=self.array)
        if rows.null_count:
            rows = pc.coalesce(rows, pc.index_in(whole_numbers(names), value_set=self.array), -1)
        return rows.to_numpy(zero_copy_only=False).astype(np.int64)

    def idx(self, ids: Iterable[object] | pa.Array | pa.ChunkedArray, dataset: str = "") -> np.ndarray:
        """Return the rows ``(n,)`` int64 of some ids (of ``dataset``); NotFound for the first one that is unknown."""
        wanted = ids if isinstance(ids, pa.ChunkedArray) else id_strings(ids)
        rows = self.find(wanted)
        if (rows < 0).any():
            name = str(wanted[int(np.flatnonzero(rows < 0)[0])])
            offered = near(name, self.ids()) or self.ids(np.arange(min(3, len(self))))
            among = f"the {len(self):,} {self.what}s" + f" of data set {dataset!r}" * bool(dataset)
            message = (
                f"unknown {self.what} {name!r} among {among}; ids near it, or like it: {', '.join(offered)}"
            )
            raise NotFound(message, value=name, where=dataset or self.what, remedy=(*offered, "")[0])
        return rows
