"""Profiles in PyTorch Geometric's LightGCN, as it comes: ``python examples/pyg_lightgcn.py``.

It keeps users and items in one embedding, users first; ``user_rows`` and ``item_rows`` say so.
"""

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils import parametrize
from torch_geometric.nn.models import LightGCN

import reclm
from reclm.data.dataset import Dataset
from reclm.recommend.evaluate import Task, evaluate
from reclm.recommend.training import TripleSampler
from reclm.testing import checkerboard, profiles


def graph(dataset: Dataset) -> Tensor:
    """Return the training interactions as edges, both ways: ``(2, 2n)``."""
    users = torch.tensor(dataset.train.user_idx)
    items = torch.tensor(dataset.train.item_idx) + len(dataset.users)
    return torch.stack([torch.cat([users, items]), torch.cat([items, users])])


def train(model: LightGCN, edges: Tensor, dataset: Dataset, epochs: int = 40) -> list[float]:
    """Train by PyG's BPR, all triples a step; return the loss of each step."""
    sampler = TripleSampler(dataset.train, len(dataset.users), len(dataset.items))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    draw = torch.Generator().manual_seed(0)
    losses = []
    for _ in range(epochs):
        users, positives, negatives = sampler.epoch(draw)
        pairs = torch.stack([users.repeat(2), torch.cat([positives, negatives]) + len(dataset.users)])
        optimizer.zero_grad()
        with parametrize.cached():  # the embedding is read twice: by the graph, and by the regulariser
            positive, negative = model(edges, pairs).chunk(2)
            loss = model.recommendation_loss(positive, negative, pairs.unique())
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def recall(model: LightGCN, edges: Tensor, dataset: Dataset, protocol: str) -> float:
    """Return Recall@6 of a protocol."""
    seen, candidates = dataset.joined(["train", "valid"]), dataset.protocol(protocol).candidates
    task = Task.of(dataset.test, seen, candidates, len(dataset.users), len(dataset.items))
    with torch.no_grad():
        users, items = model.get_embedding(edges).split([len(dataset.users), len(dataset.items)])
    result = evaluate(lambda user, item: users[user] @ items[item].T, task, ["recall@6"])
    return result.mean()["recall@6"]


def main() -> None:
    """Train a plain and an augmented model."""
    dataset = checkerboard(users=40, items=40, cold=12)
    users, items = len(dataset.users), len(dataset.items)
    edges = graph(dataset)
    torch.manual_seed(0)
    for name in ("plain", "augmented"):
        model = LightGCN(users + items, embedding_dim=8, num_layers=2)
        if name == "augmented":
            handle = reclm.augment(
                model,
                profiles(dataset),
                data=dataset,
                users="embedding",
                items="embedding",
                user_rows=np.arange(users),
                item_rows=np.arange(users, users + items),
            )
            print(handle)
        losses = train(model, edges, dataset)
        print(
            f"{name:9} loss {losses[0]:.3f} -> {losses[-1]:.3f}",
            *(
                f"  {name} recall@6 {recall(model, edges, dataset, name):.3f}"
                for name in ("full-shot", "zero-shot")
            ),
        )


if __name__ == "__main__":
    main()
