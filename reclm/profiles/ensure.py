"""Open a profiler and its store, and write what is missing: what ``reclm profile`` and ``reclm bench`` share."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reclm import plugins
from reclm.data.dataset import ProfileKind, TrainingView
from reclm.errors import BadInput
from reclm.folders import Workspace
from reclm.profiles.estimate import KindEstimate, dry_run
from reclm.profiles.profile import Profiler
from reclm.profiles.store import KINDS, ProfileStore
from reclm.profiles.write import ProfileRun, make_profiles
from reclm.text.encoder import TextEncoder


@dataclass(frozen=True)
class ProfilerChoice:
    """Which profiler, and what it works with.

    Attributes:
        name: a plug-in.
        settings: values of its config.
        model, engine: the language model and what runs it, for profilers that need one (see
            :func:`reclm.llm.models.load_generator`).
        adapter: the folder of what was tuned for it, for profilers that are.
    """

    name: str = "zero-shot"
    settings: Mapping[str, Any] | None = None
    model: str | None = None
    engine: str | None = None
    adapter: Path | None = None


def open_profiler(
    name: str = "zero-shot",
    settings: Mapping[str, Any] | None = None,
    model: str | None = None,
    engine: str | None = None,
    adapter: Path | None = None,
) -> tuple[Profiler, str]:
    """The profiler called ``name``, and what its profiles are filed under: its name and its model's.

    Args:
        settings, model, engine, adapter: as in :class:`ProfilerChoice`. The model is found, but not loaded before
            its first prompt.

    Raises:
        ReclmError: for an unknown profiler, setting or model, and for an adapter where nothing is tuned.
    """
    cls = plugins.get("profiler", name)
    if adapter:
        opened: Profiler = cls.open(adapter, settings, model, engine)
        return opened, opened.writer
    config = cls.Config.build(dict(settings or {}), where=f"profiler {name}")
    opened = cls(config, model=model, engine=engine)
    return opened, f"{name}-{opened.generator.model}" if cls.needs_model else name


def open_written(
    view: TrainingView, workspace: Workspace, profiler: ProfilerChoice
) -> tuple[Profiler, str, ProfileStore | None]:
    """The profiler, not fitted, what its profiles are filed under, and their store where there is one.

    Raises:
        ReclmError: as :func:`open_profiler`, and for a store that was written for other data.
    """
    opened, writer = open_profiler(**vars(profiler))
    folder = workspace.store(view.name, writer)
    there = ProfileStore.at(folder)
    return opened, writer, ProfileStore.open(folder, view.fingerprint, writer) if there else None


def ensure_profiles(
    view: TrainingView,
    workspace: Workspace,
    profiler: ProfilerChoice,
    kinds: Sequence[ProfileKind] = KINDS,
    limit: int | None = None,
    store_path: Path | None = None,
    fresh: bool = False,
    progress: bool = True,
    prompts: int | None = None,
    carry_over: bool = False,
) -> tuple[ProfileStore, ProfileRun]:
    """Open profiler and store, and write the profiles that are missing.

    Args:
        profiler: opened by :func:`open_profiler`.
        kinds, limit, progress, prompts: as in :func:`~reclm.profiles.write.make_profiles`.
        store_path: the store's folder; by default the workspace's for this data set, profiler and model.
        fresh, carry_over: what becomes of a store that is there, as in :meth:`~reclm.profiles.store.ProfileStore.open`.

    Returns:
        The store, closed to writing and open to reading, and what was done.

    Raises:
        ReclmError: for an unknown profiler, setting or model, or a store that was written for other data.
    """
    opened, writer, folder = _open(view, workspace, profiler, store_path)
    fitted = opened.fit(view)
    with ProfileStore.open(
        folder, view.fingerprint, writer, view.name, fresh=fresh, carry_over=carry_over
    ) as store:
        return store, make_profiles(view, fitted, store, kinds, limit, progress, prompts)


def estimate_profiles(
    view: TrainingView,
    workspace: Workspace,
    profiler: ProfilerChoice,
    kinds: Sequence[ProfileKind] = KINDS,
    limit: int | None = None,
    store_path: Path | None = None,
    fresh: bool = False,
    encoder: TextEncoder | None = None,
    prompts: int | None = None,
    carry_over: bool = False,
) -> list[KindEstimate]:
    """What :func:`ensure_profiles` would do with these arguments; nothing is stored.

    Args:
        encoder: gives an estimate of the time to embed, too.
    """
    opened, writer, folder = _open(view, workspace, profiler, store_path)
    store = None
    if ProfileStore.at(folder) and not fresh:
        # only looked into: what it holds of an earlier state of the data counts as stored where prompts are equal
        store = ProfileStore.read(folder)
        if not (carry_over and store.info.writer == writer):
            store = ProfileStore.open(folder, view.fingerprint, writer)
    return dry_run(view, opened.fit(view), store, kinds, limit, encoder=encoder, prompts=prompts)


def _open(
    view: TrainingView, workspace: Workspace, choice: ProfilerChoice, store_path: Path | None
) -> tuple[Profiler, str, Path]:
    """The profiler, the name and the folder its profiles are filed under.

    Raises:
        ReclmError: also for a data set that gives a profiler nothing to read.
    """
    if not view.item_text.num_columns and view.train.review is None:
        raise BadInput(
            f"data set {view.name!r} has no item text: there is nothing to write profiles from; "
            "bench it without --augment"
        )
    profiler, writer = open_profiler(**vars(choice))
    return profiler, writer, store_path or workspace.store(view.name, writer)
