"""``reclm data``: list, prepare and show data sets."""

import typer

app = typer.Typer(no_args_is_help=True, help="Prepare data sets and look at them.")


@app.command("list")
def list_() -> None:
    """The readers that are installed, and the data sets prepared so far."""
