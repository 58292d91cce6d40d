"""Profiles in a plain PyTorch matrix factorisation: ``python examples/plain_mf.py``.

The data is made on the spot. With your own:

    data = reclm.load_dataset("ml-100k")
    profiles = reclm.write_profiles(data, "zero-shot", limit=50)
    reclm.augment(model, profiles)
"""

import torch
from torch import Tensor, nn

import reclm
from reclm.data.dataset import Dataset
from reclm.recommend.evaluate import Task, evaluate
from reclm.recommend.losses import bpr_loss
from reclm.recommend.training import TripleSampler
from reclm.testing import checkerboard, profiles


class MF(nn.Module):
    """Score by ``ŷ_uv = x_u · x_v``, without knowing anything of profiles."""

    def __init__(self, users: int, items: int, dim: int) -> None:
        super().__init__()
        self.user_embedding = nn.Embedding(users, dim)
        self.item_embedding = nn.Embedding(items, dim)
        nn.init.xavier_uniform_(self.user_embedding.weight)
        nn.init.xavier_uniform_(self.item_embedding.weight)

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        """Return the scores of pairs: two ``(B,)`` to ``(B,)``."""
        return (self.user_embedding(users) * self.item_embedding(items)).sum(-1)


def train(model: nn.Module, dataset: Dataset, epochs: int = 25, batch_size: int = 128) -> list[float]:
    """Train by BPR with one negative; return the loss of each epoch."""
    sampler = TripleSampler(dataset.train, len(dataset.users), len(dataset.items))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    draw = torch.Generator().manual_seed(0)
    losses = []
    for _ in range(epochs):
        total = 0.0
        parts = (column.split(batch_size) for column in sampler.epoch(draw))
        for users, positives, negatives in zip(*parts, strict=True):
            optimizer.zero_grad()
            loss = bpr_loss(model(users, positives), model(users, negatives))
            loss.backward()
            optimizer.step()
            total += loss.item() * len(users)
        losses.append(total / len(sampler))
    return losses


def recall(model: nn.Module, dataset: Dataset, protocol: str) -> float:
    """Return Recall@6 of a protocol."""
    seen, candidates = dataset.joined(["train", "valid"]), dataset.protocol(protocol).candidates
    task = Task.of(dataset.test, seen, candidates, len(dataset.users), len(dataset.items))
    result = evaluate(lambda users, items: model(users[:, None], items), task, ["recall@6"])
    return result.mean()["recall@6"]


def main() -> None:
    """Train a plain and an augmented model, and bake the latter into plain embeddings again."""
    dataset = checkerboard(users=40, items=40, cold=12)
    torch.manual_seed(0)
    for name in ("plain", "augmented"):
        model = MF(len(dataset.users), len(dataset.items), dim=8)
        if name == "augmented":
            print(reclm.augment(model, profiles(dataset), data=dataset))
        losses = train(model, dataset)
        print(
            f"{name:9} loss {losses[0]:.3f} -> {losses[-1]:.3f}",
            *(f"  {name} recall@6 {recall(model, dataset, name):.3f}" for name in ("full-shot", "zero-shot")),
        )
    reclm.remove(model)
    print(f"baked     zero-shot recall@6 {recall(model, dataset, 'zero-shot'):.3f}, {model.item_embedding}")


if __name__ == "__main__":
    main()
