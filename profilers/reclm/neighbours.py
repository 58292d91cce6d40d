"""Similar users by a LightGCN trained on the view, similar items by raw text (RecLM, section 2.3)."""

import numpy as np
import torch

from reclm.backbones.base import Inputs
from reclm.backbones.lightgcn import LightGCN, LightGCNConfig
from reclm.data.dataset import TrainingView
from reclm.profilers.reclm.config import NeighbourConfig
from reclm.profiles.similar import similar
from reclm.progress import progress_bar
from reclm.sampling import TripleSampler
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


def similar_users(
    view: TrainingView, config: NeighbourConfig, among: np.ndarray | None = None, progress: bool = True
) -> np.ndarray:
    """``(U, count)`` int64 user_idx, nearest first, -1 where there are fewer.

    Args:
        among: rows that count, e.g. of users with a profile; all by default.
    """
    return similar(user_vectors(view, config, progress), config.count, among=among)[0]


def similar_items(text: np.ndarray, config: NeighbourConfig, among: np.ndarray | None = None) -> np.ndarray:
    """``(I, count)`` int64 item_idx by raw text features ``(I, t)``, nearest first, -1 where there are fewer."""
    return similar(text, config.count, among=among)[0]
