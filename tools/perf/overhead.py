"""Measure the time that profiles add to an epoch: ``python -m tools.perf.overhead --dataset mind-release``.

Each backbone with and without profiles on both sides, in turns. Embeddings are random (speed does not depend on their
values) and 384 wide as MiniLM's; users with equal histories share a profile, as they do where a language model writes
one for each distinct prompt. Beside it what the RecLM paper reports on MIND (arXiv 2412.19302, table 3; an A100).
"""

from dataclasses import replace

import numpy as np
import torch

import reclm
from reclm import plugins
from reclm.profiles.matrix import ProfileMatrix
from reclm.recommend.base import Inputs
from reclm.recommend.training import TrainConfig, TripleSampler, make_optimizer, train_epoch
from tools.perf.common import arguments, machine, peak_memory, side_by_side
from tools.perf.epoch import TEXT_DIM, inputs

PAPER = {"biasmf": 18, "ncf": 12, "lightgcn": 9, "sgl": 4, "simgcl": 2}
"""Per cent."""


def with_profiles(plain: Inputs) -> Inputs:
    """Random profiles: one for each distinct history, and one an item."""
    rng = np.random.default_rng(1)
    history = np.zeros(plain.users, np.int64)
    codes = rng.integers(np.iinfo(np.int64).max, size=plain.items)
    np.add.at(history, plain.train.user_idx, codes[plain.train.item_idx])
    distinct, group = np.unique(history, return_inverse=True)

    def side(count: int, rows: np.ndarray) -> ProfileMatrix:
        vectors = rng.normal(size=(count, TEXT_DIM)).astype(np.float32)
        return ProfileMatrix(vectors[rows], np.ones(len(rows), bool))

    return replace(
        plain,
        user_profiles=side(len(distinct), group),
        item_profiles=side(plain.items, np.arange(plain.items)),
    )


def main() -> None:
    """Print seconds an epoch without and with profiles, and what they add."""
    parser = arguments("what profiles add to an epoch")
    parser.add_argument("--backbones", nargs="+", default=list(PAPER), help="which")
    options = parser.parse_args()
    reclm.workspace(options.home)
    dataset = reclm.load_dataset(options.dataset)
    plain, config = inputs(dataset), TrainConfig()
    augmented = with_profiles(plain)
    distinct = len(np.unique(augmented.user_profiles.vectors[:, 0])) if augmented.user_profiles else 0
    sampler = TripleSampler(plain.train, plain.users, plain.items)
    print(
        f"{dataset.name}: {plain.users:,} users with {distinct:,} distinct profiles, {plain.items:,} items, "
        f"{len(sampler):,} triples in batches of {config.batch_size}; {machine()}"
    )
    for name in options.backbones:
        cls = plugins.get("backbone", name)
        epochs = {}
        for variant, given in (("base", plain), ("augment", augmented)):
            model = cls(cls.Config(), given, torch.Generator().manual_seed(0))
            optimizer, draw = make_optimizer(model, config), torch.Generator().manual_seed(0)
            epochs[variant] = lambda model=model, optimizer=optimizer, draw=draw: train_epoch(
                model, optimizer, sampler, config.batch_size, draw
            )
        times = side_by_side(epochs, options.repeats)
        added = times["augment"] / times["base"] - 1
        print(
            f"{name:9} base {times['base']:.3f} s   augment {times['augment']:.3f} s   {added:+.0%}"
            + (f"   (paper: {PAPER[name]:+d} %)" if name in PAPER else ""),
            flush=True,
        )
    print(f"peak memory {peak_memory() / 2**30:.2f} GiB")


if __name__ == "__main__":
    main()
