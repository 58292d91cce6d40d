"""``reclm bench compare``: two runs side by side."""

from pathlib import Path
from typing import Annotated

import typer


def compare(
    a: Annotated[Path, typer.Argument(help="Folder of a run.")],
    b: Annotated[Path, typer.Argument(help="Folder of the run that is compared with it.")],
) -> None:
    """Compare two runs row by row and user by user; nothing is trained."""
    import reclm
    from reclm.console import say, show

    changes = reclm.compare_runs(a, b)
    say(f"A: {a}\nB: {b}\n")
    show(changes)
