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

from reclm import plugins
from reclm.benchmarks import leaks, row_profiles
from reclm.benchmarks.row_profiles import Rows, key_of, rows_to_describe
from reclm.benchmarks.trial import Control, Plan, ProfileOptions
from reclm.data.dataset import Dataset, Interactions, ProfileKind, TrainingView
from reclm.data.item_text import item_texts
from reclm.errors import NotFound
from reclm.folders import Workspace, current
from reclm.profiles.matrix import ProfileMatrix, item_text_features, profile_matrix
from reclm.profiles.profile import Profiler
from reclm.profiles.profiles import Profiles
from reclm.profiles.store import KINDS, ProfileStore
from reclm.profiles.write import reopen_profiler
from reclm.recommend.base import Inputs
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
        **known: Any,
    ) -> "Features":
        """Return the features of item text ``(I, t)`` and of profiles by side, without interactions."""
        sizes = len(dataset.users), len(dataset.items)
        inputs = Inputs(*sizes, Interactions.empty(), text, sides.get("user"), sides.get("item"))
        return cls(inputs, encoder=(encoder.name, encoder.source) if encoder else None, **known)

    def __reduce__(self) -> tuple[Any, ...]:
        return Features, (self.inputs,)  # a worker needs no more

    @cached_property
    def definition(self) -> dict[str, Any]:
        """Hashes of the arrays: the features' part of a trial's definition."""
        names = ("item_text", "user_profiles", "item_profiles")
        return {name: _array_hash(getattr(self.inputs, name)) for name in names}

    @property
    def sides(self) -> dict[ProfileKind, ProfileMatrix]:
        sides: dict[ProfileKind, Any] = {kind: getattr(self.inputs, f"{kind}_profiles") for kind in KINDS}
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

    def with_control(self, control: Control | None, view: TrainingView, *sources: Any) -> "Features":
        """Return the features with a control's vectors; ``sources`` as in :func:`~.row_profiles.controlled`."""
        if control is None:
            return self
        sides = row_profiles.controlled(control, self.sides, view, *sources)
        arrays: dict[str, Any] = {f"{kind}_profiles": matrix for kind, matrix in sides.items()}
        return replace(self, inputs=replace(self.inputs, **arrays), measures={})


def _array_hash(values: np.ndarray | ProfileMatrix | None) -> str | None:
    if values is None:
        return None
    digest = hashlib.sha256()
    for array in (values.vectors, values.present) if isinstance(values, ProfileMatrix) else (values,):
        digest.update(f"{array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()[:20]


Written = tuple[ProfileStore, Profiler | None, tuple[str, ...], dict[str, float]]
"""A complete store, its profiler, the sentences of the leak checks, and the measures of the profiles."""


class FeatureMaker:
    """Makes the features of rows on one data set, each part once."""

    def __init__(self, dataset: Dataset, shared: Shared, progress: bool) -> None:
        self.dataset, self.shared, self.progress = dataset, shared, progress
        self.view, self.workspace = dataset.view(), current()
        self._parts: dict[str, Any] = {}

    def of(self, plan: Plan, seed: int = 0) -> "Features | TunedFeatures":
        """Return the features of a row, or how a trial makes them where it tunes a profiler."""
        options, with_text = plan.profiles, self._needs_text(plan)
        if options is None:
            return self._once(f"plain {with_text}", lambda: self._plain(with_text))
        rows = rows_to_describe(self.dataset, plan.backbone)
        if training := self.training(options, seed):
            return self._tuned(plan, options, seed, training, with_text)
        key = f"{rows is None} {with_text} {options.model_dump_json()}"
        return self._once(key, lambda: self._augmented(options, rows, with_text))

    def training(self, options: ProfileOptions, seed: int) -> dict[str, Any] | None:
        """Return what a trial tunes, in canonical form; None where it tunes nothing."""
        cls = plugins.get("profiler", options.profiler)
        if options.adapter or options.store or not options.tune or not cls.tunable:
            return None
        return row_profiles.row_profiler(options, seed).training(self.view)

    def _needs_text(self, plan: Plan) -> bool:
        backbone = plugins.get("backbone", plan.backbone)
        backbone.check_profiles(plan.profiles.kinds if plan.profiles else (), plan.backbone)
        return backbone.needs_text(backbone.Config.build(dict(plan.model)), self.dataset, plan.backbone)

    def _plain(self, with_text: bool) -> Features:
        checked = tuple(leaks.check(self.dataset))
        encoder = self.shared.encoder if with_text else None
        return Features.of(self.dataset, encoder and self._text(encoder), {}, encoder, checked=checked)

    def _augmented(self, options: ProfileOptions, rows: Rows, with_text: bool) -> Features:
        store, profiler, checked, measures = self._store(options, rows)
        # the encoder that the experiment names comes before that of a store's profiler
        encoder = None if options.store and self.shared.name else profiler and profiler.encoder
        encoder = encoder or self.shared.encoder

        def matrices() -> dict[ProfileKind, ProfileMatrix]:
            profiles = Profiles.open(store.folder, self.view, encoder=encoder)
            edits = {(kind, id): text for kind, texts in options.edits.items() for id, text in texts.items()}
            edited = replace(profiles, edits=edits)
            return {kind: edited.matrix(kind, self.progress) for kind in options.kinds}

        def keywords(kind: ProfileKind) -> ProfileMatrix:
            covered = {kind: np.flatnonzero(matrix.present) for kind, matrix in sides.items()}
            words, *_ = self._once(f"keywords {key}", lambda: self._opened(_keywords(options), covered))
            return profile_matrix(words, encoder, kind, self.view.idmap(kind), self.progress)

        key = f"{rows is None} {options.model_copy(update={'control': None}).model_dump_json()}"
        sides = self._once(f"profiles {key}", matrices)
        if not any(matrix.present.any() for matrix in sides.values()):
            raise _nobody_described(self.dataset, store)
        text = self._text(encoder) if with_text else None
        known = {"store": store, "checked": checked, "profiler": profiler, "measures": measures}
        features = Features.of(self.dataset, text, sides, encoder, **known)
        return features.with_control(options.control, self.view, lambda: self._text(encoder), keywords)

    def _tuned(
        self, plan: Plan, options: ProfileOptions, seed: int, training: Mapping[str, Any], with_text: bool
    ) -> "TunedFeatures":
        rows = rows_to_describe(self.dataset, plan.backbone)
        if with_text:  # workers find it in the workspace
            self._text(self.shared.encoder)
        if options.control == "keywords":
            self._store(_keywords(options, row_profiles.limit_of(options, rows)), rows)
        profiler, words = row_profiles.row_profiler(options, seed), None
        if profiler.wording(self.view) is not None:  # no training changes its words
            words = row_profiles.profile_folder(profiler, self.dataset, self.workspace)
            target = (self.dataset, words, options, rows, self.progress)
            key = f"words {words} {rows is None}"
            self._once(key, lambda: row_profiles.write_row_profiles(profiler.fit(self.view), *target))
        about = {"training": training, "words": words, "with_text": with_text}
        shared = {"shared": self.shared, "workspace": self.workspace, "progress": self.progress}
        return TunedFeatures(self.dataset, plan, seed, **about, **shared)

    def _once(self, key: str, make: Callable[[], Any]) -> Any:
        if key not in self._parts:
            self._parts[key] = make()
        return self._parts[key]

    def _text(self, encoder: TextEncoder) -> np.ndarray:
        arguments = (self.view, encoder, self.workspace, self.progress)
        return self._once(f"text {encoder.name}", lambda: item_text_features(*arguments))

    def _store(self, options: ProfileOptions, rows: Rows) -> Written:
        plain = options.model_copy(update={"control": None, "edits": {}})
        key = f"store {rows is None} {plain.model_dump_json()}"
        return self._once(key, lambda: self._opened(plain, rows))

    def _opened(self, options: ProfileOptions, rows: Rows) -> Written:
        if options.store:
            writer = ProfileStore.read(options.store).info.writer
            store = ProfileStore.open(options.store, self.view.fingerprint, writer)
            profiler = reopen_profiler(store, self.view)
        else:
            profiler = row_profiles.row_profiler(options).fit(self.view)
            folder = row_profiles.profile_folder(profiler, self.dataset, self.workspace)
            target = (self.dataset, folder, options, rows, self.progress)
            store = row_profiles.write_row_profiles(profiler, *target)
            store.describe(profiler=options.opener)
        checked = tuple(leaks.check(self.dataset, store, profiler))
        measures = row_profiles.measures_of(profiler, self.dataset, store) if profiler else {}
        return store, profiler, checked, measures


def _nobody_described(dataset: Dataset, store: ProfileStore) -> NotFound:
    """Return the error that there is nothing to augment with."""
    message = f"profile store {store.folder} has no profile of any user or item of data set {dataset.name!r}"
    remedy = f"reclm profile --dataset {dataset.name}"
    return NotFound(f"{message}; write some: {remedy}", value=dataset.name, where=store.folder, remedy=remedy)


def _keywords(options: ProfileOptions, limit: int | None = None) -> ProfileOptions:
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
        profiles = self.options.model_dump(mode="json", include={"kinds", "limit", "control"})
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
            profiler = row_profiles.row_profiler(_keywords(self.options))
            store = ProfileStore.read(row_profiles.profile_folder(profiler, self.dataset, self.workspace))
            return self._matrix(store, kind, encoder)

        return features.with_control(self.options.control, self.dataset.view(), item_text, keywords)

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
        kinds = self.options.kinds
        sides: dict[ProfileKind, ProfileMatrix] = {kind: self._matrix(store, kind, encoder) for kind in kinds}
        if not any(matrix.present.any() for matrix in sides.values()):
            raise _nobody_described(dataset, store)
        text = self._item_text(encoder) if self.with_text else None
        texts = list(store.texts("user").values()) if "user" in kinds else []
        truncated = {"truncated": encoder.truncated(texts)}
        measures = row_profiles.measures_of(profiler, dataset, store) | truncated
        known = {"store": store, "checked": checked, "profiler": profiler, "measures": measures}
        return Features.of(dataset, text, sides, encoder, **known, log=tuple(profiler.log()))

    def _matrix(self, store: ProfileStore, kind: ProfileKind, encoder: TextEncoder) -> ProfileMatrix:
        return ProfileMatrix.of_texts(store.texts(kind), encoder, self.dataset.view().idmap(kind))

    def _item_text(self, encoder: TextEncoder) -> np.ndarray:
        if encoder.name == self.shared.encoder.name:
            return item_text_features(self.dataset.view(), encoder, self.workspace, False)
        texts = item_texts(self.dataset.item_text, self.dataset.text_template)
        vectors = encoder.encode(texts)
        vectors[[not text for text in texts]] = 0
        return vectors
