"""How numbers and texts are written in a report."""

import math

from reclm.console import printable
from reclm.intervals import Estimate

NONE = "–"
MARK = "*"
"""Of a difference that is significant after Holm's correction."""


def number(value: float | None, digits: int = 4, sign: bool = False) -> str:
    """``.0232``, ``1.0400``, ``−.0157``; no more digits than tell something where it is large.

    >>> number(0.0232), number(-0.0157), number(12.3456), number(0.5, 2, sign=True)
    ('.0232', '−.0157', '12.35', '+.50')
    """
    if value is None or not math.isfinite(value):
        return NONE
    size = abs(value)
    digits = digits if size < 10 else max(0, min(digits, 2))
    text = f"{size:,.{digits}f}"
    return _sign(value, text, sign) + (text[1:] if text.startswith("0.") else text)


def change(value: float | None) -> str:
    """A relative change.

    >>> change(0.034), change(-0.005), change(2.5), change(0.0)
    ('+3.4 %', '−0.5 %', '+250 %', '0.0 %')
    """
    if value is None or not math.isfinite(value):
        return NONE
    size = f"{abs(value) * 100:,.{1 if abs(value) < 1 else 0}f}"
    return _sign(value, size, plus=True) + size + " %"


def estimate(one: Estimate | None) -> str:
    """A difference with its interval: ``+.0020 (+.0010 to +.0030)``."""
    if one is None:
        return NONE
    if one.low is None or one.high is None:
        return number(one.mean, sign=True)
    return f"{number(one.mean, sign=True)} ({number(one.low, sign=True)} to {number(one.high, sign=True)})"


def interval(name: str) -> str:
    """``3-5`` as ``3–5``."""
    return name.replace("-", "–")


def seconds(value: float | None) -> str:
    """``.04 s``, ``1.7 s``, ``12 min``, ``3.1 h``."""
    if value is None or not math.isfinite(value):
        return NONE
    if value < 120:
        return f"{number(value, 2 if value < 1 else 1) if value < 10 else f'{value:.0f}'} s"
    minutes = value / 60
    return f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"


def plain(text: str) -> str:
    """Text of any source: its lines stay, control characters are spelled out."""
    return "\n".join(printable(line) for line in text.splitlines())


def one_line(text: str) -> str:
    """The same in a single line."""
    return printable(" ".join(text.split()))


def _sign(value: float, size: str, plus: bool) -> str:
    """None for what is rounded to zero."""
    if not any(digit in "123456789" for digit in size):
        return ""
    return "−" if value < 0 else "+" * plus
