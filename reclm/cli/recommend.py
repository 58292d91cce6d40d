"""``reclm recommend``: the best items for a user, trained on or new."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from reclm.cli.options import Home

if TYPE_CHECKING:
    import pandas as pd

    from reclm.recommend.fit import Recommender

LONGEST = 90
"""Characters of a title that are shown."""


def recommend(
    user: Annotated[str | None, typer.Option(help="A user of the data set.")] = None,
    profile: Annotated[
        str | None, typer.Option(metavar="TEXT", help="A new user's profile; needs an augmented model.")
    ] = None,
    history: Annotated[
        str | None, typer.Option(metavar="ID,ID,…", help="A new user's items; with --profile or without.")
    ] = None,
    k: Annotated[int, typer.Option("--k", "-k", min=1, help="How many.")] = 10,
    run: Annotated[
        Path | None,
        typer.Option(help="Folder of a run, or of one of its models; default the newest run in home."),
    ] = None,
    new_items: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Items to rank too: CSV, TSV, Parquet or JSON lines with item_id and text."
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    home: Home = None,
) -> None:
    """Recommend items to a user of the data set, or to a new one, with a model that `reclm bench` trained."""
    from reclm.folders import Workspace
    from reclm.recommend.saved import find_model, load_model

    ids = None if history is None else [id for part in history.split(",") if (id := part.strip())]
    workspace = Workspace.at(home)
    folder = find_model(run, workspace)
    trained = load_model(folder, workspace)
    result = trained.recommend(user, history=ids, profile=profile, new_items=new_items, k=k)
    (_print_json if json else _print)(trained, folder, result)


def _print(trained: "Recommender", folder: Path, result: "pd.DataFrame") -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from reclm.console import printable

    console = Console(highlight=False)
    table = Table(box=box.SIMPLE_HEAD)
    for name in ("rank", "item", "title", "score"):
        table.add_column(name, justify="right" if name in ("rank", "score") else "left")
    for row in result.to_dict("records"):
        title = printable(row["title"], LONGEST) + " (new)" * row.get("new", False)
        table.add_row(str(row["rank"]), Text(printable(row["item"])), Text(title), f"{row['score']:.4f}")
    console.print(table)
    about = trained.about
    items = f"items by {about.config['items']}, " if "items" in about.config else ""
    for line in (
        f"for {result.attrs['user']}",
        f"ranked: {result.attrs['ranked']}",
        f"model: {about.backbone}, {about.variant}, {items}in {folder}",
    ):
        console.print(printable(line), markup=False, soft_wrap=True)


def _print_json(trained: "Recommender", folder: Path, result: "pd.DataFrame") -> None:
    import json

    about = trained.about
    values = {
        "model": {"folder": str(folder), "backbone": about.backbone, "variant": about.variant},
        "dataset": about.dataset,
        "built_from": result.attrs["user"],
        "ranked": result.attrs["ranked"],
        "items": [
            {
                "rank": row["rank"],
                "item_id": row["item"],
                "title": row["title"],
                "score": row["score"],
                "new": bool(row.get("new", False)),
            }
            for row in result.to_dict("records")
        ],
    }
    print(json.dumps(values, indent=2, ensure_ascii=False))
