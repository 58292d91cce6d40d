"""What tuning would learn from, and what it would take, before it is begun."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from rich.table import Table

from reclm.console import duration
from reclm.llm.chat import Chat
from reclm.profilers.reclm import dataset
from reclm.profilers.reclm.config import StageName, TuningConfig
from reclm.profilers.reclm.masking import messages_of, token_table, tokenised
from reclm.profilers.reclm.reward_data import tokenised as pair_tokens
from reclm.profilers.reclm.sft import adapted, evenly, subset
from reclm.profilers.tuning.load_model import load_network
from reclm.profiles.estimate import KindEstimate

if TYPE_CHECKING:
    from reclm.profilers.reclm.pipeline import Tuning

_SAMPLE = 200
"""Samples whose tokens are counted."""


@dataclass(frozen=True)
class StageEstimate:
    """Of one stage: samples, tokens that go through the model forward and back, updates."""

    stage: StageName
    samples: int
    tokens: int
    updates: int


def shown(tuning: "Tuning", count: int) -> Iterator[str]:
    """See :meth:`Tuning.shown`."""
    for stage in tuning.stages:
        if stage == "ppo":
            continue
        if stage == "reward":
            yield f"══ reward\n{_pairs_shown(tuning.pairs(tuning.reward_users['train']), count)}"
            continue
        samples = tuning.samples(stage)
        yield f"══ {stage}: {len(samples):,} samples in {tuning.folder / stage / 'data'}"
        yield dataset.show(samples, count)
        if stage == "collab":
            yield token_table(tuning.prompts, messages_of(samples[0]["messages"]))


def estimate(tuning: "Tuning") -> Table:
    """A table of what every stage would take; the rate is that of one update of the model on this machine."""
    rate = _rate(tuning)
    table = Table(
        "stage", "samples", "tokens", "updates", "time (estimate)", title="dry run: nothing is tuned"
    )
    total = 0.0
    for stage in tuning.stages:
        one = _stage(tuning, stage)
        seconds = one.tokens / rate
        total += seconds
        table.add_row(stage, f"{one.samples:,}", f"{one.tokens:,}", f"{one.updates:,}", duration(seconds))
    table.add_row("all", "", "", "", duration(total))
    table.caption = f"{rate:,.0f} tokens a second, measured on one update; data and measurements not counted"
    for column in table.columns[1:]:
        column.justify = "right"
    return table


def asking(estimates: Sequence[KindEstimate]) -> Table:
    """A table of what a teacher that is asked would take."""
    table = Table(
        "teacher's profiles",
        "prompts",
        "tokens to read",
        "to write",
        "time",
        title="dry run: nothing is asked",
    )
    for one in estimates:
        prompts = len(one.plan.prompts)
        table.add_row(
            f"of {one.plan.kind}s",
            f"{prompts:,}",
            f"{one.prompt_tokens:,}",
            f"{one.new_tokens:,}",
            duration(one.seconds),
        )
    table.caption = (
        f"from {sum(one.sample for one in estimates)} answers; the stages can be told once it has written"
    )
    return table


def _stage(tuning: "Tuning", stage: StageName) -> StageEstimate:
    if stage == "ppo":
        ppo = tuning.config.ppo
        users = tuning.reward_users["rl"]
        rows = tuning.view.users.find(users[:_SAMPLE])
        asked = [
            tuning.prompts.ids(Chat(one.messages))
            for one in tuning.instructions.inference(rows, tuning.learned_neighbours)
        ]
        length = float(np.mean([len(ids) for ids in asked])) + ppo.max_new_tokens / 2 if asked else 0.0
        # forward and back are three forward passes; written, scored twice and judged is one more each
        passes = ppo.epochs + 4 / 3
        return StageEstimate(
            stage, len(users), round(ppo.steps * ppo.batch_size * length * passes), ppo.steps
        )
    config: TuningConfig = getattr(tuning.config, stage)
    if stage == "reward":
        pairs = tuning.pairs(tuning.reward_users["train"])
        count, tokens = len(pairs), pair_tokens(pairs.select(evenly(len(pairs), _SAMPLE)), tuning.prompts)
        lengths = [
            len(one) + len(two) for one, two in zip(tokens["chosen_ids"], tokens["rejected_ids"], strict=True)
        ]
    else:
        learned = subset(
            tuning.samples(stage), tuning.split("item" if stage == "items" else "user")["learned"]
        )
        count, tokens = len(learned), tokenised(learned.select(evenly(len(learned), _SAMPLE)), tuning.prompts)
        lengths = [len(one) for one in tokens["input_ids"]]
    seen = round(config.epochs * (count if config.limit is None else min(config.limit, count)))
    updates = -(-seen // (config.batch_size * config.accumulate))
    return StageEstimate(stage, count, round(seen * float(np.mean(lengths or [0]))), updates)


def _rate(tuning: "Tuning") -> float:
    """Tokens a second, forward and back."""
    config = tuning.config.kd
    network: Any = adapted(load_network(tuning.model, config.four_bit), config.lora, "CAUSAL_LM", None, 0)
    size = min(128, tuning.prompts.context)
    ids = (
        torch.arange(4 * size).reshape(4, size).to(network.device)
        % network.get_input_embeddings().weight.shape[0]
    )
    labels = torch.full_like(ids, -100)
    labels[:, -size // 4 :] = ids[:, -size // 4 :]
    seconds = []
    for _ in range(2):
        start = time.perf_counter()
        float(network(input_ids=ids, labels=labels).loss.backward() or 0)
        seconds.append(time.perf_counter() - start)
    return ids.numel() / min(seconds)


def _pairs_shown(pairs: Any, count: int) -> str:
    rows = pairs.select(evenly(len(pairs), count))
    return "\n\n".join(
        f"── {row['subject']}: {row['negative']}\n[better] {row['chosen'][0]['content']}\n"
        f"[worse]  {row['rejected'][0]['content']}"
        for row in rows
    )
