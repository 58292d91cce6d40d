"""Cost of the softmax loss against the number of items: ``python -m tools.perf.softmax --out softmax.png``.

A step of BiasMF (ID items; loss, backward and AdamW) by softmax over all items, and over a sample as in the default
recipe. For each size and loss a process of its own takes a few steps; the quickest one counts. Memory is the peak
RSS above what the process held before the model was built: weights, their gradients and moments are in it. Beside it
the matrix of scores ``B × I``, which is never held at once. Made data: every item once, and ten interactions a user
with popularity falling as 1/rank.
"""

import argparse
import json
import math
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch

from reclm import plugins
from reclm.data.dataset import Interactions
from reclm.recommend.base import Inputs
from reclm.recommend.recipes import RECIPES
from reclm.recommend.training import TrainConfig, TripleSampler, make_optimizer
from tools.perf.common import machine, peak_memory

USERS, PER_USER = 10_000, 10
LOSSES = ("exact", "sampled")


def made(items: int, seed: int = 0) -> Interactions:
    """Return the training interactions."""
    rng = np.random.default_rng(seed)
    # the inverse of the distribution function of 1/rank
    drawn = np.exp(rng.random(USERS * PER_USER) * math.log(items)).astype(np.int64).clip(max=items) - 1
    users = np.concatenate([np.repeat(np.arange(USERS), PER_USER), rng.integers(USERS, size=items)])
    return Interactions(users, np.concatenate([drawn, np.arange(items)]))


def measure(items: int, loss: str, batch: int, dim: int, steps: int) -> dict[str, float]:
    """Return the seconds of a step and the MiB that it needs at most."""
    train, recipe = made(items), RECIPES["default"]
    sampler, draw = TripleSampler(train, USERS, items), torch.Generator().manual_seed(0)
    epoch = [part[: batch * (steps + 1)].split(batch) for part in sampler.epoch(draw)]
    cls = plugins.get("backbone", "biasmf")
    options = {key: value for key, value in recipe.model.items() if key in cls.Config.model_fields}
    options |= {"items": "id", "dim": dim}
    if loss == "exact":
        options["softmax_items"] = items
    before = peak_memory()
    model = cls(cls.Config.build(options, "biasmf"), Inputs(USERS, items, train), draw)
    optimizer = make_optimizer(
        model, TrainConfig(lr=recipe.train["lr"], weight_decay=recipe.train["weight_decay"])
    )
    model.begin_epoch(draw)
    seconds = []
    for users, positives, negatives in zip(*epoch, strict=True):
        begun = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        model.loss(users, positives, negatives).backward()
        optimizer.step()
        seconds.append(time.perf_counter() - begun)
    return {"items": items, "seconds": min(seconds[1:]), "memory": (peak_memory() - before) / 2**20}


def draw(rows: dict[str, list[dict[str, float]]], batch: int, out: Path) -> None:
    """Draw seconds and MiB against items, all by factors."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for loss, of_loss in rows.items():
        items = [row["items"] for row in of_loss]
        left.plot(items, [row["seconds"] for row in of_loss], "o-", label=loss)
        right.plot(items, [row["memory"] for row in of_loss], "o-", label=loss)
    items = [row["items"] for row in rows[LOSSES[0]]]
    right.plot(
        items, [batch * count * 4 / 2**20 for count in items], "--", color="gray", label="the scores B × I"
    )
    for axes, title in ((left, "seconds a step"), (right, "peak memory, MiB")):
        axes.set(xscale="log", yscale="log", title=title, xlabel="items", xticks=items)
        axes.set_xticklabels([f"{count / 1000:g}k" for count in items])
        axes.minorticks_off()
        axes.yaxis.set_major_formatter("{x:g}")
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    figure.savefig(out, dpi=150)


def main() -> None:
    """Print a row a size, and draw them."""
    parser = argparse.ArgumentParser(description="the softmax loss as items grow")
    sizes = [2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 200_000]
    parser.add_argument("--items", type=int, nargs="+", default=sizes)
    parser.add_argument("--batch", type=int, default=1024, help="users a step")
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--steps", type=int, default=5, help="of which the quickest counts")
    parser.add_argument("--out", type=Path, default=Path("softmax.png"))
    parser.add_argument("--one", choices=LOSSES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    common = options.batch, options.dim, options.steps
    if options.one:
        print(json.dumps(measure(options.items[0], options.one, *common)))
        return
    print(f"BiasMF, d {options.dim}, batches of {options.batch:,}; {machine()}")
    print(f"{'':>9}{'exact':>18}{'sampled':>18}{'B × I':>9}")
    print(f"{'items':>9}" + 2 * f"{'s a step':>10}{'MiB':>8}" + f"{'MiB':>9}")
    rows: dict[str, list[dict[str, float]]] = {loss: [] for loss in LOSSES}
    names = ("--batch", "--dim", "--steps")
    for items in options.items:
        for loss in LOSSES:
            command = [sys.executable, "-m", __spec__.name, "--one", loss, "--items", str(items)]
            for name, value in zip(names, common, strict=True):
                command += [name, str(value)]
            answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            rows[loss].append(json.loads(answer))
        figures = "".join(
            f"{rows[loss][-1]['seconds']:10.3f}{rows[loss][-1]['memory']:8.0f}" for loss in LOSSES
        )
        print(f"{items:9,}{figures}{options.batch * items * 4 / 2**20:9.0f}", flush=True)
    draw(rows, options.batch, options.out)
    print(f"drawn to {options.out}")


if __name__ == "__main__":
    main()
