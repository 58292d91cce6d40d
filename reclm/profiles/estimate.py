"""Estimate the tokens and the time of a run before it begins."""

import time
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass

import numpy as np
import pandas as pd

from reclm.data.dataset import ProfileKind, TrainingView
from reclm.intervals import duration
from reclm.llm.chat import Chat, NoAnswers
from reclm.profiles.profile import Profile, Profiler, Subject
from reclm.profiles.run import Plan, plans, written
from reclm.profiles.store import KINDS, ProfileStore
from reclm.text.encoder import TextEncoder


@dataclass(frozen=True)
class KindEstimate:
    """The work of a run for one kind; tokens and seconds are extrapolated from a ``sample`` of the prompts."""

    plan: Plan
    prompt_tokens: int = 0
    new_tokens: int = 0
    seconds: float = 0.0
    embed_seconds: float = 0.0
    sample: int = 0

    def __add__(self, other: "KindEstimate") -> "KindEstimate":
        return KindEstimate(*(getattr(self, name) + getattr(other, name) for name in vars(self)))


@dataclass(frozen=True)
class Estimate:
    """The work of a run; :attr:`kinds` in the order of the work."""

    kinds: tuple[KindEstimate, ...]
    cut_texts: tuple[str, ...] = ()
    """Lines that say how many texts the prompts show in part; none where all are shown whole."""

    def table(self) -> pd.DataFrame:
        """Return a frame with a column a kind."""
        rows = {
            "subjects": lambda kind: kind.plan.subjects,
            "left out by prompts": lambda kind: kind.plan.left_out,
            "distinct prompts": lambda kind: kind.plan.distinct,
            "stored already": lambda kind: kind.plan.stored,
            "prompts to write": lambda kind: len(kind.plan.prompts),
            "tokens to read (estimate)": lambda kind: kind.prompt_tokens,
            "tokens to write (estimate)": lambda kind: kind.new_tokens,
            "time to write (estimate)": lambda kind: duration(kind.seconds),
            "time to embed (estimate)": lambda kind: duration(kind.embed_seconds),
            "prompts answered for the estimate": lambda kind: kind.sample,
        }
        columns = {f"{kind.plan.kind}s": [row(kind) for row in rows.values()] for kind in self.kinds}
        return pd.DataFrame(columns, index=list(rows), dtype=object)

    def __str__(self) -> str:
        prompts = sum(len(kind.plan.prompts) for kind in self.kinds)
        read = sum(kind.prompt_tokens for kind in self.kinds)
        new = sum(kind.new_tokens for kind in self.kinds)
        seconds = sum(kind.seconds + kind.embed_seconds for kind in self.kinds)
        return f"{prompts:,} prompts to write, {read:,} tokens to read, {new:,} to write, about {duration(seconds)}"

    def _repr_html_(self) -> str:
        return self.table().to_html(border=0)


def dry_run(
    view: TrainingView,
    profiler: Profiler,
    store: ProfileStore | None,
    kinds: Sequence[ProfileKind] = KINDS,
    limit: int | None = None,
    sample: int = 24,
    encoder: TextEncoder | None = None,
    prompts: int | None = None,
    ask_again: bool = False,
) -> list[KindEstimate]:
    """Estimate a run, and store nothing.

    Up to ``sample`` missing prompts of each round are answered and timed, and the tokens of ten times as many counted.
    Later prompts quote one of these answers in place of a profile that is not written yet.
    """
    estimates: list[KindEstimate] = []
    users: dict[str, str] = store.texts("user") if store else {}
    for kind in KINDS:
        if kind in kinds:
            known: dict[ProfileKind, dict[str, str]] = {"user": users if kind == "item" else {}, "item": {}}
            whole = KindEstimate(Plan(kind))
            for plan in plans(view, profiler, store, kind, known, limit, prompts, ask_again=ask_again):
                part, answers = _calibrate(profiler, plan, sample, encoder)
                known[kind] |= _stand_ins(store, plan, answers)
                whole += part
            estimates.append(whole)
            if kind == "user":
                users = known["user"] | users
    return estimates


def _stand_ins(store: ProfileStore | None, plan: Plan, answers: list[Profile]) -> dict[str, str]:
    """Return a text for each subject of a plan: its own where it has one, else the first answer."""
    texts = dict.fromkeys(plan.prompt_hashes, answers[0].text) if answers else {}
    texts |= {copy.id: copy.text for copy in plan.copies}
    return texts | (written(store, plan) if store else {})


def _calibrate(
    profiler: Profiler, plan: Plan, sample: int, encoder: TextEncoder | None
) -> tuple[KindEstimate, list[Profile]]:
    prompts = plan.prompts
    if not prompts:
        return KindEstimate(plan), []
    drawn = _evenly(prompts, sample)
    timed = drawn[1:] or drawn
    start = time.perf_counter()
    answers: list[Profile] = []
    with suppress(NoAnswers) if len(drawn) > 1 else nullcontext():
        answers += profiler.write(drawn[:1])
    if len(drawn) > 1:  # the first one loads the model, compiles, fills caches
        start = time.perf_counter()
        answers += profiler.write(timed)
    seconds = time.perf_counter() - start
    if not answers:
        raise NoAnswers(
            f"no answer to {len(drawn)} prompts: {next(iter(profiler.faults.values()), 'none came')}"
        )
    embed_seconds = 0.0
    if encoder:
        encoder.encode(["warm up"])
        start = time.perf_counter()
        encoder.encode([answer.text for answer in answers])
        embed_seconds = time.perf_counter() - start
    sources = {subject.prompt_hash: subject.source for subject in _evenly(prompts, 10 * sample)}
    chats = {key: chat for key, chat in sources.items() if isinstance(chat, Chat)}
    tokens = list(profiler.generator.count_tokens(chats).values()) if chats and profiler.generator else [0]
    estimate = KindEstimate(
        plan,
        prompt_tokens=round(np.mean(tokens) * len(prompts)),
        new_tokens=round(np.mean([answer.new_tokens for answer in answers]) * len(prompts)),
        seconds=seconds / len(timed) * len(prompts),
        embed_seconds=embed_seconds / len(drawn) * len(prompts),
        sample=len(drawn),
    )
    return estimate, answers


def _evenly(prompts: list[Subject], count: int) -> list[Subject]:
    places = np.linspace(0, len(prompts) - 1, min(count, len(prompts))).astype(int)
    return [prompts[place] for place in places]
