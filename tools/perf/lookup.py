"""Fusing a batch's rows against the whole table: ``python -m tools.perf.lookup``.

A matrix factorisation with augmented users and items takes BPR steps: as it is, looking rows up; and reading the same
rows out of ``embedding.weight``, as a parametrization alone would have it. Every row has a profile of its own (equal
ones would be transformed once). The plain model, without profiles, is the bound.
"""

import argparse
import copy
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import reclm
from reclm.profiles.matrix import ProfileMatrix
from reclm.recommend.losses import bpr_loss
from tools.perf.common import machine, side_by_side

Read = Callable[[nn.Embedding, Tensor], Tensor]


def step(
    model: nn.ModuleDict, batch: tuple[Tensor, Tensor, Tensor], read: Read, train: bool
) -> Callable[[], None]:
    """One step: forward and backward and, if ``train``, Adam."""
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    users, items = model["user_embedding"], model["item_embedding"]
    assert isinstance(users, nn.Embedding)
    assert isinstance(items, nn.Embedding)

    def call() -> None:
        optimizer.zero_grad()
        user, positive, negative = read(users, batch[0]), read(items, batch[1]), read(items, batch[2])
        bpr_loss((user * positive).sum(-1), (user * negative).sum(-1)).backward()
        if train:
            optimizer.step()

    return call


def look_up(embedding: nn.Embedding, ids: Tensor) -> Tensor:
    """As a model does: ``embedding(ids)``."""
    return embedding(ids)


def whole_table(embedding: nn.Embedding, ids: Tensor) -> Tensor:
    """The same rows of the same table, all of it fused first."""
    return F.embedding(ids, embedding.weight)


def main() -> None:
    """Print seconds a step, and how many times longer the whole table takes."""
    parser = argparse.ArgumentParser(description="fusing a batch's rows against the whole table")
    parser.add_argument("--rows", type=int, default=200_000, help="users, and a tenth as many items")
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--text-dim", type=int, default=384)
    parser.add_argument("--batch", type=int, default=4096)
    parser.add_argument("--repeats", type=int, default=3, help="rounds; medians are printed")
    options = parser.parse_args()
    draw, rng = torch.Generator().manual_seed(0), np.random.default_rng(0)
    counts = {"user": options.rows, "item": options.rows // 10}
    plain = nn.ModuleDict({f"{kind}_embedding": nn.Embedding(n, options.dim) for kind, n in counts.items()})
    profiles = {
        kind: ProfileMatrix(rng.standard_normal((n, options.text_dim), np.float32), np.ones(n, bool))
        for kind, n in counts.items()
    }
    model = copy.deepcopy(plain)
    reclm.augment(model, profiles, cold=None, generator=draw)  # pyright: ignore[reportArgumentType]
    drawn = [
        torch.randint(counts[kind], (options.batch,), generator=draw) for kind in ("user", "item", "item")
    ]
    batch = (drawn[0], drawn[1], drawn[2])
    print(
        f"{counts['user']:,} users, {counts['item']:,} items, {options.dim} wide, profiles of {options.text_dim}, "
        f"batch {options.batch}; {machine()}"
    )
    for what, train in (("forward and backward", False), ("with Adam", True)):
        candidates: dict[str, Callable[[], object]] = {
            "plain": step(plain, batch, look_up, train),
            "rows": step(model, batch, look_up, train),
            "table": step(model, batch, whole_table, train),
        }
        times = side_by_side(candidates, options.repeats)
        print(
            f"{what:21} plain {times['plain']:.4f} s   rows {times['rows']:.4f} s   whole table "
            f"{times['table']:.4f} s   ratio {times['table'] / times['rows']:.1f}"
        )


if __name__ == "__main__":
    main()
