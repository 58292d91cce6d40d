"""The best items for one user: trained on, or known by a profile text or a few items only."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from scipy import sparse
from torch import Tensor

from reclm.data.dataset import Dataset
from reclm.data.id_map import IdMap
from reclm.data.readers.columns import strings
from reclm.data.readers.delimited import read_records
from reclm.errors import ReclmError, near
from reclm.profiles.matrix import ProfileMatrix
from reclm.recommend.base import Backbone
from reclm.recommend.saved import Trained
from reclm.text.item_text import item_texts

ID, PROFILE = "item_id", "profile"


@dataclass(frozen=True, eq=False)
class NewItems:
    """Items that the model was not trained on.

    Attributes:
        ids: as the file gives them.
        fields: their text, the columns of the data set's ``item_text``.
        profiles: a text an item, empty where it has none; None if nobody has one.
    """

    ids: IdMap
    fields: pa.Table
    profiles: list[str] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def texts(self, template: str) -> list[str]:
        """One text an item, as the model reads it.

        Raises:
            ReclmError: for an item without text.
        """
        texts = item_texts(self.fields, template)
        for id, text in zip(self.ids.ids(), texts, strict=True):
            if not text:
                raise ReclmError(
                    f"new item {id!r} has no text, and nothing else is known of it; fill in its fields"
                )
        return texts


def read_new_items(path: Path, dataset: Dataset) -> NewItems:
    """New items from CSV or TSV (with a header line), Parquet or JSON lines.

    Columns: ``item_id``, the text fields of the data set, and ``profile`` where items have one. Others are passed over.

    Raises:
        ReclmError: if the file is missing, empty, malformed or lacks a column, or an item is in the data set already.
    """
    fields = dataset.item_text.column_names
    table = read_records(path)
    for name in (ID, *fields):
        if name not in table.column_names:
            raise ReclmError(
                f"{path} has no column {name!r}; new items of {dataset.name!r} need {', '.join([ID, *fields])} "
                f"(empty where nothing is known), found: {', '.join(table.column_names)}"
            )
    if not table.num_rows:
        raise ReclmError(f"{path} holds no item")
    columns = {name: _filled(table[name]) for name in table.column_names if name in {ID, PROFILE, *fields}}
    ids = IdMap(columns[ID], "item")
    for id, row in zip(ids.ids(), dataset.items.find(ids.array), strict=True):
        if not id.strip():
            raise ReclmError(f"{path}: an item has no {ID}")
        if row >= 0:
            raise ReclmError(f"{path}: item {id!r} is in data set {dataset.name!r} already; leave it out")
    has_profiles = PROFILE in columns and PROFILE not in fields and any(columns[PROFILE].to_pylist())
    return NewItems(
        ids,
        pa.table({name: columns[name] for name in fields}),
        columns[PROFILE].to_pylist() if has_profiles else None,
    )


def _filled(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return strings(column).fill_null("")


TITLES = ("title", "name")
"""Item text fields that are shown; without them all the text is."""


@dataclass(frozen=True)
class Who:
    """Whom to recommend to: a user of the data set, or somebody new with a profile, a history or both.

    Raises:
        ReclmError: if that is not what it is, or profile or history are empty.
    """

    user: str | None = None
    profile: str | None = None
    history: Sequence[str] | None = None

    def __post_init__(self) -> None:
        new = self.profile is not None or self.history is not None
        if (self.user is not None) == new:
            raise ReclmError(
                "say who it is for: --user ID for a user of the data set, or --profile TEXT, --history ID,ID,… or both "
                "for a new one"
            )
        if self.profile is not None and not self.profile.strip():
            raise ReclmError("--profile is empty; describe the user in a sentence or two")
        if self.history is not None and not self.history:
            raise ReclmError("--history names no item; give item ids, as in --history 50,172,181")


@dataclass(frozen=True)
class Recommended:
    """One item. ``new``: it came after training."""

    item_id: str
    title: str
    score: float
    new: bool = False


@dataclass(frozen=True)
class Recommendation:
    """What is recommended, best first, and from what.

    Attributes:
        built_from: what the user was built from, in words.
        ranked: which items were ranked, in words.
    """

    built_from: str
    ranked: str
    items: list[Recommended]


@torch.no_grad()
def recommend(trained: Trained, who: Who, k: int = 10, new_items: NewItems | None = None) -> Recommendation:
    """The ``k`` best items that the user has not touched.

    All items are ranked, cold ones too; where items are known by ID alone, only those that training saw: the vectors of
    others are as they were drawn. A user of the data set is not offered what it touched in training or validation, as
    in the evaluation.

    Raises:
        ReclmError: for unknown ids, if the model cannot take such a user or new items, or if nothing is left to rank.
    """
    model, dataset = trained.model, trained.dataset
    if not isinstance(model, Backbone):
        if who.user is None or new_items is not None:
            raise ReclmError(
                f"backbone {trained.about.backbone!r} has no place for new users and items; use --user ID"
            )
        row, touched, built_from = _known_user(trained, who.user)
        candidates = np.setdiff1d(np.arange(len(dataset.items)), touched)
        scores = model.scorer()(torch.tensor([row]), torch.from_numpy(candidates))  # pyright: ignore[reportCallIssue]
        return _best(trained, scores[0], candidates, k, None, built_from)
    users, items = trained.final
    if who.user is not None:
        row, touched, built_from = _known_user(trained, who.user)
        user = users[row : row + 1]
    else:
        user, touched, built_from = _new_user(trained, model, who)
    candidates = np.arange(len(items))
    if model.config.items == "id":
        candidates = model.trained_items.numpy()
    candidates = np.setdiff1d(candidates, touched)
    if new_items is not None:
        items = torch.cat([items, new_item_rows(trained, model, new_items)])
        candidates = np.concatenate([candidates, np.arange(len(dataset.items), len(items))])
    scores = model.scorer_of(user, items)(torch.zeros(1, dtype=torch.int64), torch.from_numpy(candidates))
    return _best(trained, scores[0], candidates, k, new_items, built_from)


def new_user_rows(
    trained: Trained,
    model: Backbone,
    profiles: Sequence[str | None] | None,
    histories: sparse.csr_array | None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Representations ``(n, d')`` of new users.

    Args:
        profiles: a text a user, None where there is none.
        histories: ``(n, I)`` matrix of ones.
        generator: of the draws of a fold-in; by default seeded 0.

    Raises:
        ReclmError: if the model takes no profiles, or none of such users.
    """
    if profiles is None and histories is None:
        raise ValueError("a new user needs a profile or a history")
    count = len(profiles) if profiles is not None else len(histories.indptr) - 1  # pyright: ignore[reportOptionalMemberAccess]
    matrix = None
    if profiles is not None:
        if model.user_fusion is None:
            raise ReclmError(
                f"this model ({trained.about.variant}) was trained without user profiles and reads none; "
                f"train one with them: reclm bench --backbone {trained.about.backbone} --augment"
            )
        matrix = _profile_matrix(trained, profiles)
    generator = generator or torch.Generator().manual_seed(0)
    return model.new_users(model.user_prior(count), matrix, histories, generator)


def new_item_rows(trained: Trained, model: Backbone, new_items: NewItems) -> Tensor:
    """Representations ``(n, d')`` of new items, of their text and their profiles, if they have any.

    Raises:
        ReclmError: if items are known by their ID alone, one has no text, or profiles are given and the model has none.
    """
    if model.t_raw is None:
        model.new_item_features(torch.empty(0, 0))  # says why not, before any text is encoded
    texts = new_items.texts(trained.dataset.text_template)
    profiles = None
    if new_items.profiles is not None:
        profiles = _profile_matrix(trained, new_items.profiles)
    return model.new_items(torch.from_numpy(trained.encoder.encode(texts)), profiles)


def _profile_matrix(trained: Trained, texts: Sequence[str | None]) -> ProfileMatrix:
    present = np.array([bool(text) for text in texts])
    return ProfileMatrix(trained.encoder.encode([text or "" for text in texts]), present)


def _known_user(trained: Trained, id: str) -> tuple[int, np.ndarray, str]:
    """Row, touched items, and what to say of it."""
    dataset = trained.dataset
    row = int(rows_of(dataset.users, [id], dataset.name)[0])
    touched = dataset.joined(["train", "valid"])
    touched = np.unique(touched.item_idx[touched.user_idx == row])
    seen = dataset.joined(trained.about.trained_on)
    count = len(np.unique(seen.item_idx[seen.user_idx == row]))
    return row, touched, f"user {id}, trained on {_items(count)}"


def _new_user(trained: Trained, model: Backbone, who: Who) -> tuple[Tensor, np.ndarray, str]:
    """Representation ``(1, d')``, touched items, and what it was built from."""
    dataset = trained.dataset
    said = []
    touched = np.empty(0, np.int64)
    histories = None
    if who.history is not None:
        touched = np.unique(rows_of(dataset.items, who.history, dataset.name))
        useful = touched
        if (
            model.config.items != "text"
        ):  # the ID vector of an item that training never saw is as it was drawn
            useful = np.intersect1d(touched, model.trained_items.numpy())
        if not len(useful):
            raise ReclmError(
                "training saw none of the items of --history, and this model knows items by their ID; name others, or "
                "train one that reads text: --set items=text"
            )
        row = np.zeros(len(useful), np.int64)
        histories = sparse.csr_array(
            (np.ones(len(useful), np.float32), (row, useful)), shape=(1, len(dataset.items))
        )
        said.append(f"a history of {_items(len(useful))} ({model.history_by})")
        if len(useful) < len(touched):
            said.append(f"without {_items(len(touched) - len(useful))} of it that training never saw")
    if who.profile is not None:
        said.append(f"a profile of {len(who.profile.split()):,} words (embedded by {trained.about.encoder})")
    user = new_user_rows(trained, model, None if who.profile is None else [who.profile], histories)
    start = "the mean of the trained users to begin with"
    return user, touched, "a new user: " + ", ".join([*said, start])


def rows_of(idmap: IdMap, ids: Sequence[str], dataset: str) -> np.ndarray:
    """Rows ``(n,)`` of ids.

    Raises:
        ReclmError: for an unknown one, with the nearest, and how many there are.
    """
    rows = idmap.find(ids)
    if (rows >= 0).all():
        return rows
    id = list(ids)[int(np.flatnonzero(rows < 0)[0])]
    first = idmap.ids(np.arange(min(3, len(idmap))))
    offered = near(id, idmap.ids())
    raise ReclmError(
        f"unknown {idmap.what} {id!r} among the {len(idmap):,} {idmap.what}s of data set {dataset!r}; ids near it, or "
        f"like it: {', '.join(offered or first)}"
    )


def _best(
    trained: Trained,
    scores: Tensor,
    candidates: np.ndarray,
    k: int,
    new_items: NewItems | None,
    built_from: str,
) -> Recommendation:
    if not len(candidates):
        raise ReclmError("nothing is left to recommend: the user has touched every item")
    best, places = scores.topk(min(k, len(candidates)))
    chosen = candidates[places.numpy()]
    dataset = trained.dataset
    ids, fields, count = dataset.items.array, dataset.item_text, 0
    if new_items is not None:
        ids = pa.concat_arrays([ids, new_items.ids.array])
        fields = pa.concat_tables([fields, new_items.fields], promote_options="permissive")
        count = len(new_items)
    titles = shown_titles(fields.take(chosen), dataset.text_template)
    known = len(dataset.items)
    items = [
        Recommended(id, title, score, bool(row >= known))
        for row, id, title, score in zip(
            chosen, ids.take(pa.array(chosen)).to_pylist(), titles, best.tolist(), strict=True
        )
    ]
    ranked = f"{_items(len(candidates) - count)} of data set {dataset.name} that the user has not touched"
    return Recommendation(built_from, ranked + f", and {_items(count, 'new ')}" * bool(count), items)


def shown_titles(fields: pa.Table, template: str) -> list[str]:
    """What each item is called: its title where there is such a field, else all its text."""
    for name in TITLES:
        if name in fields.column_names:
            return fields.column(name).to_pylist()
    return item_texts(fields, template)


def _items(count: int, what: str = "") -> str:
    return f"{count:,} {what}item{'s' * (count != 1)}"
