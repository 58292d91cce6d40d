"""The ``reclm`` command: a module a command, heavy imports inside the commands."""

import errno
import sys
import warnings
from contextvars import copy_context

import typer

try:
    from reclm.errors import BadInput, ReclmError, check_utf8, missing_extra
except ImportError as error:  # another project's package of the same name overwrote files
    print(f"error: {error}", file=sys.stderr)
    sys.exit(2)

from reclm.cli import bench, data, profile, profiles, recommend, report, steer, tune
from reclm.console import printable

INTERRUPTED = 130
"""The exit code of a command that Ctrl-C ended."""

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="LLM-written user and item profiles for any recommender, and the truth about whether they helped.",
)
app.add_typer(data.app, name="data")
app.command("profile")(profile.profile)
app.add_typer(profiles.app, name="profiles")
app.command("tune")(tune.tune)
app.add_typer(bench.app, name="bench")
app.command("report")(report.report)
app.command("fit")(recommend.fit)
app.command("recommend")(recommend.recommend)
app.command("steer")(steer.steer)


UNWRITABLE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG}
"""What a disk says that is full, or that this user may not write to."""


def main() -> None:
    """Run the command line. A mistake in the input prints one line and exits with 2."""
    warnings.showwarning = lambda message, *rest: _tell("warning", message)
    try:
        for argument in sys.argv[1:]:
            check_utf8(argument, "command line")
        copy_context().run(app)  # the workspace that --home sets ends with the command
    except ReclmError as error:
        _fail(error)
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        place = f"{error.filename}: " if error.filename else ""
        message = (
            f"{place}{error.strerror}; what is done is kept: make room, or give --home, and run it again"
        )
        _fail(BadInput(message, value=error.errno, where=error.filename))
    except ModuleNotFoundError as error:
        command = sys.argv[1]
        tuned = {"bench": "tune", "llm": "tune"} if command == "tune" else {}
        _fail(missing_extra(error, f"reclm {command}", tuned))
    except SystemExit as stop:
        if stop.code == INTERRUPTED:
            print("stopped; what is done is kept: run the same command again to go on", file=sys.stderr)
        raise


def _fail(error: ReclmError) -> None:
    _tell("error", error)
    sys.exit(2)


def _tell(kind: str, text: object) -> None:
    # it may quote data, or a server's answer
    print(f"{kind}: {printable(' '.join(str(text).split()))}", file=sys.stderr)
