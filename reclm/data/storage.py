"""Prepared data sets on disk: Parquet tables and ``dataset.yaml``."""

from collections.abc import Mapping
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from pydantic import ConfigDict, Field, ValidationError

from reclm.config import Config, read_yaml
from reclm.data.dataset import SPLITS, Dataset, Interactions, Protocol, ReadReport
from reclm.data.id_map import IdMap
from reclm.data.sessions import Sessions
from reclm.errors import Damaged
from reclm.files import atomic_folder
from reclm.folders import check_folder, has_file

FORMAT = 1
HEAD = "dataset.yaml"
SESSIONS = "sessions.parquet"
_REPORT = ("kept", "dropped", "malformed")
"""Names of the fields of the reader's report on disk."""


class _Report(Config):
    """The counts of the reader's report; a data set without them is read as well."""

    kept: dict[str, int] = Field(default_factory=dict)
    dropped: dict[str, int] = Field(default_factory=dict)
    malformed: list[str] = Field(default_factory=list)


class _Sessions(Config):
    model_config = ConfigDict(extra="ignore", strict=True)

    fingerprint: str = Field(pattern=r"^\w+$")
    options: dict[str, Any]
    dropped: dict[str, int] = Field(default_factory=dict)


class _Head(Config):
    """The types in ``dataset.yaml``; that it lacks nothing, and is of this format, is checked before."""

    model_config = ConfigDict(extra="ignore", strict=True)

    name: str
    fingerprint: str
    text_template: str
    text_fields: list[str] = Field(default_factory=list)
    protocols: list[dict[str, Any]]
    report: _Report = Field(default_factory=_Report)
    prepared: dict[str, Any] = Field(default_factory=dict)
    sessions: _Sessions | None = None
    by_time: bool = False
    noun: str = ""


def save(dataset: Dataset, folder: Path, prepared: Mapping[str, Any] | None = None) -> None:
    """Write ``dataset`` to ``folder``, whole or not at all; a data set already there is replaced.

    ``users.parquet`` and ``items.parquet`` (ids, ``text:FIELD`` columns, a ``candidate:PROTOCOL`` flag a protocol) are
    in row order; ``train``, ``valid`` and ``test.parquet`` refer to those rows, and so does ``sessions.parquet`` where
    there are sessions. ``prepared`` records how it was made (reader, source, options).
    """
    check_folder(folder, HEAD, "a data set", "--out")
    with atomic_folder(folder) as draft:
        _write(dataset, draft, prepared or {})


def is_dataset(folder: Path) -> bool:
    """Tell whether a data set was saved there."""
    return has_file(folder, HEAD)


def _write(dataset: Dataset, folder: Path, prepared: Mapping[str, Any]) -> None:
    pq.write_table(pa.table({"user_id": dataset.users.array}), folder / "users.parquet")
    items: dict[str, Any] = {"item_id": dataset.items.array}
    items |= {f"text:{name}": dataset.item_text[name] for name in dataset.item_text.column_names}
    for protocol in dataset.protocols:
        flag = np.zeros(len(dataset.items), bool)
        flag[protocol.candidates] = True
        items[f"candidate:{protocol.name}"] = pa.array(flag)
    pq.write_table(pa.table(items), folder / "items.parquet")
    for name in SPLITS:
        columns = vars(dataset.split(name)).items()
        table = pa.table({name: column for name, column in columns if column is not None})
        pq.write_table(table, folder / f"{name}.parquet")
    head = {
        "name": dataset.name,
        "format": FORMAT,
        "fingerprint": dataset.fingerprint,
        "text_template": dataset.text_template,
        "text_fields": dataset.item_text.column_names,
        "protocols": [{"name": protocol.name, "mask": list(protocol.mask)} for protocol in dataset.protocols],
        "report": dict(zip(_REPORT, vars(dataset.report).values(), strict=True)),
        "prepared": dict(prepared),
    }
    if dataset.by_time:
        head["by_time"] = True
    if dataset.noun:
        head["noun"] = dataset.noun
    if dataset.sessions is not None:
        pq.write_table(dataset.sessions.to_table(), folder / SESSIONS)
        head["sessions"] = dataset.sessions.head()
    text = yaml.safe_dump(head, sort_keys=False, allow_unicode=True)
    (folder / HEAD).write_text(text, encoding="utf-8")


def read_head(folder: Path) -> dict[str, Any]:
    """Read ``dataset.yaml`` of the data set in ``folder``."""
    head = read_yaml(folder / HEAD)
    missing = {"name", "format", "fingerprint", "text_template", "protocols"} - head.keys()
    if missing:
        raise Damaged(f"{folder / HEAD} lacks {', '.join(sorted(missing))}; prepare the data set again")
    if head["format"] != FORMAT:
        raise Damaged(f"{folder / HEAD} has format {head['format']}, this version of reclm reads {FORMAT}")
    try:
        _Head.model_validate(head)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        message = f"{folder / HEAD} is damaged: {key}: {first['msg']}; prepare the data set again"
        raise Damaged(message, value=first["input"], where=folder / HEAD) from error
    return head


def load_folder(folder: Path) -> Dataset:
    """Return the data set that :func:`save` wrote to ``folder``."""
    head = read_head(folder)
    try:
        tables = {name: pq.read_table(folder / f"{name}.parquet") for name in ("users", "items", *SPLITS)}
        items = tables["items"]
        fields = head["text_fields"]
        item_text = items.select([f"text:{name}" for name in fields]).rename_columns(fields)
        protocols = tuple(
            Protocol(name, np.flatnonzero(items[f"candidate:{name}"].to_numpy()), tuple(mask))
            for name, mask in map(itemgetter("name", "mask"), head["protocols"])
        )
        sessions = None
        if head.get("sessions") is not None:
            table = pq.read_table(folder / SESSIONS)
            sessions = Sessions.from_table(table, protocols[0].candidates, head["sessions"])
        ids = (IdMap(tables["users"]["user_id"], "user"), IdMap(items["item_id"], "item"))
        train, valid, test = (Interactions.from_table(tables[name]) for name in SPLITS)
        rest: dict[str, Any] = {"item_text": item_text, "text_template": head["text_template"]}
        report = _Report.model_validate(head.get("report", {}))
        rest |= {"protocols": protocols, "report": ReadReport(*(getattr(report, name) for name in _REPORT))}
        rest |= {"sessions": sessions, "folder": folder, "by_time": head.get("by_time", False)}
        rest["noun"] = head.get("noun", "")
        dataset = Dataset(head["name"], *ids, train, valid, test, **rest)
        fingerprint = dataset.fingerprint
    except (
        OSError,
        LookupError,
        TypeError,
        ValueError,
        AttributeError,
        OverflowError,
        pa.ArrowException,
    ) as error:
        what = " ".join(str(error).split())
        raise Damaged(f"{folder} is a damaged data set: {what}; prepare it again") from error
    if fingerprint != head["fingerprint"]:
        raise Damaged(
            f"{folder} was changed after it was prepared: its fingerprint is {fingerprint}, {HEAD} says "
            f"{head['fingerprint']}; prepare it again"
        )
    return dataset
