"""What the rows of a suite are built from: item text and profiles, each made once however many rows need it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from reclm import plugins
from reclm.benchmarks import leaks
from reclm.benchmarks.controls import controlled
from reclm.benchmarks.suite import Profiles
from reclm.benchmarks.trial import Plan
from reclm.data.dataset import Dataset, Interactions, ProfileKind
from reclm.errors import ReclmError
from reclm.folders import Workspace
from reclm.profiles.ensure import ProfilerChoice, ensure_profiles, open_profiler
from reclm.profiles.matrix import ProfileMatrix
from reclm.profiles.profile import Profiler
from reclm.profiles.store import ProfileStore
from reclm.recommend.base import Inputs

if TYPE_CHECKING:
    from reclm.text.encoder import TextEncoder

FIRST_LOOK = 300
"""Users, and items, that a bench writes profiles of unless told otherwise: minutes on two CPU cores, not hours."""


@dataclass(frozen=True, eq=False)
class Given:
    """What one row gets.

    Attributes:
        inputs: their ``train`` is empty: whoever trains sets it.
        store: of its profiles.
        encoder: name and source of what embedded its texts.
        coverage: how many of a side have a profile, of how many.
        checked: what was looked at for leaks of the test part, and found clean.
        profiler: what wrote the profiles, where that is known.
    """

    inputs: Inputs
    store: ProfileStore | None = None
    encoder: tuple[str, str] | None = None
    coverage: dict[ProfileKind, tuple[int, int]] = field(default_factory=dict)
    checked: tuple[str, ...] = ()
    profiler: Profiler | None = None


def open_profiles(
    profiles: Profiles, dataset: Dataset, workspace: Workspace
) -> tuple[ProfileStore, list[str], Profiler | None]:
    """The store, with everything written that was missing, what was checked for leaks, and what wrote it if known.

    Raises:
        ReclmError: if the profiles tell of the test part (:mod:`reclm.benchmarks.leaks`).
    """
    view = dataset.view()
    if profiles.store:
        writer = ProfileStore.read(profiles.store).info.writer
        store = ProfileStore.open(profiles.store, view.fingerprint, writer)
        return store, leaks.check(dataset, store), None
    choice = ProfilerChoice(
        profiles.profiler, profiles.settings, profiles.model, profiles.engine, profiles.adapter
    )
    limit = profiles.limit
    if limit is None:
        limit = FIRST_LOOK if plugins.get("profiler", profiles.profiler).needs_model else 0
    store, _ = ensure_profiles(view, workspace, choice, profiles.kinds, limit or None)
    profiler, _ = open_profiler(*vars(choice).values())
    profiler = profiler.fit(view)
    return store, leaks.check(dataset, store, profiler), profiler


class SuiteInputs:
    """Makes what rows need, and nothing that none does.

    Args:
        encoder: as in :class:`~reclm.benchmarks.suite.Suite`.
        progress: show progress bars.
    """

    def __init__(self, dataset: Dataset, workspace: Workspace, encoder: str | None, progress: bool) -> None:
        self.dataset, self.workspace, self.progress = dataset, workspace, progress
        self.encoder_name = encoder
        self.made: dict[str, Any] = {}

    def of(self, plan: Plan, profiles: Profiles | None) -> Given:
        """What a row's backbone is built from.

        Raises:
            ReclmError: for a backbone that needs item text or profiles where there are none, and for leaks.
        """
        backbone = plugins.get("backbone", plan.backbone)
        config = backbone.Config.build(dict(plan.model))
        backbone.check_profiles(profiles.kinds if profiles else (), plan.backbone)
        text = None
        if backbone.reads_text(config):
            if not self.dataset.item_text.num_columns:
                raise ReclmError(
                    f"data set {self.dataset.name!r} has no item text, which backbone {plan.backbone} needs; "
                    "give it items: id (--set items=id), if it has that option"
                )
            text = self._text()
        sides = {} if profiles is None else self._profiles(profiles)
        inputs = Inputs(
            len(self.dataset.users),
            len(self.dataset.items),
            Interactions.empty(),
            text,
            sides.get("user"),
            sides.get("item"),
        )
        splits = self._once("splits", lambda: leaks.check(self.dataset))
        if text is None and not sides:
            return Given(inputs, checked=tuple(splits))
        encoder = self._encoder()
        store, checked, profiler = (None, splits, None) if profiles is None else self._store(profiles)
        return Given(
            inputs,
            store,
            (encoder.name, encoder.source),
            {kind: (int(one.present.sum()), len(one)) for kind, one in sides.items()},
            tuple(checked),
            profiler,
        )

    def _once(self, key: str, make: Callable[[], Any]) -> Any:
        if key not in self.made:
            self.made[key] = make()
        return self.made[key]

    def _encoder(self) -> "TextEncoder":
        from reclm.text.encoder import TextEncoder  # slow to import, and not needed where items are IDs

        return self._once("encoder", lambda: TextEncoder(self.encoder_name))

    def _text(self) -> np.ndarray:
        from reclm.text.encoder import item_text_features

        return self._once(
            "text",
            lambda: item_text_features(self.dataset.view(), self._encoder(), self.workspace, self.progress),
        )

    def _store(self, profiles: Profiles) -> tuple[ProfileStore, list[str], Profiler | None]:
        plain = profiles.model_copy(update={"control": None})
        return self._once(
            f"store {plain.model_dump_json()}", lambda: open_profiles(plain, self.dataset, self.workspace)
        )

    def _profiles(self, profiles: Profiles) -> dict[ProfileKind, ProfileMatrix]:
        return self._once(profiles.model_dump_json(), lambda: self._made(profiles))

    def _made(self, profiles: Profiles) -> dict[ProfileKind, ProfileMatrix]:
        from reclm.profiles.embeddings import embed

        view = self.dataset.view()
        if profiles.control is None:
            store = self._store(profiles)[0]
            return {
                kind: ProfileMatrix(*embed(store, self._encoder(), kind, view.idmap(kind), self.progress))
                for kind in profiles.kinds
            }
        own = self._profiles(profiles.model_copy(update={"control": None}))
        text = self._text() if profiles.control == "text" and self.dataset.item_text.num_columns else None
        words: dict[ProfileKind, ProfileMatrix] = {}
        if profiles.control == "keywords":
            words = self._profiles(Profiles(profiler="keywords", kinds=profiles.kinds))
        return {
            kind: controlled(profiles.control, kind, one, view, text, words.get(kind))
            for kind, one in own.items()
        }
