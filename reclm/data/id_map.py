"""Ids as the data set gives them, and the rows they stand for."""

from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from reclm.errors import ReclmError, unknown


class IdMap:
    """A fixed order of distinct string ids: ``user_id ↔ user_idx``, ``item_id ↔ item_idx``.

    Args:
        ids: the ids in row order; numbers are written as strings.
        what: ``"user"`` or ``"item"``, for messages.
    """

    def __init__(self, ids: Iterable[object] | pa.Array, what: str) -> None:
        if isinstance(ids, pa.ChunkedArray):
            ids = ids.combine_chunks()
        array = ids.cast(pa.string()) if isinstance(ids, pa.Array) else pa.array(map(str, ids), pa.string())
        if pc.count_distinct(array, mode="all").as_py() != len(array):
            twice = pc.value_counts(array).to_pylist()
            first = next(row["values"] for row in twice if row["counts"] > 1)
            raise ReclmError(f"{what} id {first!r} occurs twice; ids must be distinct")
        self.array: pa.Array = array
        self.what = what

    def __len__(self) -> int:
        return len(self.array)

    def __contains__(self, one: str) -> bool:
        return pc.index(self.array, pa.scalar(one)).as_py() >= 0

    def ids(self, idx: np.ndarray | None = None) -> list[str]:
        """The ids of the given rows (all rows, in order, by default)."""
        return (self.array if idx is None else self.array.take(pa.array(idx))).to_pylist()

    def find(self, ids: Iterable[object] | pa.Array) -> np.ndarray:
        """Rows ``(n,)`` int64 of the given ids, -1 where an id is unknown."""
        wanted = ids.cast(pa.string()) if isinstance(ids, pa.Array) else pa.array(map(str, ids), pa.string())
        rows = pc.fill_null(pc.index_in(wanted, value_set=self.array), -1)
        return rows.to_numpy(zero_copy_only=False).astype(np.int64)

    def idx(self, ids: Iterable[object] | pa.Array) -> np.ndarray:
        """Rows ``(n,)`` int64 of the given ids.

        Raises:
            ReclmError: for the first id that is not known, with the nearest one offered.
        """
        ids = ids if isinstance(ids, pa.Array) else [str(one) for one in ids]
        rows = self.find(ids)
        if (rows < 0).any():
            name = str(ids[int(np.flatnonzero(rows < 0)[0])])
            if len(self) <= 20:
                raise unknown(self.what, name, self.ids())
            raise ReclmError(
                f"unknown {self.what} {name!r}; ids look like {', '.join(self.ids(np.arange(5)))}"
            )
        return rows
