"""RecBole is written to be a process of its own; here it is made a guest in somebody else's."""

import os
import random
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import torch

from reclm.data.dataset import Dataset, ProfileKind
from reclm.data.id_map import IdMap
from reclm.data.readers.recbole import SPLITS
from reclm.errors import BadInput, unknown

NAME = "reclm"
"""Name of the data set in RecBole (``ml-100k`` would make RecBole read its own files)."""


def check_splits(dataset: Dataset) -> None:
    """Check that RecBole can read a data set.

    Raises:
        BadInput: if it has no test part, or a user has touched every item, so that no negative can be drawn.
    """
    if not len(dataset.test):
        raise BadInput(
            f"data set {dataset.name!r} has no test interactions, which RecBole cannot do without",
            value="test",
            where=dataset.name,
        )
    touched = dataset.joined(SPLITS).matrix(len(dataset.users), len(dataset.items)).sum(1)
    if touched.max() == len(dataset.items):
        user = dataset.users.ids(np.array([touched.argmax()]))[0]
        raise BadInput(
            f"user {user!r} has interacted with every item, and RecBole finds no negative; leave them out",
            value=user,
            where=dataset.name,
        )


def embedding_rows(data: Any, dataset: Dataset) -> dict[ProfileKind, np.ndarray]:
    """Return the row of RecBole's embeddings of every user, and every item: ``(n,)`` int64; row 0 is padding, nobody's.

    Args:
        data: RecBole's ``Dataset``, which numbers ids in the order it meets them.

    Raises:
        BadInput: for an id that RecBole did not read as one, such as ``NA``.
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
            raise BadInput(
                f"{kind} id {lost!r} is a missing value to RecBole's reader; rename it in the data",
                value=lost,
                where=kind,
            )
    return rows


def make_config(model_name: str, dataset: Dataset, folder: Path, settings: Mapping[str, Any]) -> Any:
    """Return RecBole's ``Config`` of the bridge's settings, the caller's, our defaults and RecBole's, in this order.

    Raises:
        NotFound: for a model that is none of RecBole's general recommenders, or an unknown setting.
        BadInput: for a setting that is the bridge's own.
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
            raise BadInput(f"RecBole setting {name!r} is the bridge's own; leave it out", value=name)
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


class Column(pd.Series):
    """A series whose ``agg(len)`` gives each element's length, as before pandas 3; there it is the series' own."""

    @property
    def _constructor(self) -> Any:
        return Column

    def agg(self, func: Any = None, axis: Any = 0, *args: Any, **options: Any) -> Any:
        """See the class."""
        return self.map(len) if func is len else super().agg(func, axis, *args, **options)


class Frame(pd.DataFrame):
    """A data frame of such columns."""

    @property
    def _constructor(self) -> Any:
        return Frame

    @property
    def _constructor_sliced(self) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        return Column


def read_csv(*args: Any, **options: Any) -> Frame:
    """``pandas.read_csv`` with object columns for strings, and empty ones in place of missing sequences."""
    frame = Frame(pd.read_csv(*args, **options))
    for name in frame.columns:
        if options["dtype"][name] is str:
            text = frame[name].astype(object)
            frame[name] = text.where(text.notna(), "" if name.endswith("_seq") else None)
    return frame


def merge(*args: Any, **options: Any) -> Frame:
    """``pandas.merge`` to such a frame."""
    return Frame(pd.merge(*args, **options))


def fill_nan(self: Any) -> None:
    """``Dataset._fill_nan`` of RecBole, with assignments where it fills a column in place, which pandas 3 does not do.

    Missing tokens become 0 (padding), missing numbers the column's mean, missing sequences empty ones.
    """
    from recbole.utils import FeatureType

    for name in self.feat_name_list:
        feat = getattr(self, name)
        for field in feat:
            kind = self.field2type[field]
            if kind == FeatureType.TOKEN:
                feat[field] = feat[field].fillna(0)
            elif kind == FeatureType.FLOAT:
                feat[field] = feat[field].fillna(feat[field].mean())
            else:
                empty = np.array([], np.int64 if kind == FeatureType.TOKEN_SEQ else np.float64)
                feat[field] = [empty if isinstance(value, float) else value for value in feat[field]]


VIEW = {"read_csv": read_csv, "merge": merge}
"""What RecBole is to find in place of pandas' own."""


@contextmanager
def as_a_library(folder: Path) -> Iterator[None]:
    """Keep to itself what RecBole does to the process it runs in.

    - It reads ``sys.argv`` as its settings: it sees none.
    - It sets ``CUDA_VISIBLE_DEVICES``: put back.
    - It seeds the global random states of Python, NumPy and torch: put back.
    - It writes TensorBoard events below the working directory: into ``folder`` instead.
    - It uses deprecated calls, which warn in each batch: silenced, for RecBole's modules alone.
    """
    configurator: Any = sys.modules["recbole.config.configurator"]
    trainer: Any = sys.modules["recbole.trainer.trainer"]
    devices = os.environ.get("CUDA_VISIBLE_DEVICES")
    states = random.getstate(), np.random.get_state()  # noqa: NPY002 — it is the global state that RecBole draws from
    kept = configurator.sys, trainer.get_tensorboard
    try:
        configurator.sys = SimpleNamespace(argv=[""])
        trainer.get_tensorboard = lambda logger: _events(folder / "tensorboard")
        with warnings.catch_warnings(), torch.random.fork_rng():
            warnings.filterwarnings("ignore", module=r"recbole\.")
            warnings.filterwarnings("ignore", "__array_wrap__ must accept context", DeprecationWarning)
            yield
    finally:
        configurator.sys, trainer.get_tensorboard = kept
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        if devices is None:
            os.environ.pop("CUDA_VISIBLE_DEVICES", None)
        else:
            os.environ["CUDA_VISIBLE_DEVICES"] = devices


def _events(folder: Path) -> Any:
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder))
