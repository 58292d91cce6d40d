"""``reclm recommend``: the best items for a user, trained on or new."""

import csv
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import reclm
from reclm.cli import options as opt
from reclm.console import printable, say, show_table
from reclm.errors import BadInput

if TYPE_CHECKING:
    from reclm.data.id_map import IdMap

LONGEST = 90  # characters of a title that are shown


def recommend(
    users: Annotated[opt.Texts, opt.option("A user; may be repeated.", "--users", "--user")] = None,
    profile: Annotated[
        opt.Text, opt.option("A new user's profile; for augmented models.", metavar="TEXT")
    ] = None,
    history: Annotated[
        opt.Texts,
        opt.option(
            "A new user's items; also with --profile. May be repeated; quote an ID that has a comma.",
            metavar="ID,ID,…",
        ),
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

    folder = find_model(run)
    model = reclm.load_model(folder)
    items = None if history is None else [id for text in history for id in _ids(text, model.data.items)]
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


def fit(
    backbone: Annotated[str, opt.option("As of reclm bench.")] = "lightgcn",
    dataset: opt.DatasetName = "ml-100k",
    store: Annotated[opt.File, opt.option("A profile store to augment the model with.")] = None,
    fusion: opt.Fusion = "dual-mlp",
    encoder: opt.EncoderName = None,
    recipe: opt.Recipe = "default",
    epochs: Annotated[opt.Count, opt.option("Epochs; at most so many where a part validates.", min=1)] = None,
    seed: Annotated[int, opt.option("Of initial weights and draws.", min=0)] = 0,
    set_: Annotated[opt.Texts, opt.setting("Option of the backbone or of its training.")] = None,
    out: Annotated[opt.File, opt.option("Folder of the model; default a new one in the workspace.")] = None,
    home: opt.Home = None,
) -> None:
    """Train a model on the training part, compare nothing, and save it for recommend.

    To ship a model that learns from everything, prepare the data with --valid 0 --test 0 --held-out-items 0, and train
    as many epochs as a bench of another split chose.
    """
    from reclm.config import parse_settings
    from reclm.files import draft_folder, move_to_free
    from reclm.folders import current, make_folder

    if store is None and fusion != "dual-mlp":
        message = "--fusion is about profiles, which this trains without; add --store FOLDER"
        raise BadInput(message, value=fusion, where="--fusion", remedy="--store")
    data = reclm.load_dataset(dataset)
    if out is not None:
        make_folder(out, "--out")
    profiles = None if store is None else reclm.Profiles.open(store, data, encoder=encoder)
    settings = parse_settings(set_ or [])
    options: dict[str, Any] = {"recipe": recipe, "seed": seed, "epochs": epochs, "encoder": encoder}
    if profiles is not None:
        options["fusion"] = fusion
    model = reclm.fit(backbone, data, profiles, **options, **settings)
    if out is not None:
        model.save(out)
        folder = out
    else:
        run, place = current().new_run(data.name, backbone), Path("models", model.about.variant)
        with draft_folder(run) as draft:
            model.save(draft / place)
            folder = move_to_free(draft, run) / place
    say(f"trained {len(model.history)} epochs on {len(data.train):,} interactions; model in {folder}")
    if kept := model.about.chosen.get("fusion"):
        say(f"fusion chosen on validation: {kept}")
    user = data.users.ids(data.train.user_idx[:1])[0]
    opt.next_step("reclm recommend", users=user, run=folder, trust=":" in backbone)


def _ids(text: str, items: "IdMap") -> list[str]:
    """Return the ids of a list with commas; one that is an id itself, commas included, is that id."""
    if (items.find([text]) >= 0).all():
        return [text]
    parts = next(csv.reader([" ".join(text.split())], skipinitialspace=True), [])
    return [id for part in parts if (id := part.strip())]


def _print_json(head: dict[str, Any], rows: list[dict[Any, Any]]) -> None:
    import json

    items = [
        {"user": row["user"], "rank": row["rank"], "item_id": row["item"], "title": row["title"]}
        | {"score": row["score"], "new": bool(row.get("new", False))}
        for row in rows
    ]
    print(json.dumps({**head, "items": items}, indent=2, ensure_ascii=False))
