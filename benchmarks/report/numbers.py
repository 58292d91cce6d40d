"""What a report counts: the one place where it meets the statistics."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from reclm.benchmarks.results import Result, ResultRow
from reclm.benchmarks.significance import bootstrap, over_users
from reclm.benchmarks.subgroups import ActivitySlice, activity_slices
from reclm.benchmarks.verdict import Difference, against_controls, differences, of_controls, verdicts
from reclm.intervals import Estimate

ACCURACY = ("recall", "ndcg", "mrr", "precision", "hit", "map")
"""Metrics of which more is better; of others none is called the best."""


@dataclass(frozen=True)
class Cost:
    """What a line took: a run on average, and seconds an epoch (nan: nothing was trained)."""

    seconds: float
    epoch_seconds: float
    epochs: float


class Numbers:
    """A record, counted.

    Args:
        record: of the run.
    """

    def __init__(self, record: Result) -> None:
        self.record = record
        self.about = record.about
        self.headline = record.headline
        self._activity: dict[tuple[str, str], list[ActivitySlice]] = {}
        self._resampled: dict[tuple[str, str, str, str], tuple[float, float]] = {}

    @cached_property
    def verdicts(self) -> list[str]:
        """Did the profiles help? Plain sentences, the first one about all comparisons if there are several."""
        return verdicts(self.record, self._all, list(self.controls.values()))

    @cached_property
    def of_controls(self) -> list[str]:
        """The verdicts on controls for themselves."""
        return of_controls(self.record, self._all)

    @cached_property
    def _all(self) -> list[Difference]:
        return differences(self.record)

    @cached_property
    def differences(self) -> dict[tuple[str, str, str], Difference]:
        """By line, protocol and metric: the line against the one that it is compared with first."""
        return {
            (one.row, one.protocol, one.metric): one
            for one in self._all
            if one.against == self.record.row(one.row).base
        }

    def against(self, line: str, protocol: str) -> list[Difference]:
        """The line against all that it is compared with, in the headline metric."""
        here = line, protocol, self.headline
        return [one for one in self._all if (one.row, one.protocol, one.metric) == here]

    @cached_property
    def controls(self) -> dict[tuple[str, str], Difference]:
        """By line and protocol: the line against its best control, in the headline metric."""
        return {(one.row, one.protocol): one for one in against_controls(self.record)}

    def resampled(self, one: Difference) -> tuple[float, float]:
        """The percentile bootstrap's 95 % interval of a difference; nan where fewer than two users were compared."""
        if one.test.n < 2:
            return float("nan"), float("nan")
        key = one.row, one.against, one.protocol, one.metric
        if key not in self._resampled:  # every page of a report shows it
            before, after = self.record.paired(one.against, one.row, one.protocol, one.metric)
            self._resampled[key] = bootstrap(before, after)
        return self._resampled[key]

    @cached_property
    def groups(self) -> dict[str, list[ResultRow]]:
        """Lines by backbone, in the table's order; under no name where no backbone has two."""
        found: dict[str, list[ResultRow]] = {}
        for line in self.about.rows:
            found.setdefault(line.backbone, []).append(line)
        return found if any(len(lines) > 1 for lines in found.values()) else {"": list(self.about.rows)}

    @cached_property
    def begins(self) -> set[str]:
        """The lines that begin a group, but the first of all."""
        return {lines[0].name for lines in list(self.groups.values())[1:]}

    def failures(self, line: str) -> list[str]:
        """``seed 2 failed: reason``, of each seed of a line that failed."""
        return [f"seed {one.seed} failed: {one.reason}" for one in self.about.failures if one.row == line]

    def why_none(self, line: ResultRow) -> str:
        """Why a line has no number."""
        failed = "; ".join(self.failures(line.name))
        return line.absent or failed or "not measured here"

    def best(self, protocol: str, metric: str) -> float:
        """The highest mean of a metric; nan where there is none, or more of it is not better."""
        if metric.partition("@")[0] not in ACCURACY:
            return float("nan")
        found = [self.values(line.name, protocol, metric) for line in self.about.rows]
        return max((float(one.mean()) for one in found if len(one)), default=float("nan"))

    def values(self, line: str, protocol: str, metric: str) -> np.ndarray:
        """The number of each seed that has one, ``(s,)``."""
        return self._values.get((line, protocol, metric), np.empty(0))

    @cached_property
    def _values(self) -> dict[tuple[str, str, str], np.ndarray]:
        found: dict[tuple[str, str, str], list[float]] = {}
        for (line, _, protocol), cell in self.record.cells.items():
            for metric, value in cell.means().items():
                if np.isfinite(value):
                    found.setdefault((line, protocol, metric), []).append(value)
        return {key: np.array(values) for key, values in found.items()}

    def interval(self, line: str, protocol: str, metric: str) -> Estimate | None:
        """The mean over seeds of their means over users, with its 95 % interval over users."""
        return over_users(self.record.by_user(line, protocol, metric))

    def activity(self, line: str, protocol: str) -> list[ActivitySlice]:
        """The headline metric of users who are more and more active; none where all are of one group."""
        key = line, protocol
        if key not in self._activity:
            found = activity_slices(self.record, line, protocol, self.headline)
            self._activity[key] = found if len(found) > 1 else []
        return self._activity[key]

    def cost(self, line: str) -> Cost | None:
        """What the line's runs took; None where none ran, or nothing was timed."""
        runs = {seed: cell for (name, seed, _), cell in self.record.cells.items() if name == line}
        if not any(cell.seconds for cell in runs.values()):
            return None
        seconds, epochs = np.mean([(one.seconds, one.epochs) for one in runs.values()], axis=0).tolist()
        return Cost(seconds, self.record.epoch_seconds(line), epochs)
