"""Write profiles, estimate what that takes, and list what is written: the functions that users call."""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from reclm import plugins
from reclm.config import read_yaml
from reclm.data.dataset import Dataset, ProfileKind, TrainingView
from reclm.errors import NotFound, ReclmError, at_least
from reclm.folders import current, to_path
from reclm.profiles.estimate import Estimate, dry_run
from reclm.profiles.profile import Profiler, view_of
from reclm.profiles.profiles import Profiles
from reclm.profiles.run import check_text, make_profiles
from reclm.profiles.store import KINDS, ProfileStore, kinds_of, stores
from reclm.text.encoder import TextEncoder


def write_profiles(
    data: Dataset | TrainingView,
    profiler: str | Path | Profiler = "zero-shot",
    *,
    model: str | None = None,
    engine: str | None = None,
    engine_options: Mapping[str, Any] | None = None,
    kinds: Iterable[ProfileKind] = KINDS,
    limit: int | None = None,
    prompts: int | None = None,
    encoder: str | TextEncoder | None = None,
    store: str | Path | None = None,
    fresh: bool = False,
    carry_over: bool = False,
    ask_again: bool = False,
    progress: bool = True,
    **settings: Any,
) -> Profiles:
    """Write a profile of every user and item, and embed it. Called again, it writes what is missing.

    Args:
        data: the data set; nothing but its training part is read.
        profiler: a plug-in, such as ``zero-shot``, ``keywords``; or the folder of a tuned one.
        model: the language model: a name on the hub, a folder, a GGUF file; by default the embedded one.
        engine: ``openvino``, ``transformers``, ``server`` or a plug-in; chosen by model and machine by default
            (``auto``).
        engine_options: of the engine, such as ``{"in_flight": 4}``; see :mod:`reclm.llm.engines`.
        kinds: ``user``, ``item`` or both.
        limit: only so many users, and so many items: drawn at random by their ids, always the same ones; a higher
            limit adds others to them.
        prompts: only users (items) that share one of the so many commonest prompts.
        encoder: the text encoder, a name on the hub or a folder; by default the profiler's own, where it was tuned with
            one, else all-MiniLM-L6-v2.
        store: folder of the profiles; by default in the workspace.
        fresh: set the profiles that are there aside, and begin anew.
        carry_over: the data have changed: set the profiles that are there aside, take over the answers to equal
            prompts, write the rest.
        ask_again: also ask prompts that an earlier run got no answer to: they were refused, cut, empty or too long.
        progress: show plan and progress bars on stderr.
        settings: of the profiler.

    Returns:
        The profiles, with the counts of the run as ``run``.

    Raises:
        NotFound: for an unknown profiler, setting, model or encoder, and if there is nothing to write from.
        BadInput: for a data set without item text, a wrong kind or number, and a store that was written for other data.
        Busy: if another process is writing to the store.
    """
    at_least(0, limit=limit)
    options = {
        "model": model,
        "engine": engine,
        "engine_options": engine_options,
        "kinds": kinds,
        "prompts": prompts,
        "encoder": encoder,
    }
    job = _Job.prepare(data, profiler, store=store, **options, **settings)
    fitted = job.profiler.fit(job.view)
    with ProfileStore.open(
        job.folder, job.view.fingerprint, job.writer, job.view.name, fresh=fresh, carry_over=carry_over
    ) as opened:
        run = make_profiles(
            job.view, fitted, opened, job.kinds, limit, progress, job.prompts, ask_again=ask_again
        )
        if not any(kind.in_store for kind in run.kinds):
            who = " and ".join(f"{kind}s" for kind in job.kinds)
            message = (
                f"{job.writer} found nothing to write profiles of {who} from in data set {job.view.name!r}"
            )
            raise NotFound(message, value=job.view.name, where=job.writer)
        reader = {} if job.encoder is None else {"encoder": job.encoder.source}
        opened.describe(profiler=job.opener, **reader)
    return Profiles(job.folder, job.kinds, run, _data=data, _encoder=job.encoder).embed(progress)


def estimate_profiles(
    data: Dataset | TrainingView,
    profiler: str | Path | Profiler = "zero-shot",
    *,
    limit: int | None = None,
    fresh: bool = False,
    carry_over: bool = False,
    ask_again: bool = False,
    **options: Any,
) -> Estimate:
    """Estimate what :func:`write_profiles` would do with these arguments: prompts, tokens, time.

    A few prompts are answered and timed for it; nothing is stored.
    """
    at_least(0, limit=limit)
    job = _Job.prepare(data, profiler, **options)
    opened = None
    if ProfileStore.at(job.folder) and not fresh:
        # for reading: answers to equal prompts count as stored, also those for an earlier state of the data
        opened = ProfileStore.read(job.folder)
        if not (carry_over and opened.info.writer == job.writer):
            opened = ProfileStore.open(job.folder, job.view.fingerprint, job.writer)
    text_encoder = job.encoder or TextEncoder((opened and opened.info.encoder) or None)
    fitted = job.profiler.fit(job.view)
    parts = dry_run(
        job.view,
        fitted,
        opened,
        job.kinds,
        limit,
        encoder=text_encoder,
        prompts=job.prompts,
        ask_again=ask_again,
    )
    cut = dict.fromkeys(line for kind in job.kinds for line in fitted.cut_texts(job.view, kind))
    return Estimate(tuple(parts), tuple(cut))


def list_profiles(data: Dataset | TrainingView | str | None = None) -> pd.DataFrame:
    """Return the profile stores of the workspace, those of ``data`` alone where it is given, as a frame."""
    name = data if isinstance(data, str) or data is None else data.name
    rows = [
        (info.dataset, info.writer, *(ProfileStore.read(folder).count(kind) for kind in KINDS), str(folder))
        for folder, info in stores()
        if name in {None, info.dataset}
    ]
    return pd.DataFrame(rows, columns=["data set", "written by", "users", "items", "folder"])


def open_profiler(
    profiler: str | Path | Profiler = "zero-shot",
    settings: Mapping[str, Any] | None = None,
    model: str | None = None,
    engine: str | None = None,
    adapter: str | Path | None = None,
    engine_options: Mapping[str, Any] | None = None,
) -> tuple[Profiler, str]:
    """Return a profiler, and the writer's name that its profiles are stored under: its name and its model's.

    The model is found, but not loaded before its first prompt. ``adapter`` is the folder of the tuned profiler that
    ``profiler`` names.
    """
    engine = None if engine == "auto" else engine
    if isinstance(profiler, Profiler):
        opened = profiler
    else:
        name, folder = (str(profiler), Path(adapter)) if adapter else named_or_tuned(profiler)
        cls = plugins.get("profiler", name)
        more = {"engine_options": engine_options} if engine_options else {}
        if folder:
            opened = cls.open(folder, settings, model, engine, **more)
        else:
            config = cls.Config.build(dict(settings or {}), where=f"profiler {name}")
            opened = cls(config, model=model, engine=engine, **more)
    return opened, opened.writer


def reopen_profiler(store: ProfileStore, view: TrainingView) -> Profiler | None:
    """Return the profiler that wrote the profiles of a store, fitted; None if it cannot be opened any more."""
    name = store.info.profiler.get("profiler")
    # no module:Class: a file of data must not choose the code that is run
    if name and (name in plugins.names("profiler") or Path(name).is_dir()):
        with suppress(ReclmError):
            plugins.check_trusted(store.info.profiler, store.folder)
            profiler, writer = open_profiler(**store.info.profiler)
            return profiler.fit(view) if writer == store.info.writer else None
    return None


def named_or_tuned(profiler: str | Path) -> tuple[str, Path | None]:
    """Return the name of a profiler, and its folder where ``profiler`` is one that it was tuned in."""
    folder = Path(profiler)
    if str(profiler) in plugins.names("profiler") or not folder.is_dir():
        return str(profiler), None
    about: dict[str, Any] = {}
    with suppress(ReclmError):
        about = read_yaml(folder / "about.yaml")
    if "profiler" in about:
        plugins.check_trusted({"profiler": about["profiler"]}, folder / "about.yaml")
        return str(about["profiler"]), folder
    with suppress(ReclmError):
        # version 0.1 does not name it: the options do
        options = read_yaml(folder / "config.yaml").keys()
        for name in plugins.names("profiler"):
            cls = plugins.get("profiler", name)
            if cls.tunable and options <= cls.Config.model_fields.keys():
                return name, folder
    message = f"{folder} holds no tuned profiler; give a profiler's name, or the folder that reclm tune wrote"
    raise NotFound(message, value=folder)


@dataclass(frozen=True)
class _Job:
    """The parts that writing and estimating share."""

    view: TrainingView
    profiler: Profiler
    writer: str
    folder: Path
    kinds: tuple[ProfileKind, ...]
    prompts: int | None
    encoder: TextEncoder | None
    """None for that of the store, or the default one."""
    opener: dict[str, Any]
    """Arguments of :func:`open_profiler`; empty where the profiler or its model came open."""

    @classmethod
    def prepare(
        cls,
        data: Dataset | TrainingView,
        profiler: str | Path | Profiler,
        *,
        model: str | None = None,
        engine: str | None = None,
        engine_options: Mapping[str, Any] | None = None,
        kinds: Iterable[ProfileKind] = KINDS,
        prompts: Any = None,
        encoder: str | TextEncoder | None = None,
        store: str | Path | None = None,
        **settings: Any,
    ) -> "_Job":
        view = view_of(data)
        check_text(view)
        if isinstance(prompts, Mapping):  # a group of settings, of profilers that have one of this name
            settings, prompts = {**settings, "prompts": prompts}, None
        at_least(0, prompts=prompts)
        ordered = kinds_of(kinds)
        if isinstance(encoder, str):
            encoder = TextEncoder(encoder)
            encoder.model  # noqa: B018 - a wrong one fails now, not after hours of generation
        opened, writer = open_profiler(profiler, settings, model, engine, engine_options=engine_options)
        folder = to_path(store, "store") if store else current().store(view.name, writer)
        named = not isinstance(profiler, Profiler) and (model is None or isinstance(model, str))
        name = str(profiler if opened.folder is None else opened.folder.resolve())
        opener = {"profiler": name, "settings": settings, "model": model, "engine": engine} if named else {}
        opener |= {"engine_options": engine_options} if named else {}
        opener = {key: value for key, value in opener.items() if value}
        return cls(view, opened, writer, folder, ordered, prompts, encoder or opened.encoder, opener)


class UserProfile(NamedTuple):
    """A user's profile and its writer; ``store`` is the folder it lies in, None if it was written now."""

    text: str
    writer: str
    store: Path | None


def stored_profiles(
    data: Dataset, profiler: str = "zero-shot", *, encoder: str | None = None, **options: Any
) -> Profiles:
    """Return the profiles of users that a profiler (:func:`open_profiler`) wrote into the workspace, or NotFound."""
    folder = current().store(data.name, open_profiler(profiler, **options)[1])
    if not ProfileStore.at(folder):
        raise no_profiles(data.name, f" --profiler {profiler}")
    return Profiles.open(folder, data, kinds=("user",), encoder=encoder)


def no_profiles(dataset: str, writer: str = "") -> NotFound:
    """Return the error that no user has a stored profile."""
    command = f"reclm profile --dataset {dataset}{writer} --kind user"
    message = f"no user of data set {dataset!r} has a stored profile by this profiler; write some: {command}"
    return NotFound(message, value=dataset, remedy=command)


def user_profile(data: Dataset, user: Any, profiler: str = "zero-shot", **options: Any) -> UserProfile:
    """Return the stored profile of a user of the data set, else one that is written now and not stored.

    The profiler is opened by :func:`open_profiler`; NotFound if it finds nothing to write from.
    """
    user, view = str(user), data.view()
    row = data.users.idx([user], data.name)
    opened, writer = open_profiler(profiler, **options)
    folder = current().store(view.name, writer)
    store = ProfileStore.open(folder, view.fingerprint, writer) if ProfileStore.at(folder) else None
    if store and (stored := store.get("user", user)):
        return UserProfile(stored.text, writer, store.folder)
    known: dict[ProfileKind, dict[str, str]] = {"user": store.texts("user") if store else {}}
    subjects = opened.fit(view).subjects(view, "user", row, known)
    written = next(iter(opened.write(list(subjects))), None)
    if written is None or not written.text.strip():
        message = f"profiler {profiler!r} has nothing to say of user {user!r}; name another user"
        raise NotFound(message, value=user, where=profiler)
    return UserProfile(written.text, writer, None)
