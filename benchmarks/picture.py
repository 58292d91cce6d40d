"""A comparison as a picture."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from reclm.benchmarks.compare import Comparison
from reclm.benchmarks.table import title
from reclm.pictures import COLOURS, panels, save


def draw(comparison: Comparison, path: Path) -> None:
    """Bars of every variant for each protocol, and the learning curves, as one PNG."""
    count = len(comparison.tasks) + 1
    figure, axes = panels(count, count, f"{comparison.plan.backbone} on {comparison.dataset.name}")
    names = [name for name in ("recall@20", "ndcg@20", "mrr@20", "hit@20") if name in comparison.plan.metrics]
    for axis, protocol in zip(axes, comparison.tasks, strict=False):
        _bars(axis, comparison, protocol, names or list(comparison.plan.metrics[:4]))
    _curves(axes[-1], comparison)
    save(figure, path)


def _bars(axis: Axes, comparison: Comparison, protocol: str, metrics: list[str]) -> None:
    variants = comparison.variants()
    width = 0.8 / len(variants)
    for place, variant in enumerate(variants):
        values = [comparison.values(variant, protocol, metric) for metric in metrics]
        bars = axis.bar(
            np.arange(len(metrics)) + (place - (len(variants) - 1) / 2) * width,
            [value.mean() for value in values],
            width,
            yerr=[value.std(ddof=1) for value in values] if comparison.plan.seeds > 1 else None,
            color=COLOURS[place % len(COLOURS)],
            label=variant,
            capsize=3,
        )
        axis.bar_label(bars, fmt="%.3f", fontsize=7, padding=2)
    axis.set_xticks(range(len(metrics)), [title(metric) for metric in metrics])
    task = comparison.tasks[protocol]
    axis.set_title(f"{protocol}\n{len(task.users):,} users × {len(task.candidates):,} items", fontsize=9)
    axis.margins(y=0.15)
    axis.legend(frameon=False, fontsize=8)


def _curves(axis: Axes, comparison: Comparison) -> None:
    """The selection metric by epoch: a line a seed."""
    for place, variant in enumerate(comparison.variants()):
        for run in (run for run in comparison.runs if run.variant == variant):
            name = next((key for key in (run.fit.history or [{}])[0] if "@" in key), None)
            if name is None:
                continue
            epochs = [row["epoch"] for row in run.fit.history]
            values = [row[name] for row in run.fit.history]
            label = variant if run.seed == 0 else None
            axis.plot(epochs, values, color=COLOURS[place % len(COLOURS)], label=label, linewidth=1.2)
            axis.set_ylabel(name, fontsize=8)
    axis.set_xlabel("epoch", fontsize=8)
    axis.set_title("what the epoch was chosen by\n", fontsize=9)
    axis.set_ylim(bottom=0)
    if axis.lines:
        axis.legend(frameon=False, fontsize=8)
