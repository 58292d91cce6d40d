"""Ten users of a run with history, profile and what each line recommends; and what its profiles are like."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from reclm.benchmarks.experiment import SuiteRun
from reclm.benchmarks.result_files import EXAMPLES, PROFILES, Example, Quality
from reclm.data.dataset import Dataset, ProfileKind
from reclm.profiles.profile import Profiler
from reclm.profiles.store import KINDS, ProfileStore
from reclm.text.item_text import item_texts

HISTORY, CHARACTERS = 8, 160
"""Items of a history that are shown, and characters of an item's text."""


def write(run: SuiteRun, folder: Path) -> None:
    """Write ``examples.json`` and ``profiles.json`` for the run's report."""
    for name, found in ((EXAMPLES, examples(run)), (PROFILES, qualities(run))):
        rows = [one.model_dump(mode="json") for one in found]
        (folder / name).write_text(json.dumps(rows, indent=1, ensure_ascii=False), encoding="utf-8")


def examples(run: SuiteRun) -> list[Example]:
    """The users whose top lists were kept, in the first protocol, by the first seed of each line."""
    view, protocol = run.dataset.view(), run.dataset.protocols[0].name
    tops = {name: results[0].top.get(protocol, {}) for name, results in run.results.items()}
    store = next((one.store for one in run.given.values() if one.store and "user" in one.coverage), None)
    users = list(dict.fromkeys(user for top in tops.values() for user in top))
    liked = _test_items(run.dataset, users)
    texts = store.texts("user") if store else {}
    found = []
    for user, row in zip(users, run.dataset.users.idx(users).tolist(), strict=True):
        history = view.train.item_idx[view.history("user", row)[::-1][:HISTORY]]
        chosen = {name: top[user] for name, top in tops.items() if user in top}
        rows = {name: run.dataset.items.idx(items) for name, items in chosen.items()}
        found.append(
            Example(
                user_id=user,
                history=tuple(_texts(run.dataset, history)),
                profile=texts.get(user),
                top={name: tuple(_texts(run.dataset, one)) for name, one in rows.items()},
                hits={name: tuple(np.isin(one, liked[row]).tolist()) for name, one in rows.items()},
            )
        )
    return found


def qualities(run: SuiteRun) -> list[Quality]:
    """What each writer's profiles are like, by kind."""
    made = {
        given.store.info.writer: (given.store, given.profiler) for given in run.given.values() if given.store
    }
    return [
        _quality(store, profiler, kind)
        for store, profiler in made.values()
        for kind in KINDS
        if store.count(kind)
    ]


def _quality(store: ProfileStore, profiler: Profiler | None, kind: ProfileKind) -> Quality:
    rows = store.rows(columns=["kind", "text", "prompt_hash", "prompt_tokens", "new_tokens", "seconds"])
    rows = rows.filter(pc.field("kind") == kind)
    words = pc.list_value_length(pc.utf8_split_whitespace(rows.column("text")))
    # equal prompts were answered once
    asked = rows.group_by("prompt_hash").aggregate(
        [(name, "max") for name in ("prompt_tokens", "new_tokens", "seconds")]
    )
    texts = rows.column("text").value_counts().to_pylist()
    return Quality(
        writer=store.info.writer,
        kind=kind,
        profiles=rows.num_rows,
        distinct=len(texts),
        words=pc.mean(words).as_py(),
        in_format=None
        if profiler is None
        else sum(one["counts"] for one in texts if profiler.in_format(kind, one["values"])) / rows.num_rows,
        prompt_tokens=pc.sum(asked.column("prompt_tokens_max")).as_py() or None,
        new_tokens=pc.sum(asked.column("new_tokens_max")).as_py() or None,
        seconds=pc.sum(asked.column("seconds_max")).as_py() or None,
    )


def _texts(dataset: Dataset, rows: np.ndarray) -> list[str]:
    """What is shown of items: the beginning of their text, or their id where there is none."""
    if not dataset.item_text.num_columns:
        return dataset.items.ids(rows)
    view = dataset.view()
    texts = item_texts(view.item_text.take(pa.array(rows, pa.int64())), view.text_template)
    ids = dataset.items.ids(rows)
    return [
        text if len(text) <= CHARACTERS else f"{text[:CHARACTERS].rsplit(' ', 1)[0]} …"
        for text in (text or id for text, id in zip(texts, ids, strict=True))
    ]


def _test_items(dataset: Dataset, users: list[str]) -> dict[int, np.ndarray]:
    rows = dataset.users.idx(users)
    return {int(row): dataset.test.item_idx[dataset.test.user_idx == row] for row in rows}
