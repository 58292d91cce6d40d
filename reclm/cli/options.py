"""Options that several commands share, named as the arguments of the functions that they call."""

import shlex
import sys
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from reclm.console import say
from reclm.errors import BadInput, NotFound
from reclm.folders import workspace

if TYPE_CHECKING:
    from reclm.data.dataset import ProfileKind

Text = str | None
Texts = list[str] | None
File = Path | None
Count = int | None

_HOME: ContextVar[Path | None] = ContextVar("home", default=None)


def _set_home(home: Path | None) -> Path | None:
    """Make the folder of ``--home`` the workspace of this command."""
    if home is not None:
        _HOME.set(home)
        workspace(home)
    return home


def option(text: str, *names: str, **settings: Any) -> Any:
    """Return an option with its help."""
    return typer.Option(*names, help=text, **settings)


def setting(text: str, name: str = "--set") -> Any:
    """Return an option of the form KEY=VALUE."""
    return option(text, name, metavar="KEY=VALUE")


def _set_trust(trust: bool) -> bool:
    """Let files name code to run, in this command."""
    if trust:
        from reclm.plugins import trust_files

        trust_files()
    return trust


def _seeds(text: str | int) -> int | str:
    """Read a number of seeds, or auto."""
    if text == "auto":
        return text
    if not str(text).isdecimal() or int(text) < 1:
        raise typer.BadParameter("give a whole number of at least 1, or auto")
    return int(text)


def seeds_option(text: str) -> Any:
    """Return the option ``--seeds``."""
    return option(text, parser=_seeds, metavar="N|auto")


_home = {"callback": _set_home, "is_eager": True, "show_default": False}
Home = Annotated[File, option("Folder of your work; default $RECLM_HOME, else ./reclm-home.", **_home)]
_trust = "Run the code of module:Class that a suite, a file of options or a model's folder names."
Trust = Annotated[bool, option(_trust, "--trust", callback=_set_trust, is_eager=True)]
DatasetName = Annotated[str, option("A prepared data set, an embedded one, or a folder.")]
DatasetArgument = Annotated[str, typer.Argument(help="A prepared data set: its name or folder.")]
ProfilerName = Annotated[
    str, option("zero-shot, keywords, reclm, langptune, a plug-in, or a folder that reclm tune wrote.")
]
ModelName = Annotated[
    Text, option("Language model: hub name, folder, GGUF file, or a server's name; default SmolLM2-135M.")
]
EngineName = Annotated[
    Text,
    option("openvino, transformers, or server (OpenAI-compatible, at $OPENAI_BASE_URL); default what fits."),
]
EngineSet = Annotated[
    Texts, setting("Option of the engine, such as in_flight, timeout, batch_size, precision.", "--engine-set")
]
EncoderName = Annotated[
    Text, option("Text encoder: hub name or directory; default all-MiniLM-L6-v2, or a tuned profiler's.")
]
Kinds = Literal["user", "item", "both"]
KindsOption = Annotated[Kinds, option("Profiles of users, items, or both.", "--kinds", "--kind")]
StoreFolder = Annotated[File, option("Folder of the profiles, in place of the workspace's.")]
AdapterFolder = Annotated[File, option("0.1's --profiler FOLDER.", hidden=True)]
Settings = Annotated[Texts, setting("Setting of the profiler.")]
SelectOn = Literal["valid", "test"]
Epochs = Annotated[Count, option("Most epochs of a trial; default 60, or those of recipe or suite.", min=1)]
_recipe = "Options that are not given: default does well on many data sets, paper is each paper's."
Recipe = Annotated[Literal["default", "paper"], option(_recipe)]
_fusion = (
    "How profiles enter: dual-mlp is the papers'; residual begins as the plain model; text joins an item's profile to "
    "its text (a user's is the residual term); auto takes what gains on validation, and may leave them out."
)
Fusion = Annotated[Literal["dual-mlp", "residual", "text", "auto"], option(_fusion)]
_controls = (
    "Train with controls for the profiles, too: others' profiles, random vectors, item text, keywords."
)
Controls = Annotated[bool, option(_controls, "--controls")]
_search = "First try N options for every row, and take the best on validation."
Search = Annotated[Count, option(_search, metavar="N", min=1)]
Jobs = Annotated[int, option("Processes; they share the cores.", min=1)]
Fresh = Annotated[bool, option("Train all again, also what is cached.", "--fresh")]
Track = Annotated[
    Texts, option("tensorboard or mlflow: write options, curves and results there, too; may be repeated.")
]
Out = Annotated[File, option("Folder of the results; default a new one in the workspace.")]
_rows = "Only this row, by name or pattern ('LightGCN*'), and those it is compared with; may be repeated."
Rows = Annotated[Texts, option(_rows, "--rows", "--row", metavar="NAME")]


def sides(kinds: Kinds) -> "tuple[ProfileKind, ...]":
    """Return the argument ``kinds`` of the library."""
    return ("user", "item") if kinds == "both" else (kinds,)


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
    """Return options as they are typed, with the ``--home`` of this command; None and False are left out."""
    words: list[str] = []
    for name, value in (options | {"home": _HOME.get()}).items():
        if value is True:
            words.append(_flag(name))
        elif value is not None and value is not False:
            values = value if isinstance(value, list | tuple) else [value]
            words += [word for item in values for word in (_flag(name), str(item))]
    return "".join(f" {shlex.quote(word)}" for word in words)


def _flag(name: str) -> str:
    return "--" + name.rstrip("_").replace("_", "-")


def is_default(context: typer.Context, name: str) -> bool:
    """Return whether a parameter is not on the command line."""
    source = context.get_parameter_source(name)
    return source is None or source.name != "COMMANDLINE"


def next_step(command: str, note: str = "", **options: Any) -> None:
    """Name a command that may come next; one of ours gets the ``--home`` of this command."""
    ours = flags(**options) if command.startswith("reclm ") else ""
    say(f"next: {command}{ours}{f'   ({note})' * bool(note)}")


def refuse(context: typer.Context, allowed: set[str], reason: str) -> None:
    """Refuse options of the command line that would do nothing: all but the ``allowed`` ones."""
    for name in context.params:
        if name not in allowed and not is_default(context, name):
            raise BadInput(f"{_flag(name)} {reason}", value=_flag(name))
