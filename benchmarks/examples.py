"""Extras for the report: ten users with the lists of each row, measures of profiles, what the data can tell."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from reclm.benchmarks.features import Features
from reclm.benchmarks.result_files import Example, Quality
from reclm.benchmarks.results import Result
from reclm.benchmarks.row_profiles import row_profiler
from reclm.benchmarks.significance import over_users
from reclm.benchmarks.suite import Suite
from reclm.benchmarks.suite_run import SuiteRun
from reclm.benchmarks.trial import VALIDATION as TRIAL_VALIDATION
from reclm.benchmarks.trial import ProfileOptions
from reclm.charts import COLOURS, panels, save
from reclm.data.dataset import Dataset, ProfileKind
from reclm.data.item_text import item_texts
from reclm.profiles.profile import Profiler
from reclm.profiles.store import KINDS, ProfileStore
from reclm.recommend.check import SIMPLE, VALIDATION, DataCheck, judged
from reclm.recommend.metrics import title

HISTORY, CHARACTERS = 8, 160
"""Items of a history that are shown, and characters of an item's text."""
_COLOURS = (*COLOURS, "#3b6fb6", "#4a9b6e", "#8d5aa5", "#b8902f")
_MARKS = ("o", "s", "^", "D", "v", "P")


def examples(run: SuiteRun) -> list[Example]:
    """Return the users whose top lists were recorded, in the first protocol, by the first seed of each row."""
    dataset = run.datasets[0]
    view, protocol = dataset.view(), dataset.protocols[0].name
    tops = {name: records[0].top.get(protocol, {}) for name, records in run.records.items()}
    profiles = (store.texts("user") | options.edits.get("user", {}) for options, store, _ in _stores(run))
    texts = next(filter(None, profiles), {})
    users = list(dict.fromkeys(user for top in tops.values() for user in top))
    examples = []
    for user, row in zip(users, dataset.users.idx(users).tolist(), strict=True):
        history = view.train.item_idx[view.history("user", row)[::-1][:HISTORY]]
        test_items = dataset.test.item_idx[dataset.test.user_idx == row]
        lists = {name: dataset.items.idx(top[user]) for name, top in tops.items() if user in top}
        top = {name: tuple(_texts(dataset, items)) for name, items in lists.items()}
        hits = {name: tuple(np.isin(items, test_items).tolist()) for name, items in lists.items()}
        shown, profile = tuple(_texts(dataset, history)), texts.get(user)
        examples.append(Example(user_id=user, history=shown, profile=profile, top=top, hits=hits))
    return examples


def qualities(run: SuiteRun) -> list[Quality]:
    """Return measures of each writer's profiles, by kind; those of the first seed that has any."""
    by_writer: dict[str, tuple[ProfileStore, Profiler | None]] = {}
    for _, store, profiler in _stores(run):
        by_writer.setdefault(store.info.writer, (store, profiler))
    pairs = [(*pair, kind) for pair in by_writer.values() for kind in KINDS]
    return [_quality(store, profiler, kind) for store, profiler, kind in pairs if store.count(kind)]


def checked(run: SuiteRun, metric: str) -> DataCheck | None:
    """Return what the data can tell by the simple rows that ran, those of the first seed; None where one is missing."""
    data = run.datasets[0]
    needed = [name for name in SIMPLE if name != "textknn" or data.has_item_text]
    plain = {trial.plan.backbone: (trial, record) for _, trial, record in run.pairs() if trial.seed == 0}
    if any(name not in plain or plain[name][1].error for name in needed):
        return None
    found: dict[tuple[str, str], np.ndarray] = {}
    for name in needed:
        users = run.cache.users(plain[name][0].key)
        parts = {VALIDATION: f"{TRIAL_VALIDATION}valid"} if plain[name][0].plan.train.metric == metric else {}
        parts |= {protocol.name: protocol.name for protocol in data.protocols}
        for part, protocol in parts.items():
            rows = users.filter(pc.equal(users["protocol"], protocol))
            if len(rows):
                found[SIMPLE[name], part] = rows[metric].to_numpy()
    return judged(data, found, metric)


def _stores(run: SuiteRun) -> Iterator[tuple[ProfileOptions, ProfileStore, Profiler | None]]:
    """Yield options, store and profiler of the rows that have profiles, by seed."""
    for _, trial, record in sorted(run.pairs(), key=lambda pair: pair[1].seed):
        options = trial.plan.profiles
        if options is None or options.control:
            continue
        if isinstance(trial.features, Features):
            if trial.features.store:
                yield options, trial.features.store, trial.features.profiler
        elif record.store:
            profiler = row_profiler(options.model_copy(update={"engine": None, "engine_options": {}}))
            yield options, ProfileStore.read(record.store), profiler


def _quality(store: ProfileStore, profiler: Profiler | None, kind: ProfileKind) -> Quality:
    rows = store.rows(columns=["kind", "text", "prompt_hash", "prompt_tokens", "new_tokens", "seconds"])
    rows = rows.filter(pc.field("kind") == kind)
    costs = ("prompt_tokens", "new_tokens", "seconds")
    # equal prompts were answered once
    prompts = rows.group_by("prompt_hash").aggregate([(name, "max") for name in costs])
    texts = rows.column("text").value_counts().to_pylist()
    fitting = [text["counts"] for text in texts if profiler and profiler.in_format(kind, text["values"])]
    return Quality(
        writer=store.info.writer,
        kind=kind,
        profiles=rows.num_rows,
        distinct=len(texts),
        words=pc.mean(pc.list_value_length(pc.utf8_split_whitespace(rows.column("text")))).as_py(),
        in_format=sum(fitting) / rows.num_rows if profiler else None,
        **{name: pc.sum(prompts.column(f"{name}_max")).as_py() or None for name in costs},
    )


def _texts(dataset: Dataset, rows: np.ndarray) -> list[str]:
    """Return the beginning of the items' text, or their id where there is none."""
    ids = dataset.items.ids(rows)
    if not dataset.has_item_text:
        return ids
    texts = item_texts(dataset.item_text.take(pa.array(rows, pa.int64())), dataset.text_template)
    texts = [text or id for text, id in zip(texts, ids, strict=True)]
    short = [text[:CHARACTERS].rsplit(" ", 1)[0] for text in texts]
    return [f"{cut} …" if len(text) > CHARACTERS else text for text, cut in zip(texts, short, strict=True)]


def draw_lines(suite: Suite, result: Result, path: Path) -> None:
    """Draw the two first metrics of the rows that are points of lines, with 95 % intervals over users."""
    protocol, metrics = result.about.whole[0].name, result.about.metrics[:2]
    rows = [row for row in suite.rows if row.line and result.seeds(row.name, protocol)]
    figure, axes = panels(2, 2, suite.title, size=(5.2, 3.8))
    lines = list(dict.fromkeys(row.line for row in rows))
    at = sorted({row.at or 0 for row in rows})
    log = len(at) > 1 and at[0] > 0 and at[-1] / at[0] >= 3
    for axis, metric in zip(axes, metrics, strict=True):
        for place, line in enumerate(lines):
            shift = (place - (len(lines) - 1) / 2) / 80  # side by side, so that bars do not overlap
            points = [row for row in rows if row.line == line]
            means = [over_users(result.by_user(row.name, protocol, metric)) for row in points]
            if log:
                x = [(row.at or 0) * (at[-1] / at[0]) ** shift for row in points]
            else:
                x = [(row.at or 0) + shift * (at[-1] - at[0]) for row in points]
            y = [mean.mean if mean else np.nan for mean in means]
            bars = [0 if mean is None or mean.high is None else mean.high - mean.mean for mean in means]
            style: dict[str, Any] = {"marker": _MARKS[place % len(_MARKS)], "capsize": 3, "linewidth": 1.4}
            colour, label = _COLOURS[place % len(_COLOURS)], line.replace("$", r"\$")
            axis.errorbar(x, y, yerr=bars, color=colour, label=label, **style)
        if log:
            axis.set_xscale("log")
        axis.set_xticks(at, [f"{point:g}" for point in at])
        axis.minorticks_off()
        axis.set_xlabel(f"{suite.axis}; bars: 95 % intervals over users", fontsize=8)
        axis.legend(frameon=False, fontsize=8)
        axis.set_title(title(metric), fontsize=10, loc="left")
        axis.tick_params(labelsize=8)
    save(figure, path)
