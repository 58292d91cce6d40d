"""What a user's profile ranks first, and what an edit of the profile changes in that."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from reclm.data.dataset import Dataset, ProfileKind, TrainingView
from reclm.errors import ReclmError
from reclm.profiles.ensure import ProfilerChoice, open_written
from reclm.serving.recommend import rows_of, shown_titles
from reclm.serving.text_ranking import TextRanking
from reclm.text.encoder import TextEncoder
from reclm.workspace import Workspace

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
