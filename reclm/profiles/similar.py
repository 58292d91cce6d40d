"""Nearest neighbours by cosine: exact, block by block."""

import numpy as np
import torch

_SCORES = 1 << 22
"""Scores held at once, by default: 16 MiB of float32."""
_VALUES = 1 << 22
"""Values of the vectors that are scored again in float64 at once."""


def similar(
    vectors: np.ndarray, k: int, block: int | None = None, among: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The ``k`` nearest of each row by cosine, nearest first; of equally near ones the lower row first.

    Exact: float32 products find all that may belong to the nearest (the bound on their rounding error is kept as a
    margin), and those few are scored and ordered in float64. The answer does not depend on ``block``.

    Args:
        vectors: ``(n, d)``, any float type. A row of zeros has no direction: it has no neighbours and is nobody's.
        k: how many.
        block: rows scored at once, ``(block, n)`` float32; by default as many as fit 16 MiB.
        among: rows that count, as searchers and as neighbours; all by default.

    Returns:
        ``(indices, scores)``: ``(n, k)`` int64 rows of ``vectors``, -1 where there are fewer than ``k``, and ``(n, k)``
        float32 cosines, 0 there. A row is never its own neighbour.
    """
    if k < 1:
        raise ValueError(f"k = {k}; at least one neighbour is wanted")
    indices, scores = np.full((len(vectors), k), -1, np.int64), np.zeros((len(vectors), k), np.float32)
    lengths = np.linalg.norm(np.asarray(vectors, np.float64), axis=1)
    rows = np.arange(len(vectors)) if among is None else np.unique(among)
    rows = rows[lengths[rows] > 0]
    if len(rows) < 2:
        return indices, scores
    units = np.asarray(vectors[rows], np.float64) / lengths[rows, None]
    single = torch.from_numpy(units.astype(np.float32))
    # a product of two unit vectors of d float32 terms is wrong by at most (d + 2) ε/2, and so is the k-th best that it
    # is compared with; twice that is kept
    margin = 2 * (units.shape[1] + 2) * float(np.finfo(np.float32).eps)
    width = min(k, len(rows) - 1)
    block = block or max(1, _SCORES // len(rows))
    memory = torch.empty(min(block, len(rows)), len(rows))
    for start in range(0, len(rows), block):
        count = min(block, len(rows) - start)
        products = torch.mm(single[start : start + count], single.T, out=memory[:count])
        products[torch.arange(count), torch.arange(start, start + count)] = -torch.inf
        least = products.topk(width, dim=1).values[:, -1:] - margin
        query, found = (one.numpy() for one in (products >= least).nonzero(as_tuple=True))
        exact = _cosines(units, query + start, found)
        order = np.lexsort((found, -exact, query))
        query, found, exact = query[order], found[order], exact[order]
        place = np.arange(len(query)) - np.searchsorted(query, np.arange(count))[query]
        kept = place < width
        at = rows[query[kept] + start], place[kept]
        indices[at], scores[at] = rows[found[kept]], exact[kept]
    return indices, scores


def _cosines(units: np.ndarray, one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """``(m,)`` float64: products of rows, each summed in the same order wherever it stands."""
    step = max(1, _VALUES // units.shape[1])
    parts = [
        np.einsum("nd,nd->n", units[one[at : at + step]], units[other[at : at + step]])
        for at in range(0, len(one), step)
    ]
    return np.concatenate(parts)
