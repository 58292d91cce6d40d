"""``reclm tune``: tune a profiler's language model."""

import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from reclm.cli.profile import DatasetName, EncoderName, Home, ModelName
from reclm.errors import ReclmError


def tune(
    dataset: DatasetName = "ml-100k",
    profiler: Annotated[str, typer.Option(help="What is tuned: reclm, langptune, or a plug-in.")] = "reclm",
    model: ModelName = None,
    teacher: Annotated[
        Path | None,
        typer.Option(help="User profiles to learn from: CSV, TSV, Parquet, JSON lines, or a profile store."),
    ] = None,
    teacher_items: Annotated[Path | None, typer.Option(help="Item profiles to learn from.")] = None,
    teacher_model: Annotated[
        str | None, typer.Option(help="A chat model to ask for profiles where there is no file.")
    ] = None,
    teacher_engine: Annotated[
        str | None, typer.Option(help="What runs it; server for an OpenAI-compatible one.")
    ] = None,
    stages: Annotated[
        str | None, typer.Option(help="Which stages, such as kd,collab,reward,ppo,items; all by default.")
    ] = None,
    variant: Annotated[
        str | None,
        typer.Option(help="Of the profiler; of reclm, loss on both answers (mask) or the last (naive)."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Where it is tuned; by default in home. Run again, it goes on there.")
    ] = None,
    show: Annotated[
        int, typer.Option(min=0, help="Print so many samples of each stage, and do nothing.")
    ] = 0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count and estimate; tune nothing.")] = False,
    encoder: EncoderName = None,
    home: Home = None,
    config: Annotated[
        Path | None, typer.Option(help="YAML file of settings; what is said beside it goes first.")
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Setting, as in kd.epochs=1.")
    ] = None,
) -> None:
    """Tune a language model to write profiles, from a teacher's. Run again, it goes on where it stopped."""
    from rich.console import Console

    import reclm.data
    from reclm import plugins
    from reclm.config import merged, parse_settings, read_yaml
    from reclm.folders import Workspace
    from reclm.llm.models import find_model
    from reclm.text.encoder import TextEncoder

    cls = plugins.get("profiler", profiler)
    if not cls.tunable:
        raise ReclmError(
            f"profiler {profiler!r} has nothing to tune; use it with reclm profile --profiler {profiler}"
        )
    settings = merged(read_yaml(config) if config else {}, parse_settings(set_ or []))
    if stages is not None:
        settings["stages"] = [one.strip() for one in stages.split(",") if one.strip()]
        if not settings["stages"]:
            raise ReclmError("--stages names no stage; give some, such as kd,collab, or leave it out for all")
    if variant is not None:
        settings["variant"] = variant
    asked = {"users": teacher, "items": teacher_items, "model": teacher_model, "engine": teacher_engine}
    if given := {key: one for key, one in asked.items() if one is not None}:
        settings = merged(settings, {"teacher": given})
    options = cls.Config.build(settings, where=f"profiler {profiler}")
    workspace = Workspace.at(home)
    view = reclm.data.load(dataset, workspace).view()
    folder = out or workspace.tuned(view.name, f"{profiler}-{find_model(model).name}")
    tuner: Any = cls(options, model=model, folder=folder, encoder=TextEncoder(encoder))
    console = Console(highlight=False)
    if show or dry_run:
        tuning = tuner.tuning(view)
        if show:
            for part in tuning.shown(show):
                console.print(part, markup=False, soft_wrap=True)
        if dry_run:
            console.print(tuning.estimate())
        return
    with _alone(folder):
        tuning = tuner.tuning(view)
        tuning.run()
        found = tuning.results()
        command = shlex.join(tuning.next_command())
    for part in found:
        console.print(part, markup=False, soft_wrap=True) if isinstance(part, str) else console.print(part)
    where = f" --dataset {shlex.quote(dataset)}" + (f" --home {shlex.quote(str(home))}" if home else "")
    console.print(
        f"tuned in {folder}\nnext: {command}{where}",
        markup=False,
        soft_wrap=True,
    )


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep others from tuning in ``folder`` meanwhile; the processes of one ``accelerate launch`` are one.

    Raises:
        ReclmError: if somebody does already, or the folder cannot be made.
    """
    from filelock import FileLock, Timeout

    if int(os.environ.get("RANK", "0")):
        yield
        return
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder.parent / f".{folder.name}.lock", timeout=0)
        lock.acquire()
    except Timeout:
        raise ReclmError(
            f"another reclm tune is at work in {folder}; wait for it, or give another folder (--out)"
        ) from None
    except OSError as error:
        raise ReclmError(f"cannot write {folder.parent}: {error.strerror or error}") from error
    try:
        yield
    finally:
        lock.release()
