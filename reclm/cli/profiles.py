"""``reclm profiles``: look at profiles and hand them on."""

import typer

app = typer.Typer(no_args_is_help=True, help="Look at profiles, search them, export them.")


@app.command()
def show(id: str) -> None:
    """One profile."""
