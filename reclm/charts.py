"""Figures in one style: panels, colours, PNG files."""

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reclm.files import atomic_file

COLOURS = ("#8a93a3", "#d9603b")
"""Colours of the baseline and of the row of interest, distinguishable in greyscale and for colour-blind readers."""


def panels(
    count: int, columns: int, title: str, size: tuple[float, float] = (4.2, 3.8)
) -> tuple[Figure, list[Axes]]:
    """Return a figure of ``count`` panels of ``size`` inches, ``columns`` in a row, each with two of its four edges."""
    columns = min(columns, count)
    rows = -(-count // columns)
    figure = Figure(figsize=(size[0] * columns, size[1] * rows), layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axis in axes[count:]:
        axis.remove()
    for axis in axes[:count]:
        axis.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title, fontsize=12, parse_math=False)
    return figure, axes[:count]


def save(figure: Figure, path: Path) -> None:
    """Write a PNG, whole or not at all."""
    with atomic_file(path) as draft:
        figure.savefig(draft, dpi=150, format="png")
