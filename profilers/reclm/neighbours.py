"""Similar users by a LightGCN trained on the view, similar items by raw text (RecLM, section 2.3)."""

import hashlib
import json
import os
from collections.abc import Callable
from contextlib import suppress
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from reclm.backbones.base import Inputs
from reclm.backbones.lightgcn import LightGCN, LightGCNConfig
from reclm.data.dataset import TrainingView
from reclm.profilers.reclm.config import NeighbourConfig
from reclm.profilers.reclm.shown import packed
from reclm.profiles.similar import similar
from reclm.progress import progress_bar
from reclm.sampling import TripleSampler
from reclm.text.encoder import TextEncoder
from reclm.text.items import item_texts
from reclm.training import TrainConfig, fit


def user_vectors(view: TrainingView, config: NeighbourConfig, progress: bool = True) -> np.ndarray:
    """``(U, d)`` float32: users as a LightGCN trained on all of the view's interactions represents them.

    It is not chosen by validation: the view has none, and is not to be asked for any. Users without an interaction
    get zeros, which are similar to nobody.
    """
    generator = torch.Generator().manual_seed(config.seed)
    inputs = Inputs(len(view.users), len(view.items), view.train)
    model = LightGCN(LightGCNConfig(items="id", dim=config.dim, layers=config.layers), inputs, generator)
    sampler = TripleSampler(view.train, inputs.users, inputs.items)
    with progress_bar("training LightGCN for similar users", config.epochs, progress) as advance:
        schedule = TrainConfig(epochs=config.epochs, eval_every=config.epochs)
        fit(model, sampler, {}, schedule, generator, lambda row: advance(1))
    with torch.no_grad():
        vectors = model.represent(model.user_features(), model.item_features())[0].numpy().copy()
    vectors[np.bincount(view.train.user_idx, minlength=len(vectors)) == 0] = 0
    return vectors


def similar_others(
    vectors: np.ndarray,
    histories: np.ndarray,
    count: int,
    among: np.ndarray | None = None,
    searchers: np.ndarray | None = None,
) -> np.ndarray:
    """``(U, count)`` int64 user_idx by cosine, nearest first, -1 where there are fewer.

    Of users with the same history only the first counts, and none for those who have it themselves: they tell nothing
    that the own history does not.

    Args:
        vectors: ``(U, d)``.
        histories: ``(U, h)`` item_idx, -1 where there are fewer.
        among, searchers: as in :func:`~reclm.profiles.similar.similar`.
    """
    same = np.unique(np.sort(histories, axis=1), axis=0, return_inverse=True)[1]
    rows = np.arange(len(vectors)) if among is None else np.unique(among)
    first = rows[np.unique(same[rows], return_index=True)[1]]
    near = similar(vectors, count + 1, among=first, searchers=rows if searchers is None else searchers)[0]
    return packed(np.where(same[near] == same[:, None], -1, near))[:, :count]


class UserNeighbours:
    """Similar users of a view, computed once and kept in a folder.

    Args:
        histories: ``(U, h)`` item_idx as prompts show them, -1 where there are fewer; see :func:`similar_others`.
        folder: where they are kept; None keeps them in memory.
    """

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
        """See :func:`user_vectors`."""
        return self._kept("vectors", lambda: user_vectors(self.view, self.config, self.progress))

    @cached_property
    def nearest(self) -> np.ndarray:
        """``(U, count)`` user_idx of all users, nearest first, -1 where there are fewer."""
        return self._kept(
            "nearest",
            lambda: similar_others(self.vectors, self.histories, self.config.count),
            self.histories.shape[1],
        )

    def among(self, learned: np.ndarray, searchers: np.ndarray) -> np.ndarray:
        """``(U, count)`` neighbours of the rows ``searchers`` that are in ``learned``; nobody else has any."""
        return similar_others(self.vectors, self.histories, self.config.count, learned, searchers)

    def _kept(self, name: str, make: Callable[[], np.ndarray], *of: int) -> np.ndarray:
        known = json.dumps([self.view.fingerprint, self.config.model_dump(mode="json"), *of])
        return _kept(self.folder, f"{name}-{self.view.fingerprint[:8]}", known, make)


def item_features(view: TrainingView, encoder: TextEncoder, folder: Path | None) -> np.ndarray:
    """``(I, t)`` float32 text features of all items, kept in ``folder`` if there is one."""
    texts = item_texts(view.item_text, view.text_template)
    digest = hashlib.sha256("\0".join([encoder.name, *texts]).encode()).hexdigest()
    return _kept(folder, f"items-{digest[:8]}", digest, lambda: encoder.encode(texts))


def _kept(folder: Path | None, name: str, known: str, make: Callable[[], np.ndarray]) -> np.ndarray:
    """What ``make`` returns, or returned when ``known``, of which it is made, was the same."""
    path = folder / f"{name}.safetensors" if folder else None
    if path and path.is_file():
        with suppress(OSError, SafetensorError), safe_open(path, "np") as file:
            if (file.metadata() or {}).get("of") == known:
                return file.get_tensor(next(iter(file.keys())))
    values = make()
    if path:
        # a folder that cannot be written to costs the time of computing them again
        with suppress(OSError, SafetensorError):
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_suffix(f".{os.getpid()}.partial")
            save_file({"values": np.ascontiguousarray(values)}, partial, metadata={"of": known})
            os.replace(partial, path)
    return values


def similar_items(
    text: np.ndarray,
    config: NeighbourConfig,
    among: np.ndarray | None = None,
    searchers: np.ndarray | None = None,
) -> np.ndarray:
    """``(I, count)`` int64 item_idx by raw text features ``(I, t)``, nearest first, -1 where there are fewer.

    Args:
        among, searchers: as in :func:`~reclm.profiles.similar.similar`.
    """
    return similar(text, config.count, among=among, searchers=searchers)[0]
