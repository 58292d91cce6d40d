"""The ``reclm`` command: a module a command, heavy imports inside the commands."""

import sys

import typer

from reclm.cli import bench, data, profile, profiles, recommend, report, steer, tune
from reclm.errors import ReclmError

INTERRUPTED = 130
"""The exit code of a command that Ctrl-C ended."""

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="LLM-written user and item profiles for any recommender, and the truth about whether they helped.",
)
app.add_typer(data.app, name="data")
app.command("profile")(profile.profile)
app.command("tune")(tune.tune)
app.add_typer(profiles.app, name="profiles")
app.command("bench")(bench.bench)
app.command("report")(report.report)
app.command("recommend")(recommend.recommend)
app.command("steer")(steer.steer)


def main() -> None:
    """Run the command line. A mistake in the input prints one line and exits with 2."""
    try:
        app()
    except ReclmError as error:
        from reclm.console import printable

        # it may quote data, or what a server said
        print(f"error: {printable(' '.join(str(error).split()))}", file=sys.stderr)
        sys.exit(2)
    except SystemExit as stop:
        if stop.code == INTERRUPTED:
            print("stopped; what is done is kept: run the same command again to go on", file=sys.stderr)
        raise
