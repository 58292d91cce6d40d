"""Tune a profiler's language model on a data set."""

import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from reclm import plugins
from reclm.config import merged, read_yaml
from reclm.data.dataset import Dataset, TrainingView
from reclm.errors import BadInput, unknown
from reclm.files import Lock
from reclm.folders import current, to_path
from reclm.llm.models import find_model
from reclm.profiles.profile import view_of
from reclm.profiles.profiles import Profiles
from reclm.text.encoder import TextEncoder


def tune(
    profiler: str,
    data: Dataset | TrainingView,
    *,
    out: str | Path | None = None,
    teacher: Any = None,
    model: str | None = None,
    config: str | Path | Mapping[str, Any] = "auto",
    stages: Sequence[str] | None = None,
    encoder: str | TextEncoder | None = None,
    progress: bool = True,
    trust: bool = False,
) -> Path:
    """Tune a language model to write profiles, and return the folder of the tuned profiler. It resumes.

    Args:
        profiler: a plug-in that is tunable, such as ``reclm`` or ``langptune``.
        data: the data set; nothing but its training part is read.
        out: the folder to tune in; by default in the workspace.
        teacher: profiles to learn from: a file or profile store of user profiles, ``Profiles``, or a mapping of the
            profiler's teacher options (``users``, ``items``, ``model`` …).
        model: the model to tune; by default the embedded one.
        config: ``auto`` (the profiler's defaults), the name of a preset of its, a YAML file, or a mapping of options.
        stages: the stages to run, where the profiler has several.
        encoder: the text encoder to begin with.
        progress: show progress bars.
        trust: run the code of classes ``module:Class`` that the file ``config`` names.

    Raises:
        NotFound: for an unknown profiler, preset or option.
        BadInput: if the profiler cannot be tuned, or the folder holds something else.
        Busy: if another process tunes in the folder.
    """
    settings = tuning_settings(profiler, config, teacher=teacher, stages=stages, trust=trust)
    tuner, folder = open_tuner(profiler, data, settings, out=out, model=model, encoder=encoder)
    with tuning_lock(folder):
        tuning = tuner.tuning(view_of(data))
        if hasattr(tuning, "progress"):
            tuning.progress = progress
        tuning.run()
    return folder


def tuning_settings(
    profiler: str,
    config: str | Path | Mapping[str, Any] = "auto",
    changes: Mapping[str, Any] | None = None,
    *,
    teacher: Any = None,
    stages: Sequence[str] | None = None,
    trust: bool = False,
) -> dict[str, Any]:
    """Return the options of a tuning: those of ``config``, with ``changes``, teacher and stages over them.

    A file that names a class ``module:Class`` is refused, unless its code is to be ``trust``\\ ed.
    """
    cls = plugins.get("profiler", profiler)
    if not cls.tunable:
        message = (
            f"profiler {profiler!r} has nothing to tune; use it with reclm profile --profiler {profiler}"
        )
        raise BadInput(message, value=profiler, remedy=f"reclm profile --profiler {profiler}")
    if isinstance(config, Mapping):
        settings = dict(config)
    elif str(config) in {"auto", *cls.presets}:
        settings = dict(cls.presets.get(str(config), {}))
    elif Path(config).suffix or Path(config).exists():
        settings = read_yaml(Path(config))
        if not trust:
            plugins.check_trusted(settings, config)
    else:
        raise unknown(f"preset of profiler {profiler}", str(config), {"auto", *cls.presets})
    settings = merged(settings, changes or {})
    if teacher is not None:
        settings = merged(settings, {"teacher": _teacher(teacher)})
    if stages is not None:
        settings["stages"] = [stages] if isinstance(stages, str) else list(stages)
        if not settings["stages"]:
            message = "no stage to tune; give some, such as kd,collab, or leave --stages out for all"
            raise BadInput(message, value=stages)
    return settings


def _teacher(teacher: Any) -> dict[str, Any]:
    """Return the teacher options that a file, a store or profiles stand for."""
    if isinstance(teacher, Mapping):
        return dict(teacher)
    if isinstance(teacher, Profiles):
        return {f"{kind}s": teacher.folder for kind in teacher.kinds}
    return {"users": to_path(teacher, "teacher")}


def open_tuner(
    profiler: str,
    data: Dataset | TrainingView,
    settings: Mapping[str, Any],
    *,
    out: str | Path | None = None,
    model: str | None = None,
    encoder: str | TextEncoder | None = None,
) -> tuple[Any, Path]:
    """Return the profiler to tune, and its folder; ``tuning(view)`` of it shows, estimates or does the work."""
    cls = plugins.get("profiler", profiler)
    options = cls.Config.build(dict(settings), where=f"profiler {profiler}")
    folder = (
        to_path(out, "out") if out else current().tuned(data.name, f"{profiler}-{find_model(model).name}")
    )
    if encoder is None or isinstance(encoder, str):
        encoder = TextEncoder(encoder)
    return cls(options, model=model, folder=folder, encoder=encoder), folder


def tuning_lock(folder: Path) -> AbstractContextManager[Any]:
    """Exclude other runs from ``folder``; the processes of one ``accelerate launch`` share the lock of the first."""
    if int(os.environ.get("RANK", "0")):
        return nullcontext()
    busy = f"another reclm tune is at work in {folder}; wait for it, or give another folder (--out)"
    return Lock(folder.parent / f".{folder.name}.lock", busy)
