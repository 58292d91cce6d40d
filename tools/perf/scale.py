"""Time and memory as the data grows: ``python -m tools.perf.scale --out scale.png``.

Made data: ten interactions a user, a fifth as many items as users, popularity falling as 1/rank. For each size a
process of its own trains LightGCN (ID items) for one epoch and ranks all items for 10,000 users; from 125,000 users to
a million by doubling.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch

from reclm import plugins
from reclm.data.dataset import Interactions
from reclm.recommend.base import Inputs
from reclm.recommend.evaluate import Task, evaluate
from reclm.recommend.training import TrainConfig, TripleSampler, make_optimizer, train_epoch
from tools.perf.common import machine, peak_memory

PER_USER, EVALUATED = 10, 10_000


def made(users: int, seed: int = 0) -> tuple[Interactions, Interactions, int]:
    """Training and test interactions, and the number of items."""
    rng = np.random.default_rng(seed)
    items = users // 5
    # the inverse of the distribution function of 1/rank
    drawn = np.exp(rng.random((users, PER_USER + 1)) * np.log(items)).astype(np.int64).clip(max=items) - 1
    rows = np.repeat(np.arange(users), PER_USER)
    tested = rng.choice(users, min(EVALUATED, users), replace=False)
    return Interactions(rows, drawn[:, 1:].ravel()), Interactions(tested, drawn[tested, 0]), items


def measure(users: int, batch: int, dim: int) -> dict[str, float]:
    """Seconds of building, of an epoch and of an evaluation, and the most memory that was held, in GiB."""
    begun = time.perf_counter()
    train, test, items = made(users)
    sampler = TripleSampler(train, users, items)
    cls = plugins.get("backbone", "lightgcn")
    config = cls.Config(items="id", dim=dim)
    model = cls(config, Inputs(users, items, train), torch.Generator().manual_seed(0))
    optimizer = make_optimizer(model, TrainConfig())
    built = time.perf_counter()
    train_epoch(model, optimizer, sampler, batch, torch.Generator().manual_seed(1))
    trained = time.perf_counter()
    evaluate(
        model.scorer(), Task.of(test, train, np.arange(items), users, items), ["recall@20", "ndcg@20"], 256
    )
    return {
        "users": users,
        "items": items,
        "interactions": len(sampler),
        "build": built - begun,
        "epoch": trained - built,
        "evaluation": time.perf_counter() - trained,
        "memory": peak_memory() / 2**30,
    }


def draw(rows: list[dict[str, float]], out: Path) -> None:
    """Seconds and GiB against users, both axes by doublings."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator

    figure = Figure(figsize=(8, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    users = [row["users"] for row in rows]
    for key, label in (("epoch", "an epoch"), ("evaluation", f"ranking for {EVALUATED:,} users")):
        left.plot(users, [row[key] for row in rows], "o-", label=label)
    right.plot(users, [row["memory"] for row in rows], "o-", color="tab:green")
    for axes, title in ((left, "seconds"), (right, "peak memory, GiB")):
        axes.set(xscale="log", yscale="log", title=title, xlabel="users", xticks=users)
        axes.set_xticklabels([f"{count / 1e6:g} M" for count in users])
        axes.minorticks_off()
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.grid(alpha=0.3)
    left.legend(frameon=False)
    figure.savefig(out, dpi=150)


def main() -> None:
    """Print a row a size, and draw them."""
    parser = argparse.ArgumentParser(description="time and memory as the data grows")
    parser.add_argument("--users", type=int, nargs="+", default=[125_000, 250_000, 500_000, 1_000_000])
    parser.add_argument("--batch", type=int, default=1 << 20, help="triples a step")
    parser.add_argument("--dim", type=int, default=32)
    parser.add_argument("--out", type=Path, default=Path("scale.png"))
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.users[0], options.batch, options.dim)))
        return
    print(f"LightGCN, 2 layers, d {options.dim}, batches of {options.batch:,}; {machine()}")
    print(
        f"{'users':>10} {'items':>9} {'interactions':>12} {'build s':>8} {'epoch s':>8} {'ranking s':>9} {'GiB':>6}"
    )
    rows = []
    for users in options.users:
        command = [sys.executable, "-m", __spec__.name, "--one", "--users", str(users)]
        command += ["--batch", str(options.batch), "--dim", str(options.dim)]
        row = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
        rows.append(row)
        print(
            f"{row['users']:10,} {row['items']:9,} {row['interactions']:12,} {row['build']:8.1f} {row['epoch']:8.1f} "
            f"{row['evaluation']:9.1f} {row['memory']:6.2f}",
            flush=True,
        )
    draw(rows, options.out)
    print(f"drawn to {options.out}")


if __name__ == "__main__":
    main()
