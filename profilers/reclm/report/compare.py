"""Stages side by side: what each wrote for the same subjects, and how good it is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from reclm.errors import unknown
from reclm.profilers.profile_format import fault
from reclm.profilers.reclm.report.quality import HeldOut, StageQuality, Vectors, stage_quality

TEACHER = "the teacher"


@dataclass(frozen=True, eq=False)
class Comparison:
    """Profiles of every stage, in the order of the stages.

    Attributes:
        held_out: who is measured.
        texts: by stage, profiles by id.
        quality: one a stage.
        teacher: the same of the teacher's own profiles of those whom the stages wrote for, which is what to expect of
            a model that learned all from it; None where it wrote none.
    """

    held_out: HeldOut
    texts: Mapping[str, Mapping[str, str]]
    quality: tuple[StageQuality, ...]
    teacher: StageQuality | None = None

    def malformed(self, stage: str) -> dict[str, tuple[str, str]]:
        """By fault of format, most frequent first: the id and the text of the first profile that has it."""
        written = self.texts[stage]
        found: dict[str, tuple[str, str]] = {}
        for one in self.held_out.subjects:
            why = fault(written[one], self.held_out.phrases) if one in written else None
            if why:
                found.setdefault(why, (one, written[one]))
        (measured,) = (one for one in self.quality if one.stage == stage)
        return {why: found[why] for why in measured.faults}

    def spread(self, count: int) -> list[str]:
        """``count`` subjects that every stage wrote for, evenly spread over them: none is picked by hand."""
        shared = [one for one in self.held_out.subjects if all(one in some for some in self.texts.values())]
        count = min(count, len(shared))
        return [shared[at * len(shared) // count] for at in range(count)]

    def chosen(self, examples: int | Sequence[str]) -> list[str]:
        """The ids to show: those named, or so many (:meth:`spread`).

        Raises:
            ReclmError: if no stage wrote for one that is named.
        """
        if isinstance(examples, int):
            return self.spread(examples)
        known = {one for some in self.texts.values() for one in some}
        for one in examples:
            if one not in known:
                raise unknown(f"{self.held_out.kind} with a profile", one, sorted(known)[:20])
        return list(examples)


def compare(texts: Mapping[str, Mapping[str, str]], held_out: HeldOut, vectors: Vectors) -> Comparison:
    """Measure every stage.

    Args:
        texts: by stage, in order (``before``, ``kd``, ``collab``, ``ppo`` …), profiles by id.
        vectors: compares texts.
    """
    quality = tuple(stage_quality(stage, some, held_out, vectors) for stage, some in texts.items())
    everyone = {one for some in texts.values() for one in some}
    taught = {one: text for one, text in held_out.teacher.items() if one in everyone}
    itself = stage_quality(TEACHER, taught, replace(held_out, teacher={}), vectors) if taught else None
    return Comparison(held_out, texts, quality, itself)
