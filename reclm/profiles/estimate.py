"""What a run would cost, before it is begun."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from reclm.data.dataset import ProfileKind, TrainingView
from reclm.llm.chat import Chat
from reclm.profiles.profile import Profile, Profiler, Subject
from reclm.profiles.store import KINDS, ProfileStore
from reclm.profiles.write import Plan, plans, written
from reclm.text.encoder import TextEncoder


@dataclass(frozen=True)
class KindEstimate:
    """What a run would do for one kind; tokens and seconds are extrapolated from a sample of the prompts."""

    plan: Plan
    prompt_tokens: int = 0
    new_tokens: int = 0
    seconds: float = 0.0
    embed_seconds: float = 0.0
    sample: int = 0
    """How many prompts were answered for it."""

    def __add__(self, other: "KindEstimate") -> "KindEstimate":
        return KindEstimate(
            self.plan + other.plan,
            self.prompt_tokens + other.prompt_tokens,
            self.new_tokens + other.new_tokens,
            self.seconds + other.seconds,
            self.embed_seconds + other.embed_seconds,
            self.sample + other.sample,
        )


def dry_run(
    view: TrainingView,
    profiler: Profiler,
    store: ProfileStore | None,
    kinds: Sequence[ProfileKind] = KINDS,
    limit: int | None = None,
    sample: int = 24,
    encoder: TextEncoder | None = None,
    prompts: int | None = None,
) -> list[KindEstimate]:
    """Estimate a run, and store nothing.

    Up to ``sample`` of each round's missing prompts, drawn evenly, are answered and timed, and ten times as many
    counted. Where later prompts quote a profile that is not written yet, one of these answers stands in for it.
    """
    estimates: list[KindEstimate] = []
    users: dict[str, str] = store.texts("user") if store else {}
    for kind in KINDS:
        if kind in kinds:
            known: dict[ProfileKind, dict[str, str]] = {"user": users if kind == "item" else {}, "item": {}}
            whole = KindEstimate(Plan(kind))
            for todo in plans(view, profiler, store, kind, known, limit, prompts):
                part, answers = _calibrate(profiler, todo, sample, encoder)
                known[kind] |= _stand_ins(store, todo, answers)
                whole += part
            estimates.append(whole)
            if kind == "user":
                users = known["user"] | users
    return estimates


def _stand_ins(store: ProfileStore | None, todo: Plan, answers: list[Profile]) -> dict[str, str]:
    """A text for each subject of a plan: its own where it has one, else the first of the answers."""
    texts = dict.fromkeys(todo.asked, answers[0].text) if answers else {}
    texts |= {one.id: one.text for one in todo.copies}
    return texts | (written(store, todo) if store else {})


def _calibrate(
    profiler: Profiler, todo: Plan, sample: int, encoder: TextEncoder | None
) -> tuple[KindEstimate, list[Profile]]:
    prompts = todo.prompts
    if not prompts:
        return KindEstimate(todo), []
    drawn = list(_evenly(prompts, sample))
    timed = drawn[1:] or drawn
    start = time.perf_counter()
    answers = list(profiler.write(drawn[:1]))
    if len(drawn) > 1:  # the first one loads the model, compiles, fills caches
        start = time.perf_counter()
        answers += profiler.write(timed)
    seconds = time.perf_counter() - start
    embed_seconds = 0.0
    if encoder:
        encoder.encode(["warm up"])
        start = time.perf_counter()
        encoder.encode([one.text for one in answers])
        embed_seconds = time.perf_counter() - start
    chats = {one.prompt_hash: one.source for one in _evenly(prompts, 10 * sample)}
    chats = {key: chat for key, chat in chats.items() if isinstance(chat, Chat)}
    tokens = list(profiler.generator.count_tokens(chats).values()) if chats and profiler.generator else [0]
    estimate = KindEstimate(
        todo,
        prompt_tokens=round(np.mean(tokens) * len(prompts)),
        new_tokens=round(np.mean([one.new_tokens for one in answers]) * len(prompts)),
        seconds=seconds / len(timed) * len(prompts),
        embed_seconds=embed_seconds / len(drawn) * len(prompts),
        sample=len(drawn),
    )
    return estimate, answers


def _evenly(prompts: list[Subject], count: int) -> Iterator[Subject]:
    for place in np.linspace(0, len(prompts) - 1, min(count, len(prompts))).astype(int):
        yield prompts[place]
