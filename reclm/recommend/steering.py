"""Steering: measure how a profile's text moves the ranking, for one user and for many."""

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import torch

from reclm.console import progress_bar
from reclm.data.dataset import Dataset, check_dataset
from reclm.data.item_text import take_rows
from reclm.errors import BadInput, NotFound, at_least, check_seed, check_type
from reclm.intervals import mean
from reclm.profiles.matrix import item_text_features
from reclm.profiles.profiles import HOW, Profiles
from reclm.profiles.write import no_profiles
from reclm.recommend.serve import item_titles
from reclm.recommend.text_ranking import NO_TEXT, TextRanker
from reclm.text.item_text import SEPARATORS, ItemBriefs

if TYPE_CHECKING:
    from reclm.recommend.recommender import Recommender

SHOWN_HISTORY = 10
"""Items of a history that are shown."""


@dataclass(frozen=True)
class Ranked:
    """An item of a list; ``other_rank`` is its rank by the other profile, which may lie beyond the list."""

    item_id: Any
    title: str
    score: float
    rank: int
    other_rank: int

    @property
    def rose(self) -> int:
        """Places that it stands higher than by the other profile; negative where lower."""
        return self.other_rank - self.rank


@dataclass(frozen=True, repr=False)
class Steered:
    """A user's best items before and after an edit of its profile.

    Attributes:
        history: titles of the items it touched in training, newest first; ``SHOWN_HISTORY`` at most.
        touched: their number in all.
        profile, edited: None where the model does not know it, and without an edit.
        before, after: the best items for both; ``after`` is empty without an edit.
        cut: whether the encoder's window ends before one of the texts does.
    """

    user: Any
    history: list[str]
    touched: int
    profile: str | None
    edited: str | None
    before: list[Ranked]
    after: list[Ranked]
    cut: bool

    @property
    def left(self) -> list[Ranked]:
        """The items of ``before`` that the edit put out of the list."""
        listed = {item.item_id for item in self.after}
        return [item for item in self.before if item.item_id not in listed] if self.after else []

    def table(self) -> pd.DataFrame:
        """Return the items of both lists: ``item``, ``title``, rank ``before`` and ``after``, and places ``rose``."""
        rest = self.left if self.after else self.before
        rows = [(item.item_id, item.title, item.other_rank, item.rank, item.rose) for item in self.after]
        rows += [(item.item_id, item.title, item.rank, item.other_rank, -item.rose) for item in rest]
        return pd.DataFrame(rows, columns=["item", "title", "before", "after", "rose"])

    def __repr__(self) -> str:
        return f"Steered user {self.user}: {self.edited}\n{self.table().to_string(index=False)}"

    def _repr_html_(self) -> str:
        return self.table().to_html(index=False, escape=True, border=0)


def steer(fitted: "Recommender", user: Any, edit: str | None, k: int) -> Steered:
    """Rank items for a user and, with ``edit``, for the same user with ``edit`` as its profile.

    All else stays as trained; where users and items are propagated over a graph, that is done anew.
    """
    at_least(1, k=k)
    model, data = fitted.model, fitted.data
    row = int(data.users.idx([user], data.name)[0])
    if fitted.inputs.user_profiles is None:
        name = fitted.about.backbone
        message = (
            f"this {name} model reads no user profiles: an edit moves nothing; fit one with profiles of users"
        )
        raise BadInput(message, value=name, where="profiles")
    profile, edited = None, None if edit is None else edit.strip()
    if fitted.profiles is not None:
        with suppress(NotFound):
            profile = fitted.profiles.get(user).text
    if edited is not None and edited in {"", (profile or "").strip()}:
        message = f"the edited profile is {'the same' if edited else 'empty'}; change it, or leave --edit out"
        raise BadInput(message, value=edit, where="edit")
    sides = [fitted.representations] * 2
    if edited is not None:
        with torch.no_grad():
            sides[1] = model.representations({row: fitted.encoder.encode([edited])[0]})
    touched = data.joined(["train", "valid"])
    ranked = np.setdiff1d(model.rankable().numpy(), touched.item_idx[touched.user_idx == row])
    if not len(ranked):
        raise BadInput("nothing is left to recommend: the user has touched every item", value=user)
    user_idx, candidates = torch.tensor([row]), torch.from_numpy(ranked)
    scores = torch.cat([model.scorer_of(*side)(user_idx, candidates) for side in sides]).numpy()
    before, after = _lists(data, ranked, scores, k)
    view = data.view()
    history = view.train.item_idx[view.history("user", row)[::-1]]
    titles = _titles(data, history[:SHOWN_HISTORY])
    cut = fitted.encoder.truncated([text for text in (profile, edited) if text]) > 0
    return Steered(user, titles, len(history), profile, edited, before, after if edited else [], cut)


def _titles(data: Dataset, items: np.ndarray) -> list[str]:
    return item_titles(take_rows(data.item_text, pa.array(items, pa.int64())), data.text_template)


def _lists(data: Dataset, items: np.ndarray, scores: np.ndarray, k: int) -> list[list[Ranked]]:
    """Return the best of ``items`` ``(c,)`` by each row of ``scores`` ``(2, c)``, each with its rank by the other."""
    order = np.argsort(-scores, axis=1, kind="stable")
    rank = np.empty_like(order)
    np.put_along_axis(rank, order, np.arange(1, order.shape[1] + 1)[None], axis=1)
    lists = []
    for side, other in ((0, 1), (1, 0)):
        best = order[side, :k]
        numbers = (values[best].tolist() for values in (scores[side], rank[side], rank[other]))
        columns = data.items.ids(items[best]), _titles(data, items[best]), *numbers
        lists.append([Ranked(*row) for row in zip(*columns, strict=True)])
    return lists


LOVES, DISLIKES = " Loves {category}.", " Dislikes {category}."


@dataclass(frozen=True)
class Effect:
    """The change that a sentence made in the share of its category among the best items.

    Attributes:
        change: mean over the users, and ``low, high`` its Student's 95 % interval; None for a single user.
        right: share of the users whose share went the right way.
        possible: users whose share could: it was below 1 where it should rise, above 0 where it should fall.
    """

    sentence: str
    change: float
    low: float | None
    high: float | None
    right: float
    possible: int


@dataclass(frozen=True, repr=False)
class Steering:
    """A measurement of how rankings follow their profiles, over many users.

    Attributes:
        users: measured, out of ``described`` with a profile, out of ``total`` in the data set.
        categories: number of categories to draw from.
        share: mean share of the drawn category among the ``topk`` best for the profiles as they are.
        cut: share of the profiles whose end, sentence included, lies beyond the encoder's window.
    """

    users: int
    described: int
    total: int
    topk: int
    categories: int
    share: float
    loves: Effect
    dislikes: Effect
    cut: float

    def table(self) -> pd.DataFrame:
        """Return a row a sentence: mean change of the share, its interval, and the share of users moved so."""
        frame = pd.DataFrame([vars(effect) for effect in (self.loves, self.dislikes)])
        frame["sentence"] = frame["sentence"].str.strip()
        names = {"sentence": "appended", "right": "right way", "possible": "could move"}
        return frame.rename(columns=names)

    def __repr__(self) -> str:
        head = f"Steering of {self.users:,} users; share of a category among the {self.topk} best: {self.share:.3f}"
        return f"{head}\n{self.table().round(3).to_string(index=False)}"

    def _repr_html_(self) -> str:
        return self.table().to_html(index=False, escape=True, border=0)


def measure_steering(
    data: Dataset,
    profiles: Profiles,
    *,
    users: int = 200,
    k: int = 10,
    seed: int = 0,
    loves: str = LOVES,
    dislikes: str = DISLIKES,
    progress: bool = True,
) -> Steering:
    """Append "Loves …" and "Dislikes …" a category to profiles, and count the category among the best items.

    Items are ranked by their text alone (:class:`~reclm.recommend.text_ranking.TextRanker`). Users and their categories
    are drawn by the seed: where the same users have profiles, runs before and after a tuning measure the same users
    with the same categories. A category is any value of the fields that hold topics which at least ``k`` items have,
    and at most half of them.

    Args:
        profiles: of users; those of ids that the data set lacks, and empty ones, are left out.
        users: how many; fewer where fewer have a profile.
        k: length of the lists.
        loves, dislikes: the sentences, with ``{category}`` for the category.

    Raises:
        NotFound: if no user has a profile, no item a text, or there is no such category.
    """
    at_least(1, users=users, k=k)
    check_seed(seed=seed)
    check_type("profiles", profiles, Profiles, HOW)
    frame, idmap = profiles.texts("user"), check_dataset(data).users
    texts = {id: text for id, text in zip(frame["id"], frame["text"], strict=True) if text.strip()}
    rows = idmap.find(texts)
    described = np.sort(rows[rows >= 0])
    if not len(described):
        raise no_profiles(data.name)
    names, keys = item_categories(data.item_text)
    counts = np.bincount(keys % max(len(names), 1), minlength=len(names))
    usable = np.flatnonzero((counts >= k) & (2 * counts <= len(data.items)))
    if not names:
        message = (
            f"data set {data.name!r} has no category: no field of its item text holds topics, such as genres"
        )
        remedy = "prepare it with a text column of few distinct short values"
        raise NotFound(f"{message}; {remedy}", value=data.name, where="item_text", remedy=remedy)
    if not len(usable):
        message = (
            f"data set {data.name!r} has no category that at least {k} and at most half of its items have"
        )
        raise NotFound(f"{message}; lower k (--topk)", value=k, where="k", remedy="lower k")
    random = np.random.default_rng(seed)
    chosen = random.permutation(described)[:users]
    drawn = random.choice(usable, len(chosen))
    plain_texts = [texts[id] for id in idmap.ids(chosen)]
    edited = [
        text + sentence.replace("{category}", names[category])
        for sentence in (loves, dislikes)
        for text, category in zip(plain_texts, drawn, strict=True)
    ]
    encoder = profiles.encoder
    features = item_text_features(data.view(), encoder, progress=progress)
    ranker = TextRanker(features, torch.Generator().manual_seed(seed))
    with progress_bar("embedding profiles", 3 * len(plain_texts), progress) as advance:
        scores = ranker.scores(encoder.encode(plain_texts + edited, progress=advance))
    touched = data.joined(["train", "valid"]).matrix(len(idmap), len(data.items))[np.tile(chosen, 3)]
    scores[tuple(map(torch.from_numpy, touched.nonzero()))] = -torch.inf
    plain, loved, disliked = _shares(scores, k, np.tile(drawn, 3), keys, len(names)).reshape(3, -1)
    return Steering(
        users=len(chosen),
        described=len(described),
        total=len(idmap),
        topk=k,
        categories=len(usable),
        share=float(plain.mean()),
        loves=_effect(loves, loved - plain, loved > plain, plain < 1),
        dislikes=_effect(dislikes, disliked - plain, disliked < plain, plain > 0),
        cut=encoder.truncated(edited),
    )


def item_categories(fields: pa.Table) -> tuple[list[str], np.ndarray]:
    """Return ``C`` names of categories, and the sorted distinct pairs ``item · C + category`` ``(m,)`` of all items.

    Categories are the values of the topic fields (:class:`~reclm.text.item_text.ItemBriefs`).
    """
    items, words = [pa.array([], pa.int64())], [pa.array([], pa.string())]
    for name in ItemBriefs(fields).topic_fields:
        values = pc.utf8_trim_whitespace(pc.fill_null(fields.column(name), "")).combine_chunks()
        pieces = pc.split_pattern_regex(values, SEPARATORS)
        items.append(pc.list_parent_indices(pieces))
        words.append(pc.replace_substring(pc.list_flatten(pieces), "_", " "))
    pairs = pa.table({"item": pa.concat_arrays(items), "word": pa.concat_arrays(words)})
    pairs = pairs.filter(pc.not_equal(pairs["word"], "")).combine_chunks()
    coded = pc.unique(pairs["word"])
    codes = pc.index_in(pairs["word"], value_set=coded).to_numpy().astype(np.int64)
    return coded.to_pylist(), np.unique(pairs["item"].to_numpy() * len(coded) + codes)


def _shares(
    scores: torch.Tensor, topk: int, categories: np.ndarray, keys: np.ndarray, count: int
) -> np.ndarray:
    """Return each row's share of its category among the best ``topk`` items with text of ``scores (n, I)``."""
    best, top = scores.topk(min(topk, scores.shape[1]), dim=1)
    ranked = (best > NO_TEXT / 2 - 0.5).numpy()
    hits = np.isin(top.numpy() * count + categories[:, None], keys) & ranked
    return hits.sum(axis=1) / ranked.sum(axis=1).clip(min=1)


def _effect(sentence: str, change: np.ndarray, right: np.ndarray, possible: np.ndarray) -> Effect:
    estimate = mean(change)
    assert estimate is not None
    interval = estimate.mean, estimate.low, estimate.high
    return Effect(sentence, *interval, float(right.mean()), int(possible.sum()))
