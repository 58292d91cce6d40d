"""Checks that neither profiles nor splits carry information of the test part; the first leak ends the run."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow.compute as pc

from reclm.config import read_yaml
from reclm.data.dataset import Dataset, ProfileKind, Protocol, TrainingView
from reclm.data.splits import pairs
from reclm.errors import Leak
from reclm.profiles.profile import Known, Profiler
from reclm.profiles.store import KINDS, ProfileStore

SplitName = Literal["train", "valid", "test"]

ABOUT = "about.yaml"
"""In the folder of a tuned profiler: the name and fingerprint of the data that it learned from."""


def check(
    dataset: Dataset, store: ProfileStore | None = None, profiler: Profiler | None = None, sample: int = 1000
) -> list[str]:
    """Look for leaks of the test part in the data set, and in its profiles by their fitted writer.

    Return what was checked, and what could not be, a sentence each; raise :class:`Leak` at the first leak. The prompts
    of ``sample`` stored profiles of each kind are compared; without the profiler they cannot be.
    """
    checks = [*_splits(dataset), *(_tuned(dataset, profiler) if profiler else ())]
    if store is not None:
        checks += [*_store(dataset, store), *_prompts(dataset, store, profiler, sample)]
    return checks


def _splits(dataset: Dataset) -> Iterator[str]:
    """Check that no test item is masked, that no cold candidate has a training interaction, and the order of time."""
    if dataset.by_time:
        yield check_time(dataset)
    if dataset.sessions is not None:
        sessions, name = dataset.sessions, f"data set {dataset.name!r}"
        known = (sessions.history[:, :, None] == sessions.future[:, None, :]).any((1, 2))
        if known.any():
            user = dataset.users.ids(sessions.users[known])[0]
            raise Leak(f"{name}: the history of user {user!r} holds an item that is to be found", value=user)
        if len(np.unique(sessions.users)) < len(sessions.users):
            raise Leak(f"{name}: a user has two sessions, which may lie in different parts")
        yield "next-item: no item to be found stands in its user's history; no user has two sessions"
    for protocol in dataset.protocols:
        # where training items may be recommended again, repeats are no leak; nor is what recurs in validation
        parts: tuple[SplitName, ...] = ("train", "valid") if "train" in protocol.mask else protocol.mask
        for part in parts:
            _disjoint(dataset, protocol, part)
        if parts:
            yield f"{protocol.name}: no user has a test item in {' or '.join(parts)}"
        if protocol.name == "zero-shot":
            seen = np.intersect1d(protocol.candidates, dataset.joined(["train", "valid"]).item_idx)
            if len(seen):
                raise Leak(
                    f"data set {dataset.name!r}, {protocol.name}: {len(seen):,} of its {len(protocol.candidates):,} "
                    f"candidates have interactions in training or validation, as item "
                    f"{dataset.items.ids(seen[:1])[0]!r}; leave them out"
                )
            yield f"{protocol.name}: no candidate has an interaction in training or validation"


def check_time(dataset: Dataset) -> str:
    """Check that all training lies before all validation, and both before the test; Leak where one does not."""
    parts: tuple[SplitName, ...] = ("train", "valid", "test")
    for number, earlier in enumerate(parts):
        for later in parts[number + 1 :]:
            first, second = dataset.split(earlier), dataset.split(later)
            if not len(first) or not len(second):
                continue
            if first.timestamp is None or second.timestamp is None:
                message = f"data set {dataset.name!r} has no times, by which its parts could be told apart"
                raise Leak(
                    f"{message}; prepare it from data with times", value="timestamp", where=dataset.name
                )
            moment = second.timestamp.min()
            if late := int((first.timestamp > moment).sum()):
                message = (
                    f"data set {dataset.name!r}: {late:,} interactions in {earlier} are later than the first"
                )
                message += (
                    f" in {later} ({datetime.fromtimestamp(int(moment), UTC):%Y-%m-%d %H:%M:%S}), so that"
                )
                remedy = "--split time"
                message += f" {earlier} knows some of its future; prepare it with {remedy}"
                raise Leak(message, value=late, where=dataset.name, remedy=remedy)
    return "time: all training lies before all validation, and both before the test"


def _disjoint(dataset: Dataset, protocol: Protocol, part: SplitName) -> None:
    codes = []
    for split in (dataset.split(part), dataset.test):
        ranked = np.isin(split.item_idx, protocol.candidates)
        codes.append(pairs(split.user_idx[ranked], split.item_idx[ranked], len(dataset.items)))
    both = np.intersect1d(*codes)
    if len(both):
        user, item = np.divmod(both[:1], len(dataset.items))
        raise Leak(
            f"data set {dataset.name!r}, {protocol.name}: {len(both):,} interactions are in {part} and in test, as "
            f"of user {dataset.users.ids(user)[0]!r} with item {dataset.items.ids(item)[0]!r}; drop them from {part}"
        )


def _tuned(dataset: Dataset, profiler: Profiler) -> Iterator[str]:
    """Check that a tuned profiler learned from this training part, or from another data set."""
    folder: Path | None = getattr(profiler, "folder", None)
    if folder is None or not (folder / ABOUT).is_file():
        return
    about = read_yaml(folder / ABOUT)
    name, fingerprint = about.get("dataset"), about.get("fingerprint")
    if fingerprint == dataset.fingerprint:
        yield "the profiler was tuned on this training part"
    elif name == dataset.name:
        raise Leak(
            f"{folder} was tuned on another split of {name} ({fingerprint}, not {dataset.fingerprint}), which may hold "
            "test interactions of this one; tune again: reclm tune"
        )
    else:
        data = f"{name} ({fingerprint})"
        yield f"the profiler was tuned on another data set, {data}: whether they share users or items cannot be told"


def _store(dataset: Dataset, store: ProfileStore) -> Iterator[str]:
    """Check that all profiles are of this data set."""
    rows = store.rows(columns=["kind", "id", "fingerprint"])
    for fingerprint in (store.info.fingerprint, *pc.unique(rows.column("fingerprint")).to_pylist()):
        if fingerprint != dataset.fingerprint:
            raise Leak(
                f"profile store {store.folder} holds profiles written for data set {fingerprint}, not for "
                f"{dataset.name} {dataset.fingerprint}; write them again: reclm profile --fresh"
            )
    for kind in KINDS:
        ids = rows.filter(pc.field("kind") == kind).column("id").to_pylist()
        unknown_rows = np.flatnonzero(dataset.view().idmap(kind).find(ids) < 0)
        if len(unknown_rows):
            raise Leak(
                f"profile store {store.folder} has a profile of {kind} {ids[unknown_rows[0]]!r}, whom data set "
                f"{dataset.name!r} does not know; write them again: reclm profile --fresh"
            )
    yield f"all {rows.num_rows:,} profiles carry this data set's fingerprint, {dataset.fingerprint}"


def _prompts(dataset: Dataset, store: ProfileStore, profiler: Profiler | None, sample: int) -> Iterator[str]:
    """Check that the stored profiles answer the prompts that the training part gives."""
    if profiler is None:
        yield "prompts were not compared: it is not known what wrote the profiles"
        return
    view, generator = dataset.view(), np.random.default_rng(0)
    for kind in KINDS:
        rows = drawn = view.idmap(kind).find(store.hashes(kind))
        if not len(rows):
            continue
        if len(rows) > sample:
            drawn = generator.choice(rows, sample, replace=False)
        unsure = _unsure(view, store, profiler, kind, np.sort(drawn))
        compared = f"{len(drawn):,} of {len(rows):,} {kind} profiles were looked at"
        yield f"{compared}: {len(drawn) - unsure:,} answer the prompt that the training part gives"
        if unsure:
            reason = "their prompts quote other profiles than are stored"
            yield f"{unsure:,} {kind} profiles could not be compared: {reason}"


def _unsure(
    view: TrainingView, store: ProfileStore, profiler: Profiler, kind: ProfileKind, drawn: np.ndarray
) -> int:
    """Count the rows ``drawn`` whose prompt is not known for sure: it quotes profiles that may have changed since."""
    stored, texts, unsure = store.hashes(kind), store.texts(kind), len(drawn)
    known: dict[ProfileKind, dict[str, str]] = {"user": {}, "item": {}}
    known["user"] |= store.texts("user") if kind == "item" else {}
    for idx in profiler.rounds(view, kind):
        rows = idx[np.isin(idx, drawn)]
        ids, now = view.idmap(kind).ids(rows), _hashes(view, profiler, kind, rows, known)
        unlike = np.array([now.get(id) != stored[id] for id in ids], bool)
        bare = _hashes(view, profiler, kind, rows[unlike], {})
        unsure -= len(rows)
        for id in np.array(ids, object)[unlike]:
            if now.get(id) == bare.get(id):
                raise Leak(
                    f"profile store {store.folder}: the profile of {kind} {id!r} answers another prompt than the "
                    f"training part of {view.name!r} gives, with these settings of its profiler; write it again: "
                    "reclm profile --fresh"
                )
            unsure += bare.get(id) != stored[id]
        known[kind] |= {id: texts[id] for id in view.idmap(kind).ids(idx) if id in texts}
    return unsure


def _hashes(
    view: TrainingView, profiler: Profiler, kind: ProfileKind, rows: np.ndarray, known: Known
) -> dict[str, str]:
    subjects = profiler.subjects(view, kind, rows, known) if len(rows) else ()
    return {subject.id: subject.prompt_hash for subject in subjects}
