"""Reinforcement learning for system optimisation: regression of relative rewards of the answers to a prompt.

Paper: LangPTune https://arxiv.org/abs/2410.18870, eqs 6 and 8; the objective is REBEL's
(https://arxiv.org/abs/2404.16767).

Metrics of a step beside those of :mod:`~reclm.profilers.rl.loop`: ``reward_gap`` mean distance of the rewards of two
answers to a prompt, before the KL's penalty and whitening; means over its updates: ``loss``, ``update_kl`` a token from
old to new policy (k3, nats).
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from reclm.profilers.rl.config import RLSOConfig
from reclm.profilers.rl.loop import Metrics, OnPolicy
from reclm.profilers.rl.losses import kl_k1, kl_k3, masked_mean, rlso_loss, rlso_rewards
from reclm.profilers.rl.rollout import Rollout


class RLSO(OnPolicy):
    """The policy's value head has no part in it and is frozen. See :class:`OnPolicy`.

    The reward may change between steps, as LangPTune's does with its recommender: a round takes its T steps from
    :meth:`run` (``itertools.islice(rlso.run(), T)``). The learning rate falls over ``steps``, those of all rounds.
    """

    config: RLSOConfig

    def _groups(self, weights: list[torch.nn.Parameter]) -> list[dict[str, Any]]:
        # with many processes, whatever requires a gradient must get one
        self.policy.value_head.requires_grad_(False)
        rate, decay, epsilon = self.config.learning_rate, self.config.weight_decay, self.config.epsilon
        return [{"params": weights, "lr": rate, "weight_decay": decay, "eps": epsilon}]

    def _learn(self, rollout: Rollout, rewards: Tensor) -> Metrics:
        config = self.config
        old, reference = self._scores(rollout, config.forward_size)
        kl = kl_k1(old.logprobs, reference).sum(1)
        scores = rlso_rewards(rewards, kl, self.coefficient, white=config.whiten_rewards, add_up=self._sum)
        gap = mean_distance(rewards.view(-1, config.samples))
        metrics = self._batch_metrics(rollout, old, reference, reward_gap=gap)
        # π_t stays the policy that wrote the answers
        loss = partial(self._loss, rollout, old.logprobs, scores.view(-1, config.samples))
        prompts = len(scores) // config.samples
        metrics |= self._update(prompts, config.minibatch_size, loss, config.forward_size)
        self._steer(metrics["kl"])
        return metrics

    def _loss(
        self, rollout: Rollout, logprobs: Tensor, rewards: Tensor, prompts: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of the answers to some prompts, and its terms."""
        rows, samples = rollout.rows(prompts), self.config.samples
        old, new = logprobs[rows], self._score(self.model, rollout, prompts).logprobs
        of_answers = (one.sum(1).view(-1, samples) for one in (new, old))
        loss = rlso_loss(*of_answers, rewards[prompts], self.config.eta)
        with torch.no_grad():
            moved = masked_mean(kl_k3(old, new), rollout.answers[rows])
        return loss, {"loss": loss.detach(), "update_kl": moved}


def mean_distance(rewards: Tensor) -> Tensor:
    """Return the mean distance of two of a row's values, ``(B, G) -> ()``."""
    first, second = torch.triu_indices(rewards.shape[1], rewards.shape[1], offset=1, device=rewards.device)
    return (rewards[:, first] - rewards[:, second]).abs().mean()
