"""Reinforcement learning for system optimisation: regression of relative rewards, two answers a prompt.

Paper: LangPTune https://arxiv.org/abs/2410.18870, eqs 6 and 8; the objective is REBEL's
(https://arxiv.org/abs/2404.16767).

Metrics of a step beside those of :mod:`~reclm.profilers.rl.loop`: ``reward_gap`` mean distance of the rewards of a
prompt's two answers, before penalty and whitening; means over its updates: ``loss``, ``update_kl`` a token from old to
new policy (k3, nats).
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from reclm.profilers.rl.config import RLSOConfig
from reclm.profilers.rl.loop import Metrics, OnPolicy
from reclm.profilers.rl.losses import kl_k1, kl_k3, masked_mean, rlso_loss, rlso_rewards
from reclm.profilers.rl.policy import Rollout


class RLSO(OnPolicy):
    """Two answers a prompt; the policy's value head has no part in it and is frozen. See :class:`OnPolicy`.

    The reward may change between steps, as LangPTune's does with its recommender: a round takes its T steps from
    :meth:`run` (``itertools.islice(rlso.run(), T)``). The learning rate falls over ``steps``, those of all rounds.
    """

    config: RLSOConfig
    samples = 2

    def _groups(self, weights: list[torch.nn.Parameter]) -> list[dict[str, Any]]:
        # with many processes, whatever requires a gradient must get one
        self.policy.value_head.requires_grad_(False)
        rate, decay, epsilon = self.config.learning_rate, self.config.weight_decay, self.config.epsilon
        return [{"params": weights, "lr": rate, "weight_decay": decay, "eps": epsilon}]

    def _learn(self, rollout: Rollout, rewards: Tensor) -> Metrics:
        config = self.config
        old, reference = self._scores(rollout, 2 * config.forward_size)
        kl = kl_k1(old.logprobs, reference).sum(1)
        scores = rlso_rewards(
            rewards, kl, config.kl_coefficient, white=config.whiten_rewards, add_up=self._sum
        )
        gap = rewards.view(-1, 2).diff().abs().mean()
        metrics = self._batch_metrics(rollout, rewards, old, reference, reward_gap=gap)
        # π_t stays the policy that wrote the answers
        loss = partial(self._loss, rollout, old.logprobs, scores.view(-1, 2))
        return metrics | self._update(len(scores) // 2, loss, config.forward_size)

    def _loss(
        self, rollout: Rollout, logprobs: Tensor, rewards: Tensor, prompts: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of some prompts, with the answers to prompt b in rows 2 b and 2 b + 1, and its terms."""
        rows = torch.stack([2 * prompts, 2 * prompts + 1], dim=1).flatten()
        old, new = logprobs[rows], self._score(self.model, rollout, rows).logprobs
        loss = rlso_loss(new.sum(1).view(-1, 2), old.sum(1).view(-1, 2), rewards[prompts], self.config.eta)
        with torch.no_grad():
            moved = masked_mean(kl_k3(old, new), rollout.answers[rows])
        return loss, {"loss": loss.detach(), "update_kl": moved}
