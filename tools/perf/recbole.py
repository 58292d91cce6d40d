"""An epoch and a full-sort evaluation beside RecBole's: ``python -m tools.perf.recbole --dataset ml-100k``.

Same interactions, width, layers, batch and threads, items known by ID; the runs take turns. What the two do not share:

- RecBole's NeuMF has a pointwise loss, our NCF BPR. Its batch is doubled, so that a step has as many positives.
- RecBole's BPR and NeuMF are not regularised, ours are, at the same cost a step.
- Both evaluations rank all items for everyone who is tested on, with validation and training items masked, and compute
  five metrics at 20 and 40; the time includes what a graph model propagates.

With ``--memory`` each model runs in a process of its own, an epoch and an evaluation, and its peak RSS above the
libraries and data is printed too (Linux).
"""

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

import reclm
from reclm import plugins
from reclm.data.dataset import Dataset
from reclm.recbole.bridge import open_recbole
from reclm.recbole.compat import as_a_library
from reclm.recommend.base import Inputs
from reclm.recommend.evaluate import Task, evaluate
from reclm.recommend.training import TrainConfig, TripleSampler, make_optimizer, train_epoch
from tools.perf.common import arguments, machine, peak_memory, side_by_side


@dataclass(frozen=True)
class Sizes:
    """The width, layers and batch size of both models."""

    dim: int
    layers: int
    batch: int


@dataclass(frozen=True, eq=False)
class Work:
    """The calls that are timed: an epoch of training, and an evaluation of the test part."""

    epoch: Callable[[], object]
    evaluation: Callable[[], object]


PAIRS = {"BPR": "biasmf", "NeuMF": "ncf", "LightGCN": "lightgcn", "SGL": "sgl"}
"""RecBole's model and our backbone."""


def theirs(name: str, dataset: Dataset, sizes: Sizes, folder: Path) -> Work:
    """A model of RecBole's, with its own trainer and loaders."""
    settings: dict[str, Any] = {"train_batch_size": sizes.batch, "learning_rate": 1e-3}
    if name == "NeuMF":
        settings |= {
            "mf_embedding_size": sizes.dim,
            "mlp_embedding_size": sizes.dim,
            "mlp_hidden_size": [sizes.dim],
        }
        settings |= {"train_batch_size": 2 * sizes.batch, "dropout_prob": 0.0}
    else:
        settings |= {"embedding_size": sizes.dim}
    if name in ("LightGCN", "SGL"):
        settings |= {"n_layers": sizes.layers}
    one = open_recbole(name, dataset, folder, settings)
    train, _, test = one.loaders
    with as_a_library(folder):
        trainer = one.make_trainer()

    def epoch() -> None:
        with as_a_library(folder):
            trainer._train_epoch(train, 0)

    def evaluation() -> None:
        one.forget()  # what was propagated for the last evaluation
        with as_a_library(folder):
            trainer.evaluate(test, load_best_model=False)

    return Work(epoch, evaluation)


def ours(name: str, dataset: Dataset, sizes: Sizes) -> Work:
    """A backbone of ours with ID items."""
    users, items = len(dataset.users), len(dataset.items)
    options: dict[str, Any] = {"items": "id", "dim": sizes.dim}
    if name in ("lightgcn", "sgl"):
        options["layers"] = sizes.layers
    if name == "ncf":
        options |= {"hidden": sizes.dim, "hidden_dropout": 0.0}  # as RecBole's
    cls = plugins.get("backbone", name)
    config = TrainConfig(batch_size=sizes.batch)
    model = cls(
        cls.Config.build(options, name), Inputs(users, items, dataset.train), torch.Generator().manual_seed(0)
    )
    optimizer, draw = make_optimizer(model, config), torch.Generator().manual_seed(0)
    sampler = TripleSampler(dataset.train, users, items)
    task = Task.of(dataset.test, dataset.joined(["train", "valid"]), np.arange(items), users, items)

    def evaluation() -> None:
        evaluate(model.scorer(), task)

    return Work(lambda: train_epoch(model, optimizer, sampler, sizes.batch, draw), evaluation)


def peak(side: str, name: str, dataset: str, home: Path | None, sizes: Sizes) -> float:
    """MiB that an epoch and an evaluation add to the peak RSS of a process that has read the data; run in a new one."""
    reclm.workspace(home)
    data = reclm.load_dataset(dataset)
    with TemporaryDirectory() as folder:
        if side == "RecBole":  # the libraries that it imports
            from reclm.recbole.compat import patch

            patch()
        before = peak_memory()
        work = theirs(name, data, sizes, Path(folder)) if side == "RecBole" else ours(name, data, sizes)
        work.epoch()
        work.evaluation()
        return (peak_memory() - before) / 2**20


def peak_of(*of: Any) -> float:
    """:func:`peak` in a process of its own."""
    with ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as pool:
        return pool.submit(peak, *of).result()


def main() -> None:
    """Print a table: seconds of RecBole's and ours, and their ratios."""
    parser = arguments("training and evaluation beside RecBole's", "ml-100k")
    parser.add_argument(
        "--models", nargs="+", choices=list(PAIRS), default=list(PAIRS), help="RecBole's names"
    )
    parser.add_argument("--dim", type=int, default=64, help="embedding width")
    parser.add_argument("--layers", type=int, default=2, help="layers of LightGCN and SGL")
    parser.add_argument("--batch", type=int, default=2048, help="positives a step")
    parser.add_argument("--memory", action="store_true", help="measure peak memory too, in new processes")
    options = parser.parse_args()
    reclm.workspace(options.home)
    dataset = reclm.load_dataset(options.dataset)
    sizes = Sizes(options.dim, options.layers, options.batch)
    print(
        f"{dataset.name}: {len(dataset.users):,} users × {len(dataset.items):,} items, {len(dataset.train):,} training "
        f"interactions; d {sizes.dim}, {sizes.layers} layers, batches of {sizes.batch}; {machine()}"
    )
    heads, columns = (
        f"{'':18}{'epoch, s':^24}{'evaluation, s':^24}",
        f"{'':18}" + 2 * " RecBole    ours  ratio ",
    )
    if options.memory:
        heads, columns = f"{heads}{'peak, MiB':^16}", f"{columns} RecBole    ours"
    print(heads.rstrip(), columns, sep="\n")
    with TemporaryDirectory() as folder:
        for name in options.models:
            line = f"{name:8} {PAIRS[name]:9} "
            rivals = theirs(name, dataset, sizes, Path(folder)), ours(PAIRS[name], dataset, sizes)
            for what in ("epoch", "evaluation"):
                runs = {
                    side: getattr(one, what) for side, one in zip(("theirs", "ours"), rivals, strict=True)
                }
                seconds = side_by_side(runs, options.repeats)
                ratio = seconds["theirs"] / seconds["ours"]
                line += f"{seconds['theirs']:8.3f}{seconds['ours']:8.3f}{ratio:7.1f} "
            if options.memory:
                both = (("RecBole", name), ("reclm", PAIRS[name]))
                line += "".join(f"{peak_of(*one, options.dataset, options.home, sizes):8.0f}" for one in both)
            print(line, flush=True)


if __name__ == "__main__":
    main()
