"""An epoch of training against its bound: ``python -m tools.perf.epoch --dataset mind-release``.

The bound moves the same tensors through the bare matrix products of a step, forward and backward, and takes one
optimiser step: no autograd, no loss, no sampling, no shuffling. Text features are random (speed does not depend on
their values), 384 wide as MiniLM's.
"""

from collections.abc import Callable

import numpy as np
import torch

import reclm
from reclm import plugins
from reclm.backbones.lightgcn import LightGCN
from reclm.data.dataset import Dataset
from reclm.recommend.base import Backbone, Inputs
from reclm.recommend.training import TrainConfig, TripleSampler, make_optimizer, train_epoch
from tools.perf.common import arguments, machine, side_by_side

TEXT_DIM = 384


def bound(model: Backbone, sampler: TripleSampler, config: TrainConfig) -> Callable[[], None]:
    """The bare products and optimiser steps of one epoch."""
    optimizer = make_optimizer(model, config)
    gradients = {parameter: torch.zeros_like(parameter) for parameter in model.parameters()}
    for parameter, gradient in gradients.items():
        parameter.grad = gradient
    assert model.t_raw is not None
    first, second = (parameter.detach() for parameter in model.t_raw.parameters() if parameter.dim() == 2)
    text, users = model.item_text, model.user_embedding.detach()
    layers = model.config.layers if isinstance(model, LightGCN) else 0
    starts = range(0, len(sampler), config.batch_size)

    @torch.no_grad()
    def epoch() -> None:
        for start in starts:
            batch = slice(start, start + config.batch_size)
            user, positive = sampler.users[batch], sampler.positives[batch]
            hidden = text @ first.T
            items = hidden @ second.T
            source = users
            if isinstance(model, LightGCN):
                for _ in range(layers - 1):
                    _ = model.graph.to_items @ users
                source = model.graph.to_users @ items
            rows = source[user]
            _ = (rows * items[positive]).sum(1) - (rows * items[positive]).sum(1)
            gradient_items = (
                torch.zeros_like(items).index_add_(0, positive, rows).index_add_(0, positive, rows)
            )
            gradient_users = torch.zeros_like(users).index_add_(0, user, rows)
            if isinstance(model, LightGCN):
                gradient_items += model.graph.to_items @ gradient_users
                for _ in range(layers - 1):
                    gradient_users += model.graph.to_users @ gradient_items
            gradient_hidden = gradient_items @ second
            _ = gradient_items.T @ hidden, gradient_hidden.T @ text
            optimizer.step()

    return epoch


def inputs(dataset: Dataset) -> Inputs:
    """Random text features for a data set."""
    text = np.random.default_rng(0).normal(size=(len(dataset.items), TEXT_DIM)).astype(np.float32)
    return Inputs(len(dataset.users), len(dataset.items), dataset.joined(["train", "valid"]), text)


def main() -> None:
    """Print seconds an epoch, the bound's, and their ratio."""
    options = arguments("an epoch against its bound").parse_args()
    reclm.workspace(options.home)
    dataset = reclm.load_dataset(options.dataset)
    given, config = inputs(dataset), TrainConfig()
    sampler = TripleSampler(given.train, given.users, given.items)
    print(f"{dataset.name}: {len(sampler):,} triples, batches of {config.batch_size}; {machine()}")
    for name in ("biasmf", "lightgcn"):
        cls = plugins.get("backbone", name)
        model, bare = (cls(cls.Config(), given, torch.Generator().manual_seed(0)) for _ in range(2))
        optimizer, draw = make_optimizer(model, config), torch.Generator().manual_seed(0)

        def epoch(model: Backbone = model, optimizer=optimizer, draw: torch.Generator = draw) -> None:
            train_epoch(model, optimizer, sampler, config.batch_size, draw)

        times = side_by_side({"epoch": epoch, "bound": bound(bare, sampler, config)}, options.repeats)
        ratio = times["epoch"] / times["bound"]
        print(f"{name:9} epoch {times['epoch']:.3f} s   bound {times['bound']:.3f} s   ratio {ratio:.2f}")


if __name__ == "__main__":
    main()
