"""What a reader of a record must know besides its numbers, whatever shows them."""

from collections.abc import Iterator

import numpy as np

from reclm.benchmarks.results import Result, ResultRow
from reclm.benchmarks.verdict import value
from reclm.recommend.metrics import title


def remarks(record: Result) -> list[str]:
    """How it was made, what its numbers cannot tell, notes, and what failed or did not run."""
    about = record.about
    seeds = f"{about.seeds} seed{'s' * (about.seeds > 1)}"
    chosen = f", epochs chosen on {about.selected_on}" if about.selected_on else ""
    said = [f"{about.dataset} ({about.fingerprint}), {seeds}{chosen}"]
    if about.source:
        any_published = any(line.published for line in about.rows)
        beside = "; the percentage is ours against it" if about.comparable and any_published else ""
        said.append(f"published: {about.source}{beside}")
    said += cautions(record)
    said += [f"{line.name}: {line.note}" for line in about.rows if line.note]
    said += [f"{line.name}: not run here, {line.absent}" for line in about.rows if line.absent]
    said += [f"FAILED: {one.row}, seed {one.seed}: {one.reason}" for one in about.failures]
    return said


def cautions(record: Result) -> list[str]:
    """What stands beside every number: the run's own remarks, lines that say little, what a search chose."""
    searched = [_searched(line) for line in record.about.rows if line.trials]
    return [*record.about.remarks, *_unlearned(record), *_unfinished(record), *searched]


def _unlearned(record: Result) -> Iterator[str]:
    """Which lines are not above what anyone gets without learning, where that was measured."""
    floors = [line for line in record.about.rows if line.baseline]
    for protocol in record.about.whole:
        means = {
            line.name: float(values.mean())
            for line in record.about.rows
            if len(values := record.values(line.name, protocol.name, record.headline))
        }
        best = max(
            (one.name for one in floors if one.name in means), key=lambda name: means[name], default=None
        )
        below = [
            line.name
            for line in record.about.rows
            if best and not line.baseline and not line.control and means.get(line.name, np.inf) <= means[best]
        ]
        if best and below:
            yield (
                f"{protocol.name}: not above {best} ({title(record.headline)} {value(means[best])}), which learns "
                f"nothing: {'; '.join(below)}. Differences between such lines say little about profiles"
            )


def _unfinished(record: Result) -> Iterator[str]:
    """Which lines were still getting better when the most epochs had run: what is gained on them may be time alone."""
    cut = []
    for line in record.about.rows:
        ends = [
            cell.epochs == line.most_epochs and cell.best_epoch > 0.9 * cell.epochs
            for (name, _, where), cell in record.cells.items()
            if name == line.name and where == record.about.whole[0].name
        ]
        if line.most_epochs and any(ends):
            cut.append(f"{line.name} ({sum(ends)} of {len(ends)} seeds)")
    if cut:
        yield (
            "still getting better in the last tenth of their epochs, and compared as they stood then: "
            f"{'; '.join(cut)}. More epochs may change that (--epochs)"
        )


def _searched(line: ResultRow) -> str:
    """What a search tried and chose."""
    tried, failed = len(line.trials), [one for one in line.trials if one.value is None]
    if len(failed) == tried:
        return (
            f"{line.name}: all {tried} trials of the search failed ({failed[0].error}); its own options ran"
        )
    best = max(one.value for one in line.trials if one.value is not None)
    chosen = ", ".join(
        f"{name} {option:.3g}" if isinstance(option, float) else f"{name} {option}"
        for name, option in line.chosen.items()
    )
    lost = f", {len(failed)} failed" if failed else ""
    return f"{line.name}: {chosen} (validation {value(best)}), the best of {tried} trials{lost}"
