"""A Matplotlib figure as SVG that belongs to a page: its text is text, its colours are the page's."""

import io
import re
from typing import Any
from xml.etree import ElementTree

from matplotlib import rc_context
from matplotlib.figure import Figure

SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "axes.unicode_minus": True,
    "font.size": 11,
    "axes.titlesize": 11.5,
    "axes.labelsize": 10.5,
    "xtick.labelsize": 10,
    "ytick.labelsize": 10,
}
"""For drawing a figure, and for writing it."""

INK, MUTED, RULE, PAPER = "#1f2328", "#656d76", "#d5d9de", "#ffffff"
SERIES = ("#8a93a3", "#d9603b", "#4f86b0", "#6f9a5c", "#8f7db5", "#b3923f", "#b56d91", "#4f9a95")
"""What is compared with, what it is about, and the rest."""
VARIABLES = {INK: "ink", MUTED: "muted", RULE: "rule", PAPER: "paper"} | {
    colour: f"c{at}" for at, colour in enumerate(SERIES)
}
"""Colour to the page's variable."""

_SVG = "http://www.w3.org/2000/svg"
_LINK = "{http://www.w3.org/1999/xlink}href"
_COLOUR = re.compile("|".join(VARIABLES))
_FONT = re.compile(r"font-family:[^;]*;?\s*")
_REFERENCE = re.compile(r"(url\()?#([\w.-]+)")


def inline(figure: Figure, name: str, label: str) -> str:
    """The ``<svg>`` element, the same for the same figure whenever it is drawn.

    Args:
        name: of the figure on its page; the ids in it begin with it.
        label: what a reader who cannot see it is told.
    """
    with rc_context({**SETTINGS, "svg.hashsalt": "reclm"}):
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    root = ElementTree.fromstring(buffer.getvalue())
    for child in list(root):
        if child.tag == f"{{{_SVG}}}metadata" or child.find(f"{{{_SVG}}}style") is not None:
            root.remove(child)
    used = {found[2] for one in root.iter() for value in one.attrib.values() if (found := _target(value))}
    for one in root.iter():
        one.tag = one.tag.removeprefix(f"{{{_SVG}}}")
        if (id := one.attrib.pop("id", None)) in used:
            one.set("id", f"{name}-{id}")
        if target := one.attrib.pop(_LINK, None):
            one.set("href", f"#{name}-{target[1:]}")
        for key, value in one.attrib.items():
            if value.startswith("url(#"):
                one.set(key, f"url(#{name}-{value[5:]}")
        if "style" in one.attrib:
            style = _FONT.sub("", one.attrib["style"])
            one.set("style", _COLOUR.sub(lambda found: f"var(--{VARIABLES[found[0]]})", style))
    for key in ("width", "height", "version"):
        root.attrib.pop(key, None)
    root.attrib |= {"role": "img", "aria-label": label}
    return ElementTree.tostring(root, encoding="unicode")


def _target(value: str) -> re.Match[str] | None:
    return _REFERENCE.match(value)
