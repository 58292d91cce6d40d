"""The metrics of a training: ``metrics.jsonl`` and TensorBoard while it runs, curves as one PNG afterwards."""

import errno
import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from safetensors import SafetensorError

from reclm.charts import COLOURS, panels, save
from reclm.errors import BadInput, Damaged
from reclm.files import distinct_names, write_text

FILE = "metrics.jsonl"
_HELD_OUT = "eval_"
"""Prefix of metrics on held-out data."""
_UNWRITABLE = {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.EFBIG, errno.EIO}
_UNREADABLE = (
    *(OSError, ValueError, RuntimeError, LookupError, EOFError, UnpicklingError, SafetensorError),
    *(TypeError, AttributeError),  # a value stands where another kind of value is read
)
_DISK_FULL = ("PytorchStreamWriter", "inline_container", "No space left", "os error 28", "Quota exceeded")
_SMOOTHED = 40
"""Points from which on a curve is drawn as its running mean over a twentieth of it, in front of the values."""


class MetricsLog:
    """Writes ``metrics.jsonl`` and TensorBoard's files.

    ``step`` is the number of steps done: later rows in the file are of a run that was broken, and are deleted.
    ``rows``, each with its ``step``, replace those in the file.
    """

    def __init__(self, folder: Path, step: int, rows: Iterable[Mapping[str, Any]] | None = None) -> None:
        from torch.utils.tensorboard import SummaryWriter

        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / FILE
        if rows is None:
            lines = (
                self._path.read_text(encoding="utf-8", errors="replace").splitlines()
                if self._path.exists()
                else []
            )
            text = "".join(f"{line}\n" for line in lines[:step])
        else:
            text = "".join(_line(row["step"], row) for row in rows)
        write_text(self._path, text)
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1 if step else None)

    def add(self, step: int, metrics: Mapping[str, float]) -> None:
        """Log the metrics of a step."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(_line(step, metrics))
        for name, value in metrics.items():
            self._board.add_scalar(name, value, step)

    def close(self) -> None:
        """Write what TensorBoard still holds in memory."""
        self._board.close()


def _line(step: int, metrics: Mapping[str, float]) -> str:
    return json.dumps({"step": step, **metrics}) + "\n"


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Turn failures to write in the block into a BadInput."""
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        # torch.save and safetensors have errors of their own for a full disk
        full = any(words in str(error) for words in _DISK_FULL)
        if not full and getattr(error, "errno", None) not in _UNWRITABLE:
            raise
        reason = " ".join(str(getattr(error, "strerror", None) or error).split())[:200]
        message = f"cannot write {folder}: {reason}; make room and run the same command again to go on"
        raise BadInput(message, value=folder) from error


@contextmanager
def reading(path: Path, message: str = "") -> Iterator[None]:
    """Turn failures to read the checkpoint ``path`` in the block into Damaged."""
    try:
        yield
    except _UNREADABLE as error:
        if "out of memory" in str(error).lower():
            remedy = "it is whole; free memory, or take smaller batches"
            raise BadInput(f"there is not enough memory to read {path}: {remedy}", where=path) from error
        message = message or f"the checkpoint {path} is damaged; delete it to go on from the one before"
        raise Damaged(f"{message} ({' '.join(str(error).split())[:200]})", value=path) from error


@dataclass(frozen=True, eq=False)
class Curve:
    """A metric by step: two arrays ``(n,)``, steps rising."""

    steps: np.ndarray
    values: np.ndarray


Metrics = dict[str, Curve]


def read_metrics(folder: Path) -> Metrics:
    """Return the curves of a stage by name, from ``metrics.jsonl``: ``{"step": 3, "loss": 1.2, …}`` a line.

    A step that was logged twice, because a run was killed and resumed, counts as it was logged last. A line torn by a
    kill is left out, and so is a value that is no finite number.
    """
    path = folder / FILE
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise Damaged(f"cannot read {path}: {error.strerror or error}", value=path) from error
    logged: dict[str, dict[int, float]] = {}
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line, object_pairs_hook=distinct_names)
        except (ValueError, RecursionError):
            continue
        if not isinstance(row, dict) or type(step := row.get("step")) is not int or abs(step) > sys.maxsize:
            text = line[:80].decode(errors="replace")
            message = f'{text!r} is no row of metrics; wanted {{"step": 3, "loss": 1.2}}'
            raise Damaged(f"{path}:{number}: {message}", value=line, where=f"{path}:{number}")
        for name, value in row.items():
            if name != "step" and type(value) in (int, float) and abs(value) <= sys.float_info.max:
                logged.setdefault(name, {})[row["step"]] = float(value)
    ordered = {name: sorted(values.items()) for name, values in logged.items()}
    return {
        name: Curve(np.array([step for step, _ in rows], np.int64), np.array([value for _, value in rows]))
        for name, rows in ordered.items()
    }


_TEXT = {
    "compliance": "profiles in order",
    "readability": "Flesch reading ease",
    "copying": "copied from the history",
}
_SUPERVISED = {"loss": "loss", "accuracy": "accuracy", **_TEXT}
_FROM_ZERO = {
    "kl": "KL of an answer, nats",
    "kl_coefficient": "β, weight of KL",
    "entropy": "entropy of a token, nats",
}
_REINFORCED = {"reward": "reward", **_FROM_ZERO, **_TEXT}


def draw(
    stages: Mapping[str, Metrics], path: Path, title: str = "training", kl_target: float | None = None
) -> Figure | None:
    """Draw a panel a curve, as one PNG: loss and accuracy of a stage; of reinforcement learning reward, KL, β, entropy.

    A stage with ``kl`` is one of reinforcement learning; a dashed line shows ``kl_target``, the KL that β is steered
    towards. Return the figure, or None if there is no curve.
    """
    chosen = [
        (f"{stage}: {name}".replace("$", r"\$"), metric, metrics)
        for stage, metrics in stages.items()
        for metric, name in (_REINFORCED if "kl" in metrics else _SUPERVISED).items()
        if metric in metrics or _HELD_OUT + metric in metrics
    ]
    if not chosen:
        return None
    figure, axes = panels(len(chosen), 4, title, size=(3.4, 2.7))
    for axis, (name, metric, metrics) in zip(axes, chosen, strict=True):
        _draw(axis, metric, metrics)
        axis.set_title(name, fontsize=10, loc="left")
        if metric == "kl" and kl_target is not None:
            style = {"color": "black", "linewidth": 0.9, "linestyle": (0, (4, 3))}
            axis.axhline(kl_target, label=f"target {kl_target:g}", **style)
            axis.legend(frameon=False, fontsize=8, loc="lower right")
    save(figure, path)
    return figure


def _draw(axis: Axes, metric: str, metrics: Metrics) -> None:
    trained, held_out = metrics.get(metric), metrics.get(_HELD_OUT + metric)
    if trained:
        colour = COLOURS[0] if held_out else COLOURS[1]
        if spread := metrics.get(f"{metric}_std"):
            steps, at, by = np.intersect1d(trained.steps, spread.steps, return_indices=True)
            middle, half = _smooth(trained.values[at]), _smooth(spread.values[by])
            style = {"color": COLOURS[0], "alpha": 0.25, "linewidth": 0}
            axis.fill_between(steps, middle - half, middle + half, label="± sd of answers", **style)
        if len(trained.values) >= _SMOOTHED:
            axis.plot(trained.steps, trained.values, color=colour, linewidth=0.7, alpha=0.35)
        label = "training" if held_out else None
        (line,) = axis.plot(trained.steps, _smooth(trained.values), color=colour, linewidth=1.6, label=label)
        if len(trained.values) == 1:
            line.set_marker("o")
        if metric in _FROM_ZERO:
            axis.set_ylim(bottom=min(0.0, trained.values.min()))
    if held_out:
        style = {"color": COLOURS[1], "linewidth": 1.6, "marker": "o", "markersize": 3.5}
        axis.plot(held_out.steps, held_out.values, label="held-out", **style)
    if axis.get_legend_handles_labels()[0]:
        axis.legend(frameon=False, fontsize=8)
    axis.set_xlabel("step", fontsize=8)
    axis.tick_params(labelsize=8)
    axis.xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=[1, 2, 5, 10]))
    axis.grid(axis="y", alpha=0.25, linewidth=0.6)


def _smooth(values: np.ndarray) -> np.ndarray:
    """Return the running mean of a long curve, over fewer values at its ends; a short one as it is."""
    if len(values) < _SMOOTHED:
        return values
    window = np.ones(max(3, len(values) // 20))
    return np.convolve(values, window, "same") / np.convolve(np.ones(len(values)), window, "same")
