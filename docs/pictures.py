"""Draw the pictures of the documentation: ``python docs/pictures.py`` (a minute; trains small models)."""

from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

import reclm
from reclm.benchmarks.significance import holm as corrected
from reclm.benchmarks.significance import paired

FOLDER = Path(__file__).parent / "_static" / "pictures"
GREY, BLUE, ORANGE, PALE = "#6b7280", "#1f6feb", "#d9730d", "#eef2f7"
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "reclm",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Arial", "sans-serif"],
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "figure.facecolor": "white",
}


def save(figure: plt.Figure, name: str) -> None:
    """Write ``figure`` as an SVG file that is the same at every run."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    figure.savefig(FOLDER / f"{name}.svg", bbox_inches="tight", metadata={"Date": None, "Creator": None})
    plt.close(figure)


def box(
    axes: Axes, x: float, y: float, title: str, text: str = "", color: str = PALE, width: float = 2.3
) -> None:
    """Draw a box of ``width`` around the point with a title and a line of text."""
    patch = FancyBboxPatch(
        (x - width / 2, y - 0.42),
        width,
        0.84,
        boxstyle="round,pad=0.02,rounding_size=0.1",
        fc=color,
        ec=GREY,
        lw=1,
    )
    axes.add_patch(patch)
    axes.text(x, y + (0.14 if text else 0), title, ha="center", va="center", weight="bold", size=10.5)
    axes.text(x, y - 0.19, text, ha="center", va="center", size=8.5, color="#374151")


def arrow(
    axes: Axes, start: tuple[float, float], end: tuple[float, float], label: str = "", bend: float = 0
) -> None:
    """Draw an arrow with a label beside its middle."""
    patch = FancyArrowPatch(
        start,
        end,
        arrowstyle="-|>",
        mutation_scale=12,
        color=GREY,
        lw=1.3,
        connectionstyle=f"arc3,rad={bend}",
    )
    axes.add_patch(patch)
    x, y = (start[0] + end[0]) / 2, (start[1] + end[1]) / 2
    axes.text(x, y + 0.12, label, ha="center", va="bottom", size=8.5, color=GREY, style="italic")


def pipeline() -> None:
    """Draw how the parts of the toolkit fit together."""
    figure, axes = plt.subplots(figsize=(11.5, 3.7))
    axes.set(xlim=(-1.3, 13.2), ylim=(-0.75, 3.6))
    axes.axis("off")
    box(axes, 0, 1.5, "Your data", "interactions, item text")
    box(axes, 3.2, 1.5, "Data set", "train · valid · test")
    box(axes, 5.6, 3, "Profiler", "asks an LLM", color="#fdf1e3")
    box(axes, 8.6, 3, "Profiles", "one short text each", color="#fdf1e3")
    box(axes, 5.6, 0, "Backbone", "without profiles: Base")
    box(axes, 8.6, 1.5, "Backbone + fusion", "with profiles: Augment", color="#fdf1e3", width=2.6)
    box(axes, 12, 0.75, "Verdict", "did they help?", color="#e6f0ff")
    arrow(axes, (1.2, 1.5), (2.0, 1.5), "reader")
    arrow(axes, (3.6, 1.97), (4.4, 2.85), "", 0.0)
    axes.text(3.2, 2.55, "training part only", ha="center", size=8.5, color=GREY, style="italic")
    arrow(axes, (6.8, 3), (7.4, 3))
    arrow(axes, (8.6, 2.54), (8.6, 1.98))
    axes.text(8.72, 2.26, "text encoder", va="center", size=8.5, color=GREY, style="italic")
    arrow(axes, (4.4, 1.5), (7.25, 1.5))
    arrow(axes, (3.6, 1.04), (4.4, 0.15))
    arrow(axes, (6.8, 0), (10.8, 0.6))
    arrow(axes, (9.95, 1.5), (10.8, 0.95))
    axes.text(
        10.3,
        0.05,
        "all-rank evaluation over users and seeds",
        ha="center",
        size=8.5,
        color=GREY,
        style="italic",
    )
    save(figure, "pipeline")


def tastes(users: int = 900, items: int = 60) -> reclm.Dataset:
    """Return a data set of users with tastes of their own, popular items, and chance."""

    rng = np.random.default_rng(0)
    taste = rng.normal(size=(users, 4)) @ rng.normal(size=(4, items)) / 2
    likes = taste + 2 * rng.normal(size=items) + rng.gumbel(size=(users, items))
    chosen = rng.permuted(np.argsort(-likes, axis=1)[:, :9], axis=1)
    rows = pd.DataFrame(
        {
            "user_id": np.repeat(np.arange(users), 9),
            "item_id": chosen.ravel(),
            "timestamp": np.tile(np.arange(9), users),
        }
    )
    return reclm.Dataset.from_frames(rows, name="tastes", held_out_items=0, valid=0.12, test=0.23)


def trainings(count: int = 40) -> np.ndarray:
    """Return NDCG@20 of every user under ``count`` trainings that differ by their seed alone, ``(count, users)``."""
    data = tastes()
    values = []
    for seed in range(count):
        model = reclm.fit("biasmf", data, seed=seed, epochs=6, items="id", dim=16, lr=0.03, progress=False)
        values.append(model.evaluate(metrics=["ndcg@20"]).values["full-shot"].values["ndcg@20"])
    return np.stack(values).astype(np.float64)


def crossed(values: np.ndarray) -> None:
    """Draw differences between two groups of trainings of one method, by user and seed."""
    users = np.random.default_rng(3).choice(values.shape[1], 24, replace=False)
    change = (values[5:10] - values[:5])[:, np.sort(users)]
    figure, axes = plt.subplots(
        2, 2, figsize=(9, 3.4), width_ratios=[6, 1], height_ratios=[1, 2], sharex="col", sharey="row"
    )
    limit = np.abs(change).max()
    axes[1, 0].imshow(change, cmap="RdBu", vmin=-limit, vmax=limit, aspect="auto")
    axes[1, 0].set(xlabel="24 of 900 users", ylabel="seeds", yticks=range(5), xticks=[])
    axes[0, 0].bar(range(24), change.mean(0), color=GREY)
    axes[0, 0].axhline(0, color="black", lw=0.6)
    axes[0, 0].set_ylabel("mean of\nthe user")
    whole = (values[5:10] - values[:5]).mean(1)
    axes[1, 1].barh(range(5), whole, color=ORANGE)
    axes[1, 1].axvline(0, color="black", lw=0.6)
    axes[1, 1].set_xlabel("mean of the seed,\nall users", size=8.5)
    axes[1, 1].tick_params(axis="x", labelsize=7)
    axes[0, 1].axis("off")
    figure.suptitle("NDCG@20 of one training minus another, the same method twice", size=11)
    save(figure, "crossed")


def false_alarms(values: np.ndarray, repeats: int = 400) -> None:
    """Draw how often two groups of trainings of one method are called different."""
    rng, sizes = np.random.default_rng(1), (1, 3, 5)
    rates: dict[str, list[float]] = {"t-test over users": [], "users and seeds (reclm)": []}
    for size in sizes:
        alarms = np.zeros(2)
        for _ in range(repeats):
            order = rng.permutation(len(values))
            before, after = values[order[:size]], values[order[size : 2 * size]]
            alarms += paired(before.mean(0), after.mean(0)).p < 0.05, paired(before, after).p < 0.05
        for rate, count in zip(rates.values(), alarms, strict=True):
            rate.append(count / repeats)
    figure, axes = plt.subplots(figsize=(7.5, 3))
    for shift, (label, rate), color in zip((-0.2, 0.2), rates.items(), (ORANGE, BLUE), strict=True):
        bars = axes.bar(np.arange(len(sizes)) + shift, rate, 0.36, label=label, color=color)
        axes.bar_label(bars, [f"{value:.0%}" for value in rate], padding=2 if shift < 0 else 8)
    axes.axhline(0.05, color="black", lw=1, ls="--")
    axes.text(0.43, 0.065, "5 %, as\npromised", size=8)
    axes.set(xticks=range(3), xticklabels=[f"{size} seed{'s' * (size > 1)} a group" for size in sizes])
    axes.set(ylabel="false alarms", ylim=(0, 1.12 * max(map(max, rates.values()))))
    axes.yaxis.set_major_formatter(mpl.ticker.PercentFormatter(1, 0))
    axes.legend(frameon=False, loc="upper right", bbox_to_anchor=(1, 1.2), ncols=2)
    save(figure, "false-alarms")


def holm() -> None:
    """Draw Holm's thresholds beside eight p-values."""
    p = np.array([0.001, 0.004, 0.02, 0.041, 0.11, 0.28, 0.46, 0.8])
    accepted = corrected(p) < 0.05
    figure, axes = plt.subplots(figsize=(7.5, 3))
    rank = np.arange(1, len(p) + 1)
    axes.step(rank, 0.05 / (len(p) - rank + 1), where="mid", color=BLUE, label="Holm: .05 / (8, 7, 6, …)")
    axes.axhline(0.05, color=ORANGE, ls="--", lw=1.2, label="no correction: .05")
    axes.scatter(rank[accepted], p[accepted], color=BLUE, zorder=3, label="significant after Holm")
    axes.scatter(rank[~accepted], p[~accepted], fc="white", ec=GREY, zorder=3, label="not significant")
    axes.set(yscale="log", xlabel="comparisons, smallest p first", ylabel="p")
    axes.set_yticks([0.001, 0.01, 0.1, 1], [".001", ".01", ".1", "1"])
    axes.legend(frameon=False, loc="lower right", fontsize=8.5)
    save(figure, "holm")


CONTROLS = {  # docs/results/reclm-table1.md, LightGCN, full-shot: mean and standard deviation of three seeds
    "without profiles (Base)": (0.0104, 0.0020),
    "with profiles": (0.0170, 0.0007),
    "control: text": (0.0170, 0.0021),
    "control: keywords": (0.0192, 0.0016),
    "control: other users' profiles": (0.0306, 0.0046),
    "control: random vectors": (0.0306, 0.0054),
}
POPULARITY = 0.0317


def controls() -> None:
    """Draw LightGCN on MIND with profiles and with controls."""
    figure, axes = plt.subplots(figsize=(7.5, 2.7))
    names = list(CONTROLS)
    means, deviations = zip(*CONTROLS.values(), strict=True)
    colors = [GREY, BLUE] + [ORANGE] * 4
    axes.barh(
        names, means, xerr=deviations, color=colors, error_kw={"lw": 1, "ecolor": "#111827", "capsize": 3}
    )
    axes.axvline(POPULARITY, color="black", ls="--", lw=1)
    axes.invert_yaxis()
    axes.text(POPULARITY, -0.75, "popularity", size=8.5, ha="center")
    axes.set(xlabel="NDCG@20 (± standard deviation over seeds)")
    save(figure, "controls")


def main() -> None:
    """Draw all pictures."""
    with mpl.rc_context(STYLE):
        pipeline()
        holm()
        controls()
        values = trainings()
        crossed(values)
        false_alarms(values)


if __name__ == "__main__":
    main()
