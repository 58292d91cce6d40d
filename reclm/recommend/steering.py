"""Does a ranking follow its profiles? What one added sentence does to the best items, over many users."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor
from torch.nn import functional as F

from reclm.console import progress_bar
from reclm.data.dataset import Dataset, ProfileKind, TrainingView
from reclm.errors import ReclmError
from reclm.folders import Workspace
from reclm.intervals import mean
from reclm.profiles.ensure import ProfilerChoice, open_written
from reclm.recommend.serve import rows_of, shown_titles
from reclm.text.encoder import TextEncoder, item_text_features
from reclm.text.item_text import SEPARATORS, ItemBriefs


class TextRanking:
    """Scores any profile text against all items that have a text.

    Args:
        dataset: whose items; what its users touched in training or validation is masked, as in the evaluation.
        encoder: of item texts and of profiles.
        workspace: keeps the items' vectors.
        progress: show a bar while items are encoded.

    Raises:
        ReclmError: if no item has a text.
    """

    def __init__(
        self, dataset: Dataset, encoder: TextEncoder, workspace: Workspace, progress: bool = True
    ) -> None:
        if not dataset.item_text.num_columns:
            raise ReclmError(f"data set {dataset.name!r} has no item text to rank by")
        features = item_text_features(dataset.view(), encoder, workspace, progress)
        self.dataset, self.encoder = dataset, encoder
        self.items = F.normalize(torch.from_numpy(features), dim=-1)
        """``(I, t)``, of length one; zeros for an item without text."""
        self.blank = torch.from_numpy(~features.any(axis=1))
        """``(I,)``, whether an item has no text."""
        if self.blank.all():
            raise ReclmError(f"data set {dataset.name!r} has no item with a text to rank by")
        touched = dataset.joined(["train", "valid"])
        self._touched = touched.matrix(len(dataset.users), len(dataset.items))

    def scores(
        self, texts: Sequence[str], users: np.ndarray, progress: Callable[[int], None] | None = None
    ) -> Tensor:
        """Cosines ``(n, I)`` float32 of ``n`` profiles, -inf for touched items and for those without text.

        Bound: one product ``(n, t) × (t, I)``; the scores are held at once, ``4·n·I`` bytes.

        Args:
            texts: ``n`` profiles.
            users: ``(n,)`` user_idx, whose history is masked.
            progress: as in :meth:`~reclm.text.encoder.TextEncoder.encode`.
        """
        profiles = torch.from_numpy(self.encoder.encode(texts, progress=progress))
        scores = F.normalize(profiles, dim=-1) @ self.items.T
        scores[:, self.blank] = -torch.inf
        rows, columns = self._touched[users].nonzero()
        scores[torch.from_numpy(rows), torch.from_numpy(columns)] = -torch.inf
        return scores


SHOWN_HISTORY = 10
"""Items of a history that are shown."""


@dataclass(frozen=True)
class Ranked:
    """One item of a list.

    Attributes:
        rank: its place, from 1; ``other_rank`` that for the other profile, which may lie beyond the list.
        score: cosine of its text to the profile.
    """

    item_id: str
    title: str
    score: float
    rank: int
    other_rank: int

    @property
    def rose(self) -> int:
        """Places it stands higher than for the other profile; negative where lower."""
        return self.other_rank - self.rank


@dataclass(frozen=True)
class UserProfile:
    """A profile, and who wrote it.

    ``store`` is the folder of the store it was found in, None where it was written now and not stored.
    """

    text: str
    writer: str
    store: Path | None


@dataclass(frozen=True)
class Steered:
    """What there is to say of one user.

    Attributes:
        history: titles of what it touched in training, newest first; ``SHOWN_HISTORY`` at most.
        touched: how many that are in all.
        profile: as it is; ``edited`` is None where nothing was.
        before, after: the best items for both; ``after`` is empty without an edit.
        cut: whether the encoder's window ends before one of the profiles does.
    """

    user: str
    history: list[str]
    touched: int
    profile: UserProfile
    edited: str | None
    before: list[Ranked]
    after: list[Ranked]
    cut: bool

    @property
    def left(self) -> list[Ranked]:
        """Items of ``before`` that the edit put out of the list."""
        kept = {one.item_id for one in self.after}
        return [one for one in self.before if one.item_id not in kept] if self.after else []


def steer(
    dataset: Dataset,
    workspace: Workspace,
    encoder: TextEncoder,
    user: str,
    profiler: ProfilerChoice,
    edit: Callable[[str], str] | None = None,
    topk: int = 10,
    progress: bool = True,
) -> Steered:
    """Rank all items by a user's profile and, with ``edit``, by the edited profile too.

    Args:
        user: its id.
        profiler: whose profile; the stored one, or else one that is written now.
        edit: makes the edited profile of the profile.
        topk: how long the lists are.

    Raises:
        ReclmError: for an unknown user, one without a profile, an edit that changes nothing, and what opening the
            profiler or the ranking raises.
    """
    view = dataset.view()
    row = int(rows_of(dataset.users, [user], dataset.name)[0])
    profile = user_profile(view, workspace, profiler, user)
    edited = edit(profile.text).strip() if edit else None
    if edited is not None and edited in {"", profile.text.strip()}:
        raise ReclmError(
            f"the edited profile is {'the same' if edited else 'empty'}; change it, or leave --edit out"
        )
    ranking = TextRanking(dataset, encoder, workspace, progress)
    before, after = rank_both(ranking, row, profile.text, edited or profile.text, topk)
    history = view.train.item_idx[view.history("user", row)[::-1]]
    fields = dataset.item_text.take(pa.array(history[:SHOWN_HISTORY], pa.int64()))
    titles = shown_titles(fields, dataset.text_template)
    texts = [profile.text] if edited is None else [profile.text, edited]
    cut = encoder.truncated(texts) > 0
    return Steered(user, titles, len(history), profile, edited, before, after if edited else [], cut)


def user_profile(
    view: TrainingView, workspace: Workspace, profiler: ProfilerChoice, user: str
) -> UserProfile:
    """The stored profile of a user of the data set, else one that is written now and not stored.

    Raises:
        ReclmError: if the profiler finds nothing to go by, and what opening it raises.
    """
    opened, writer, store = open_written(view, workspace, profiler)
    stored = store.get("user", user) if store else None
    if store and stored:
        return UserProfile(stored.text, writer, store.folder)
    known: dict[ProfileKind, dict[str, str]] = {"user": store.texts("user") if store else {}}
    subjects = opened.fit(view).subjects(view, "user", view.users.idx([user]), known)
    written = next(iter(opened.write(list(subjects))), None)
    if written is None or not written.text.strip():
        raise ReclmError(f"profiler {profiler.name!r} has nothing to say of user {user!r}; name another user")
    return UserProfile(written.text, writer, None)


def rank_both(
    ranking: TextRanking, user: int, profile: str, other: str, topk: int
) -> tuple[list[Ranked], list[Ranked]]:
    """The best items for a profile and for another one of the same user, each with its rank for the other.

    Args:
        user: its row, whose history is masked.
        topk: how many; fewer where the user has touched most items.

    Raises:
        ReclmError: if nothing is left to rank.
    """
    scores = ranking.scores([profile, other], np.array([user, user]))
    count = min(topk, int(scores[0].isfinite().sum()))
    if not count:
        raise ReclmError("nothing is left to recommend: the user has touched every item with a text")
    order = scores.argsort(dim=1, descending=True, stable=True).numpy()
    rank = np.empty_like(order)
    np.put_along_axis(rank, order, np.arange(1, order.shape[1] + 1)[None], axis=1)
    lists = []
    for one, another in ((0, 1), (1, 0)):
        best = order[one, :count]
        ids = ranking.dataset.items.ids(best)
        titles = shown_titles(ranking.dataset.item_text.take(pa.array(best)), ranking.dataset.text_template)
        numbers = zip(
            scores[one, best].tolist(), range(1, count + 1), rank[another, best].tolist(), strict=True
        )
        lists.append([Ranked(id, title, *rest) for id, title, rest in zip(ids, titles, numbers, strict=True)])
    return lists[0], lists[1]


LOVES, DISLIKES = " Loves {category}.", " Dislikes {category}."


@dataclass(frozen=True)
class Effect:
    """What a sentence did to the share of its category among the best items.

    Attributes:
        sentence: what was appended, with ``{category}`` for the category.
        change: mean change of the share over the users.
        low, high: Student's 95 % interval of the mean; None for a single user.
        right: share of the users whose share went the right way.
        possible: users whose share could: it was below 1 where it should rise, above 0 where it should fall.
    """

    sentence: str
    change: float
    low: float | None
    high: float | None
    right: float
    possible: int


@dataclass(frozen=True)
class Steering:
    """The measure over many users.

    Attributes:
        users: how many were measured, out of ``described`` with a profile, out of ``total`` in the data set.
        topk: length of the lists.
        categories: how many there were to draw from.
        share: mean share of the drawn category for the profiles as they are.
        loves, dislikes: what the sentences did.
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


def steering(
    ranking: TextRanking,
    profiles: Mapping[str, str],
    users: int = 200,
    topk: int = 10,
    seed: int = 0,
    loves: str = LOVES,
    dislikes: str = DISLIKES,
    progress: bool = True,
) -> Steering:
    """Append "loves" and "dislikes" a category to profiles, and count the category among the best items.

    Users and their categories are drawn by the seed: where the same users have profiles, runs before and after a
    training measure the same users with the same categories. A category is any value of the fields that hold topics
    which at least ``topk`` items have, and at most half of them.

    Args:
        ranking: the items, and the encoder.
        profiles: id to text; ids that the data set lacks, and empty texts, are passed over.
        users: how many; fewer where fewer have a profile.
        topk: length of the lists.
        seed: of the draws.
        loves, dislikes: the sentences, with ``{category}`` for the category.

    Raises:
        ReclmError: if no user has a profile, or there is no such category.
    """
    dataset = ranking.dataset
    told = {id: text for id, text in profiles.items() if text.strip()}
    rows = dataset.users.find(told)
    described = np.sort(rows[rows >= 0])
    if not len(described):
        raise _nobody(dataset.name, "")
    names, keys = item_categories(dataset.item_text)
    counts = np.bincount(keys % max(len(names), 1), minlength=len(names))
    fit = np.flatnonzero((counts >= topk) & (2 * counts <= len(dataset.items)))
    if not len(fit):
        raise ReclmError(
            f"data set {dataset.name!r} has no category that at least {topk} and at most half of its items have; "
            "lower --topk"
        )
    random = np.random.default_rng(seed)
    chosen = random.permutation(described)[:users]
    drawn = random.choice(fit, len(chosen))
    own = [told[id] for id in dataset.users.ids(chosen)]
    texts = list(own)
    for sentence in (loves, dislikes):
        texts += [
            text + sentence.replace("{category}", names[one]) for text, one in zip(own, drawn, strict=True)
        ]
    with progress_bar("embedding profiles", len(texts), progress) as advance:
        scores = ranking.scores(texts, np.tile(chosen, 3), progress=advance)
    plain, loved, disliked = _shares(scores, topk, np.tile(drawn, 3), keys, len(names)).reshape(3, -1)
    return Steering(
        len(chosen),
        len(described),
        len(dataset.users),
        topk,
        len(fit),
        float(plain.mean()),
        _effect(loves, loved - plain, loved > plain, plain < 1),
        _effect(dislikes, disliked - plain, disliked < plain, plain > 0),
        ranking.encoder.truncated(texts[len(own) :]),
    )


def stored_steering(
    dataset: Dataset,
    workspace: Workspace,
    encoder: TextEncoder,
    profiler: ProfilerChoice,
    users: int = 200,
    topk: int = 10,
    progress: bool = True,
) -> Steering:
    """:func:`steering` of the profiles that a profiler wrote into the workspace's store.

    Raises:
        ReclmError: if there are none, and what opening the profiler or the ranking raises.
    """
    store = open_written(dataset.view(), workspace, profiler)[2]
    if store is None or not store.count("user"):
        adapter = f" --adapter {profiler.adapter}" if profiler.adapter else ""
        raise _nobody(dataset.name, f" --profiler {profiler.name}{adapter}")
    ranking = TextRanking(dataset, encoder, workspace, progress)
    return steering(ranking, store.texts("user"), users, topk, progress=progress)


def _nobody(dataset: str, writer: str) -> ReclmError:
    return ReclmError(
        f"no user of data set {dataset!r} has a stored profile by this profiler; write some: "
        f"reclm profile --dataset {dataset}{writer} --kind user"
    )


def item_categories(fields: pa.Table) -> tuple[list[str], np.ndarray]:
    """The categories of all items: values of the topic fields (:class:`~reclm.text.item_text.ItemBriefs`).

    Returns:
        ``(names, keys)``: ``C`` names, and the distinct pairs ``item · C + category`` ``(m,)``, sorted.
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
    """Share ``(n,)`` of each row's category among the ``topk`` best of its scores ``(n, I)``."""
    best, top = scores.topk(min(topk, scores.shape[1]), dim=1)
    ranked = best.isfinite().numpy()
    hits = np.isin(top.numpy() * count + categories[:, None], keys) & ranked
    return hits.sum(axis=1) / ranked.sum(axis=1).clip(min=1)


def _effect(sentence: str, change: np.ndarray, right: np.ndarray, possible: np.ndarray) -> Effect:
    """The mean change with Student's interval."""
    found = mean(change)
    assert found is not None
    return Effect(sentence, found.mean, found.low, found.high, float(right.mean()), int(possible.sum()))
