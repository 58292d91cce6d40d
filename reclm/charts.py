"""How the project's pictures look."""

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reclm.errors import ReclmError

COLOURS = ("#8a93a3", "#d9603b")
"""What is compared with, and what it is about; told apart in grey print and by colour-blind readers."""


def panels(
    count: int, columns: int, title: str, size: tuple[float, float] = (4.2, 3.8)
) -> tuple[Figure, list[Axes]]:
    """A figure of ``count`` panels, row by row, each with two of its four edges.

    Args:
        columns: panels in a row.
        title: of the whole; plain text.
        size: width and height of a panel, in inches.
    """
    columns = min(columns, count)
    rows = -(-count // columns)
    figure = Figure(figsize=(size[0] * columns, size[1] * rows), layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axis in axes[count:]:
        axis.remove()
    for axis in axes[:count]:
        axis.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title.replace("$", r"\$"), fontsize=12)
    return figure, axes[:count]


def save(figure: Figure, path: Path) -> None:
    """Write a PNG.

    Raises:
        ReclmError: if it cannot be written.
    """
    try:
        figure.savefig(path, dpi=150, format="png")
    except OSError as error:
        raise ReclmError(f"cannot write {path}: {error.strerror or error}") from error
