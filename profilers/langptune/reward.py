"""The reward of a profile: the ranking of the user's next items that it produces (LangPTune, section 2)."""

from collections.abc import Callable, Sequence
from time import perf_counter

import numpy as np
import torch
from torch import Tensor

from reclm.data.sessions import NONE
from reclm.profilers.langptune.prompts import Histories, finished
from reclm.profilers.langptune.readability import interpretability
from reclm.profilers.rl.policy import Rollout
from reclm.text.encoder import TextEncoder

_PASSES = 4
"""Two a half are the fewest that have a spread."""


class TextRanker:
    """Ranks candidate items for a text by cosine, while the encoder is trained.

    The backbone ``similarity`` evaluates by the same cosines. Two rules differ, for a reward must not pay for saying
    nothing: of equal scores the others stand first, and there is no random order. Embeddings of the items are computed
    when they are first needed after :meth:`changed`, and never otherwise.

    Args:
        encoder: σ_θ.
        texts: ``I`` texts of the items.
        candidates: ``(c,)`` item_idx, ascending, that are ranked.

    Attributes:
        seconds: spent on ``embedding`` and on ``ranking`` since it was made.
    """

    def __init__(self, encoder: TextEncoder, texts: Sequence[str], candidates: np.ndarray) -> None:
        self.encoder, self.texts, self.candidates = encoder, texts, candidates
        self.place = np.full(len(texts) + 1, NONE)
        self.place[candidates] = np.arange(len(candidates))
        self.seconds = {"embedding": 0.0, "ranking": 0.0}
        self._items: Tensor | None = None

    def changed(self) -> None:
        """Forget the items' embeddings: the encoder was trained."""
        self._items = None

    @property
    def items(self) -> Tensor:
        """``(c, t)`` embeddings of the candidates, of length one."""
        if self._items is None:
            self._items = self._embed([self.texts[int(item)] for item in self.candidates])
        return self._items

    def scores(self, profiles: Sequence[str], histories: np.ndarray) -> Tensor:
        """Return ``(n, c)`` cosines, -inf for the items of the history ``(n, h)`` (item_idx, -1: none)."""
        vectors, items = self._embed(profiles), self.items
        begun = perf_counter()
        scores = vectors @ items.T
        known = self.place[histories]
        rows, columns = np.nonzero(known != NONE)
        scores[torch.from_numpy(rows), torch.from_numpy(known[rows, columns])] = -torch.inf
        self.seconds["ranking"] += perf_counter() - begun
        return scores

    def ranks(self, profiles: Sequence[str], histories: np.ndarray, future: np.ndarray) -> Tensor:
        """Return ``(n, f)`` ranks of the future items ``(n, f)`` (item_idx, all candidates), the best 1.

        Of equal scores the others stand first. Ranks are counted, not sorted: ``n·f·c`` comparisons.
        """
        scores = self.scores(profiles, histories)
        begun = perf_counter()
        own = scores.gather(1, torch.from_numpy(self.place[future]))
        ranks = (scores.unsqueeze(1) >= own.unsqueeze(2)).sum(2)
        self.seconds["ranking"] += perf_counter() - begun
        return ranks

    def _embed(self, texts: Sequence[str]) -> Tensor:
        begun = perf_counter()
        vectors = torch.nn.functional.normalize(torch.from_numpy(self.encoder.encode(texts)), dim=1)
        self.seconds["embedding"] += perf_counter() - begun
        return vectors


def ndcg(ranks: Tensor) -> Tensor:
    """Return ``(n,)`` NDCG of whole rankings in which the ``f`` relevant items have ``ranks (n, f)``.

    ``Σ 1/log2(rank + 1)`` over the same sum for ranks 1 to f; between 0 and 1.
    """
    best = torch.arange(1, ranks.shape[1] + 1, device=ranks.device)
    return _gain(ranks).sum(1) / _gain(best).sum()


def mrr(ranks: Tensor) -> Tensor:
    """Return ``(n,)`` 1 over the rank of the first relevant item."""
    return 1.0 / ranks.min(1).values.float()


def _gain(ranks: Tensor) -> Tensor:
    return 1.0 / torch.log2(ranks.float() + 1)


REWARDS: dict[str, Callable[[Tensor], Tensor]] = {"ndcg": ndcg, "mrr": mrr}


class SystemReward:
    """NDCG or MRR of the ranking by a profile; a :class:`~reclm.profilers.rl.loop.Reward`.

    Args:
        ranker: with the encoder as it is at the moment.
        histories: of the sessions.
        rows: ``(n,)`` sessions that the prompts are of.
        name: ``ndcg`` or ``mrr``.
    """

    def __init__(self, ranker: TextRanker, histories: Histories, rows: np.ndarray, name: str) -> None:
        self.ranker, self.histories, self.rows = ranker, histories, rows
        self.measure = REWARDS[name]

    def __call__(self, texts: Sequence[str], rows: Sequence[int]) -> list[float]:
        """Return a number an answer; ``rows`` says which prompt each answers."""
        sessions, at = self.histories.sessions, self.rows[list(rows)]
        profiles = [finished(self.histories.config, text) for text in texts]
        ranks = self.ranker.ranks(profiles, sessions.history[at], sessions.future[at])
        return self.measure(ranks).tolist()

    def watch(self, rollout: Rollout, rows: Sequence[int]) -> dict[str, float]:
        """Return how readable the answers are, and how much of them is copied; see :func:`interpretability`."""
        profiles = [finished(self.histories.config, text) for text in rollout.texts]
        ended = (~rollout.unfinished).tolist()
        return interpretability(profiles, self.histories.sources(self.rows[list(rows)].tolist()), ended)


def by_pass(rewards: np.ndarray, prompts: int, batch: int) -> tuple[np.ndarray, str]:
    """Return mean rewards of whole passes over the prompts, where there are four or more; else those of the updates.

    Prompts differ in how much can be earned by them, more than a policy learns in a few updates. Passes have the same
    prompts: between two of them the policy differs, and what it happened to sample.

    Args:
        rewards: ``(n,)`` of the updates.
        prompts: that are learned from.
        batch: prompts an update.

    Returns:
        The values, and ``"updates"`` or ``"passes over the prompts"``.
    """
    updates, rest = divmod(prompts, batch)
    passes = len(rewards) // updates if updates and not rest else 0
    if passes < _PASSES:
        return rewards, "updates"
    return rewards[: passes * updates].reshape(passes, updates).mean(1), "passes over the prompts"
