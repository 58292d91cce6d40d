"""Panels of one width, so that a phone shows them one below the other, and legible; what their colours mean."""

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, ScalarFormatter

from reclm import charts as pictures
from reclm.benchmarks.report.numbers import Numbers
from reclm.benchmarks.report.svg import MUTED, RULE, SERIES
from reclm.benchmarks.results import ResultRow

WIDTH = 4.6
"""Of a panel, in inches."""
LONGEST = 34
"""Characters of a name that a panel has room for."""


@dataclass(frozen=True)
class Picture:
    """A panel as SVG, and what it shows."""

    svg: str
    caption: str


@dataclass(frozen=True)
class Group:
    """Panels that belong together, and their key: names and their colours' numbers."""

    title: str
    pictures: tuple[Picture, ...]
    key: tuple[tuple[str, int, bool], ...] = ()
    """Name, number of its colour, and whether it is a control, which is dashed."""


def colours(numbers: Numbers) -> dict[str, int]:
    """Each line's colour by its place in its group; 0 is for the first one without profiles."""
    found: dict[str, int] = {}
    for lines in numbers.groups.values():
        first = next((line.name for line in lines if not (line.against or line.kinds or line.control)), None)
        others = [line.name for line in lines if line.name != first]
        found |= {name: 1 + at % (len(SERIES) - 1) for at, name in enumerate(others)}
        found |= {first: 0} if first else {}
    return found


def key(numbers: Numbers, lines: Sequence[ResultRow]) -> tuple[tuple[str, int, bool], ...]:
    """The key of these lines."""
    palette = colours(numbers)
    return tuple((line.name, palette[line.name], bool(line.control)) for line in lines)


def panel(height: float, left: float = 0.68) -> tuple[Figure, Axes]:
    """A figure of one panel in the project's style, which takes the page's colours.

    Args:
        height: of the whole, in inches.
        left: room for the labels of the vertical axis; the same in all panels, so that they stand in line.
    """
    figure, (axis,) = pictures.panels(1, 1, "", (WIDTH, height))
    figure.set_layout_engine(None)
    figure.suptitle("")
    figure.subplots_adjust(left / WIDTH, 0.55 / height, 1 - 0.2 / WIDTH, 1 - 0.1 / height)
    axis.spines[["left", "bottom"]].set_color(RULE)
    axis.tick_params(colors=RULE, labelcolor=MUTED)
    for one in (axis.xaxis, axis.yaxis):
        one.set_major_formatter(_Plain())
        one.set_major_locator(MaxNLocator(5))
    axis.grid(True, color=RULE, linewidth=0.6)
    axis.set_axisbelow(True)
    return figure, axis


class _Plain(ScalarFormatter):
    """``.05`` for 0.05, and no power of ten aside."""

    def __init__(self) -> None:
        super().__init__(useOffset=False)
        self.set_scientific(False)

    def __call__(self, x: float, pos: int | None = None) -> str:
        return super().__call__(x, pos).replace("0.", ".", 1) if abs(x) < 1 else super().__call__(x, pos)
