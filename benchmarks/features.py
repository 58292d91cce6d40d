"""Features of rows: item text and profiles, embedded once however many rows and seeds share them."""

import hashlib
import multiprocessing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from reclm.benchmarks import leaks, row_profiles
from reclm.benchmarks.row_profiles import key_of, rows_to_describe
from reclm.benchmarks.trial import Control, Plan, ProfileOptions
from reclm.data.dataset import Dataset, Interactions, ProfileKind, TrainingView
from reclm.data.item_text import item_texts
from reclm.errors import NotFound
from reclm.folders import Workspace
from reclm.profiles.matrix import ProfileMatrix, item_text_features, joined_texts
from reclm.profiles.profile import Profiler
from reclm.profiles.store import ProfileStore
from reclm.recommend.base import Fusion, Inputs, joins_text
from reclm.text.encoder import TextEncoder

TUNED = "tuned/"
"""Prefix of the keys of profilers' trainings among the cached trials."""
LATEST = 8
"""Tuned features that a process holds in memory, since the controls of a row are made of them."""


class Shared:
    """The parts that the trials of an experiment share in one process: the text encoder, and the latest tuned features.

    Each worker process begins with none of them.
    """

    def __init__(self, encoder: str | None) -> None:
        self.name = encoder
        self._latest: dict[str, Features] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return Shared, (self.name,)

    @cached_property
    def encoder(self) -> TextEncoder:
        """The experiment's text encoder."""
        return TextEncoder(self.name)

    def tuned(self, key: str, make: "Callable[[], Features]") -> "Features":
        """Return the features under ``key``, made now unless they are among the latest."""
        if key not in self._latest:
            while len(self._latest) >= LATEST:
                self._latest.pop(next(iter(self._latest)))
            self._latest[key] = make()
        return self._latest[key]

    def forget(self) -> None:
        """Forget the tuned features: their training was removed."""
        self._latest.clear()


@dataclass(frozen=True, eq=False)
class Features:
    """Features of one row, and what is known of its profiles.

    Training sets ``inputs.train``. ``encoder`` is name and source of that of the texts. ``checked`` has sentences on
    leaks, ``measures`` how the profiles read, ``log`` a row for each step of the profiler's training.
    """

    inputs: Inputs
    store: ProfileStore | None = None
    encoder: tuple[str, str] | None = None
    checked: tuple[str, ...] = ()
    profiler: Profiler | None = None
    measures: dict[str, float] = field(default_factory=dict)
    log: tuple[dict[str, float], ...] = ()

    @classmethod
    def of(
        cls,
        dataset: Dataset,
        text: np.ndarray | None,
        sides: Mapping[ProfileKind, ProfileMatrix],
        encoder: TextEncoder | None,
        fusion: Fusion = "dual-mlp",
        joined: ProfileMatrix | None = None,
        **known: Any,
    ) -> "Features":
        """Return the features of item text ``(I, t)`` and of profiles by side, without interactions."""
        sizes = len(dataset.users), len(dataset.items)
        profiles = sides.get("user"), sides.get("item")
        inputs = Inputs(*sizes, Interactions.empty(), text, *profiles, fusion=fusion, joined=joined)
        return cls(inputs, encoder=(encoder.name, encoder.source) if encoder else None, **known)

    def __reduce__(self) -> tuple[Any, ...]:
        return Features, (self.inputs,)  # a worker needs no more

    @cached_property
    def definition(self) -> dict[str, Any]:
        """Hashes of the arrays that a model reads: the features' part of a trial's definition."""
        inputs = self.inputs.by(self.inputs.fusion) if self.inputs.fusion != "auto" else self.inputs
        names = ("item_text", "user_profiles", "item_profiles")
        hashes: dict[str, Any] = {name: _array_hash(getattr(inputs, name)) for name in names}
        if inputs.fusion == "auto":
            hashes["joined"] = _array_hash(inputs.joined)
        return hashes if inputs.fusion == "dual-mlp" else hashes | {"fusion": inputs.fusion}

    @property
    def sides(self) -> dict[ProfileKind, ProfileMatrix]:
        """The profiles by side; items whose profiles only join their texts have the vectors of these."""
        inputs = self.inputs
        items = inputs.joined if inputs.item_profiles is None else inputs.item_profiles
        sides: dict[ProfileKind, Any] = {"user": inputs.user_profiles, "item": items}
        return {kind: matrix for kind, matrix in sides.items() if matrix is not None}

    @property
    def coverage(self) -> dict[ProfileKind, tuple[int, int]]:
        """For each side, the number of users (or items) with a profile, and of all."""
        return {kind: (int(matrix.present.sum()), len(matrix)) for kind, matrix in self.sides.items()}

    @property
    def writer(self) -> str | None:
        return self.store.info.writer if self.store else None

    def make(self) -> "Features":
        """Return itself: there is nothing to tune."""
        return self

    def with_control(
        self, control: Control | None, joined: ProfileMatrix | None, view: TrainingView, *sources: Any
    ) -> "Features":
        """Return the features with a control's vectors, and the items' texts ``joined`` with its texts.

        ``sources`` are as in :func:`~.row_profiles.controlled`.
        """
        if control is None:
            return self
        encoded = {"user": self.inputs.user_profiles, "item": self.inputs.item_profiles}
        sides: Any = {kind: matrix for kind, matrix in encoded.items() if matrix is not None}
        controls = row_profiles.controlled(control, sides, view, *sources)
        arrays: dict[str, Any] = {f"{kind}_profiles": matrix for kind, matrix in controls.items()}
        return replace(self, inputs=replace(self.inputs, **arrays, joined=joined), measures={})


def _array_hash(values: np.ndarray | ProfileMatrix | None) -> str | None:
    if values is None:
        return None
    digest = hashlib.sha256()
    for array in (values.vectors, values.present) if isinstance(values, ProfileMatrix) else (values,):
        digest.update(f"{array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()[:20]


def nobody_described(dataset: Dataset, store: ProfileStore) -> NotFound:
    """Return the error that there is nothing to augment with."""
    message = f"profile store {store.folder} has no profile of any user or item of data set {dataset.name!r}"
    remedy = f"reclm profile --dataset {dataset.name}"
    return NotFound(f"{message}; write some: {remedy}", value=dataset.name, where=store.folder, remedy=remedy)


def keywords_options(options: ProfileOptions, limit: int | None = None) -> ProfileOptions:
    """Return the options of the keywords profiler for a row with other ``options``."""
    return ProfileOptions(profiler="keywords", kinds=options.kinds, limit=limit)


@dataclass(frozen=True, eq=False)
class TunedFeatures:
    """Features by a profiler that the trial tunes in the process that runs it.

    ``training`` is all that the tuning depends on, in canonical form. ``words`` is the folder of the profiles where
    training does not change their words, or None.
    """

    dataset: Dataset
    plan: Plan
    seed: int
    shared: Shared
    training: Mapping[str, Any]
    workspace: Workspace
    words: Path | None
    with_text: bool
    progress: bool

    @property
    def options(self) -> ProfileOptions:
        assert self.plan.profiles is not None
        return self.plan.profiles

    @cached_property
    def training_key(self) -> str:
        """Hash of all that defines the training: rows of equal training share it."""
        parts = {
            "encoder": self.shared.encoder.name,
            "profiler": self.options.profiler,
            "training": self.training,
        }
        toolkit = version("reclm-toolkit")
        return key_of({"toolkit": toolkit, "dataset": self.dataset.fingerprint, **parts})

    @cached_property
    def definition(self) -> dict[str, Any]:
        told = {"kinds", "limit", "control"} | ({"fusion"} if self.options.fusion != "dual-mlp" else set())
        profiles = self.options.model_dump(mode="json", include=told)
        return {"training": self.training_key, "item_text": self.with_text, "profiles": profiles}

    @property
    def folder(self) -> Path:
        return self.workspace.trials() / TUNED / self.training_key

    def make(self) -> Features:
        """Tune what is not tuned yet, write the profiles, and embed all; controls are made of the latest in memory."""
        options = self.options.model_dump(mode="json", exclude={"control"})
        key = key_of({**self.definition, "profiles": options, "folder": str(self.folder)})
        features = self.shared.tuned(key, self._uncontrolled)
        encoder = (features.profiler and features.profiler.encoder) or self.shared.encoder

        def item_text() -> np.ndarray:
            text = features.inputs.item_text
            return self._item_text(encoder) if text is None else text

        def keywords(kind: ProfileKind) -> ProfileMatrix:
            return self._matrix(self._words(), kind, encoder)

        control, joined = self.options.control, features.inputs.joined
        if control and joined is not None and features.store:
            joined = self._joined(features.store, encoder, control)
        return features.with_control(control, joined, self.dataset.view(), item_text, keywords)

    def _uncontrolled(self) -> Features:
        dataset, progress = self.dataset, self.progress and multiprocessing.parent_process() is None
        encoder = self.shared.encoder
        profiler = row_profiles.row_profiler(self.options, self.seed, self.folder, encoder)
        profiler.progress = progress
        profiler.fit(dataset.view())
        folder, rows = self.words or self.folder / "profiles", rows_to_describe(dataset, self.plan.backbone)
        store = row_profiles.write_row_profiles(profiler, dataset, folder, self.options, rows, progress)
        checked = tuple(leaks.check(dataset, store, profiler))
        encoder = profiler.encoder or encoder
        kinds, fusion = self.options.kinds, self.options.fusion
        encoded = [kind for kind in kinds if (kind, fusion) != ("item", "text")]
        sides: dict[ProfileKind, ProfileMatrix] = {
            kind: self._matrix(store, kind, encoder) for kind in encoded
        }
        joins = self.with_text and joins_text(fusion, kinds)
        joined = self._joined(store, encoder) if joins else None
        if not any(matrix.present.any() for matrix in (*sides.values(), *filter(None, [joined]))):
            raise nobody_described(dataset, store)
        text = self._item_text(encoder) if self.with_text and fusion != "text" else None
        texts = list(store.texts("user").values()) if "user" in kinds else []
        truncated = {"truncated": encoder.truncated(texts)}
        measures = row_profiles.measures_of(profiler, dataset, store) | truncated
        known = {"store": store, "checked": checked, "profiler": profiler, "measures": measures}
        known |= {"fusion": fusion, "joined": joined, "log": tuple(profiler.log())}
        return Features.of(dataset, text, sides, encoder, **known)

    def _matrix(self, store: ProfileStore, kind: ProfileKind, encoder: TextEncoder) -> ProfileMatrix:
        return ProfileMatrix.of_texts(store.texts(kind), encoder, self.dataset.view().idmap(kind))

    def _words(self) -> ProfileStore:
        profiler = row_profiles.row_profiler(keywords_options(self.options))
        return ProfileStore.read(row_profiles.profile_folder(profiler, self.dataset, self.workspace))

    def _joined(
        self, store: ProfileStore, encoder: TextEncoder, control: Control | None = None
    ) -> ProfileMatrix | None:
        """Return the items' texts joined with their profiles, or a control's texts; None where it has none."""
        view = self.dataset.view()
        texts = row_profiles.controlled_texts(control, store.row_texts("item", view.items), view, self._words)
        if texts is None:
            return None
        vectors = _encoded(encoder, joined_texts(view, texts))
        return ProfileMatrix(vectors, np.array([bool(text) for text in texts], bool))

    def _item_text(self, encoder: TextEncoder) -> np.ndarray:
        if encoder.name == self.shared.encoder.name:
            return item_text_features(self.dataset.view(), encoder, self.workspace, False)
        return _encoded(encoder, item_texts(self.dataset.item_text, self.dataset.text_template))


def _encoded(encoder: TextEncoder, texts: list[str]) -> np.ndarray:
    """Return the vectors ``(n, t)`` of texts, all encoded anew; zero where a text is empty."""
    vectors = encoder.encode(texts)
    vectors[[not text for text in texts]] = 0
    return vectors
