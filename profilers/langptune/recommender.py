"""The text recommender σ: profiles and items in one space, ranked by cosine (LangPTune, section 1)."""

from collections.abc import Callable, Sequence
from time import perf_counter

import numpy as np
import torch
from torch import Tensor

from reclm.data.sessions import NONE
from reclm.text.encoder import TextEncoder


class TextRecommender:
    """Ranks candidate items for a text by the cosine of their embeddings.

    Embeddings of the items are computed when they are first needed after :meth:`changed`, and never otherwise.

    Args:
        encoder: σ_θ.
        texts: ``I`` texts of the items.
        candidates: ``(c,)`` item_idx, ascending, that are ranked.

    Attributes:
        seconds: spent on ``embedding`` and on ``ranking`` since it was made.
        refreshes: how often the items were embedded.
    """

    def __init__(self, encoder: TextEncoder, texts: Sequence[str], candidates: np.ndarray) -> None:
        self.encoder, self.texts, self.candidates = encoder, texts, candidates
        self.place = np.full(len(texts) + 1, NONE)
        self.place[candidates] = np.arange(len(candidates))
        self.seconds = {"embedding": 0.0, "ranking": 0.0}
        self.refreshes = 0
        self._items: Tensor | None = None

    def changed(self) -> None:
        """σ_θ is another one now."""
        self._items = None

    @property
    def items(self) -> Tensor:
        """``(c, t)`` embeddings of the candidates, of length one."""
        if self._items is None:
            self._items = self.embed([self.texts[int(item)] for item in self.candidates])
            self.refreshes += 1
        return self._items

    def embed(self, texts: Sequence[str]) -> Tensor:
        """``(n, t)`` of length one."""
        begun = perf_counter()
        vectors = torch.nn.functional.normalize(torch.from_numpy(self.encoder.encode(texts)), dim=1)
        self.seconds["embedding"] += perf_counter() - begun
        return vectors

    def scores(self, profiles: Sequence[str], histories: np.ndarray) -> Tensor:
        """``(n, c)`` cosines, -inf for what is in the history ``(n, h)`` (item_idx, -1 where there are fewer)."""
        return self.scores_of(self.embed(profiles), histories)

    def scores_of(self, vectors: Tensor, histories: np.ndarray) -> Tensor:
        """:meth:`scores` of embeddings ``(n, t)``."""
        items = self.items
        begun = perf_counter()
        scores = vectors @ items.T
        known = self.place[histories]
        rows, columns = np.nonzero(known != NONE)
        scores[torch.from_numpy(rows), torch.from_numpy(known[rows, columns])] = -torch.inf
        self.seconds["ranking"] += perf_counter() - begun
        return scores

    def ranks(self, profiles: Sequence[str], histories: np.ndarray, future: np.ndarray) -> Tensor:
        """``(n, f)`` ranks of the future items ``(n, f)`` (item_idx, all candidates), the best 1.

        Of equal scores the others stand first: a text that says nothing is not rewarded. Ranks are counted, not
        sorted: ``n·f·c`` comparisons.
        """
        scores = self.scores(profiles, histories)
        begun = perf_counter()
        own = scores.gather(1, torch.from_numpy(self.place[future]))
        ranks = (scores.unsqueeze(1) >= own.unsqueeze(2)).sum(2)
        self.seconds["ranking"] += perf_counter() - begun
        return ranks


def ndcg(ranks: Tensor) -> Tensor:
    """``(n,)`` NDCG of whole rankings in which the ``f`` relevant items have ``ranks (n, f)``.

    ``Σ 1/log2(rank + 1)`` over the same sum for ranks 1 to f; between 0 and 1.
    """
    best = torch.arange(1, ranks.shape[1] + 1, device=ranks.device)
    return _gain(ranks).sum(1) / _gain(best).sum()


def mrr(ranks: Tensor) -> Tensor:
    """``(n,)`` 1 over the rank of the first relevant item."""
    return 1.0 / ranks.min(1).values.float()


def _gain(ranks: Tensor) -> Tensor:
    return 1.0 / torch.log2(ranks.float() + 1)


REWARDS: dict[str, Callable[[Tensor], Tensor]] = {"ndcg": ndcg, "mrr": mrr}
