"""Plan which profiles are missing, and write them into a store: round by round, resumable at any moment."""

import re
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import chain, islice

import numpy as np
import pyarrow as pa

from reclm.console import progress_bar
from reclm.data.dataset import ProfileKind, TrainingView
from reclm.data.item_text import take_rows
from reclm.errors import BadInput, ReclmError
from reclm.llm.chat import NoAnswers
from reclm.llm.models import LazyGenerator
from reclm.profiles.profile import Known, Profile, Profiler, Subject
from reclm.profiles.refusals import Refusals
from reclm.profiles.store import KINDS, ProfileStore
from reclm.text.item_text import item_texts

BATCH = 512
"""Prompts that a profiler gets at once; an engine sorts them by length. Larger values delay second attempts."""


@dataclass
class KindRun:
    """Counts of a run for users, or for items, all rounds together.

    Attributes:
        subjects: users or items to describe; ``distinct`` prompts among them.
        stored: had their profile; ``copied``: got the profile of another with the same prompt.
        generated: prompts answered; ``written``: the profiles made of the answers; ``cut``: those at the token limit.
        in_store: profiles in the store afterwards; ``texts``: distinct texts; ``in_format``: profiles in the format.
        faults: why prompts got no answer, by the users or items that have no profile for it; ``passed_over``: those of
            them that were not asked, as an earlier run got no answer; ``refused``: those that later runs do not ask.
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
    faults: dict[str, str] = field(default_factory=dict)
    passed_over: int = 0
    refused: int = 0

    def __str__(self) -> str:
        """Name some of those without a profile, and why."""
        some = "; ".join(f"{id!r}: {fault}" for id, fault in list(self.faults.items())[:3])
        more = f"; and {len(self.faults) - 3:,} more" if len(self.faults) > 3 else ""
        asked = self.written + len(self.faults)
        return f"no profile of {len(self.faults):,} of {asked:,} {self.kind}s: {some}{more}"

    @property
    def remedy(self) -> str:
        """Say how to ask for what is missing."""
        again = [] if len(self.faults) == self.refused else ["run again to ask for what is missing"]
        if self.refused:
            again += [f"--ask-again asks for the {self.refused:,} that were refused, cut or empty, too"]
        return "; ".join(again)


@dataclass
class ProfileRun:
    """Counts of a run; :attr:`kinds` in the order of the work."""

    kinds: list[KindRun] = field(default_factory=list)

    @property
    def generated(self) -> int:
        """Prompts answered, for users and items."""
        return sum(kind.generated for kind in self.kinds)


@dataclass(frozen=True)
class Plan:
    """The work of one round of a kind, or of several rounds together.

    ``prompt_hashes`` has every subject's by id: ``stored`` ones have their profile, ``copies`` are profiles of others
    with the same prompt, ``missing`` is the rest. ``left_out`` counts subjects whose prompts are too rare, ``refused``
    has why an earlier run got no answer to the prompts of others, by id.
    """

    kind: ProfileKind
    prompt_hashes: dict[str, str] = field(default_factory=dict)
    stored: int = 0
    copies: list[Profile] = field(default_factory=list)
    missing: list[Subject] = field(default_factory=list)
    left_out: int = 0
    round: str = ""
    refused: dict[str, str] = field(default_factory=dict)

    @property
    def subjects(self) -> int:
        """Number of users or items to describe."""
        return len(self.prompt_hashes)

    @property
    def distinct(self) -> int:
        """Number of distinct prompts."""
        return len(set(self.prompt_hashes.values()))

    @property
    def prompts(self) -> list[Subject]:
        """The missing subjects, one for each distinct prompt."""
        return list({subject.prompt_hash: subject for subject in reversed(self.missing)}.values())[::-1]

    def batches(self) -> Iterator[list[Subject]]:
        """Yield the missing subjects, those of ``BATCH`` prompts at a time."""
        by_prompt: dict[str, list[Subject]] = {}
        for subject in self.missing:
            by_prompt.setdefault(subject.prompt_hash, []).append(subject)
        groups = iter(by_prompt.values())
        while batch := list(islice(groups, BATCH)):
            yield list(chain.from_iterable(batch))

    def __add__(self, other: "Plan") -> "Plan":
        return Plan(
            self.kind,
            self.prompt_hashes | other.prompt_hashes,
            self.stored + other.stored,
            self.copies + other.copies,
            self.missing + other.missing,
            self.left_out + other.left_out,
            refused=self.refused | other.refused,
        )

    def __str__(self) -> str:
        begin = f"{self.round}: " if self.round else ""
        of = f" of {self.subjects + self.left_out:,}" if self.left_out else ""
        refused = f", refused before: {len(self.refused):,}" if self.refused else ""
        return (
            f"{begin}{self.subjects:,}{of} {self.kind}s, {self.distinct:,} distinct prompts; stored: {self.stored:,}, "
            f"shared with others: {len(self.copies):,}, prompts to write: {len(self.prompts):,}{refused}"
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
    ask_again: bool = False,
) -> Iterator[Plan]:
    """Yield a plan a round: its prompts, most shared first, compared with the answers in the store (None: empty).

    A round is planned when its plan is asked for: by then ``known`` has the profiles of earlier rounds. Planned are the
    ``limit`` random subjects, of earlier rounds first and always the same (a higher limit adds others to them), those
    of the ``prompts`` commonest prompts, and the user_idx (item_idx) in ``rows``; prompts that were refused are among
    the missing ones where ``ask_again`` is true.
    """
    rounds = profiler.rounds(view, kind)
    if rows is not None:
        rounds = [idx[np.isin(idx, rows)] for idx in rounds]
    for number, idx in enumerate(rounds, start=1):
        order = idx if limit is None else view.idmap(kind).shuffled(idx)
        subjects = list(islice(profiler.subjects(view, kind, order, known), limit))
        chosen = _most_shared_first(subjects, prompts)
        name = f"round {number} of {len(rounds)}" if len(rounds) > 1 else ""
        plan = replace(
            _plan(store, kind, chosen, ask_again), left_out=len(subjects) - len(chosen), round=name
        )
        yield plan
        limit = None if limit is None else limit - len(subjects)
        prompts = None if prompts is None else prompts - plan.distinct
        if limit == 0 or prompts == 0:
            return


def _most_shared_first(subjects: list[Subject], prompts: int | None) -> list[Subject]:
    """Return the subjects of the ``prompts`` commonest prompts, equally common ones in the order given."""
    counts = Counter(subject.prompt_hash for subject in subjects)
    rank = {prompt: place for place, (prompt, _) in enumerate(counts.most_common(prompts))}
    chosen = (subject for subject in subjects if subject.prompt_hash in rank)
    return sorted(chosen, key=lambda subject: rank[subject.prompt_hash])


def _plan(store: ProfileStore | None, kind: ProfileKind, subjects: list[Subject], ask_again: bool) -> Plan:
    stored = store.hashes(kind) if store else {}
    unwritten = [subject for subject in subjects if stored.get(subject.id) != subject.prompt_hash]
    answers = store.by_hash({subject.prompt_hash for subject in unwritten}) if store and unwritten else {}
    refusals = Refusals.of(store) if store and unwritten else None
    known = refusals.known if refusals and not ask_again else {}
    unanswered = [subject for subject in unwritten if subject.prompt_hash not in answers]
    if refusals and refusals.tried:
        unanswered.sort(key=lambda subject: subject.prompt_hash in refusals.tried)
    return Plan(
        kind,
        prompt_hashes={subject.id: subject.prompt_hash for subject in subjects},
        stored=len(subjects) - len(unwritten),
        copies=[
            replace(answers[subject.prompt_hash], kind=kind, id=subject.id)
            for subject in unwritten
            if subject.prompt_hash in answers
        ],
        missing=[subject for subject in unanswered if subject.prompt_hash not in known],
        refused={one.id: known[one.prompt_hash] for one in unanswered if one.prompt_hash in known},
    )


def written(store: ProfileStore, plan: Plan) -> dict[str, str]:
    """Return ``{id: profile text}`` of the plan's subjects that have a profile in the store."""
    texts = store.texts(plan.kind)
    return {id: texts[id] for id in plan.prompt_hashes if id in texts}


def check_text(view: TrainingView) -> None:
    """Raise BadInput if no item has a text, and no interaction a review: nothing can be written from that."""
    if view.train.review is None and not view.has_item_text:
        message = f"data set {view.name!r} has no item text: there is nothing to write profiles from"
        raise BadInput(f"{message}; prepare it with item text, or compare without profiles", value=view.name)


def make_profiles(
    view: TrainingView,
    profiler: Profiler,
    store: ProfileStore,
    kinds: Sequence[ProfileKind] = KINDS,
    limit: int | None = None,
    progress: bool = True,
    prompts: int | None = None,
    rows: Mapping[ProfileKind, np.ndarray] | None = None,
    ask_again: bool = False,
) -> ProfileRun:
    """Write the missing profiles, users before items (whose prompts may quote users' profiles), round by round.

    A prompt whose hash is stored is not generated again, nor one that was refused. Each profile is safe as soon as the
    fitted profiler yields it: a run that was killed resumes where it stopped. ``limit``, ``prompts``, ``rows`` and
    ``ask_again`` are those of :func:`plans`.
    """
    run = ProfileRun()
    for kind in KINDS:
        if kind in kinds:
            users = store.texts("user") if kind == "item" else {}
            known: dict[ProfileKind, dict[str, str]] = {"user": users, "item": {}}
            counts, total = KindRun(kind), Plan(kind)
            of_kind = (rows or {}).get(kind)
            for plan in plans(view, profiler, store, kind, known, limit, prompts, of_kind, ask_again):
                _carry_out(plan, profiler, store, counts, progress, ask_again)
                known[kind] |= written(store, plan)
                total += plan
            counts.subjects, counts.distinct = total.subjects, total.distinct
            counts.stored, counts.copied = total.stored, len(total.copies)
            texts = store.texts(kind).values()
            counts.in_store, counts.texts = len(texts), len(set(texts))
            counts.in_format = sum(profiler.in_format(kind, text) for text in texts)
            run.kinds.append(counts)
            if counts.faults and not counts.in_store:
                remedy = f"; {counts.remedy}" if counts.refused else ""
                raise NoAnswers(f"{counts}{remedy}", value=next(iter(counts.faults)), remedy=remedy[2:])
            if counts.faults:
                warnings.warn(f"{counts}; {counts.remedy}", stacklevel=2)
    return run


def _carry_out(
    plan: Plan, profiler: Profiler, store: ProfileStore, counts: KindRun, progress: bool, ask_again: bool
) -> None:
    """Write the profiles of a plan, and add to ``counts``."""
    store.add(plan.copies)
    counts.faults |= {id: _in_names(plan, fault) for id, fault in plan.refused.items()}
    counts.passed_over += len(plan.refused)
    counts.refused += len(plan.refused)
    if progress:
        print(plan, file=sys.stderr)
    if not plan.missing:
        return
    store.begin()
    # another run may have written some while this one waited
    again = _plan(store, plan.kind, plan.missing, ask_again=True)
    store.add(again.copies)
    plan = replace(plan, missing=again.missing)
    if isinstance(profiler.generator, LazyGenerator):
        profiler.generator.load()  # not part of the time that generating takes
    start, clock = time.perf_counter(), _Clock()
    seconds = clock.seconds
    title = f"writing {plan.kind} profiles{', ' if plan.round else ''}{plan.round}"
    refusals, silent = Refusals.of(store), False
    with named(plan), progress_bar(title, len(plan.prompts), progress) as advance:
        for batch in plan.batches():
            before, tried = len(seconds), refusals.tried.issuperset(one.prompt_hash for one in batch)
            try:
                for profile in profiler.write(batch):
                    _add(profile, profiler, store, counts, clock, advance)
            except NoAnswers:
                # what was written before proves that the model answers: these prompts are the odd ones; a model that
                # answers no prompt of two batches is not asked for the others, but for those that were odd before
                if (silent and not tried) or not store.count(plan.kind):
                    raise
            finally:
                silent = len(seconds) == before
                lasting = {one.prompt_hash for one in batch} & (profiler.refused - seconds.keys())
                # where nothing is answered, it may be the model, and not the prompts
                answers = bool(seconds or store.count(plan.kind))
                refusals.add({prompt: profiler.faults[prompt] for prompt in sorted(lasting)}, answers)
    counts.seconds += time.perf_counter() - start
    counts.generated += len(seconds)
    for one in plan.missing:
        if one.prompt_hash not in seconds:
            fault = profiler.faults.get(one.prompt_hash, "the profiler wrote none")
            counts.faults[one.id] = _in_names(plan, fault)
            counts.refused += one.prompt_hash in refusals.known


@dataclass
class _Clock:
    """Shares the time of a run among its prompts: ``seconds`` by prompt hash."""

    last: float = field(default_factory=time.perf_counter)
    seconds: dict[str, float] = field(default_factory=dict)

    def done(self, prompt: str) -> bool:
        """Note that a prompt is answered now; return whether it was not yet."""
        if prompt in self.seconds:
            return False
        now = time.perf_counter()
        self.seconds[prompt], self.last = now - self.last, now
        return True


def _add(
    profile: Profile,
    profiler: Profiler,
    store: ProfileStore,
    counts: KindRun,
    clock: _Clock,
    advance: Callable[[int], object],
) -> None:
    """Store one profile, and count it."""
    prompt = profile.prompt_hash
    if not profile.text.strip():
        profiler.fail(prompt, "the profile is empty", passing=not profiler.needs_model)
        return
    new = clock.done(prompt)
    store.add([replace(profile, seconds=clock.seconds[prompt])])
    counts.written += 1
    if new:
        counts.prompt_tokens += profile.prompt_tokens
        counts.new_tokens += profile.new_tokens
        counts.cut += profile.finish_reason == "length"
        advance(1)


_HASH = re.compile(r"'?\b([0-9a-f]{32})\b'?")


@contextmanager
def named(plan: Plan) -> Iterator[None]:
    """Name users and items in errors that an engine raises for the hashes of their prompts."""
    try:
        yield
    except ReclmError as error:
        error.args = (_in_names(plan, str(error)), *error.args[1:])
        raise


def _in_names(plan: Plan, text: str) -> str:
    """Return a text with users and items in the place of the hashes of their prompts."""
    if not _HASH.search(text):
        return text
    ids = {prompt: f"{plan.kind} {id!r}" for id, prompt in reversed(plan.prompt_hashes.items())}
    return _HASH.sub(lambda match: ids.get(match[1], match[0]), text)


def examples(
    view: TrainingView, store: ProfileStore, kind: ProfileKind, count: int = 3
) -> list[tuple[str, list[str], str]]:
    """Return the first ``count`` users or items with a profile: id, texts of the newest items, profile."""
    texts = store.texts(kind)
    rows = view.idmap(kind).find(texts)
    rows = np.sort(rows[rows >= 0])[:count]
    result = []
    for row, id in zip(rows, view.idmap(kind).ids(rows), strict=True):
        history = view.train.item_idx[view.history("user", row)[::-1][:5]] if kind == "user" else [row]
        fields = take_rows(view.item_text, pa.array(history, pa.int64()))
        result.append((id, item_texts(fields, view.text_template), texts[id]))
    return result
