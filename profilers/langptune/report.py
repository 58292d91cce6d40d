"""Results and cost of a tuning, as tables, a page and a picture."""

from collections.abc import Mapping
from dataclasses import replace
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np
from rich.table import Table

from reclm.console import fenced, literal, pipe_table, rich_table
from reclm.data.dataset import Dataset
from reclm.files import write_text
from reclm.intervals import Estimate, duration, mean, rise
from reclm.profilers.langptune.profiler import LangPTuneProfiler, by_pass
from reclm.profilers.langptune.prompts import SessionWriter
from reclm.profilers.langptune.recommender import Contrastive
from reclm.profilers.rl.policy import Policy
from reclm.profilers.rl.rlso import RLSO
from reclm.profilers.rl.rollout import PolicySampler
from reclm.profilers.tuning.metrics_log import Metrics, draw, read_metrics
from reclm.profilers.tuning.training import load_network
from reclm.profiles.profiles import TextProfiles
from reclm.profiles.run import make_profiles
from reclm.profiles.store import ProfileStore
from reclm.recommend.fit import fit
from reclm.text.encoder import TextEncoder

if TYPE_CHECKING:
    from reclm.profilers.langptune.pipeline import LangPTunePipeline

CURVES = "curves.png"
METRICS = ("ndcg@20", "mrr@20", "recall@20", "precision@20")
"""Metrics of the paper's tables."""
_LONGEST = 500
_EXAMPLES = 5
_SAMPLE = 8
"""Sessions (prompts, pairs of texts) that are timed for an estimate."""
_NAMES = {
    "profile": {"full": "LangPTune", "cl": "LangPTune-CL", "rlso": "LangPTune-RLSO", "zero": "LangPTune-0"},
    "history": {"cl": "EMB-CL", "zero": "EMB-0"},
}
"""The paper's names, by source and variant."""
_MEASURES = {
    "compliance": "ends by itself, in a sentence, without repeating itself",
    "readability": "Flesch reading ease (60 to 70: plain English)",
    "copying": "share of three-word sequences that stand in the history",
    "words": "words",
    "distinct_2": "different pairs of words, of all",
}


def results(tuning: "LangPTunePipeline") -> "list[Table | str]":
    """Evaluate, write ``report.md`` and ``curves.png``, and return tables to be printed."""
    config, dataset = tuning.config, tuning.dataset
    users = np.unique(dataset.test.user_idx)[: config.measured or None]
    dataset = replace(dataset, test=dataset.test.take(np.isin(dataset.test.user_idx, users)))
    ids = dataset.users.ids(users)
    rows = np.searchsorted(tuning.sessions.users, users).tolist()
    histories = dict(zip(ids, tuning.histories.texts(rows), strict=True))

    profiler = LangPTuneProfiler.open(tuning.folder, model=tuning.tuned.about.model)
    folder, source = tuning.folder / "profiles", tuning.dataset
    with ProfileStore.open(folder, source.fingerprint, profiler.writer, source.name) as store:
        make_profiles(source.view(), profiler, store, ("user",), None, tuning.progress, rows={"user": users})
        profiles = [profile for user_id in ids if (profile := store.get("user", user_id))]
    texts = {profile.id: profile.text for profile in profiles}
    encoder = profiler.encoder or tuning.encoder
    untrained, tuned = TextProfiles(dataset, histories, tuning.encoder), TextProfiles(dataset, texts, encoder)
    rankings = {
        "Random": _ranked("random", dataset, config.seed),
        "MostPopular": _ranked("popularity", dataset, config.seed),
        "history, untrained": _ranked("similarity", dataset, config.seed, untrained),
        _NAMES[config.source][config.variant]: _ranked("similarity", dataset, config.seed, tuned),
    }
    stages = {part: metrics for part in ("cl", "rlso") if (metrics := read_metrics(tuning.folder / part))}
    drawn = draw(stages, tuning.folder / CURVES, f"LangPTune on {tuning.view.name}")
    cut = encoder.truncated(list(texts.values()))
    remarks = [f"warning: the encoder's window cuts {cut:.1%} of the users' texts"] if cut else []
    remarks += _reward_remarks(tuning, stages) + [
        f"profiles: {name} {value:.3g} ({_MEASURES[name]})"
        for name, value in profiler.measures(dataset.view(), profiles).items()
        if name in _MEASURES and np.isfinite(value)
    ]
    measured = [[name, *values] for name, values in rankings.items()]
    lines = [
        f"# LangPTune on {literal(tuning.view.name)}",
        f"Variant `{config.variant}`, source `{config.source}`, model `{tuning.model.name}`, encoder "
        f"`{tuning.encoder.name}`, data {tuning.view.fingerprint}. Means with half of their 95 % intervals (Student's) "
        f"over {len(users):,} test sessions; {len(tuning.sessions.items):,} items are ranked, the history left out.",
        pipe_table(["ranking by", *METRICS], measured),
        *[f"- {literal(remark)}" for remark in remarks],
    ]
    lines += [f"![Loss, reward and how profiles read, step by step]({CURVES})"] if drawn else []
    if config.source == "profile":
        lines += _examples(tuning, dataset, texts, histories)
    write_text(tuning.folder / "report.md", "\n\n".join(lines) + "\n")

    title = f"{len(users):,} test sessions, {len(tuning.sessions.items):,} items"
    table = rich_table(title, ("ranking by", *METRICS), measured)
    return [table, *remarks, f"report: {tuning.folder / 'report.md'}"]


def _ranked(backbone: str, dataset: Dataset, seed: int, texts: TextProfiles | None = None) -> list[str]:
    """Return the metrics of a backbone without parameters, each with half its 95 % interval."""
    if not len(dataset.test):
        return ["–"] * len(METRICS)
    fitted = fit(backbone, dataset, texts, seed=seed, progress=False)
    (measured,) = fitted.evaluate(metrics=METRICS).values.values()
    return [_interval(mean(measured.values[metric])) for metric in METRICS]


def _interval(estimate: Estimate | None) -> str:
    """Return a mean and half its 95 % interval."""
    if estimate is None:
        return "–"
    if estimate.low is None or estimate.high is None:
        return f"{estimate.mean:.4f}"
    return f"{estimate.mean:.4f} ± {(estimate.high - estimate.low) / 2:.4f}"


def _reward_remarks(tuning: "LangPTunePipeline", stages: Mapping[str, Metrics]) -> list[str]:
    rewards = stages["rlso"]["reward"].values if "rlso" in stages else np.empty(0)
    values, unit = by_pass(rewards, len(tuning.train_rows), tuning.config.rlso.batch_size)
    change = rise([values])
    if change is None:
        return []
    alternates = all(tuning.config.trains) and tuning.config.rounds > 1
    between = " (and the recommender was trained in between)" if alternates else ""
    return [
        f"RLSO's mean reward is {_interval(mean(values))} over {len(values)} {unit}; that of their second half less "
        f"that of the first{between}: {_interval(change)}"
    ]


def _examples(
    tuning: "LangPTunePipeline", dataset: Dataset, texts: Mapping[str, str], histories: Mapping[str, str]
) -> list[str]:
    """Return history, profile and next items of a few test users."""
    lines = ["## Test users"] if texts else []
    for user_id in list(texts)[:_EXAMPLES]:
        rows = dataset.test.item_idx[dataset.test.user_idx == dataset.users.idx([user_id])[0]]
        wanted = "; ".join(tuning.histories.lines[item] for item in rows.tolist())
        lines += [
            f"### {literal(user_id)}",
            fenced(histories[user_id]),
            f"Profile: {literal(texts[user_id], _LONGEST)}",
            f"Next: {literal(wanted, _LONGEST)}",
        ]
    return lines


def estimate(tuning: "LangPTunePipeline") -> Table:
    """Return a table of the time of each part, from the seconds of a small batch of it on this machine."""
    config, rows = tuning.config, tuning.train_rows[:_SAMPLE].tolist()
    recommends, writes = config.trains
    parts: list[tuple[str, int, int, float]] = []
    profile_seconds = 0.0
    if config.source == "profile":
        network = load_network(tuning.model, full=config.lora.whole)
        policy = Policy.adapt(network, config.lora, seed=config.seed, precision=config.rlso.precision)
        sampler = PolicySampler(policy.decoder, tuning.model)
        writer = SessionWriter(tuning.histories, tuning.prompts, sampler)
        profile_seconds = writer.profiles(rows, config.rlso.sampling).seconds / len(rows)
        if writes:
            chats = writer.chats(rows, config.writing).values()
            drawn = config.rlso.steps * config.rlso.batch_size
            seconds = _update_seconds(tuning, policy, sampler, [tuning.prompts.ids(chat) for chat in chats])
            parts.append(("RLSO", config.rlso.steps, config.rlso.samples * drawn, seconds * drawn))
    if recommends:
        cl = Contrastive(TextEncoder(tuning.encoder.source).model, config.cl, 0.0, tuning.accelerator)
        items = tuning.sessions.future[rows, 0]
        lines = [tuning.histories.lines[item] for item in items.tolist()]
        texts, drawn = tuning.histories.texts(rows), config.cl.steps * config.cl.batch_size
        begun = perf_counter()
        cl.train_step(texts, lines, items)
        seconds = (perf_counter() - begun) / len(rows) * drawn
        profiles = drawn if config.source == "profile" else 0
        if config.cl.reuse:
            # where the policy is not trained, each profile is sampled once
            profiles = min(profiles, len(tuning.train_rows) * (config.rounds if writes else 1))
        parts.append(
            ("contrastive learning", config.cl.steps, profiles, seconds + profile_seconds * profiles)
        )
    test = len(tuning.sessions.rows("test")[: config.measured or None]) * (config.source == "profile")
    parts.append(("test sessions", 1, test, profile_seconds * test))

    lines = [(part, f"{steps:,}", f"{count:,}", duration(seconds)) for part, steps, count, seconds in parts]
    lines.append(("all", "", "", duration(sum(seconds for *_, seconds in parts))))
    head = ("part", "steps", "profiles", "time (estimate)")
    caption = f"{len(tuning.sessions):,} sessions; measured on {len(rows)} of them"
    return rich_table("dry run: nothing is trained", head, lines, caption)


def _update_seconds(
    tuning: "LangPTunePipeline", policy: Policy, sampler: PolicySampler, prompts: list[list[int]]
) -> float:
    """Return the seconds of an RLSO update for a prompt, timed on two: on a CPU it is by far the slowest part."""
    size = len(prompts[:2])
    trial = tuning.config.rlso.model_copy(update={"batch_size": size, "minibatch_size": size})

    rlso = RLSO(
        policy, sampler, prompts[:2], lambda texts, rows: range(len(texts)), trial, tuning.accelerator
    )
    begun = perf_counter()
    rlso.train_step()
    return (perf_counter() - begun) / size
