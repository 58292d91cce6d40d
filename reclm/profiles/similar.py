"""Nearest neighbours by cosine: exact, block by block."""

import numpy as np
import torch

_SCORES = 1 << 22
"""Scores held at once, by default: 16 MiB of float32."""
_VALUES = 1 << 22
"""Values of the vectors that are scored again in float64 at once."""


def similar(
    vectors: np.ndarray,
    k: int,
    block: int | None = None,
    among: np.ndarray | None = None,
    searchers: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The ``k`` nearest of each row by cosine, nearest first; of equally near ones the lower row first.

    Exact: float32 products find all that may belong to the nearest (the bound on their rounding error is kept as a
    margin), and those few are scored and ordered in float64. The answer does not depend on ``block``.

    Args:
        vectors: ``(n, d)``, any float type. A row of zeros has no direction: it has no neighbours and is nobody's.
        k: how many.
        block: rows scored at once, ``(block, n)`` float32; by default as many as fit 16 MiB.
        among: rows that may be neighbours; all by default.
        searchers: rows whose neighbours are wanted, the others get none; by default those of ``among``.

    Returns:
        ``(indices, scores)``: ``(n, k)`` int64 rows of ``vectors``, -1 where there are fewer than ``k``, and ``(n, k)``
        float32 cosines, 0 there. A row is never its own neighbour.
    """
    if k < 1:
        raise ValueError(f"k = {k}; at least one neighbour is wanted")
    indices, scores = np.full((len(vectors), k), -1, np.int64), np.zeros((len(vectors), k), np.float32)
    lengths = np.linalg.norm(np.asarray(vectors, np.float64), axis=1)
    rows = np.arange(len(vectors)) if among is None else np.unique(among)
    asking = rows if searchers is None else np.unique(searchers)
    rows, asking = rows[lengths[rows] > 0], asking[lengths[asking] > 0]
    if not len(rows) or not len(asking):
        return indices, scores
    units, queries = (np.asarray(vectors[some], np.float64) / lengths[some, None] for some in (rows, asking))
    single, asked = (torch.from_numpy(some.astype(np.float32)) for some in (units, queries))
    oneself = np.minimum(np.searchsorted(rows, asking), len(rows) - 1)
    # a product of two unit vectors of d float32 terms is wrong by at most (d + 2) ε/2, and so is the k-th best that it
    # is compared with; twice that is kept
    margin = 2 * (units.shape[1] + 2) * float(np.finfo(np.float32).eps)
    width = min(k, len(rows))
    block = block or max(1, _SCORES // len(rows))
    memory = torch.empty(min(block, len(asking)), len(rows))
    for start in range(0, len(asking), block):
        some = slice(start, start + block)
        count = len(asking[some])
        products = torch.mm(asked[some], single.T, out=memory[:count])
        there = np.flatnonzero(rows[oneself[some]] == asking[some])
        products[there, oneself[some][there]] = -torch.inf
        least = products.topk(width, dim=1).values[:, -1:] - margin
        query, found = (one.numpy() for one in (products >= least).nonzero(as_tuple=True))
        others = rows[found] != asking[some][query]
        query, found = query[others], found[others]
        exact = _cosines(queries[some], query, units, found)
        order = np.lexsort((found, -exact, query))
        query, found, exact = query[order], found[order], exact[order]
        place = np.arange(len(query)) - np.searchsorted(query, np.arange(count))[query]
        kept = place < width
        at = asking[some][query[kept]], place[kept]
        indices[at], scores[at] = rows[found[kept]], exact[kept]
    return indices, scores


def _cosines(queries: np.ndarray, one: np.ndarray, units: np.ndarray, other: np.ndarray) -> np.ndarray:
    """``(m,)`` float64: products of rows, each summed in the same order wherever it stands."""
    step = max(1, _VALUES // units.shape[1])
    parts = [
        np.einsum("nd,nd->n", queries[one[at : at + step]], units[other[at : at + step]])
        for at in range(0, len(one), step)
    ]
    return np.concatenate(parts) if parts else np.zeros(0)
