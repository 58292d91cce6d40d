"""What a tuning would take, before it is begun."""

from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np
from rich.table import Table

from reclm.console import duration
from reclm.profilers.langptune.contrastive import Contrastive
from reclm.profilers.langptune.writer import SessionWriter
from reclm.profilers.rl.policy import Policy
from reclm.profilers.rl.rlso import RLSO
from reclm.profilers.rl.rollout import PolicyGenerator
from reclm.profilers.tuning.load_model import load_network
from reclm.text.encoder import TextEncoder

if TYPE_CHECKING:
    from reclm.profilers.langptune.pipeline import Tuning

_SAMPLE = 8
"""Sessions, prompts or pairs of texts, that are tried."""


def estimate(tuning: "Tuning") -> Table:
    """A table of what each part would take, from the seconds of a small batch of it on this machine."""
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
        begun = perf_counter()
        writer.profiles(rows, config.rlso.sampling)
        each = (perf_counter() - begun) / len(rows)
        if writes:
            prompts = [writer.ids(chat) for chat in writer.chats(rows, config.writing).values()]
            # an update of two prompts tells enough: on a CPU it is by far the slowest part
            prompts = prompts[:2]
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
        encoder = TextEncoder(tuning.first_encoder.source)
        cl = Contrastive(encoder.model, config.cl, 0.0, tuning.accelerator)
        items = tuning.sessions.future[rows, 0]
        lines = [tuning.histories.lines[item] for item in items.tolist()]
        begun = perf_counter()
        cl.train_step(tuning.histories.texts(rows), lines, items)
        drawn = config.cl.steps * config.cl.batch_size
        seconds = (perf_counter() - begun) / len(rows) * drawn
        profiles = 0
        if config.source == "profile":
            rounds = (
                config.rounds if writes else 1
            )  # of a policy that stands still, profiles are kept for good
            fresh = len(tuning.train_rows) * rounds
            profiles = min(drawn, fresh) if config.cl.reuse else drawn
        add("contrastive learning", config.cl.steps, profiles, seconds + each * profiles)
    add("test sessions", 1, test if config.source == "profile" else 0, each * test)
    table.add_row("all", "", "", duration(total))
    table.caption = f"{len(tuning.sessions):,} sessions; measured on {len(rows)} of them"
    for column in table.columns[1:]:
        column.justify = "right"
    return table
