"""Results and cost of a tuning, as tables, a page and a picture."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from rich.table import Table

from reclm import console as markdown
from reclm import plugins
from reclm.console import duration, literal
from reclm.data.dataset import Dataset
from reclm.intervals import Estimate, mean, rise
from reclm.profilers.langptune.profiler import LangPTuneProfiler, by_pass
from reclm.profilers.langptune.prompts import SessionWriter
from reclm.profilers.langptune.recommender import Contrastive
from reclm.profilers.rl.policy import Policy, PolicyGenerator
from reclm.profilers.rl.rlso import RLSO
from reclm.profilers.tuning.metrics_log import Metrics, draw, read_metrics
from reclm.profilers.tuning.training import load_network
from reclm.profiles.matrix import ProfileMatrix
from reclm.profiles.profile import Profile
from reclm.profiles.store import ProfileStore
from reclm.profiles.write import make_profiles
from reclm.recommend.base import Inputs
from reclm.recommend.evaluate import PerUser, Task, evaluate
from reclm.text.encoder import TextEncoder
from reclm.text.item_text import item_texts

if TYPE_CHECKING:
    from reclm.profilers.langptune.pipeline import LangPTunePipeline

CURVES = "curves.png"
METRICS = ("ndcg@20", "mrr@20", "recall@20", "precision@20")
"""Of the paper's tables."""
_LONGEST = 500
_EXAMPLES = 5
_SAMPLE = 8
"""Sessions, prompts or pairs of texts, that an estimate tries."""
_MEASURES = {
    "compliance": "ends by itself, in a sentence, without repeating itself",
    "readability": "Flesch reading ease (60 to 70: plain English)",
    "copying": "share of three-word sequences that stand in the history",
    "words": "words",
    "distinct_2": "different pairs of words, of all",
}


def results(tuning: "LangPTunePipeline") -> "list[Table | str]":
    """Evaluate, write ``report.md``, ``curves.png`` and ``measured/``, and return tables to be printed."""
    dataset = _measured(tuning)
    users = np.unique(dataset.test.user_idx)
    profiler = LangPTuneProfiler.open(tuning.folder, model=tuning.tuned.about.model)
    profiles = _profiles(tuning, tuning.dataset, profiler, users)
    histories = {
        dataset.users.ids(np.array([user]))[0]: text for user, text in _histories(tuning, users).items()
    }
    first, last = tuning.encoder, profiler.encoder or tuning.encoder
    texts = {user_id: profile.text for user_id, profile in profiles.items()}
    rankings = {
        "Random": _ranked("random", dataset, tuning.config.seed),
        "MostPopular": _ranked("popularity", dataset, tuning.config.seed),
        "history, untrained": _ranked("similarity", dataset, tuning.config.seed, histories, first),
        _name(tuning): _ranked("similarity", dataset, tuning.config.seed, texts, last),
    }
    measures = profiler.measures(dataset.view(), list(profiles.values()))
    truncated = last.truncated(list(texts.values()))
    _save(tuning, dataset, rankings, measures, truncated)
    stages = {part: metrics for part in ("cl", "rlso") if (metrics := read_metrics(tuning.folder / part))}
    drawn = draw(stages, tuning.folder / CURVES, f"LangPTune on {tuning.view.name}")
    remarks = _remarks(tuning, measures, truncated, stages)
    _page(tuning, dataset, rankings, texts, histories, stages, remarks, drawn)
    candidates = len(tuning.sessions.items)
    table = Table("ranking by", *METRICS, title=f"{len(users):,} test sessions, {candidates:,} items")
    for name, values in rankings.items():
        table.add_row(name, *_means(values))
    for column in table.columns[1:]:
        column.justify = "right"
    return [table, *remarks, f"report: {tuning.folder / 'report.md'}"]


def _measured(tuning: "LangPTunePipeline") -> Dataset:
    """Return the data set of the sessions, with as many test users as are to be measured."""
    dataset = tuning.dataset
    if not tuning.config.measured:
        return dataset
    users = np.unique(dataset.test.user_idx)[: tuning.config.measured]
    return replace(dataset, test=dataset.test.take(np.isin(dataset.test.user_idx, users)))


def _name(tuning: "LangPTunePipeline") -> str:
    """Return what was tuned, as the paper calls it."""
    if tuning.config.source == "history":
        return "EMB-CL" if tuning.config.variant == "cl" else "EMB-0"
    return {"full": "LangPTune", "cl": "LangPTune-CL", "rlso": "LangPTune-RLSO", "zero": "LangPTune-0"}[
        tuning.config.variant
    ]


def _histories(tuning: "LangPTunePipeline", users: np.ndarray) -> dict[int, str]:
    sessions = tuning.sessions
    rows = np.searchsorted(sessions.users, users).tolist()
    return dict(zip(users.tolist(), tuning.histories.texts(rows), strict=True))


def _profiles(
    tuning: "LangPTunePipeline", dataset: Dataset, profiler: LangPTuneProfiler, users: np.ndarray
) -> dict[str, Profile]:
    """Return the profiles of the users by id, written once into ``folder/profiles``."""
    folder, view = tuning.folder / "profiles", dataset.view()
    with ProfileStore.open(folder, dataset.fingerprint, profiler.writer, dataset.name) as store:
        make_profiles(view, profiler, store, ("user",), None, tuning.progress, rows={"user": users})
        profiles = [store.get("user", user_id) for user_id in view.users.ids(users)]
    return {profile.id: profile for profile in profiles if profile}


def _ranked(
    backbone: str,
    dataset: Dataset,
    seed: int,
    texts: Mapping[str, str] | None = None,
    encoder: TextEncoder | None = None,
) -> PerUser | None:
    """Return the metrics of a backbone without parameters; None without a test user."""
    users, items = len(dataset.users), len(dataset.items)
    if not len(dataset.test):
        return None
    matrix = item_text = None
    if texts is not None and encoder is not None:
        words = item_texts(dataset.item_text, dataset.text_template)
        item_text = encoder.encode(words)
        item_text[[not text for text in words]] = 0
        vectors, present = np.zeros((users, item_text.shape[1]), np.float32), np.zeros(users, bool)
        rows = dataset.users.idx(list(texts))
        vectors[rows], present[rows] = encoder.encode(list(texts.values())), True
        matrix = ProfileMatrix(vectors, present)
    cls = plugins.get("backbone", backbone)
    inputs = Inputs(users, items, dataset.train, item_text, matrix)
    model = cls(cls.Config(), inputs, torch.Generator().manual_seed(2 * seed))
    (protocol,) = dataset.protocols
    task = Task.of(dataset.test, dataset.train, protocol.candidates, users, items)
    return evaluate(model.scorer(), task, METRICS)


def _save(
    tuning: "LangPTunePipeline",
    dataset: Dataset,
    rankings: Mapping[str, PerUser | None],
    measures: Mapping[str, float],
    truncated: float,
) -> None:
    """Write ``measured/sessions.parquet`` (metrics of every user) and ``measured/results.json``."""
    folder = tuning.folder / "measured"
    folder.mkdir(parents=True, exist_ok=True)
    known = {name: values for name, values in rankings.items() if values is not None}
    tables = [
        pa.table(
            {
                "method": pa.array([name] * len(values.users)),
                "user_id": dataset.users.array.take(pa.array(values.users)),
                **values.values,
            }
        )
        for name, values in known.items()
    ]
    if tables:
        pq.write_table(pa.concat_tables(tables), folder / "sessions.parquet")
    about = {
        "sessions": len(np.unique(dataset.test.user_idx)),
        "candidates": len(tuning.sessions.items),
        "rankings": {
            name: {
                metric: estimate and vars(estimate)
                for metric, estimate in zip(METRICS, _estimates(values), strict=True)
            }
            for name, values in rankings.items()
        },
        "profiles": {name: value if np.isfinite(value) else None for name, value in measures.items()},
        "truncated": truncated,
    }
    (folder / "results.json").write_text(json.dumps(about, indent=1), encoding="utf-8")


def _estimates(values: PerUser | None) -> list[Estimate | None]:
    return [None if values is None else mean(values.values[metric]) for metric in METRICS]


def _means(values: PerUser | None) -> list[str]:
    return [_interval(estimate) for estimate in _estimates(values)]


def _interval(estimate: Estimate | None) -> str:
    """Return a mean and half its 95 % interval."""
    if estimate is None:
        return "–"
    if estimate.low is None or estimate.high is None:
        return f"{estimate.mean:.4f}"
    return f"{estimate.mean:.4f} ± {(estimate.high - estimate.low) / 2:.4f}"


def _remarks(
    tuning: "LangPTunePipeline",
    measures: Mapping[str, float],
    truncated: float,
    stages: Mapping[str, Metrics],
) -> list[str]:
    remarks = []
    if truncated:
        remarks.append(f"warning: the encoder's window cuts {truncated:.1%} of the users' texts")
    rewards = stages["rlso"]["reward"].values if "rlso" in stages else np.empty(0)
    values, unit = by_pass(rewards, len(tuning.train_rows), tuning.config.rlso.batch_size)
    between = " (and the recommender was trained in between)" * tuning.config.alternates
    if change := rise([values]):
        remarks.append(
            f"RLSO's mean reward is {_interval(mean(values))} over {len(values)} {unit}; that of their second half "
            f"less that of the first{between}: {_interval(change)}"
        )
    return remarks + [
        f"profiles: {name} {value:.3g} ({_MEASURES[name]})"
        for name, value in measures.items()
        if name in _MEASURES and np.isfinite(value)
    ]


def _costs(stage: str, metrics: Metrics) -> list[list[str]]:
    """Return where the time of a stage went, the greatest part first."""
    seconds = {
        name: float(metrics[f"{name}_seconds"].values.mean())
        for name in ("rollout", "embedding", "ranking", "update")
        if f"{name}_seconds" in metrics
    }
    total = sum(seconds.values())
    parts = sorted(seconds.items(), key=lambda part: -part[1])
    return [[stage, name, f"{value:.2f}", f"{value / total:.0%}"] for name, value in parts]


def _page(
    tuning: "LangPTunePipeline",
    dataset: Dataset,
    rankings: Mapping[str, PerUser | None],
    texts: Mapping[str, str],
    histories: Mapping[str, str],
    stages: Mapping[str, Metrics],
    remarks: Sequence[str],
    drawn: bool,
) -> None:
    config, view = tuning.config, tuning.view
    lines = [
        f"# LangPTune on {literal(view.name)}",
        f"Variant `{config.variant}`, source `{config.source}`, model `{tuning.model.name}`, encoder "
        f"`{tuning.encoder.name}`, data {view.fingerprint}. Means with half of their 95 % intervals (Student's) "
        f"over {len(histories):,} test sessions; {len(tuning.sessions.items):,} items are ranked, the history "
        "left out.",
        markdown.table(
            ["ranking by", *METRICS], [[name, *_means(values)] for name, values in rankings.items()]
        ),
        *[f"- {literal(remark)}" for remark in remarks],
    ]
    if costs := [row for stage, metrics in stages.items() for row in _costs(stage, metrics)]:
        table = markdown.table(["stage", "part", "seconds a step", "share"], costs, text=2)
        lines += ["## Where the time went", table]
    if drawn:
        lines.append(f"![Loss, reward and how profiles read, step by step]({CURVES})")
    if config.source == "profile" and texts:
        lines.append("## Test users")
        for user_id in list(texts)[:_EXAMPLES]:
            rows = dataset.test.item_idx[dataset.test.user_idx == dataset.users.idx([user_id])[0]]
            wanted = "; ".join(tuning.histories.lines[item] for item in rows.tolist())
            lines += [
                f"### {literal(user_id)}",
                markdown.fenced(histories[user_id]),
                f"Profile: {literal(texts[user_id], _LONGEST)}",
                f"Next: {literal(wanted, _LONGEST)}",
            ]
    (tuning.folder / "report.md").write_text("\n\n".join(lines) + "\n", encoding="utf-8")


def estimate(tuning: "LangPTunePipeline") -> Table:
    """Return a table of the time of each part, from the seconds of a small batch of it on this machine."""
    config, rows = tuning.config, tuning.train_rows[:_SAMPLE].tolist()
    recommends, writes = config.trains
    table = Table("part", "steps", "profiles", "time (estimate)", title="dry run: nothing is trained")
    total = 0.0

    def add(part: str, steps: int, profiles: int, seconds: float) -> None:
        nonlocal total
        total += seconds
        table.add_row(part, f"{steps:,}", f"{profiles:,}", duration(seconds))

    test = len(tuning.sessions.rows("test")[: config.measured or None])
    each = 0.0
    if config.source == "profile":
        policy = Policy.adapt(
            load_network(tuning.model, full=config.lora.whole), config.lora, seed=config.seed
        )
        sampler = PolicyGenerator(policy.base, tuning.model)
        writer = SessionWriter(tuning.histories, tuning.prompts, sampler)
        each = writer.profiles(rows, config.rlso.sampling).seconds / len(rows)
        if writes:
            # an update of two prompts tells enough: on a CPU it is by far the slowest part
            prompts = [tuning.prompts.ids(chat) for chat in writer.chats(rows, config.writing).values()][:2]
            size = len(prompts)
            trial = config.rlso.model_copy(update={"batch_size": size, "minibatch_size": size})
            rlso = RLSO(
                policy,
                sampler,
                prompts,
                lambda texts, rows: np.arange(len(texts)).tolist(),
                trial,
                tuning.accelerator,
            )
            begun = perf_counter()
            rlso.train_step()
            seconds = (perf_counter() - begun) / size * config.rlso.batch_size * config.rlso.steps
            add("RLSO", config.rlso.steps, 2 * config.rlso.steps * config.rlso.batch_size, seconds)
    if recommends:
        encoder = TextEncoder(tuning.encoder.source)
        cl = Contrastive(encoder.model, config.cl, 0.0, tuning.accelerator)
        items = tuning.sessions.future[rows, 0]
        lines = [tuning.histories.lines[item] for item in items.tolist()]
        begun = perf_counter()
        cl.train_step(tuning.histories.texts(rows), lines, items)
        drawn = config.cl.steps * config.cl.batch_size
        seconds = (perf_counter() - begun) / len(rows) * drawn
        profiles = 0
        if config.source == "profile":
            # of a policy that stands still, profiles are sampled once
            fresh = len(tuning.train_rows) * (config.rounds if writes else 1)
            profiles = min(drawn, fresh) if config.cl.reuse else drawn
        add("contrastive learning", config.cl.steps, profiles, seconds + each * profiles)
    add("test sessions", 1, test if config.source == "profile" else 0, each * test)
    table.add_row("all", "", "", duration(total))
    table.caption = f"{len(tuning.sessions):,} sessions; measured on {len(rows)} of them"
    for column in table.columns[1:]:
        column.justify = "right"
    return table
