"""Training curves of the stages: read from ``metrics.jsonl``, drawn as one PNG."""

import errno
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from safetensors import SafetensorError

from reclm.charts import COLOURS, panels, save
from reclm.errors import ReclmError

_UNWRITABLE = {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.EFBIG, errno.EIO}
_SAID = ("PytorchStreamWriter", "inline_container", "No space left", "os error 28", "Quota exceeded")


class Journal:
    """``metrics.jsonl`` and TensorBoard; what lies behind ``step`` is of a run that was broken, and is cut off."""

    def __init__(self, folder: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / FILE
        lines = self._path.read_text(encoding="utf-8").splitlines() if self._path.exists() else []
        self._path.write_text("".join(f"{line}\n" for line in lines[:step]), encoding="utf-8")
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1 if step else None)

    def add(self, step: int, metrics: Mapping[str, float]) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **metrics}) + "\n")
        for name, value in metrics.items():
            self._board.add_scalar(name, value, step)

    def close(self) -> None:
        self._board.close()


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """What fails within because something cannot be written is a ReclmError."""
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        # torch.save and safetensors have errors of their own for a full disk
        full = getattr(error, "errno", None) in _UNWRITABLE or any(one in str(error) for one in _SAID)
        if not full:
            raise
        raise _unwritten(folder, error) from error


def _unwritten(folder: Path, error: Exception) -> ReclmError:
    reason = " ".join(str(getattr(error, "strerror", None) or error).split())[:200]
    return ReclmError(f"cannot write {folder}: {reason}; make room and run the same command again to go on")


FILE = "metrics.jsonl"
HELD_OUT = "eval_"
"""Begins the names of what was measured on held-out data."""
_SMOOTHED = 40
"""From so many points on a curve is drawn as its running mean, over a twentieth of it, before itself."""

Metrics = dict[str, "Curve"]


@dataclass(frozen=True, eq=False)
class Curve:
    """A metric by step: two arrays ``(n,)``, steps rising."""

    steps: np.ndarray
    values: np.ndarray


def read_metrics(folder: Path) -> Metrics:
    """The curves of a stage by name, from ``metrics.jsonl``: ``{"step": 3, "loss": 1.2, …}`` a line.

    What is logged twice, because a run was killed and went on from an earlier step, counts as it was logged last. A
    line torn by a kill is passed over, and so is what was appended to it; a value that is no finite number is left
    out. Without the file there are no curves.

    Raises:
        ReclmError: if the file cannot be read, or holds a whole line that is no mapping with a step.
    """
    path = folder / FILE
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ReclmError(f"cannot read {path}: {error.strerror or error}") from error
    logged: dict[str, dict[int, float]] = {}
    for number, line in enumerate(lines, start=1):
        row = _row(line)
        if row is None:
            continue
        if not isinstance(row, dict) or type(row.get("step")) is not int:
            raise ReclmError(
                f'{path}:{number}: {line[:80]!r} is no row of metrics; wanted {{"step": 3, "loss": 1.2}}'
            )
        for name, value in row.items():
            if name != "step" and type(value) in (int, float) and np.isfinite(value):
                logged.setdefault(name, {})[row["step"]] = float(value)
    return {name: _curve(values) for name, values in logged.items()}


def draw(
    stages: Mapping[str, Metrics], path: Path, title: str = "training", kl_target: float | None = None
) -> bool:
    """The curves as one PNG (see :func:`figure`).

    Returns:
        Whether there was anything to draw; without, nothing is written.

    Raises:
        ReclmError: if the picture cannot be written.
    """
    drawn = figure(stages, title, kl_target)
    if drawn:
        save(drawn, path)
    return drawn is not None


def figure(stages: Mapping[str, Metrics], title: str, kl_target: float | None = None) -> Figure | None:
    """A panel a curve: loss of each stage, and accuracy where there is one; of PPO reward, KL, β, entropy.

    Args:
        stages: curves by stage, in order; a stage with ``kl`` is PPO.
        kl_target: KL of an answer that β is steered towards; a dashed line.

    Returns:
        None if there is no curve.
    """
    chosen = [(stage, one, metrics) for stage, metrics in stages.items() for one in _panels(metrics)]
    if not chosen:
        return None
    drawn, axes = panels(len(chosen), 4, title, size=(3.4, 2.7))
    for axis, (stage, panel, metrics) in zip(axes, chosen, strict=True):
        _draw(axis, panel, metrics)
        axis.set_title(f"{stage}: {panel.title}".replace("$", r"\$"), fontsize=10, loc="left")
        if panel.metric == "kl" and kl_target is not None:
            style = {"color": "black", "linewidth": 0.9, "linestyle": (0, (4, 3))}
            axis.axhline(kl_target, label=f"target {kl_target:g}", **style)
            axis.legend(frameon=False, fontsize=8, loc="lower right")
    return drawn


@dataclass(frozen=True)
class _Panel:
    """One curve: what it is called, its metric, the metric that is its standard deviation, whether it begins at 0."""

    title: str
    metric: str
    spread: str = ""
    from_zero: bool = False


_READ = (
    _Panel("profiles in order", "compliance"),
    _Panel("Flesch reading ease", "readability"),
    _Panel("copied from the history", "copying"),
)
_TUNING = (_Panel("loss", "loss"), _Panel("accuracy", "accuracy"), *_READ)
_PPO = (
    _Panel("reward", "reward", spread="reward_std"),
    _Panel("KL of an answer, nats", "kl", from_zero=True),
    _Panel("β, weight of KL", "kl_coefficient", from_zero=True),
    _Panel("entropy of a token, nats", "entropy", from_zero=True),
    *_READ,
)


def _panels(metrics: Metrics) -> list[_Panel]:
    """Those that the stage has curves for."""
    return [
        one
        for one in (_PPO if "kl" in metrics else _TUNING)
        if one.metric in metrics or HELD_OUT + one.metric in metrics
    ]


def _draw(axis: Axes, panel: _Panel, metrics: Metrics) -> None:
    trained, held_out = metrics.get(panel.metric), metrics.get(HELD_OUT + panel.metric)
    if trained:
        colour = COLOURS[0] if held_out else COLOURS[1]
        if panel.spread in metrics:
            _band(axis, trained, metrics[panel.spread])
        if len(trained.values) >= _SMOOTHED:
            axis.plot(trained.steps, trained.values, color=colour, linewidth=0.7, alpha=0.35)
        label = "training" if held_out else None
        (line,) = axis.plot(trained.steps, _smooth(trained.values), color=colour, linewidth=1.6, label=label)
        if len(trained.values) == 1:
            line.set_marker("o")
        if panel.from_zero:
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


def _band(axis: Axes, around: Curve, spread: Curve) -> None:
    """± one standard deviation, where both were logged."""
    steps, at, by = np.intersect1d(around.steps, spread.steps, return_indices=True)
    middle, half = _smooth(around.values[at]), _smooth(spread.values[by])
    axis.fill_between(
        steps,
        middle - half,
        middle + half,
        color=COLOURS[0],
        alpha=0.25,
        linewidth=0,
        label="± sd of answers",
    )


def _smooth(values: np.ndarray) -> np.ndarray:
    """The running mean of a long curve, over what there is at its ends; a short one as it is."""
    if len(values) < _SMOOTHED:
        return values
    window = np.ones(max(3, len(values) // 20))
    return np.convolve(values, window, "same") / np.convolve(np.ones(len(values)), window, "same")


def _row(line: str) -> object:
    """What a line says; None if it is torn."""
    try:
        return json.loads(line)
    except json.JSONDecodeError:
        return None


def _curve(values: dict[int, float]) -> Curve:
    steps = np.array(sorted(values), np.int64)
    return Curve(steps, np.array([values[step] for step in steps.tolist()]))
