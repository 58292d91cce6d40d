"""Similar users by a LightGCN trained on the view, similar items by raw text (RecLM, section 2.3)."""

import numpy as np
import torch
from pydantic import Field

from reclm.backbones.base import Inputs
from reclm.backbones.lightgcn import LightGCN, LightGCNConfig
from reclm.config import Config
from reclm.data.dataset import TrainingView
from reclm.profiles.similar import similar
from reclm.progress import progress_bar
from reclm.sampling import TripleSampler
from reclm.training import TrainConfig, fit


class NeighbourConfig(Config):
    """Who is similar to whom. RecLM, arXiv 2412.19302, section 2.3."""

    count: int = Field(default=5, ge=1)
    """Neighbours of a user, and of an item; 5 in the paper's release."""
    epochs: int = Field(default=50, ge=1)
    """Epochs of the LightGCN, which knows users and items by ID; section 6.1."""
    dim: int = Field(default=32, ge=1)
    """Its latent width d; section 6.1."""
    layers: int = Field(default=2, ge=1)
    """Its layers; section 6.1."""
    seed: int = 0


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
