"""Similar users by a LightGCN trained on the view, similar items by raw text (RecLM, section 2.3)."""

import hashlib
import json
from collections.abc import Callable
from contextlib import suppress
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from reclm import plugins
from reclm.console import progress_bar
from reclm.data.dataset import TrainingView
from reclm.errors import BadInput
from reclm.files import atomic_file
from reclm.profilers.reclm.config import NeighbourConfig
from reclm.profilers.reclm.prompts import packed
from reclm.recommend.base import Inputs
from reclm.recommend.training import TrainConfig, TripleSampler, train
from reclm.text.encoder import TextEncoder
from reclm.text.item_text import item_texts

_AT_ONCE = 1 << 22
"""Scores, or values of vectors, in memory at once."""


def similar(
    vectors: np.ndarray,
    k: int,
    block: int | None = None,
    among: np.ndarray | None = None,
    searchers: np.ndarray | None = None,
) -> np.ndarray:
    """Return the ``k`` nearest of each row by cosine, nearest first; of equally near ones the lower row first.

    Exact, whatever ``block``, the rows that are scored at once: float32 products find all that may belong to the
    nearest (the bound on their rounding error is the margin), and those few are scored and ordered in float64.

    The rows ``among`` (default: all) of ``vectors`` ``(n, d)`` are candidates for the rows ``searchers`` (default: the
    candidates). No row is its own neighbour; a row of zeros has no neighbour, and is none. Return ``(n, k)`` int64
    rows, -1 where there are fewer.
    """
    nearest = np.full((len(vectors), k), -1, np.int64)
    lengths = np.linalg.norm(np.asarray(vectors, np.float64), axis=1)
    rows = np.arange(len(vectors)) if among is None else np.unique(among)
    query_rows = rows if searchers is None else np.unique(searchers)
    rows, query_rows = rows[lengths[rows] > 0], query_rows[lengths[query_rows] > 0]
    if not len(rows) or not len(query_rows):
        return nearest
    units, queries = (
        np.asarray(vectors[part], np.float64) / lengths[part, None] for part in (rows, query_rows)
    )
    units32, queries32 = (torch.from_numpy(part.astype(np.float32)) for part in (units, queries))
    self_place = np.minimum(np.searchsorted(rows, query_rows), len(rows) - 1)
    # a product of two unit vectors of d float32 terms is wrong by at most (d + 2) ε/2, and so is the k-th best that it
    # is compared with: take twice that as the margin
    margin = 2 * (units.shape[1] + 2) * float(np.finfo(np.float32).eps)
    width = min(k, len(rows))
    block = block or max(1, _AT_ONCE // len(rows))
    memory = torch.empty(min(block, len(query_rows)), len(rows))
    for start in range(0, len(query_rows), block):
        part = slice(start, start + block)
        count = len(query_rows[part])
        products = torch.mm(queries32[part], units32.T, out=memory[:count])
        present = np.flatnonzero(rows[self_place[part]] == query_rows[part])
        products[present, self_place[part][present]] = -torch.inf
        least = products.topk(width, dim=1).values[:, -1:] - margin
        query, near = (places.numpy() for places in (products >= least).nonzero(as_tuple=True))
        others = rows[near] != query_rows[part][query]
        query, near = query[others], near[others]
        order = np.lexsort((near, -_cosines(queries[part], query, units, near), query))
        query, near = query[order], near[order]
        place = np.arange(len(query)) - np.searchsorted(query, np.arange(count))[query]
        best = place < width
        nearest[query_rows[part][query[best]], place[best]] = rows[near[best]]
    return nearest


def _cosines(a: np.ndarray, rows: np.ndarray, b: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return ``(m,)`` float64 products of rows, each summed in the same order wherever it stands."""
    step = max(1, _AT_ONCE // b.shape[1])
    parts = [
        np.einsum("nd,nd->n", a[rows[at : at + step]], b[other[at : at + step]])
        for at in range(0, len(rows), step)
    ]
    return np.concatenate(parts) if parts else np.zeros(0)


def user_vectors(view: TrainingView, config: NeighbourConfig, progress: bool = True) -> np.ndarray:
    """Train a LightGCN on all of the view's interactions and return its users, ``(U, d)`` float32.

    Users without an interaction get zeros, which are similar to nobody.
    """
    generator = torch.Generator().manual_seed(config.seed)
    inputs = Inputs(len(view.users), len(view.items), view.train)
    lightgcn = plugins.get("backbone", "lightgcn")
    options = lightgcn.Config(items="id", dim=config.dim, layers=config.layers)
    model = lightgcn(options, inputs, generator)
    sampler = TripleSampler(view.train, inputs.users, inputs.items)
    with progress_bar("training LightGCN for similar users", config.epochs, progress) as advance:
        schedule = TrainConfig(epochs=config.epochs, eval_every=config.epochs)
        train(model, sampler, {}, schedule, generator, lambda row: advance(1))
    with torch.no_grad():
        vectors = model.represent(model.user_features(), model.item_features())[0].numpy().copy()
    vectors[np.bincount(view.train.user_idx, minlength=len(vectors)) == 0] = 0
    return vectors


class UserNeighbours:
    """Similar users by the ``histories`` ``(U, h)`` of the prompts, cached in ``folder`` (None: in memory)."""

    def __init__(
        self,
        view: TrainingView,
        histories: np.ndarray,
        config: NeighbourConfig,
        folder: Path | None,
        progress: bool = True,
    ) -> None:
        self.view, self.histories, self.config = view, histories, config
        self.folder, self.progress = folder, progress

    @cached_property
    def vectors(self) -> np.ndarray:
        """``(U, d)`` float32 vectors of :func:`user_vectors`."""
        return self._cached("vectors", lambda: user_vectors(self.view, self.config, self.progress))

    @cached_property
    def nearest(self) -> np.ndarray:
        """``(U, count)`` user_idx of all users, nearest first, -1 where there are fewer."""
        return self._cached("nearest", self.among, self.histories.shape[1])

    def among(self, learned: np.ndarray | None = None, searchers: np.ndarray | None = None) -> np.ndarray:
        """Return ``(U, count)`` :func:`similar` users: of the rows ``searchers``, among the rows ``learned``.

        Of users with equal histories one is a candidate, and none with the searcher's own history.
        """
        count = self.config.count
        same = np.unique(np.sort(self.histories, axis=1), axis=0, return_inverse=True)[1]
        rows = np.arange(len(same)) if learned is None else np.unique(learned)
        first = rows[np.unique(same[rows], return_index=True)[1]]
        near = similar(
            self.vectors, count + 1, among=first, searchers=rows if searchers is None else searchers
        )
        return packed(np.where(same[near] == same[:, None], -1, near))[:, :count]

    def _cached(self, name: str, make: Callable[[], np.ndarray], *of: int) -> np.ndarray:
        origin = json.dumps([self.view.fingerprint, self.config.model_dump(mode="json"), *of])
        return _cached(self.folder, f"{name}-{self.view.fingerprint[:8]}", origin, len(self.view.users), make)


def similar_items(
    view: TrainingView,
    encoder: TextEncoder,
    folder: Path | None,
    count: int,
    among: np.ndarray,
    searchers: np.ndarray,
) -> np.ndarray:
    """Return ``(I, count)`` :func:`similar` items by raw text features, which are cached in ``folder``."""
    texts = item_texts(view.item_text, view.text_template)
    digest = hashlib.sha256("\0".join([encoder.name, *texts]).encode()).hexdigest()
    features = _cached(folder, f"items-{digest[:8]}", digest, len(texts), lambda: encoder.encode(texts))
    return similar(features, count, among=among, searchers=searchers)


def _cached(
    folder: Path | None, name: str, origin: str, rows: int, make: Callable[[], np.ndarray]
) -> np.ndarray:
    """Return the result of ``make``, ``(rows, …)``, or the cached one that was made from the same ``origin``."""
    path = folder / f"{name}.safetensors" if folder else None
    if path and path.is_file():
        with suppress(OSError, ValueError, TypeError, SafetensorError), safe_open(path, "np") as file:
            if (file.metadata() or {}).get("of") == origin:
                (key,) = file.keys()
                if _sound(cached := file.get_tensor(key), rows):
                    return cached
    values = make()
    if path:
        # a folder that cannot be written costs the time of computing the values again
        with suppress(BadInput, SafetensorError), atomic_file(path) as draft:
            save_file({"values": np.ascontiguousarray(values)}, draft, metadata={"of": origin})
    return values


def _sound(values: np.ndarray, rows: int) -> bool:
    """Return whether values of a file are finite vectors of ``rows`` subjects, or numbers of them, -1 for none."""
    if values.ndim != 2 or len(values) != rows:
        return False
    if np.issubdtype(values.dtype, np.floating):
        return bool(np.isfinite(values).all())
    return values.dtype == np.int64 and bool(((values >= -1) & (values < rows)).all())
