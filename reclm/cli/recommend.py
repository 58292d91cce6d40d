"""``reclm recommend``: the best items for a user, trained on or new."""

from typing import Annotated, Any

import reclm
from reclm.cli import options as opt
from reclm.console import printable, say, show_table

LONGEST = 90  # characters of a title that are shown


def recommend(
    users: Annotated[opt.Texts, opt.option("A user; may be repeated.", "--users", "--user")] = None,
    profile: Annotated[
        opt.Text, opt.option("A new user's profile; for augmented models.", metavar="TEXT")
    ] = None,
    history: Annotated[
        opt.Text, opt.option("A new user's items; also with --profile.", metavar="ID,ID,…")
    ] = None,
    k: Annotated[int, opt.option("How many.", "--k", "-k", min=1)] = 10,
    run: Annotated[opt.File, opt.option("Folder of a model, or of a run; default the newest run.")] = None,
    new_items: Annotated[
        opt.File,
        opt.option("Items to rank too: CSV, TSV, Parquet, JSON lines with item_id and text.", metavar="FILE"),
    ] = None,
    json: Annotated[bool, opt.option("Print JSON.", "--json")] = False,
    trust: opt.Trust = False,
    home: opt.Home = None,
) -> None:
    """Recommend items to a user of the data set, or to a new one."""
    from reclm.recommend.saved import find_model

    items = None if history is None else [id for part in history.split(",") if (id := part.strip())]
    folder = find_model(run)
    model = reclm.load_model(folder)
    frame = model.recommend(users or None, history=items, profile=profile, new_items=new_items, k=k)
    about, rows = model.about, frame.to_dict("records")
    if json:
        model = {"folder": str(folder), "backbone": about.backbone, "variant": about.variant}
        source = {"built_from": frame.attrs["user"], "ranked": frame.attrs["ranked"]}
        return _print_json({"model": model, "dataset": about.dataset, **source}, rows)
    several = bool(users) and len(users) > 1
    columns = [*(["user"] if several else []), "rank", "item", "title", "score"]
    for row in rows:
        row["title"] = printable(row["title"], LONGEST) + " (new)" * row.get("new", False)
    show_table(columns, ([row[name] for name in columns] for row in rows))
    by = f"items by {about.config['items']}, " if "items" in about.config else ""
    say(f"for {frame.attrs['user']}\nranked: {frame.attrs['ranked']}")
    say(f"model: {about.backbone}, {about.variant}, {by}in {folder}")


def _print_json(head: dict[str, Any], rows: list[dict[Any, Any]]) -> None:
    import json

    items = [
        {"user": row["user"], "rank": row["rank"], "item_id": row["item"], "title": row["title"]}
        | {"score": row["score"], "new": bool(row.get("new", False))}
        for row in rows
    ]
    print(json.dumps({**head, "items": items}, indent=2, ensure_ascii=False))
