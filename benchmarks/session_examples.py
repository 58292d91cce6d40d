"""What a report of a suite of sessions shows besides its record: ten users, what profiles are like, and lines."""

import json
from pathlib import Path

import numpy as np

from reclm.benchmarks.result_files import EXAMPLES, PROFILES, Example, Quality
from reclm.benchmarks.results import Result
from reclm.benchmarks.session_run import PROTOCOL, SessionRun
from reclm.benchmarks.significance import over_users
from reclm.charts import COLOURS, panels
from reclm.charts import save as save_picture
from reclm.data.sessions import NONE
from reclm.intervals import Estimate
from reclm.recommend.metrics import title

USERS = 10
_COLOURS = (*COLOURS, "#3b6fb6", "#4a9b6e", "#8d5aa5", "#b8902f")
_MARKS = ("o", "s", "^", "D", "v", "P")


def write(run: SessionRun, folder: Path) -> None:
    """Write ``examples.json`` and ``profiles.json`` for the run's report."""
    for name, found in ((EXAMPLES, examples(run)), (PROFILES, qualities(run))):
        rows = [one.model_dump(mode="json") for one in found]
        (folder / name).write_text(json.dumps(rows, indent=1, ensure_ascii=False), encoding="utf-8")


def examples(run: SessionRun) -> list[Example]:
    """The first test users of the first seed that ran, with the profile that the last row wrote."""
    if not run.tunings:
        return []
    seed, tuning = next(iter(run.tunings.items()))
    ran = {name: one for (name, other), one in run.ran.items() if other == seed}
    written = [one.measured.profiles for one in ran.values() if one.measured.profiles]
    rows = next(iter(ran.values())).measured.rows[:USERS]
    sessions, lines = tuning.sessions, tuning.histories.lines
    found = []
    for place, row in enumerate(rows.tolist()):
        history = sessions.history[row]
        found.append(
            Example(
                user_id=str(run.view.users.ids(sessions.users[row : row + 1])[0]),
                history=tuple(lines[item] for item in history[history != NONE][::-1].tolist()),
                profile=written[-1].texts[place] if written else None,
                top={
                    name: tuple(lines[item] for item in one.measured.top[place].tolist())
                    for name, one in ran.items()
                },
                hits={
                    name: tuple(np.isin(one.measured.top[place], sessions.future[row]).tolist())
                    for name, one in ran.items()
                },
            )
        )
    return found


def qualities(run: SessionRun) -> list[Quality]:
    """What each row's profiles are like, all seeds together."""
    found = []
    for row in run.suite.rows:
        ran = [one for (name, _), one in run.ran.items() if name == row.name and one.measured.profiles]
        texts = [text for one in ran if one.measured.profiles for text in one.measured.profiles.texts]
        if texts:
            found.append(
                Quality(
                    writer=row.name,
                    kind="user",
                    profiles=len(texts),
                    distinct=len(set(texts)),
                    words=float(np.mean([len(text.split()) for text in texts])),
                    in_format=float(np.mean([one.measured.texts["compliance"] for one in ran])),
                )
            )
    return found


def draw(run: SessionRun, record: Result, path: Path) -> None:
    """NDCG and recall of the rows that are points of lines, with 95 % intervals over users, as a PNG."""
    rows = [row for row in run.suite.rows if row.line and record.seeds(row.name, PROTOCOL)]
    figure, axes = panels(2, 2, run.suite.title, size=(5.2, 3.8))
    lines = list(dict.fromkeys(row.line for row in rows))
    at = sorted({row.at or 0 for row in rows})
    log = len(at) > 1 and at[0] > 0 and at[-1] / at[0] >= 3
    for axis, metric in zip(axes, ("ndcg@20", "recall@20"), strict=True):
        for place, line in enumerate(lines):
            # side by side, that bars do not cover each other
            aside = (place - (len(lines) - 1) / 2) / 80
            points = [row for row in rows if row.line == line]
            found = [_mean(record, row.name, metric) for row in points]
            axis.errorbar(
                [_aside(row.at or 0, aside, at, log) for row in points],
                [one.mean for one in found],
                yerr=[0 if one.high is None else one.high - one.mean for one in found],
                color=_COLOURS[place % len(_COLOURS)],
                marker=_MARKS[place % len(_MARKS)],
                label=line.replace("$", r"\$"),
                capsize=3,
                linewidth=1.4,
            )
        if log:
            axis.set_xscale("log")
        axis.set_xticks(at, [f"{one:g}" for one in at])
        axis.minorticks_off()
        axis.set_xlabel(f"{run.suite.axis}; bars: 95 % intervals over users", fontsize=8)
        axis.legend(frameon=False, fontsize=8)
        axis.set_title(title(metric), fontsize=10, loc="left")
        axis.tick_params(labelsize=8)
    save_picture(figure, path)


def _aside(point: float, share: float, at: list[float], log: bool) -> float:
    """``point``, moved by a share of the axis."""
    return point * (at[-1] / at[0]) ** share if log else point + share * (at[-1] - at[0])


def _mean(record: Result, name: str, metric: str) -> Estimate:
    found = over_users(record.by_user(name, PROTOCOL, metric))
    assert found is not None
    return found
