"""Features of rows: item text and profiles, embedded once however many rows and seeds share them."""

import hashlib
import json
import multiprocessing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from reclm import plugins
from reclm.benchmarks import leaks
from reclm.benchmarks.controls import controlled
from reclm.benchmarks.trial import Plan, ProfileOptions
from reclm.config import merged
from reclm.data.dataset import Dataset, Interactions, ProfileKind
from reclm.errors import NotFound
from reclm.folders import Workspace, current
from reclm.profiles.matrix import ProfileMatrix, item_text_features, profile_matrix
from reclm.profiles.profile import Profiler
from reclm.profiles.store import ProfileStore
from reclm.profiles.write import make_profiles
from reclm.recommend.base import Inputs
from reclm.text.item_text import item_texts

if TYPE_CHECKING:
    from reclm.text.encoder import TextEncoder

FIRST_LOOK = 300
"""Users, and items, that a bench writes profiles of unless told otherwise: minutes on two CPU cores, not hours."""

LATEST = 8
"""Tuned features that a process keeps in memory: the controls of a row are made of them."""


@dataclass(frozen=True, eq=False)
class Features:
    """Features of one row.

    Attributes:
        inputs: their ``train`` is empty: training sets it.
        store: of its profiles.
        encoder: name and source of the encoder of its texts.
        coverage: how many of a side have a profile, of how many.
        checked: sentences on what was checked for leaks of the test part.
        profiler: writer of the profiles, where it is known.
        measures: how the profiles read, by name.
        log: what the profiler's training logged, a row a step.
    """

    inputs: Inputs
    store: ProfileStore | None = None
    encoder: tuple[str, str] | None = None
    coverage: dict[ProfileKind, tuple[int, int]] = field(default_factory=dict)
    checked: tuple[str, ...] = ()
    profiler: Profiler | None = None
    measures: dict[str, float] = field(default_factory=dict)
    log: tuple[dict[str, float], ...] = ()

    def __reduce__(self) -> tuple[Any, ...]:
        return Features, (self.inputs,)  # a worker needs no more

    @cached_property
    def definition(self) -> dict[str, Any]:
        """Hashes of all arrays."""
        inputs = self.inputs
        return {
            "item_text": None if inputs.item_text is None else _array_hash(inputs.item_text),
            "user_profiles": _matrix_hash(inputs.user_profiles),
            "item_profiles": _matrix_hash(inputs.item_profiles),
        }


def _matrix_hash(profiles: ProfileMatrix | None) -> str | None:
    return None if profiles is None else _array_hash(profiles.vectors, profiles.present)


def _array_hash(*arrays: np.ndarray) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()[:20]


def key_of(definition: Mapping[str, Any]) -> str:
    """Return the hash of a definition, 20 hex digits."""
    return hashlib.sha256(json.dumps(definition, sort_keys=True).encode()).hexdigest()[:20]


def open_row_profiler(options: ProfileOptions) -> Profiler:
    """Return the profiler of a row as it is: tuned before (``adapter``), or not tuned.

    Raises:
        NotFound: for an unknown profiler, model or adapter.
        BadInput: for a setting, model or engine that does not fit.
    """
    cls = plugins.get("profiler", options.profiler)
    if options.adapter:
        return cls.open(options.adapter, options.settings, options.model, options.engine)
    config = cls.Config.build(dict(options.settings), where=f"profiler {options.profiler}")
    return cls(config, model=options.model, engine=options.engine)


def described(dataset: Dataset, backbone: str) -> dict[ProfileKind, np.ndarray] | None:
    """Return the users that need a profile: of sessions, only held-out ones are ranked for without training."""
    if dataset.sessions is None or getattr(
        plugins.get("backbone", backbone), "trains", backbone != "similarity"
    ):
        return None
    return {"user": np.union1d(dataset.valid.user_idx, dataset.test.user_idx)}


def profile_folder(profiler: Profiler, dataset: Dataset, workspace: Workspace) -> Path:
    """Return the folder of the profiles of a profiler; those of sessions are apart by data and by wording."""
    view = dataset.view()
    if dataset.sessions is None:
        return workspace.store(view.name, profiler.writer)
    mark = key_of({"data": view.fingerprint, "wording": profiler.wording(view)})[:12]
    return workspace.store(view.name, f"{mark}-{profiler.writer}")


def write_profiles(
    profiler: Profiler, dataset: Dataset, folder: Path, options: ProfileOptions, backbone: str, progress: bool
) -> ProfileStore:
    """Write the missing profiles of a row into ``folder``; the profiler is fitted.

    Raises:
        NotFound: for a data set that gives a profiler nothing to read.
    """
    view = dataset.view()
    if not view.item_text.num_columns and view.train.review is None:
        raise NotFound(
            f"data set {view.name!r} has no item text: there is nothing to write profiles from; "
            "bench it without --augment"
        )
    rows, limit = described(dataset, backbone), options.limit
    if limit is None and rows is None and plugins.get("profiler", options.profiler).needs_model:
        limit = FIRST_LOOK
    with ProfileStore.open(folder, view.fingerprint, profiler.writer, view.name) as store:
        make_profiles(view, profiler, store, options.kinds, limit or None, progress, rows=rows)
    return store


def _encoder(name: str | None) -> "TextEncoder":
    from reclm.text.encoder import TextEncoder  # slow to import, and not needed where items are IDs

    return _loaded(TextEncoder, name)


@lru_cache(maxsize=4)
def _loaded(cls: "type[TextEncoder]", name: str | None) -> "TextEncoder":
    return cls(name)


class FeatureMaker:
    """Makes the features of rows on one data set, each part once.

    Args:
        encoder: as in :class:`~reclm.benchmarks.suite.Suite`.
        progress: show progress bars.
    """

    def __init__(self, dataset: Dataset, encoder: str | None, progress: bool) -> None:
        self.dataset, self.encoder_name, self.progress = dataset, encoder, progress
        self.view, self.workspace = dataset.view(), current()
        self._parts: dict[str, Any] = {}

    def of(self, plan: Plan, seed: int = 0) -> "Features | TunedFeatures":
        """Return the features of a row, or how a trial makes them where it tunes a profiler.

        Raises:
            NotFound: for a backbone that needs item text or profiles where there are none.
            Leak: for profiles that tell of the test part.
        """
        options = plan.profiles
        with_text = self._check(plan)
        if options is not None and (training := self.training(options, seed)):
            return self._tuned(plan, options, seed, training, with_text)
        profiler = store = None
        sides: dict[ProfileKind, ProfileMatrix] = {}
        checked = self._once("splits", lambda: tuple(leaks.check(self.dataset)))
        measures: dict[str, float] = {}
        encoder: TextEncoder | None = None
        if options is not None:
            store, profiler, checked, measures = self._store(options, plan.backbone)
            encoder = self._encoder_of(profiler)
            sides = self._profiles(options, plan.backbone)
        elif with_text:
            encoder = self._encoder_of(None)
        text = self._text(encoder) if with_text and encoder else None
        inputs = inputs_of(self.dataset, text, sides)
        return Features(
            inputs,
            store,
            (encoder.name, encoder.source) if encoder else None,
            {kind: (int(matrix.present.sum()), len(matrix)) for kind, matrix in sides.items()},
            checked,
            profiler,
            {} if options is None or options.control else measures,
        )

    def training(self, options: ProfileOptions, seed: int) -> dict[str, Any] | None:
        """Return what a trial tunes, in canonical form; None where it tunes nothing."""
        cls = plugins.get("profiler", options.profiler)
        if options.adapter or options.store or not options.tune or not cls.tunable:
            return None
        return tunable(options, seed).training(self.view)

    def _check(self, plan: Plan) -> bool:
        """Return whether the row needs item text."""
        backbone = plugins.get("backbone", plan.backbone)
        config = backbone.Config.build(dict(plan.model))
        backbone.check_profiles(plan.profiles.kinds if plan.profiles else (), plan.backbone)
        if not backbone.reads_text(config):
            return False
        if not self.dataset.item_text.num_columns:
            raise NotFound(
                f"data set {self.dataset.name!r} has no item text, which backbone {plan.backbone} needs; "
                "give it items: id (--set items=id), if it has that option",
                value=self.dataset.name,
                where="item_text",
                remedy="--set items=id",
            )
        return True

    def _tuned(
        self, plan: Plan, options: ProfileOptions, seed: int, training: Mapping[str, Any], with_text: bool
    ) -> "TunedFeatures":
        if with_text:  # workers find it in the workspace
            self._text(self._encoder_of(None))
        if options.control == "keywords":
            self._store(_keywords(options), plan.backbone)
        profiler = tunable(options, seed)
        folder = None
        if profiler.wording(self.view) is not None:  # no training changes its words
            folder = profile_folder(profiler, self.dataset, self.workspace)
            plain = options.model_copy(update={"control": None})
            key = f"words {folder} {described(self.dataset, plan.backbone) is None}"
            self._once(
                key,
                lambda: write_profiles(
                    profiler.fit(self.view), self.dataset, folder, plain, plan.backbone, self.progress
                ),
            )
        return TunedFeatures(
            self.dataset,
            plan,
            seed,
            self.encoder_name,
            _encoder(self.encoder_name).name,
            training,
            self.workspace,
            folder,
            with_text,
            self.progress,
        )

    def _once(self, key: str, make: Callable[[], Any]) -> Any:
        if key not in self._parts:
            self._parts[key] = make()
        return self._parts[key]

    def _encoder_of(self, profiler: Profiler | None) -> "TextEncoder":
        """Return the encoder of a tuned profiler, else that of the experiment."""
        return (profiler and profiler.encoder) or _encoder(self.encoder_name)

    def _text(self, encoder: "TextEncoder") -> np.ndarray:
        return self._once(
            f"text {encoder.name}",
            lambda: item_text_features(self.view, encoder, self.workspace, self.progress),
        )

    def _store(
        self, options: ProfileOptions, backbone: str
    ) -> tuple[ProfileStore, Profiler | None, tuple[str, ...], dict[str, float]]:
        plain = options.model_copy(update={"control": None})
        few = described(self.dataset, backbone) is not None
        return self._once(f"store {few} {plain.model_dump_json()}", lambda: self._opened(plain, backbone))

    def _opened(
        self, options: ProfileOptions, backbone: str
    ) -> tuple[ProfileStore, Profiler | None, tuple[str, ...], dict[str, float]]:
        """Return the store with everything written, its profiler, what was checked, and how the profiles read."""
        if options.store:
            writer = ProfileStore.read(options.store).info.writer
            store = ProfileStore.open(options.store, self.view.fingerprint, writer)
            return store, None, tuple(leaks.check(self.dataset, store)), {}
        profiler = open_row_profiler(options).fit(self.view)
        folder = profile_folder(profiler, self.dataset, self.workspace)
        store = write_profiles(profiler, self.dataset, folder, options, backbone, self.progress)
        checked = tuple(leaks.check(self.dataset, store, profiler))
        return store, profiler, checked, measured(profiler, self.dataset, store)

    def _profiles(self, options: ProfileOptions, backbone: str) -> dict[ProfileKind, ProfileMatrix]:
        few = described(self.dataset, backbone) is not None
        return self._once(
            f"profiles {few} {options.model_dump_json()}", lambda: self._embedded(options, backbone)
        )

    def _embedded(self, options: ProfileOptions, backbone: str) -> dict[ProfileKind, ProfileMatrix]:
        store, profiler, *_ = self._store(options, backbone)
        encoder = self._encoder_of(profiler)
        if options.control is None:
            return {
                kind: profile_matrix(store, encoder, kind, self.view.idmap(kind), self.progress)
                for kind in options.kinds
            }
        own = self._profiles(options.model_copy(update={"control": None}), backbone)
        text = None
        if options.control == "text" and self.dataset.item_text.num_columns:
            text = self._text(encoder)
        words: dict[ProfileKind, ProfileMatrix] = {}
        if options.control == "keywords":
            keywords = self._store(_keywords(options), backbone)[0]
            words = {
                kind: profile_matrix(keywords, encoder, kind, self.view.idmap(kind), self.progress)
                for kind in options.kinds
            }
        return {
            kind: controlled(options.control, kind, matrix, self.view, text, words.get(kind))
            for kind, matrix in own.items()
        }


@dataclass(frozen=True, eq=False)
class TunedFeatures:
    """Features by a profiler that the trial tunes, in the process that runs it.

    Attributes:
        dataset, plan, seed: of the trial.
        encoder: of the experiment, by the name that loads it; ``encoder_name`` names its weights, too.
        training: what is tuned, in canonical form.
        workspace: holds the folder of the training, named by the hash of all that defines it.
        words: folder of profiles whose words no training changes; None where it does.
        with_text: the row needs item text.
        progress: show bars, in the main process.
    """

    dataset: Dataset
    plan: Plan
    seed: int
    encoder: str | None
    encoder_name: str
    training: Mapping[str, Any]
    workspace: Workspace
    words: Path | None
    with_text: bool
    progress: bool

    @property
    def options(self) -> ProfileOptions:
        """The row's profiles."""
        assert self.plan.profiles is not None
        return self.plan.profiles

    @cached_property
    def training_key(self) -> str:
        """Hash of all that defines the training: rows of equal training share it."""
        return key_of(
            {
                "toolkit": version("reclm-toolkit"),
                "dataset": self.dataset.fingerprint,
                "encoder": self.encoder_name,
                "profiler": self.options.profiler,
                "training": self.training,
            }
        )

    @cached_property
    def definition(self) -> dict[str, Any]:
        """All that the features depend on."""
        options = self.options
        return {
            "training": self.training_key,
            "item_text": self.with_text,
            "profiles": options.model_dump(mode="json", include={"kinds", "limit", "control"}),
        }

    @property
    def folder(self) -> Path:
        """The folder of the training."""
        return self.workspace.cells() / "tuned" / self.training_key

    def make(self) -> Features:
        """Tune what is not tuned yet, write the profiles, and embed all with the profiler's encoder."""
        own = self._own()
        if self.options.control is None:
            return own
        view, encoder, text = self.dataset.view(), self._encoder(own), own.inputs.item_text
        words: dict[ProfileKind, ProfileMatrix] = {}
        if self.options.control == "keywords":
            profiler = open_row_profiler(_keywords(self.options))
            store = ProfileStore.read(profile_folder(profiler, self.dataset, self.workspace))
            words = {kind: self._matrix(store, kind, encoder) for kind in self.options.kinds}
        elif self.options.control == "text" and text is None:
            text = self._item_text(encoder)
        sides = {
            kind: controlled(self.options.control, kind, matrix, view, text, words.get(kind))
            for kind, matrix in (("user", own.inputs.user_profiles), ("item", own.inputs.item_profiles))
            if matrix is not None
        }
        return Features(
            inputs_of(self.dataset, own.inputs.item_text, sides),
            own.store,
            own.encoder,
            {kind: (int(matrix.present.sum()), len(matrix)) for kind, matrix in sides.items()},
            own.checked,
            own.profiler,
            log=own.log,
        )

    def _own(self) -> Features:
        """Return the features with the profiles themselves: of the latest trainings they are at hand."""
        key = key_of(
            {
                **self.definition,
                "profiles": self.options.model_dump(mode="json", exclude={"control"}),
                "folder": str(self.folder),
            }
        )
        if key not in _LATEST:
            while len(_LATEST) >= LATEST:
                _LATEST.pop(next(iter(_LATEST)))
            _LATEST[key] = self._made()
        return _LATEST[key]

    def _made(self) -> Features:
        view, progress = self.dataset.view(), self.progress and multiprocessing.parent_process() is None
        profiler = tunable(self.options, self.seed, self.folder, _encoder(self.encoder))
        profiler.progress = progress
        profiler.fit(view)
        folder = self.words or self.folder / "profiles"
        plain = self.options.model_copy(update={"control": None})
        store = write_profiles(profiler, self.dataset, folder, plain, self.plan.backbone, progress)
        checked = tuple(leaks.check(self.dataset, store, profiler))
        encoder = profiler.encoder or _encoder(self.encoder)
        sides = {kind: self._matrix(store, kind, encoder) for kind in plain.kinds}
        text = self._item_text(encoder) if self.with_text else None
        texts = list(store.texts("user").values()) if "user" in plain.kinds else []
        return Features(
            inputs_of(self.dataset, text, sides),
            store,
            (encoder.name, encoder.source),
            {kind: (int(matrix.present.sum()), len(matrix)) for kind, matrix in sides.items()},
            checked,
            profiler,
            measured(profiler, self.dataset, store) | {"truncated": encoder.truncated(texts)},
            tuple(profiler.log()),
        )

    def _encoder(self, own: Features) -> "TextEncoder":
        return (own.profiler and own.profiler.encoder) or _encoder(self.encoder)

    def _matrix(self, store: ProfileStore, kind: ProfileKind, encoder: "TextEncoder") -> ProfileMatrix:
        texts = store.texts(kind)
        vectors = encoder.encode(list(texts.values()))
        return ProfileMatrix.from_rows(list(texts), vectors, self.dataset.view().idmap(kind))

    def _item_text(self, encoder: "TextEncoder") -> np.ndarray:
        if encoder.name == self.encoder_name:
            return item_text_features(self.dataset.view(), encoder, self.workspace, False)
        texts = item_texts(self.dataset.item_text, self.dataset.text_template)
        vectors = encoder.encode(texts)
        vectors[[not text for text in texts]] = 0
        return vectors


_LATEST: dict[str, Features] = {}


def tunable(
    options: ProfileOptions, seed: int, folder: Path | None = None, encoder: "TextEncoder | None" = None
) -> Profiler:
    """Return the profiler of a row that is tuned in ``folder`` by the trial's seed, where it has one."""
    cls = plugins.get("profiler", options.profiler)
    settings = dict(options.settings)
    if "seed" in cls.Config.model_fields:
        settings = merged(settings, {"seed": seed})
    config = cls.Config.build(settings, where=f"profiler {options.profiler}")
    engine = None if folder else options.engine
    return cls(config, model=options.model, engine=engine, folder=folder, encoder=encoder)


def measured(profiler: Profiler, dataset: Dataset, store: ProfileStore) -> dict[str, float]:
    """Return how the stored user profiles read, where the profiler measures it."""
    ids = store.texts("user") if type(profiler).measures is not Profiler.measures else {}
    profiles = [profile for id in ids if (profile := store.get("user", id))]
    return profiler.measures(dataset.view(), profiles) if profiles else {}


def inputs_of(
    dataset: Dataset, text: np.ndarray | None, sides: Mapping[ProfileKind, ProfileMatrix]
) -> Inputs:
    """Return the inputs of a backbone without the training part."""
    users, items = len(dataset.users), len(dataset.items)
    return Inputs(users, items, Interactions.empty(), text, sides.get("user"), sides.get("item"))


def _keywords(options: ProfileOptions) -> ProfileOptions:
    return ProfileOptions(profiler="keywords", kinds=options.kinds)
