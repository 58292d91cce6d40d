"""A reclm data set as RecBole is to read it: settings, and whose row is whose afterwards."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from reclm.data.atomic import SPLITS
from reclm.data.dataset import Dataset, ProfileKind
from reclm.data.idmap import IdMap
from reclm.errors import ReclmError, unknown

NAME = "reclm"
"""What the data set is called in RecBole (``ml-100k`` would make RecBole read its own files)."""


def check_splits(dataset: Dataset) -> None:
    """Refuse a data set that RecBole would stumble over.

    Raises:
        ReclmError: if it has no test part, or a user has touched every item, so that no negative can be drawn.
    """
    if not len(dataset.test):
        raise ReclmError(
            f"data set {dataset.name!r} has no test interactions, which RecBole cannot do without"
        )
    touched = dataset.joined(SPLITS).matrix(len(dataset.users), len(dataset.items)).sum(1)
    if touched.max() == len(dataset.items):
        user = dataset.users.ids(np.array([touched.argmax()]))[0]
        raise ReclmError(
            f"user {user!r} has interacted with every item, and RecBole finds no negative; leave them out"
        )


def embedding_rows(data: Any, dataset: Dataset) -> dict[ProfileKind, np.ndarray]:
    """The row of RecBole's embeddings of every user, and every item: ``(n,)`` int64; row 0 is padding, nobody's.

    Args:
        data: RecBole's ``Dataset``, which numbers ids in the order it meets them.

    Raises:
        ReclmError: for an id that RecBole did not read as one, such as ``NA``.
    """
    sides: list[tuple[ProfileKind, IdMap, str]] = [
        ("user", dataset.users, data.uid_field),
        ("item", dataset.items, data.iid_field),
    ]
    rows = {}
    for kind, ids, field in sides:
        rows[kind] = IdMap(map(str, data.field2id_token[field][1:]), kind).find(ids.array) + 1
        if not rows[kind].all():
            lost = ids.ids(np.flatnonzero(rows[kind] == 0)[:1])[0]
            raise ReclmError(
                f"{kind} id {lost!r} is a missing value to RecBole's reader; rename it in the data"
            )
    return rows


def make_config(model_name: str, dataset: Dataset, folder: Path, settings: Mapping[str, Any]) -> Any:
    """RecBole's ``Config``: what the bridge must set, the caller's settings, our defaults, RecBole's.

    Raises:
        ReclmError: for a model that is none of RecBole's general recommenders, an unknown setting, or one that is the
            bridge's own.
    """
    from recbole.config import Config
    from recbole.model import general_recommender

    known = [name for name, one in vars(general_recommender).items() if isinstance(one, type)]
    if model_name not in known:
        raise unknown("general recommender of RecBole", model_name, known)
    columns = {"inter": ["user_id", "item_id"]}
    everything = dataset.joined(SPLITS)
    for kind, seen, ids in (
        ("user", everything.user_idx, dataset.users),
        ("item", everything.item_idx, dataset.items),
    ):
        if len(np.unique(seen)) < len(ids):  # those whom no interaction names
            columns[kind] = [f"{kind}_id"]
    ours = {
        "data_path": str(folder),
        "checkpoint_dir": str(folder / "saved"),
        "benchmark_filename": list(SPLITS),
        "load_col": columns,
    }
    for name in settings:
        if name in (*ours, "USER_ID_FIELD", "ITEM_ID_FIELD"):
            raise ReclmError(f"RecBole setting {name!r} is the bridge's own; leave it out")
    topk = settings.get("topk", [20, 40])
    at = [topk] if isinstance(topk, int) else list(topk)
    chosen = {
        "topk": at,
        "valid_metric": f"NDCG@{20 if 20 in at else at[0]}",
        "metric_decimal_place": 10,
        "show_progress": False,
    }
    made: Any = Config(model=model_name, dataset=NAME, config_dict=chosen | dict(settings) | ours)
    computed = [f"{metric}@{k}".lower() for metric in made["metrics"] for k in made["topk"]]
    if made["valid_metric"].lower() not in computed:
        raise unknown("valid_metric among RecBole's metrics", made["valid_metric"].lower(), computed)
    known = {name for names in made.parameters.values() for name in names} | set(made.internal_config_dict)
    for name in settings:
        if name not in known:
            raise unknown("RecBole setting", name, known)
    return made
