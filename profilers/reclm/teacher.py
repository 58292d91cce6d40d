"""Teacher profiles from a file: what the model is to learn from (RecLM, arXiv 2412.19302, section 2.2)."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa

from reclm.data.dataset import ProfileKind, ReadReport, TrainingView
from reclm.data.readers.columns import strings
from reclm.data.readers.delimited import read_records
from reclm.errors import ReclmError, unknown
from reclm.llm.chat import plain
from reclm.profilers.profile_format import fault
from reclm.profilers.reclm.config import TeacherConfig
from reclm.profiles.store import ProfileStore

ID_NAMES = ("id", "user_id", "item_id", "uid")
TEXT_NAMES = ("text", "profile", "response")
EMPTY = "no text"
UNKNOWN = "id not in the data set"


@dataclass(frozen=True)
class Teacher:
    """Profiles by id, and what was left out.

    Attributes:
        profiles: id to text, one line each, in the order of the file.
        report: rows kept and dropped by reason; ``malformed`` shows the first few.
    """

    kind: ProfileKind
    profiles: dict[str, str]
    report: ReadReport = field(default_factory=ReadReport)


def read_teacher(path: Path, view: TrainingView, kind: ProfileKind, config: TeacherConfig) -> Teacher:
    """Profiles from CSV or TSV (with a header line), Parquet or JSON lines, or from a profile store's folder.

    Of several profiles of one id the first in format counts.

    Raises:
        ReclmError: if the file is missing, empty or unreadable, lacks a column, names ids that are not in the data
            set, or holds no profile in the format.
    """
    if path.is_file() and not path.stat().st_size:
        raise ReclmError(f"{path} is empty: it holds no profile; give a file of ids and profiles")
    table = _stored(path, kind) if ProfileStore.at(path) else read_records(path)
    if not table.num_rows:
        raise ReclmError(f"{path} is empty: it holds no profile; give a file of ids and profiles")
    ids = strings(table[_column(path, table, config.id_column, ID_NAMES, "id")]).fill_null("")
    texts = strings(table[_column(path, table, config.text_column, TEXT_NAMES, "text")]).fill_null("")
    known = view.idmap(kind).find(ids.combine_chunks()) >= 0
    missing = int((~known).sum())
    if missing and (config.strict or not known.any()):
        example = ids[int(np.flatnonzero(~known)[0])].as_py()
        raise ReclmError(
            f"{path}: {missing} of {len(known)} {kind} ids are not in data set {view.name!r}, such as {example!r} "
            f"(its ids look like {', '.join(view.idmap(kind).ids(np.arange(min(3, len(view.idmap(kind))))))}); "
            "give the file of this data set, or set teacher.strict=false to leave them out"
        )
    report = ReadReport()
    report.drop(UNKNOWN, missing)
    phrases = config.phrases if kind == "user" else config.item_phrases
    profiles: dict[str, str] = {}
    for row in np.flatnonzero(known):
        id, text = ids[int(row)].as_py(), plain(texts[int(row)].as_py())
        why = fault(text, phrases) if text else EMPTY
        if not why and id in profiles:
            why = "another profile of the same id"
        if not why:
            profiles[id] = text
            continue
        report.drop(why)
        if len(report.malformed) < 5:
            report.malformed.append(f"{path.name}: {kind} {id}: {why}: {text[:80]}")
    report.kept[kind] = len(profiles)
    if not profiles:
        reasons = ", ".join(f"{many} {why}" for why, many in report.dropped.items())
        raise ReclmError(
            f"{path}: none of {len(known)} profiles is in the format 'User identity: a, b, c; User interests: "
            f"x, y, z.' ({reasons})"
        )
    return Teacher(kind, profiles, report)


def _stored(folder: Path, kind: ProfileKind) -> pa.Table:
    texts = ProfileStore.read(folder).texts(kind)
    return pa.table({"id": pa.array(texts, pa.string()), "text": pa.array(texts.values(), pa.string())})


def _column(path: Path, table: pa.Table, asked: str | None, usual: tuple[str, ...], what: str) -> str:
    names = table.column_names
    if asked is not None:
        if asked not in names:
            raise unknown(f"column of {path}", asked, names)
        return asked
    found = [name for name in names if name.lower() in usual]
    if len(found) == 1:
        return found[0]
    problem = f"several {what} columns ({', '.join(found)})" if found else f"no {what} column"
    raise ReclmError(
        f"{path} has {problem}; one of {', '.join(usual)} is wanted, or name it: teacher.{what}_column=NAME "
        f"(found: {', '.join(names)})"
    )
