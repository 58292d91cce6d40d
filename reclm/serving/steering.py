"""Does a ranking follow its profiles? What one added sentence does to the best items, over many users."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from reclm.data.dataset import Dataset
from reclm.errors import ReclmError
from reclm.intervals import mean
from reclm.profiles.ensure import ProfilerChoice, open_written
from reclm.progress import progress_bar
from reclm.serving.text_ranking import TextRanking
from reclm.text.brief import SEPARATORS, ItemBriefs
from reclm.text.encoder import TextEncoder
from reclm.workspace import Workspace

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
    """The categories of all items: the values of the fields that hold topics (:class:`~reclm.text.brief.ItemBriefs`).

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
