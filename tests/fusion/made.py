"""Models that are not ours, made small, and how the tests augment them."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import reclm
from reclm.fusion.augment import Augmented
from reclm.fusion.dual_mlp import DualMLP
from reclm.fusion.parametrization import fused_table

USERS, ITEMS, DIM, TEXT = 24, 20, 8, 6
EVERYONE, EVERYTHING = torch.arange(USERS), torch.arange(ITEMS)


class MF(nn.Module):
    """Two tables, the items' with room for ``offset`` rows of nobody's, the first of them padding."""

    def __init__(self, offset: int = 0, dim: int = DIM, **options: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.user_embedding = nn.Embedding(USERS, DIM)
        padding = 0 if offset else None
        self.item_embedding = nn.Embedding(ITEMS + offset, dim, padding_idx=padding, **options)
        self.offset = offset

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        return (self.user_embedding(users) * self.item_embedding(items + self.offset)).sum(-1)

    def scores(self) -> Tensor:
        """All pairs, from whole tables: ``(U, I)``."""
        return self.user_embedding.weight @ self.item_embedding.weight[self.offset :].T


class Joint(nn.Module):
    """Items and users in one table, with a row of nobody's in front, between and at the end."""

    user_rows = np.arange(USERS)[::-1] + ITEMS + 2
    item_rows = np.arange(ITEMS) + 1

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder: Any = nn.ModuleDict({"nodes": nn.Embedding(USERS + ITEMS + 3, DIM)})


def augment(model: nn.Module, given: Any, **options: Any) -> Augmented:
    options = {"cold": None, "generator": torch.Generator().manual_seed(1)} | options
    return reclm.augment(model, given, **options)


def augmented(given: Any, offset: int = 0, **options: Any) -> MF:
    model = MF(offset)
    rows = np.arange(ITEMS) + offset if offset else None
    augment(model, given, item_rows=rows, **options)
    return model


def mlp_of(model: MF) -> DualMLP:
    return fused_table(model.user_embedding).user.fusion.mlp


def plain_weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}
