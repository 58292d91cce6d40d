"""Makes the features of rows, each part once."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from reclm import plugins
from reclm.benchmarks import leaks, row_profiles
from reclm.benchmarks.features import Features, Shared, TunedFeatures, keywords_options, nobody_described
from reclm.benchmarks.row_profiles import Rows, rows_to_describe
from reclm.benchmarks.trial import Control, Plan, ProfileOptions
from reclm.data.dataset import Dataset, ProfileKind
from reclm.folders import current
from reclm.profiles.matrix import (
    ProfileMatrix,
    item_text_features,
    joined_cache,
    joined_features,
    profile_matrix,
)
from reclm.profiles.profile import Profiler
from reclm.profiles.profiles import Profiles
from reclm.profiles.store import ProfileStore
from reclm.profiles.write import reopen_profiler
from reclm.recommend.base import joins_text
from reclm.text.encoder import TextEncoder

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
        backbone, options = plugins.get("backbone", plan.backbone), plan.profiles
        backbone.check_profiles(options.kinds if options else (), plan.backbone)
        config = backbone.Config.build(dict(plan.model))
        if options:
            backbone.check_fusion(options.fusion, config, options.kinds, plan.backbone)
        return backbone.needs_text(config, self.dataset, plan.backbone)

    def _plain(self, with_text: bool) -> Features:
        checked = tuple(leaks.check(self.dataset))
        encoder = self.shared.encoder if with_text else None
        return Features.of(self.dataset, encoder and self._text(encoder), {}, encoder, checked=checked)

    def _augmented(self, options: ProfileOptions, rows: Rows, with_text: bool) -> Features:
        store, profiler, checked, measures = self._store(options, rows)
        # the encoder that the experiment names comes before that of a store's profiler
        encoder = None if options.store and self.shared.name else profiler and profiler.encoder
        encoder = encoder or self.shared.encoder

        edits = {(kind, id): text for kind, texts in options.edits.items() for id, text in texts.items()}
        profiles = replace(Profiles.open(store.folder, self.view, encoder=encoder), edits=edits)
        joins = with_text and joins_text(options.fusion, options.kinds)
        encoded = [kind for kind in options.kinds if (kind, options.fusion) != ("item", "text")]

        def matrices() -> dict[ProfileKind, ProfileMatrix]:
            return {kind: profiles.matrix(kind, self.progress) for kind in encoded}

        def words() -> ProfileStore:
            about = keywords_options(options), described
            return self._once(f"keywords {key}", lambda: self._opened(*about))[0]

        def keywords(kind: ProfileKind) -> ProfileMatrix:
            return profile_matrix(words(), encoder, kind, self.view.idmap(kind), self.progress)

        def joined(control: Control | None) -> ProfileMatrix | None:
            target = joined_cache(store.folder, control), encoder, self.workspace, self.progress
            texts = row_profiles.controlled_texts(control, profiles.row_texts("item"), self.view, words)
            return None if texts is None else joined_features(self.view, texts, *target)

        key = f"{rows is None} {options.model_copy(update={'control': None}).model_dump_json()}"
        sides = self._once(f"profiles {key}", matrices)
        together = self._once(f"joined {key}", lambda: joined(None)) if joins else None
        text = self._text(encoder) if with_text and options.fusion != "text" else None
        known = {"store": store, "checked": checked, "profiler": profiler, "measures": measures}
        known |= {"fusion": options.fusion, "joined": together}
        features = Features.of(self.dataset, text, sides, encoder, **known)
        described = {kind: np.flatnonzero(matrix.present) for kind, matrix in features.sides.items()}
        if not any(map(len, described.values())):
            raise nobody_described(self.dataset, store)
        together = joined(options.control) if joins and options.control else together
        return features.with_control(
            options.control, together, self.view, lambda: self._text(encoder), keywords
        )

    def _tuned(
        self, plan: Plan, options: ProfileOptions, seed: int, training: Mapping[str, Any], with_text: bool
    ) -> "TunedFeatures":
        rows = rows_to_describe(self.dataset, plan.backbone)
        if with_text:  # workers find it in the workspace
            self._text(self.shared.encoder)
        if options.control == "keywords":
            self._store(keywords_options(options, row_profiles.limit_of(options, rows)), rows)
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
