"""What a profile is worth: the ranking that it produces (LangPTune, section 2)."""

from collections.abc import Sequence

import numpy as np

from reclm.profilers.langptune.histories import Histories
from reclm.profilers.langptune.prompts import finished
from reclm.profilers.langptune.readability import interpretability
from reclm.profilers.langptune.recommender import REWARDS, TextRecommender
from reclm.profilers.rl.rollout import Rollout

_PASSES = 4
"""Two a half are the fewest that have a spread."""


class SystemReward:
    """NDCG or MRR of the ranking that σ makes from a profile; a :class:`~reclm.profilers.rl.rollout.Reward`.

    Args:
        recommender: σ, as it is at the moment.
        histories: of the sessions.
        rows: ``(n,)`` which of them the prompts are of.
        name: ``ndcg`` or ``mrr``.
    """

    def __init__(
        self, recommender: TextRecommender, histories: Histories, rows: np.ndarray, name: str
    ) -> None:
        self.recommender, self.histories, self.rows = recommender, histories, rows
        self.measure = REWARDS[name]

    def __call__(self, texts: Sequence[str], rows: Sequence[int]) -> list[float]:
        """A number an answer; ``rows`` says which prompt each answers."""
        sessions, at = self.histories.sessions, self.rows[list(rows)]
        profiles = [finished(self.histories.config, text) for text in texts]
        ranks = self.recommender.ranks(profiles, sessions.history[at], sessions.future[at])
        return self.measure(ranks).tolist()

    def watch(self, rollout: Rollout, rows: Sequence[int]) -> dict[str, float]:
        """How readable the answers are, and how much of them is copied; see :func:`interpretability`."""
        profiles = [finished(self.histories.config, text) for text in rollout.texts]
        ended = [reason == "stop" for reason in rollout.finish_reasons]
        return interpretability(profiles, self.histories.sources(self.rows[list(rows)].tolist()), ended)


def by_pass(rewards: np.ndarray, prompts: int, batch: int) -> tuple[np.ndarray, str]:
    """Mean rewards of whole passes over the prompts, where there are four or more; else those of the updates.

    Prompts differ in how much can be earned by them, more than a policy learns in a few updates. Passes have the same
    prompts: between two of them the policy differs, and what it happened to sample.

    Args:
        rewards: ``(n,)`` of the updates.
        prompts: that are learned from.
        batch: prompts an update.

    Returns:
        The values, and what they are of.
    """
    updates, rest = divmod(prompts, batch)
    passes = len(rewards) // updates if updates and not rest else 0
    if passes < _PASSES:
        return rewards, "updates"
    return rewards[: passes * updates].reshape(passes, updates).mean(1), "passes over the prompts"
