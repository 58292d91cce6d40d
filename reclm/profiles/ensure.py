"""The names of version 0.1 for :mod:`reclm.profiles.write`, for callers that are not moved yet."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reclm.data.dataset import ProfileKind, TrainingView
from reclm.folders import Workspace
from reclm.profiles import write
from reclm.profiles.estimate import KindEstimate, dry_run
from reclm.profiles.profile import Profiler
from reclm.profiles.run import ProfileRun, make_profiles
from reclm.profiles.store import KINDS, ProfileStore
from reclm.profiles.write import _Job
from reclm.text.encoder import TextEncoder


@dataclass(frozen=True)
class ProfilerChoice:
    """The arguments of :func:`~reclm.profiles.write.open_profiler`."""

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
    """Call :func:`reclm.profiles.write.open_profiler`."""
    return write.open_profiler(name, settings, model, engine, adapter)


def open_written(
    view: TrainingView, workspace: Workspace, profiler: ProfilerChoice
) -> tuple[Profiler, str, ProfileStore | None]:
    """Return the profiler, not fitted, its writer's name, and their store where there is one."""
    opened, writer = open_profiler(*vars(profiler).values())
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
    """Write the missing profiles; return the store and the counts."""
    job = _prepare(view, workspace, profiler, store_path)
    fitted = job.profiler.fit(view)
    with ProfileStore.open(
        job.folder, view.fingerprint, job.writer, view.name, fresh=fresh, carry_over=carry_over
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
    """Estimate what :func:`ensure_profiles` would do."""
    job = _prepare(view, workspace, profiler, store_path)
    store = None
    if ProfileStore.at(job.folder) and not fresh:
        store = ProfileStore.read(job.folder)
        if not (carry_over and store.info.writer == job.writer):
            store = ProfileStore.open(job.folder, view.fingerprint, job.writer)
    return dry_run(view, job.profiler.fit(view), store, kinds, limit, encoder=encoder, prompts=prompts)


def _prepare(view: TrainingView, workspace: Workspace, choice: ProfilerChoice, store: Path | None) -> _Job:
    return _Job.prepare(
        view,
        choice.name,
        choice.model,
        choice.engine,
        KINDS,
        None,
        None,
        store,
        dict(choice.settings or {}),
        adapter=choice.adapter,
        workspace=workspace,
    )
