"""From the training part of a data set to profiles in a store."""

import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, islice

import numpy as np
import pyarrow as pa

from reclm.console import progress_bar
from reclm.data.dataset import ProfileKind, TrainingView
from reclm.llm.models import LazyGenerator
from reclm.profiles.profile import Known, Profile, Profiler, Subject
from reclm.profiles.store import KINDS, ProfileStore
from reclm.text.item_text import item_texts

TOGETHER = 512
"""Prompts that a profiler is handed at once. An engine writes the shortest of them first, which batches well; over all
of them it would leave to chance what is there first. What a profiler asks twice waits for no more than these, and no
more are lost if the run is killed."""


@dataclass
class KindRun:
    """What a run did for users, or for items, all rounds together.

    Attributes:
        subjects: how many there are to describe; ``distinct`` prompts among them.
        stored: had their profile; ``copied``: got that of another with the same prompt.
        generated: prompts answered; ``written``: the profiles that came of them.
        cut: answers that ended at the token limit.
        prompt_tokens, new_tokens, seconds: of what was generated.
        in_store: profiles in the store afterwards; ``texts`` that differ among them, and how many of the
            profiles are ``in_format``.
    """

    kind: ProfileKind
    subjects: int = 0
    distinct: int = 0
    stored: int = 0
    copied: int = 0
    generated: int = 0
    written: int = 0
    cut: int = 0
    prompt_tokens: int = 0
    new_tokens: int = 0
    seconds: float = 0.0
    in_store: int = 0
    texts: int = 0
    in_format: int = 0

    @property
    def rate(self) -> float:
        """Prompts a second."""
        return self.generated / self.seconds if self.seconds else 0.0


@dataclass
class ProfileRun:
    """What a run did; :attr:`kinds` in the order of the work."""

    kinds: list[KindRun] = field(default_factory=list)

    @property
    def generated(self) -> int:
        """Prompts answered, users and items."""
        return sum(one.generated for one in self.kinds)


@dataclass(frozen=True)
class Plan:
    """What there is to do in one round of a kind, or in several together.

    Attributes:
        asked: id to prompt hash of every subject.
        stored: how many of them have their profile; ``copies``: of others with the same prompt, for those who can
            share one; ``missing``: the rest.
        left_out: further subjects, whose prompts are not among the commonest that were asked for.
        round: which one, where there are several.
    """

    kind: ProfileKind
    asked: dict[str, str] = field(default_factory=dict)
    stored: int = 0
    copies: list[Profile] = field(default_factory=list)
    missing: list[Subject] = field(default_factory=list)
    left_out: int = 0
    round: str = ""

    @property
    def subjects(self) -> int:
        """How many there are to describe."""
        return len(self.asked)

    @property
    def distinct(self) -> int:
        """How many prompts that takes."""
        return len(set(self.asked.values()))

    @property
    def prompts(self) -> list[Subject]:
        """The missing subjects, one for each distinct prompt."""
        return list({one.prompt_hash: one for one in reversed(self.missing)}.values())[::-1]

    def parts(self) -> Iterator[list[Subject]]:
        """The missing subjects, those of ``TOGETHER`` prompts at a time."""
        same: dict[str, list[Subject]] = {}
        for one in self.missing:
            same.setdefault(one.prompt_hash, []).append(one)
        prompts = iter(same.values())
        while some := list(islice(prompts, TOGETHER)):
            yield list(chain.from_iterable(some))

    def __add__(self, other: "Plan") -> "Plan":
        return Plan(
            self.kind,
            self.asked | other.asked,
            self.stored + other.stored,
            self.copies + other.copies,
            self.missing + other.missing,
            self.left_out + other.left_out,
        )

    def __str__(self) -> str:
        of = f" of {self.subjects + self.left_out:,}" if self.left_out else ""
        return (
            f"{self.round}{': ' if self.round else ''}"
            f"{self.subjects:,}{of} {self.kind}s, {self.distinct:,} distinct prompts; stored: {self.stored:,}, "
            f"shared with others: {len(self.copies):,}, prompts to write: {len(self.prompts):,}"
        )


def plans(
    view: TrainingView,
    profiler: Profiler,
    store: ProfileStore | None,
    kind: ProfileKind,
    known: Known,
    limit: int | None = None,
    prompts: int | None = None,
    rows: np.ndarray | None = None,
) -> Iterator[Plan]:
    """Compare what subjects would be asked with what the store holds, a round at a time.

    A round is planned when its plan is asked for: by then the caller has put into ``known`` what the rounds before
    wrote. Within a round the prompt that most subjects share comes first.

    Args:
        store: None stands for an empty one.
        limit: only the first so many subjects; no prompt of another is built.
        prompts: only those who share one of the so many commonest prompts.
        rows: only these user_idx (item_idx).
    """
    rounds = profiler.rounds(view, kind)
    if rows is not None:
        rounds = [idx[np.isin(idx, rows)] for idx in rounds]
    for number, idx in enumerate(rounds, start=1):
        subjects = list(islice(profiler.subjects(view, kind, idx, known), limit))
        chosen = _most_shared_first(subjects, prompts)
        todo = replace(
            _plan(store, kind, chosen),
            left_out=len(subjects) - len(chosen),
            round=f"round {number} of {len(rounds)}" if len(rounds) > 1 else "",
        )
        yield todo
        limit = None if limit is None else limit - len(subjects)
        prompts = None if prompts is None else prompts - todo.distinct
        if limit == 0 or prompts == 0:
            return


def _most_shared_first(subjects: list[Subject], prompts: int | None) -> list[Subject]:
    """Those who share one of the ``prompts`` commonest prompts, equally common ones in the order given."""
    asked = Counter(one.prompt_hash for one in subjects)
    place = {prompt: at for at, (prompt, _) in enumerate(asked.most_common(prompts))}
    return sorted(
        (one for one in subjects if one.prompt_hash in place), key=lambda one: place[one.prompt_hash]
    )


def _plan(store: ProfileStore | None, kind: ProfileKind, subjects: list[Subject]) -> Plan:
    stored = store.hashes(kind) if store else {}
    open_ = [one for one in subjects if stored.get(one.id) != one.prompt_hash]
    answered = store.by_hash({one.prompt_hash for one in open_}) if store and open_ else {}
    return Plan(
        kind,
        asked={one.id: one.prompt_hash for one in subjects},
        stored=len(subjects) - len(open_),
        copies=[
            replace(answered[one.prompt_hash], kind=kind, id=one.id)
            for one in open_
            if one.prompt_hash in answered
        ],
        missing=[one for one in open_ if one.prompt_hash not in answered],
    )


def written(store: ProfileStore, todo: Plan) -> dict[str, str]:
    """``{id: profile text}`` of a plan's subjects, where the store has one."""
    texts = store.texts(todo.kind)
    return {id: texts[id] for id in todo.asked if id in texts}


def make_profiles(
    view: TrainingView,
    profiler: Profiler,
    store: ProfileStore,
    kinds: Sequence[ProfileKind] = KINDS,
    limit: int | None = None,
    progress: bool = True,
    prompts: int | None = None,
    rows: Mapping[ProfileKind, np.ndarray] | None = None,
) -> ProfileRun:
    """Write the profiles that the store lacks, users before items (whose prompts may quote them), round by round.

    What is stored under the same prompt hash is not generated again; each profile is safe as soon as the profiler
    yields it, so that a run that is killed goes on where it stopped.

    Args:
        profiler: fitted.
        kinds: whose profiles.
        limit, prompts, rows: of each kind, its rounds in order; as in :func:`plans`.
        progress: show plan and bar on stderr.

    Raises:
        ReclmError: if another process is writing to the store.
    """
    run = ProfileRun()
    for kind in KINDS:
        if kind in kinds:
            users = store.texts("user") if kind == "item" else {}
            known: dict[ProfileKind, dict[str, str]] = {"user": users, "item": {}}
            one, whole = KindRun(kind), Plan(kind)
            for todo in plans(view, profiler, store, kind, known, limit, prompts, (rows or {}).get(kind)):
                _write(profiler, store, todo, one, progress)
                known[kind] |= written(store, todo)
                whole += todo
            one.subjects, one.distinct = whole.subjects, whole.distinct
            one.stored, one.copied = whole.stored, len(whole.copies)
            texts = store.texts(kind).values()
            one.in_store, one.texts = len(texts), len(set(texts))
            one.in_format = sum(profiler.in_format(kind, text) for text in texts)
            run.kinds.append(one)
    return run


def _write(profiler: Profiler, store: ProfileStore, todo: Plan, run: KindRun, progress: bool) -> None:
    """Carry a plan out, and add what was generated to ``run``."""
    store.add(todo.copies)
    if progress:
        print(todo, file=sys.stderr)
    if not todo.missing:
        return
    answered: dict[str, float] = {}
    if isinstance(profiler.generator, LazyGenerator):
        profiler.generator.load()  # not part of the time that generating takes
    start = last = time.perf_counter()
    what = f"writing {todo.kind} profiles{', ' if todo.round else ''}{todo.round}"
    with progress_bar(what, len(todo.prompts), progress) as advance:
        for profile in chain.from_iterable(map(profiler.write, todo.parts())):
            new = profile.prompt_hash not in answered
            if new:
                now = time.perf_counter()
                answered[profile.prompt_hash], last = now - last, now
            store.add([replace(profile, seconds=answered[profile.prompt_hash])])
            run.written += 1
            if new:
                run.prompt_tokens += profile.prompt_tokens
                run.new_tokens += profile.new_tokens
                run.cut += profile.finish_reason == "length"
                advance(1)
    run.seconds += time.perf_counter() - start
    run.generated += len(answered)


@dataclass(frozen=True)
class Example:
    """A profile beside what it was made from: texts of the newest items of a user, or of the item itself."""

    profile: Profile
    source: list[str]


def examples(view: TrainingView, store: ProfileStore, kind: ProfileKind, count: int = 3) -> list[Example]:
    """The first ``count`` users or items of the data set that have a profile."""
    rows = view.idmap(kind).find(store.texts(kind))
    rows = np.sort(rows[rows >= 0])[:count]
    found = []
    for row, id in zip(rows, view.idmap(kind).ids(rows), strict=True):
        history = view.train.item_idx[view.history("user", row)[::-1][:5]] if kind == "user" else [row]
        profile = store.get(kind, id)
        if profile:
            fields = view.item_text.take(pa.array(history, pa.int64()))
            found.append(Example(profile, item_texts(fields, view.text_template)))
    return found
