"""What a tuning came to, as tables, a page and a picture."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.table import Table

from reclm import console as markdown
from reclm.console import literal
from reclm.intervals import Estimate, mean, rise
from reclm.profilers.langptune.evaluation import METRICS
from reclm.profilers.langptune.measure import Measured, Measurement
from reclm.profilers.langptune.rewards import by_pass
from reclm.profilers.tuning.metrics_log import Metrics, draw, read_metrics

if TYPE_CHECKING:
    from reclm.profilers.langptune.pipeline import Tuning

CURVES = "curves.png"
_LONGEST = 500
_EXAMPLES = 5
_TEXTS = {
    "compliance": "ends by itself, in a sentence, without repeating itself",
    "readability": "Flesch reading ease (60 to 70: plain English)",
    "copying": "share of three-word sequences that stand in the history",
    "words": "words",
    "distinct_2": "different pairs of words, of all",
}


def results(tuning: "Tuning") -> "list[Table | str]":
    """Measure, write ``report.md`` and ``curves.png``, and return what is printed."""
    measured = Measurement(tuning).run()
    stages = {part: read_metrics(tuning.folder / part) for part in ("cl", "rlso")}
    stages = {part: metrics for part, metrics in stages.items() if metrics}
    drawn = draw(stages, tuning.folder / CURVES, f"LangPTune on {tuning.view.name}")
    costs = [(part, *row) for part, metrics in stages.items() for row in parts(metrics)]
    remarks = list(_remarks(tuning, measured, stages))
    _page(tuning, measured, costs, remarks, drawn)
    rankings = Table(
        "ranking by", *METRICS, title=f"{len(measured.rows):,} test sessions, {candidates(tuning):,} items"
    )
    for name, one in measured.rankings.items():
        rankings.add_row(name, *[said(mean(one.values[metric])) for metric in METRICS])
    for column in rankings.columns[1:]:
        column.justify = "right"
    return [rankings, *remarks, f"report: {tuning.folder / 'report.md'}"]


def candidates(tuning: "Tuning") -> int:
    """How many items are ranked."""
    return len(tuning.sessions.items)


def said(one: Estimate | None) -> str:
    """A mean and half its 95 % interval."""
    if one is None:
        return "–"
    if one.low is None or one.high is None:
        return f"{one.mean:.4f}"
    return f"{one.mean:.4f} ± {(one.high - one.low) / 2:.4f}"


def parts(metrics: Metrics) -> list[tuple[str, float, float]]:
    """Where the time of a stage went: part, seconds a step, share; the greatest first."""
    seconds = {
        name.removesuffix("_seconds"): float(metrics[name].values.mean())
        for name in ("rollout_seconds", "embedding_seconds", "ranking_seconds", "update_seconds")
        if name in metrics
    }
    total = sum(seconds.values())
    return sorted(((name, one, one / total) for name, one in seconds.items()), key=lambda row: -row[1])


def _remarks(tuning: "Tuning", measured: Measured, stages: dict[str, Metrics]) -> "list[str]":
    remarks = []
    if measured.truncated:
        remarks.append(f"warning: the encoder's window cuts {measured.truncated:.1%} of the users' texts")
    rewards = stages["rlso"]["reward"].values if "rlso" in stages else np.empty(0)
    values, what = by_pass(rewards, len(tuning.train_rows), tuning.config.rlso.batch_size)
    between = " (and the recommender was trained in between)" * tuning.config.alternates
    if found := rise([values]):
        remarks.append(
            f"RLSO's mean reward is {said(mean(values))} over {len(values)} {what}; that of their second half less "
            f"that of the first{between}: {said(found)}"
        )
    remarks += [
        f"profiles: {name} {value:.3g} ({_TEXTS[name]})"
        for name, value in measured.texts.items()
        if name in _TEXTS and np.isfinite(value)
    ]
    return remarks


def _page(
    tuning: "Tuning",
    measured: Measured,
    costs: list[tuple[str, str, float, float]],
    remarks: list[str],
    drawn: bool,
) -> None:
    config, view = tuning.config, tuning.view
    lines = [
        f"# LangPTune on {literal(view.name)}",
        f"Variant `{config.variant}`, source `{config.source}`, model `{tuning.model.name}`, encoder "
        f"`{tuning.first_encoder.name}`, data {view.fingerprint}. Means with half of their 95 % intervals (Student's) "
        f"over {len(measured.rows):,} test sessions; {candidates(tuning):,} items are ranked, the history left out.",
        markdown.table(
            ["ranking by", *METRICS],
            [
                [name, *[said(mean(one.values[metric])) for metric in METRICS]]
                for name, one in measured.rankings.items()
            ],
        ),
        *[f"- {literal(one)}" for one in remarks],
    ]
    if costs:
        lines += [
            "## Where the time went",
            markdown.table(
                ["stage", "part", "seconds a step", "share"],
                [[stage, part, f"{one:.2f}", f"{share:.0%}"] for stage, part, one, share in costs],
                text=2,
            ),
        ]
    if drawn:
        lines.append(f"![Loss, reward and how profiles read, step by step]({CURVES})")
    if measured.profiles:
        lines.append("## Test users")
        for row, text in zip(measured.rows[:_EXAMPLES].tolist(), measured.profiles.texts, strict=False):
            user = view.users.ids(tuning.sessions.users[row : row + 1])[0]
            history = tuning.histories.texts([row])[0]
            wanted = "; ".join(tuning.histories.lines[item] for item in tuning.sessions.future[row].tolist())
            lines += [
                f"### {literal(str(user))}",
                markdown.fenced(history),
                f"Profile: {literal(text, _LONGEST)}",
                f"Next: {literal(wanted, _LONGEST)}",
            ]
    path: Path = tuning.folder / "report.md"
    path.write_text("\n\n".join(lines) + "\n", encoding="utf-8")
