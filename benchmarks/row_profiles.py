"""The profiles of a row: their profiler, the store they are written to, and the controls in their place."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse

from reclm import plugins
from reclm.benchmarks.trial import Control, ProfileOptions
from reclm.config import merged
from reclm.data.dataset import Dataset, ProfileKind, TrainingView
from reclm.data.item_text import item_texts
from reclm.folders import Workspace
from reclm.profiles.matrix import ProfileMatrix
from reclm.profiles.profile import Profiler
from reclm.profiles.run import check_text, make_profiles
from reclm.profiles.store import ProfileStore
from reclm.text.encoder import TextEncoder

FIRST_LOOK = 300
"""Users, and items, that a bench writes profiles of unless told otherwise: minutes on two CPU cores, not hours."""

Rows = Mapping[ProfileKind, np.ndarray] | None
"""Rows that need a profile, by side; None: all."""


def key_of(definition: Mapping[str, Any]) -> str:
    """Return the hash of a definition, 20 hex digits."""
    return hashlib.sha256(json.dumps(definition, sort_keys=True).encode()).hexdigest()[:20]


def row_profiler(
    options: ProfileOptions,
    seed: int | None = None,
    folder: Path | None = None,
    encoder: TextEncoder | None = None,
) -> Profiler:
    """Return the profiler of a row: tuned before (``adapter``), or as it is; with ``seed``, one that a trial tunes.

    That one is tuned in ``folder``; its config takes the seed if it has a field ``seed``.
    """
    cls = plugins.get("profiler", options.profiler)
    more = {"engine_options": options.engine_options} if options.engine_options else {}
    if options.adapter:
        return cls.open(options.adapter, options.settings, options.model, options.engine, **more)
    seeded = {"seed": seed} if seed is not None and "seed" in cls.Config.model_fields else {}
    config = cls.Config.build(merged(options.settings, seeded), where=f"profiler {options.profiler}")
    engine = None if folder else options.engine
    more = {"engine_options": options.engine_options} if options.engine_options and not folder else {}
    return cls(config, model=options.model, engine=engine, folder=folder, encoder=encoder, **more)


def rows_to_describe(dataset: Dataset, backbone: str) -> Rows:
    """Return the users that need a profile, None for all: of sessions, those that a ranking without training has."""
    if dataset.sessions is None or plugins.get("backbone", backbone).trains:
        return None
    return {"user": np.union1d(dataset.valid.user_idx, dataset.test.user_idx)}


def limit_of(options: ProfileOptions, rows: Rows) -> int | None:
    """Return of how many users, and items, the missing profiles are written; None: of all."""
    if options.limit is None and rows is None and plugins.get("profiler", options.profiler).needs_model:
        return FIRST_LOOK
    return options.limit or None


def profile_folder(profiler: Profiler, dataset: Dataset, workspace: Workspace) -> Path:
    """Return the folder of the profiles of a profiler; those of sessions are apart by data and by wording."""
    view = dataset.view()
    if dataset.sessions is None:
        return workspace.store(view.name, profiler.writer)
    mark = key_of({"data": view.fingerprint, "wording": profiler.wording(view)})[:12]
    return workspace.store(view.name, f"{mark}-{profiler.writer}")


def write_row_profiles(
    profiler: Profiler, dataset: Dataset, folder: Path, options: ProfileOptions, rows: Rows, progress: bool
) -> ProfileStore:
    """Write the missing profiles of a row into ``folder``; the profiler is fitted."""
    view = dataset.view()
    check_text(view)
    with ProfileStore.open(folder, view.fingerprint, profiler.writer, view.name) as store:
        make_profiles(view, profiler, store, options.kinds, limit_of(options, rows), progress, rows=rows)
    return store


def measures_of(profiler: Profiler, dataset: Dataset, store: ProfileStore) -> dict[str, float]:
    """Return how the stored user profiles read, where the profiler measures it."""
    ids = store.texts("user") if type(profiler).measures is not Profiler.measures else {}
    profiles = [profile for id in ids if (profile := store.get("user", id))]
    return profiler.measures(dataset.view(), profiles) if profiles else {}


def controlled(
    control: Control,
    sides: Mapping[ProfileKind, ProfileMatrix],
    view: TrainingView,
    item_text: Callable[[], np.ndarray],
    keywords: Callable[[ProfileKind], ProfileMatrix],
) -> dict[ProfileKind, ProfileMatrix]:
    """Return the vectors of a control for those who have one of the profiles.

    ``item_text`` returns the embeddings ``(I, t)`` of the items' texts, ``keywords`` the keywords profiler's profiles.
    """
    controls: dict[ProfileKind, ProfileMatrix] = {}
    for kind, profiles in sides.items():
        present, vectors = profiles.present, np.zeros_like(profiles.vectors)
        rng = np.random.default_rng(0)
        if control == "shuffled":
            circle, strangers = _strangers(present)
            vectors[circle] = profiles.vectors[strangers]
        elif control == "random":
            noise = rng.standard_normal((int(present.sum()), vectors.shape[1]), np.float32)
            lengths = np.linalg.norm(profiles.vectors[present], axis=1, keepdims=True)
            vectors[present] = noise / np.linalg.norm(noise, axis=1, keepdims=True) * lengths
        elif control == "text":
            vectors[:] = item_text() if kind == "item" else _history_means(view, item_text())
            vectors[~present] = 0
        else:
            words = keywords(kind)
            present = present & words.present
            vectors[present] = words.vectors[present]
        controls[kind] = ProfileMatrix(vectors, present)
    return controls


def controlled_texts(
    control: Control | None, texts: Sequence[str], view: TrainingView, words: Callable[[], ProfileStore]
) -> list[str] | None:
    """Return the texts that join the items' texts under a control, ``texts`` being the profiles, in row order.

    ``random`` has no texts: None. ``words`` returns the store of the keywords profiler.
    """
    if control is None:
        return list(texts)
    if control == "random":
        return None
    if control == "shuffled":
        shuffled = [""] * len(texts)
        for row, stranger in zip(*_strangers(np.array([bool(text) for text in texts], bool)), strict=True):
            shuffled[row] = texts[stranger]
        return shuffled
    own = control == "text"
    others = item_texts(view.item_text, view.text_template) if own else words().row_texts("item", view.items)
    return [other if text else "" for text, other in zip(texts, others, strict=True)]


def _strangers(present: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows that have a profile, in a random order, and whose profile each gets: none its own."""
    circle = np.random.default_rng(0).permutation(np.flatnonzero(present))
    return circle, np.roll(circle, 1)


def _history_means(view: TrainingView, item_text: np.ndarray) -> np.ndarray:
    """Return ``(U, t)`` means over each user's training interactions; zero where there is none."""
    users, items = view.train.user_idx, view.train.item_idx
    weights = (1.0 / np.bincount(users, minlength=len(view.users))[users]).astype(np.float32)
    shares = sparse.csr_array((weights, (users, items)), shape=(len(view.users), len(item_text)))
    return np.asarray(shares @ item_text, np.float32)
