"""The teacher's profiles, from a file or by a chat model (RecLM, https://arxiv.org/abs/2412.19302, section 2.2)."""

import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa

from reclm.data.dataset import ProfileKind, ReadReport, TrainingView
from reclm.data.readers.columns import strings
from reclm.data.readers.records import read_records
from reclm.errors import BadInput, unknown
from reclm.llm.chat import plain
from reclm.profilers.profile_format import fault
from reclm.profilers.reclm.config import RecLMConfig, TeacherConfig
from reclm.profilers.reclm.profiler import RecLMProfiler
from reclm.profiles.estimate import KindEstimate, dry_run
from reclm.profiles.run import Plan, make_profiles, plans, written
from reclm.profiles.store import KINDS, ProfileStore

_NAMES = {"id": ("id", "user_id", "item_id", "uid"), "text": ("text", "profile", "response")}


@dataclass(frozen=True)
class Teacher:
    """The teacher's profiles of one kind by id, a line each, and the count of those that were left out, by reason."""

    profiles: dict[str, str]
    report: ReadReport


def read_teacher(path: Path, view: TrainingView, kind: ProfileKind, config: TeacherConfig) -> Teacher:
    """Read profiles from CSV or TSV (with a header line), Parquet or JSON lines, or from a profile store's folder.

    Of several profiles of one id the first in format counts.
    """
    empty = path.is_file() and not path.stat().st_size
    ids, texts = ([], []) if empty else _columns(path, kind, config)
    if not ids:
        raise BadInput(f"{path} is empty: it holds no profile; give a file of ids and profiles", where=path)
    idmap, phrases = view.idmap(kind), config.phrases if kind == "user" else config.item_phrases
    known = idmap.find(ids) >= 0
    missing = int((~known).sum())
    if missing and (config.strict or not known.any()):
        example = ids[int(np.flatnonzero(~known)[0])]
        raise BadInput(
            f"{path}: {missing} of {len(known)} {kind} ids are not in data set {view.name!r}, such as {example!r} "
            f"(its ids look like {', '.join(idmap.ids(np.arange(min(3, len(idmap)))))}); "
            "give the file of this data set, or set teacher.strict=false to leave them out",
            value=example,
            where=path,
            remedy="teacher.strict=false",
        )
    report = ReadReport()
    report.drop("id not in the data set", missing)
    profiles: dict[str, str] = {}
    for row in np.flatnonzero(known).tolist():
        id, text = ids[row], plain(texts[row])
        reason = fault(text, phrases) if text else "no text"
        if not reason and id in profiles:
            reason = "another profile of the same id"
        if not reason:
            profiles[id] = text
            continue
        report.drop(reason)
        if len(report.malformed) < 5:
            report.malformed.append(f"{path.name}: {kind} {id}: {reason}: {text[:80]}")
    report.kept[kind] = len(profiles)
    if not profiles:
        reasons = ", ".join(f"{count} {reason}" for reason, count in report.dropped.items())
        raise BadInput(
            f"{path}: none of {len(known)} profiles is in the format 'User identity: a, b, c; User interests: "
            f"x, y, z.' ({reasons})",
            value=dict(report.dropped),
            where=path,
        )
    return Teacher(profiles, report)


def _columns(path: Path, kind: ProfileKind, config: TeacherConfig) -> tuple[list[str], list[str]]:
    """Return the ids and the texts in a file or profile store."""
    if ProfileStore.at(path):
        stored = ProfileStore.read(path).texts(kind)
        return list(stored), list(stored.values())
    table = read_records(path)
    names = _column(path, table, config.id_column, "id"), _column(path, table, config.text_column, "text")
    ids, texts = (strings(table[name]).fill_null("").to_pylist() for name in names)
    return ids, texts


def _column(path: Path, table: pa.Table, named: str | None, what: str) -> str:
    names, usual = table.column_names, _NAMES[what]
    if named in names:
        return named
    if named is not None:
        raise unknown(f"column of {path}", named, names)
    matches = [name for name in names if name.lower() in usual]
    if len(matches) == 1:
        return matches[0]
    problem = f"several {what} columns ({', '.join(matches)})" if matches else f"no {what} column"
    raise BadInput(
        f"{path} has {problem}; one of {', '.join(usual)} is wanted, or name it: teacher.{what}_column=NAME "
        f"(found: {', '.join(names)})",
        value=matches,
        where=path,
        remedy=f"teacher.{what}_column=NAME",
    )


class TeacherModel:
    """A chat model that writes profiles of the kinds that ``config.teacher`` names no file of.

    Answers are stored in ``folder`` one by one: an interrupted run asks only for the rest.
    """

    def __init__(self, view: TrainingView, config: RecLMConfig, folder: Path) -> None:
        self.view, self.folder, self.config = view, folder, config
        self.kinds: list[ProfileKind] = [kind for kind in KINDS if config.teacher.file(kind) is None]

    @cached_property
    def profiler(self) -> RecLMProfiler:
        """Asks the model, one subject at a time."""
        parts = {name: getattr(self.config, name) for name in ("instructions", "generation", "neighbours")}
        teacher = self.config.teacher
        return RecLMProfiler(RecLMConfig(**parts, stages=()), model=teacher.model, engine=teacher.engine)

    def write(self, progress: bool = True) -> None:
        """Write every missing profile, and print beforehand how many tokens that takes."""
        view, profiler, limit = self.view, self.profiler, self.config.teacher.limit
        with ProfileStore.open(self.folder, view.fingerprint, profiler.writer, view.name) as store:
            for kind in self.kinds if progress else ():
                known: dict[ProfileKind, dict[str, str]] = {"user": {}, "item": {}}
                known["user"] |= store.texts("user") if kind == "item" else {}
                for todo in plans(view, profiler, store, kind, known, limit):
                    known[kind] |= written(store, todo)
                    self._announce(todo)
            make_profiles(view, profiler, store, self.kinds, limit, progress)

    def _announce(self, todo: Plan) -> None:
        chats = {prompt.prompt_hash: prompt.source for prompt in todo.prompts}
        if chats:
            generator = self.profiler.generator
            read = sum(generator.count_tokens(chats).values())
            most = len(chats) * self.config.generation.max_new_tokens
            print(
                f"asking {generator.model} for {len(chats):,} {todo.kind} profiles: about {read:,} tokens to read, at "
                f"most {most:,} to write",
                file=sys.stderr,
            )

    def estimate(self) -> list[KindEstimate]:
        """Estimate the work, from a few answers that are not stored."""
        stored = ProfileStore.read(self.folder) if ProfileStore.at(self.folder) else None
        # answers may cost money: a few are enough
        return dry_run(self.view, self.profiler, stored, self.kinds, self.config.teacher.limit, sample=8)
