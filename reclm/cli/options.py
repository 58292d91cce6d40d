"""Options that several commands share, named as the arguments of the functions that they call."""

import shlex
import sys
from contextvars import ContextVar
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from reclm.errors import BadInput, NotFound

if TYPE_CHECKING:
    from reclm.data.dataset import ProfileKind


class Kinds(StrEnum):
    """Whose profiles."""

    user = "user"
    item = "item"
    both = "both"

    @property
    def values(self) -> "tuple[ProfileKind, ...]":
        """The argument ``kinds``."""
        return ("user", "item") if self is Kinds.both else (self.value,)


_HOME: ContextVar[Path | None] = ContextVar("home", default=None)


def _set_home(home: Path | None) -> Path | None:
    """Make the folder of ``--home`` the workspace of this command."""
    if home is not None:
        from reclm.folders import workspace

        _HOME.set(home)
        workspace(home)
    return home


Home = Annotated[
    Path | None,
    typer.Option(
        callback=_set_home,
        is_eager=True,
        show_default=False,
        help="Folder of your work; default $RECLM_HOME, else ./reclm-home.",
    ),
]
DatasetName = Annotated[str, typer.Option(help="A prepared data set, an embedded one, or a folder.")]
DatasetArgument = Annotated[str, typer.Argument(help="A prepared data set: its name or folder.")]
ProfilerName = Annotated[
    str,
    typer.Option(
        help="zero-shot, keywords, reclm, langptune, a plug-in, or the folder of one that reclm tune wrote."
    ),
]
ModelName = Annotated[
    str | None,
    typer.Option(
        help="Language model: hub name, directory or GGUF file; default SmolLM2-135M. With --engine server, the "
        "server's name of it."
    ),
]
EngineName = Annotated[
    str | None,
    typer.Option(
        help="openvino, transformers, or server, the OpenAI-compatible one at $OPENAI_BASE_URL. By default it fits "
        "model and machine."
    ),
]
EncoderName = Annotated[
    str | None, typer.Option(help="Text encoder: hub name or directory; default all-MiniLM-L6-v2.")
]
KindsOption = Annotated[Kinds, typer.Option("--kinds", "--kind", help="Profiles of users, items, or both.")]
StoreFolder = Annotated[
    Path | None, typer.Option(help="Folder of the profiles, in place of the workspace's.")
]
AdapterFolder = Annotated[Path | None, typer.Option(hidden=True, help="0.1's --profiler FOLDER.")]
Settings = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Setting of the profiler.")
]


class SelectOn(StrEnum):
    """Parts that can choose the epoch."""

    valid = "valid"
    test = "test"


class Tracker(StrEnum):
    """Places to write a run to besides its folder."""

    tensorboard = "tensorboard"
    mlflow = "mlflow"


Epochs = Annotated[
    int | None, typer.Option(min=1, help="Most epochs of a trial; default 50, or those of the suite.")
]
Controls = Annotated[
    bool,
    typer.Option(
        "--controls",
        help="Train with controls in place of the profiles, too: other users' profiles, random vectors, the items' own "
        "text, keywords.",
    ),
]
Search = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        min=1,
        help="First try N options (learning rate, l2, contrastive weight, or the suite's own space) for every row, and "
        "take the best on validation.",
    ),
]
Jobs = Annotated[int, typer.Option(min=1, help="Processes; they share the cores.")]
Fresh = Annotated[bool, typer.Option("--fresh", help="Train all again, also what is cached.")]
Track = Annotated[
    list[Tracker] | None,
    typer.Option(help="Write options, curves and results of every trial there, too; may be repeated."),
]
Out = Annotated[Path | None, typer.Option(help="Folder of the results; default a new one in the workspace.")]
Rows = Annotated[
    list[str] | None,
    typer.Option(
        "--rows",
        "--row",
        metavar="NAME",
        help="Only this row, by name or pattern ('LightGCN*'), and those it is compared with; may be repeated.",
    ),
]


def tuned(profiler: str, adapter: Path | None) -> str:
    """Return the profiler that ``--profiler`` names, or 0.1's ``--adapter FOLDER``."""
    if adapter is None:
        return profiler
    if not adapter.is_dir():
        raise NotFound(f"--adapter: there is no folder {adapter}; reclm tune writes one", value=adapter)
    renamed("--adapter FOLDER", "--profiler FOLDER")
    return str(adapter)


def renamed(old: str, new: str) -> None:
    """Say on stderr that a spelling of 0.1 was used, and the new one."""
    print(f"{old} is now {new}", file=sys.stderr)


def flags(**options: Any) -> str:
    """Return options as they are typed, with the ``--home`` of this command; None, False and defaults are left out."""
    options["home"] = _HOME.get()
    words: list[str] = []
    for name, value in options.items():
        flag = "--" + name.rstrip("_").replace("_", "-")
        if value is True:
            words.append(flag)
        elif isinstance(value, list | tuple):
            words += [word for one in value for word in (flag, str(one))]
        elif value is not None and value is not False:
            words += [flag, str(value)]
    return "".join(f" {shlex.quote(word)}" for word in words)


def is_default(context: typer.Context, name: str) -> bool:
    """Return whether a parameter was not given on the command line."""
    source = context.get_parameter_source(name)
    return source is None or source.name != "COMMANDLINE"


def next_step(command: str, note: str = "", **options: Any) -> None:
    """Name a command that may come next."""
    from reclm.console import say

    say(f"next: {command}{flags(**options)}{f'   ({note})' * bool(note)}")


def refuse(context: typer.Context, allowed: set[str], reason: str) -> None:
    """Refuse options of the command line that would do nothing.

    Raises:
        BadInput: for the first one that is not among ``allowed``.
    """
    for name in context.params:
        if name not in allowed and not is_default(context, name):
            flag = "--" + name.rstrip("_").replace("_", "-")
            raise BadInput(f"{flag} {reason}", value=flag)
