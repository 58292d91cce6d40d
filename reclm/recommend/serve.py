"""Rank items for users: trained on, or known by a profile text or a few items only."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from scipy import sparse
from torch import Tensor

from reclm.data.dataset import Dataset
from reclm.data.id_map import IdMap
from reclm.data.item_text import joined_text, take_rows
from reclm.data.readers.columns import strings, to_arrow
from reclm.data.readers.markup import readable
from reclm.data.readers.records import read_records
from reclm.errors import BadInput, NotFound, at_least
from reclm.profiles.matrix import ProfileMatrix
from reclm.recommend.embedding import EmbeddingBackbone
from reclm.recommend.evaluate import best_candidates
from reclm.text.item_text import item_texts

if TYPE_CHECKING:
    from reclm.recommend.recommender import Recommender

ID, PROFILE = "item_id", "profile"
TITLES = ("title", "name")
"""Item text fields that are shown; without them all the text is."""


@dataclass(frozen=True, eq=False)
class NewItems:
    """Items that came after training; ``fields`` are the columns of the data set's ``item_text``.

    Attributes:
        profiles: a text an item, empty where it has none; None if no item has one.
    """

    ids: IdMap
    fields: pa.Table
    profiles: list[str] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @classmethod
    def read(cls, source: Any, data: Dataset) -> "NewItems":
        """Read a data frame, or a file: CSV or TSV (with a header line), Parquet or JSON lines.

        Columns: ``item_id``, the text fields of the data set, and ``profile`` where items have one; others are ignored.
        """
        if isinstance(source, str | Path):
            where, table = str(source), read_records(Path(source))
        else:
            where, table = "new_items", to_arrow(source, "new_items")
        fields = data.item_text.column_names
        for name in (ID, *fields):
            if name not in table.column_names:
                message = (
                    f"{where} has no column {name!r}; new items of {data.name!r} need {', '.join([ID, *fields])} "
                    f"(empty where nothing is known), found: {', '.join(table.column_names)}"
                )
                raise NotFound(message, value=name, where=where)
        if not table.num_rows:
            raise BadInput(f"{where} holds no item", where=where)
        names = {ID, PROFILE, *fields} & {*table.column_names}
        columns = {name: strings(table[name]).fill_null("") for name in names}
        ids = IdMap(columns[ID], "item")
        for id, row in zip(ids.ids(), data.items.find(ids.array), strict=True):
            if not id.strip():
                raise BadInput(f"{where}: an item has no {ID}", where=where)
            if row >= 0:
                message = f"{where}: item {id!r} is in data set {data.name!r} already; leave it out"
                raise BadInput(message, value=id, where=where)
        has_profiles = PROFILE in columns and PROFILE not in fields and any(columns[PROFILE].to_pylist())
        profiles = columns[PROFILE].to_pylist() if has_profiles else None
        return cls(ids, pa.table({name: readable(columns[name]) for name in fields}), profiles)

    def texts(self, template: str) -> list[str]:
        """Return one text an item, as the model reads it; BadInput for an item without text."""
        texts = item_texts(self.fields, template)
        for id, text in zip(self.ids.ids(), texts, strict=True):
            if not text:
                message = f"new item {id!r} has no text, and nothing else is known of it; fill in its fields"
                raise BadInput(message, value=id)
        return texts


@torch.no_grad()
def rank_items(
    fitted: "Recommender",
    users: Any,
    history: Sequence[Any] | None,
    profile: str | None,
    new_items: NewItems | None,
    k: int,
) -> pd.DataFrame:
    """Return the best items of each user: see :meth:`reclm.recommend.recommender.Recommender.recommend`."""
    at_least(1, k=k)
    users, history = _as_list(users) or None, _as_list(history)
    model, data = fitted.model, fitted.data
    newcomer = _is_new(users, history, profile)
    if (newcomer or new_items is not None) and not model.serves_new:
        name = fitted.about.backbone
        message = f"backbone {name!r} has no place for new users and items; name a user of the data set"
        raise BadInput(message, value=name)
    if newcomer:
        ids: list[Any] = ["new user"]
        user, touched, built_from = _new_user(fitted, history, profile)
    else:
        ids = users or []
        rows = data.users.idx(ids, data.name)
        user = torch.from_numpy(rows)
        touched = data.joined(["train", "valid"]).matrix(len(data.users), len(data.items))[rows]
        built_from = _built_from(fitted, ids, rows)
    item_ids, fields, known = data.items.array, data.item_text, model.rankable()
    candidates, count = known, 0
    if newcomer or new_items is not None:
        known_users, items = fitted.representations
        if new_items is not None:
            count = len(new_items)
            items = torch.cat([items, _new_items(fitted, new_items)])
            candidates = torch.cat([known, torch.arange(model.n_items, model.n_items + count)])
            item_ids = pa.concat_arrays([item_ids, new_items.ids.array])
            fields = pa.concat_tables([fields, new_items.fields], promote_options="permissive")
        scorer = model.scorer_of(user if newcomer else known_users[user], items)
        user = torch.arange(len(ids))
    else:
        scorer = model.scorer()
    mask = touched[:, known.numpy()]  # new items come after the known ones, and nobody touched them
    scores, places = best_candidates(scorer, user, candidates, mask, min(k, len(candidates)))
    ranked = (places >= 0).numpy()
    if not ranked.any():
        raise BadInput("nothing is left to recommend: the user has touched every item", value=ids)
    row, rank = np.nonzero(ranked)
    chosen = pa.array(candidates[places].numpy()[ranked])
    columns: dict[str, Any] = {
        "user": [ids[at] for at in row],
        "rank": rank + 1,
        "item": item_ids.take(chosen).to_pylist(),
        "title": item_titles(take_rows(fields, chosen), data.text_template),
        "score": scores.numpy()[ranked],
    }
    if new_items is not None:
        columns["new"] = chosen.to_numpy() >= len(data.items)
    frame = pd.DataFrame(columns)
    left = _items(len(known) - mask.nnz) if len(ids) == 1 else "items"
    words = f"{left} of data set {data.name} that the user has not touched"
    frame.attrs |= {"user": built_from, "ranked": words + f", and {_items(count, 'new ')}" * bool(count)}
    return frame


def _as_list(ids: Any) -> list[Any] | None:
    """Return one id or several as a list; None for None."""
    return None if ids is None else [ids] if np.isscalar(ids) else list(ids)


def _is_new(users: Any, history: Sequence[Any] | None, profile: str | None) -> bool:
    """Return whether it is a new user, and check that it is one or the other."""
    newcomer = history is not None or profile is not None
    if (users is not None) == newcomer:
        message = (
            "give --user ID for a user of the data set, or --profile TEXT, --history ID,ID,… for a new one"
        )
        raise BadInput(message, where="users")
    if profile is not None and not (isinstance(profile, str) and profile.strip()):
        message = "--profile is empty or no text; describe the user in a sentence or two"
        raise BadInput(message, value=profile, where="profile")
    if history is not None and not len(history):
        message = "--history names no item; give item ids, as in --history 50,172,181"
        raise BadInput(message, value=history, where="history")
    return newcomer


def _new_user(
    fitted: "Recommender", history: Sequence[Any] | None, profile: str | None
) -> tuple[Tensor, sparse.csr_array, str]:
    """Return a new user's representation ``(1, d')``, the items it touched ``(1, I)``, and its sources in words."""
    data, model = fitted.data, fitted.model
    learns = isinstance(model, EmbeddingBackbone)
    parts = []
    touched, histories = np.empty(0, np.int64), None
    if history is not None:
        touched = useful = np.unique(data.items.idx(list(history), data.name))
        if learns and model.config.items != "text":
            # the ID vector of an item that training never saw is as it was drawn
            useful = np.intersect1d(touched, model.trained_items.numpy())
        if not len(useful):
            remedy = "--set items=text"
            message = f"training saw none of the items of --history; name others, or train with {remedy}"
            raise BadInput(message, value=list(history), where="history", remedy=remedy)
        histories = _ones(useful, len(data.items))
        parts.append(f"a history of {_items(len(useful))} ({model.history_by if learns else 'not read'})")
        if len(useful) < len(touched):
            parts.append(f"without {_items(len(touched) - len(useful))} of it that training never saw")
    if profile is not None:
        parts.append(f"a profile of {len(profile.split()):,} words (embedded by {fitted.about.encoder})")
    matrix = None if profile is None else encode_profiles(fitted, [profile])
    user = model.add_users(matrix, histories, torch.Generator().manual_seed(0))
    if learns:
        parts.append("the mean of the trained users to begin with")
    return user, _ones(touched, len(data.items)), "a new user: " + ", ".join(parts)


def _ones(columns: np.ndarray, width: int) -> sparse.csr_array:
    """Return a matrix ``(1, width)`` of ones at ``columns``."""
    ones = np.ones(len(columns), np.float32)
    return sparse.csr_array((ones, (np.zeros(len(columns), np.int64), columns)), shape=(1, width))


def _new_items(fitted: "Recommender", new_items: NewItems) -> Tensor:
    """Return representations ``(n, d')`` of new items, of their text and their profiles, if they have any."""
    model = fitted.model
    if not model.reads_text(model.config):
        model.add_items(torch.empty(0, 0), None)  # says why not, before any text is encoded
    texts, profiles = new_items.texts(fitted.data.text_template), None
    if new_items.profiles is not None and fitted.about.fusion == "text":
        texts = [joined_text(*pair) for pair in zip(texts, new_items.profiles, strict=True)]
    elif new_items.profiles is not None:
        profiles = encode_profiles(fitted, new_items.profiles)
    return model.add_items(torch.from_numpy(fitted.encoder.encode(texts)), profiles)


def encode_profiles(fitted: "Recommender", texts: Sequence[str | None]) -> ProfileMatrix:
    """Return the embeddings of profile texts by the model's encoder."""
    present = np.array([bool(text) for text in texts])
    return ProfileMatrix(fitted.encoder.encode([text or "" for text in texts]), present)


def _built_from(fitted: "Recommender", ids: Sequence[Any], rows: np.ndarray) -> str:
    if len(ids) > 1:
        return f"{len(ids):,} users"
    seen = fitted.data.joined(fitted.about.trained_on)
    count = len(np.unique(seen.item_idx[seen.user_idx == rows[0]]))
    return f"user {ids[0]}, trained on {_items(count)}"


def item_titles(fields: pa.Table, template: str) -> list[str]:
    """Return a title for each item: its title field where there is one, else all its text."""
    name = next((name for name in TITLES if name in fields.column_names), None)
    return item_texts(fields, template) if name is None else fields.column(name).to_pylist()


def _items(count: int, what: str = "") -> str:
    return f"{count:,} {what}item{'s' * (count != 1)}"
