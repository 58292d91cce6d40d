"""The quality of profiles stage by stage, on subjects that no stage was tuned on."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any

import numpy as np

from reclm.console import progress_bar
from reclm.data.dataset import ProfileKind
from reclm.data.id_map import IdMap
from reclm.intervals import Estimate, mean, share
from reclm.profilers.profile_format import FORMS, PAPERS, form_of

_HEADINGS = re.compile("|".join(form.headings.pattern for form in FORMS))
TEACHER = "the teacher"
_WORD = re.compile(r"\w+(?:['’-]\w+)*")


class Vectors:
    """Texts as vectors of length 1 by a text encoder; a text is encoded once, however many stages wrote it."""

    def __init__(self, encoder: Any, progress: bool = True) -> None:
        self.encoder, self.progress = encoder, progress
        self._known: dict[str, np.ndarray] = {}

    def __call__(self, texts: Iterable[str]) -> np.ndarray:
        """Return ``(n, t)`` float64; a text without direction is all 0."""
        texts = list(texts)
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        if new:
            with progress_bar("encoding texts to compare", len(new), self.progress) as advance:
                vectors = np.asarray(self.encoder.encode(new, progress=advance), np.float64)
            vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
            self._known.update(zip(new, vectors, strict=True))
        return np.stack([self._known[text] for text in texts]) if texts else np.zeros((0, 0))


@dataclass(frozen=True, eq=False)
class HeldOut:
    """The subjects that are measured, and the texts they are compared with: the same for every stage."""

    kind: ProfileKind
    subjects: tuple[str, ...]
    """Ids of subjects that no stage was tuned on."""
    teacher: Mapping[str, str] = field(default_factory=dict)
    """The teacher's profiles by id."""
    histories: Mapping[str, str] = field(default_factory=dict)
    """Histories by id, of subjects and neighbours: a line an item, newest first."""
    neighbours: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Ids of similar subjects, by subject."""
    phrases: int | None = 3
    """Identities, and interests, of a profile in format; None for any number."""


@dataclass(frozen=True)
class StageQuality:
    """Means over the held-out subjects that have a profile; a value that cannot be computed is None.

    Attributes:
        subjects: subjects with a profile, ``n``.
        compliance: share in the profile format, with Wilson's interval.
        distinct_1, distinct_2: distinct words, and pairs of successive words, over all of them in the ``n`` profiles
            (Li et al. 2016, https://arxiv.org/abs/1510.03055); the two headings of the format are not counted.
        repetition: share that say a phrase twice; a text out of format does not count as such.
        teacher: cosine to the teacher's profile of the same subject, with Student's interval.
        other_teacher: cosine to the teacher's profiles of the other subjects, which ``teacher`` must exceed.
        neighbours: over-smoothing: cosine of a subject's profile to those that the same stage wrote for its
            neighbours; a mean over subjects, with Student's interval.
        strangers: the same to all other subjects that the stage wrote for.
        history_neighbours, history_strangers: the same two of the histories, where both have one.
        faults: counts of the faults of format, most frequent first.
    """

    stage: str
    subjects: int
    compliance: Estimate | None = None
    words: float | None = None
    distinct_1: float | None = None
    distinct_2: float | None = None
    repetition: float | None = None
    teacher: Estimate | None = None
    other_teacher: float | None = None
    neighbours: Estimate | None = None
    strangers: float | None = None
    history_neighbours: float | None = None
    history_strangers: float | None = None
    faults: dict[str, int] = field(default_factory=dict)


def stage_quality(stage: str, texts: Mapping[str, str], held_out: HeldOut, vectors: Vectors) -> StageQuality:
    """Measure a stage's profiles: ``texts`` by id, of held-out subjects and, for over-smoothing, their neighbours."""
    ids = [id for id in held_out.subjects if id in texts]
    written = [texts[id] for id in ids]
    if not written:
        return StageQuality(stage, 0)
    faults = [PAPERS.fault(text, held_out.phrases) for text in written]
    teacher, other_teacher = _to_teacher(ids, texts, held_out.teacher, vectors)
    near, far = closeness(ids, texts, held_out.neighbours, vectors)
    histories = {id: held_out.histories[id] for id in texts if id in held_out.histories}
    history_near, history_far = closeness(ids, histories, held_out.neighbours, vectors)
    return StageQuality(
        stage,
        subjects=len(ids),
        compliance=share([reason is None for reason in faults]),
        words=float(np.mean([len(_WORD.findall(text)) for text in written])),
        distinct_1=distinct(written, 1),
        distinct_2=distinct(written, 2),
        repetition=float(np.mean([form_of(text).repeats(text) for text in written])),
        teacher=mean(teacher),
        other_teacher=_average(other_teacher),
        neighbours=mean(near),
        strangers=_average(far),
        history_neighbours=_average(history_near),
        history_strangers=_average(history_far),
        faults=dict(Counter(reason for reason in faults if reason).most_common()),
    )


def distinct(texts: Sequence[str], n: int) -> float | None:
    """Return distinct-n of a set: different n-grams of words over all of them; None where there is none.

    No n-gram reaches over a heading of the profile format or from one text into the next.

    >>> distinct(["red red wine"], 1), distinct(["red red wine"], 2)
    (0.6666666666666666, 1.0)
    """
    parts = (_WORD.findall(part.casefold()) for text in texts for part in _HEADINGS.split(text))
    grams = [gram for words in parts for gram in zip(*(words[at:] for at in range(n)), strict=False)]
    return len(set(grams)) / len(grams) if grams else None


def closeness(
    ids: Sequence[str], texts: Mapping[str, str], neighbours: Mapping[str, Sequence[str]], vectors: Vectors
) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean cosines of subjects' texts to those of their neighbours, and to those of all others.

    Two arrays ``(m,)``: of the subjects that have a text, a neighbour with one, and somebody else with one.
    """
    people = IdMap(texts, "subject")
    ids = [id for id in ids if id in texts]
    rows = people.find(ids)
    named = [neighbours.get(id, ()) for id in ids]
    owner = np.repeat(np.arange(len(ids)), [len(others) for others in named])
    other = people.find(chain.from_iterable(named))
    usable = (other >= 0) & (other != rows[owner])
    owner, other = np.unique(np.stack([owner, other])[:, usable], axis=1)
    if not len(owner):
        return np.zeros(0), np.zeros(0)
    matrix = vectors(texts.values())
    subject_vectors = matrix[rows]
    count = np.bincount(owner, minlength=len(ids))
    near = np.bincount(owner, _cosine(subject_vectors[owner], matrix[other]), minlength=len(ids))
    # a sum of cosines is the cosine with the sum: no pair is visited
    far = subject_vectors @ matrix.sum(0) - _cosine(subject_vectors, subject_vectors) - near
    others = len(matrix) - 1 - count
    known = (count > 0) & (others > 0)
    return near[known] / count[known], far[known] / others[known]


def _to_teacher(
    ids: Sequence[str], texts: Mapping[str, str], teacher: Mapping[str, str], vectors: Vectors
) -> tuple[np.ndarray, np.ndarray]:
    """Return cosines ``(m,)`` to the teacher's profile of the same subject, and to the mean of its other ones."""
    taught = [id for id in ids if id in teacher]
    if not taught:
        return np.zeros(0), np.zeros(0)
    written, wanted = vectors(texts[id] for id in taught), vectors(teacher[id] for id in taught)
    same_subject = _cosine(written, wanted)
    if len(taught) < 2:
        return same_subject, np.zeros(0)
    return same_subject, (written @ wanted.sum(0) - same_subject) / (len(taught) - 1)


def _cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.einsum("nt,nt->n", a, b)


def _average(values: np.ndarray) -> float | None:
    return float(values.mean()) if len(values) else None


@dataclass(frozen=True, eq=False)
class Comparison:
    """Profiles of every stage (``texts``: by stage and id) and their quality, in the order of the stages."""

    held_out: HeldOut
    texts: Mapping[str, Mapping[str, str]]
    quality: tuple[StageQuality, ...]
    teacher: StageQuality | None = None
    """Quality of the teacher's own profiles, the goal of the tuning; None where it wrote none of these subjects."""

    def malformed(self, stage: str) -> dict[str, tuple[str, str]]:
        """Return id and text of the first profile that has a fault, by fault, most frequent first."""
        written = self.texts[stage]
        first: dict[str, tuple[str, str]] = {}
        for id in self.held_out.subjects:
            reason = PAPERS.fault(written[id], self.held_out.phrases) if id in written else None
            if reason:
                first.setdefault(reason, (id, written[id]))
        (measured,) = (quality for quality in self.quality if quality.stage == stage)
        return {reason: first[reason] for reason in measured.faults}

    def spread(self, count: int) -> list[str]:
        """Return ``count`` subjects that every stage wrote for, evenly spread over them: none is picked by hand."""
        shared = [id for id in self.held_out.subjects if all(id in texts for texts in self.texts.values())]
        count = min(count, len(shared))
        return [shared[at * len(shared) // count] for at in range(count)]


def compare_stages(texts: Mapping[str, Mapping[str, str]], held_out: HeldOut, vectors: Vectors) -> Comparison:
    """Measure every stage; ``texts`` are profiles by stage, in order (``before``, ``kd``, ``collab`` …), and id."""
    quality = tuple(stage_quality(stage, written, held_out, vectors) for stage, written in texts.items())
    subjects = {id for written in texts.values() for id in written}
    taught = {id: text for id, text in held_out.teacher.items() if id in subjects}
    teacher = stage_quality(TEACHER, taught, replace(held_out, teacher={}), vectors) if taught else None
    return Comparison(held_out, texts, quality, teacher)
