"""Proximal policy optimisation of a language model.

Papers: PPO https://arxiv.org/abs/1707.06347, on language models with a controlled KL penalty
https://arxiv.org/abs/1909.08593; in RecLM (https://arxiv.org/abs/2412.19302) eqs 7 and 8.

Metrics of a step beside those of :mod:`~reclm.profilers.rl.loop`, means over its updates: ``policy_loss``,
``value_loss``, ``clip_fraction``, ``update_kl`` from old to new policy; ``explained_variance`` of the returns by the
values; ``stopped`` 1 if the KL ran away.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from reclm.profilers.rl.config import PPOConfig
from reclm.profilers.rl.loop import Metrics, OnPolicy
from reclm.profilers.rl.losses import (
    explained_variance,
    gae,
    kl_k1,
    masked_mean,
    ppo_policy_loss,
    value_loss,
    whiten,
)
from reclm.profilers.rl.policy import TokenScores
from reclm.profilers.rl.rollout import Rollout


class PPO(OnPolicy):
    """The policy's value head is trained with it. See :class:`OnPolicy`.

    Training is ``stopped`` when the KL runs away; the step in which it does is not done.
    """

    config: PPOConfig

    def _groups(self, weights: list[torch.nn.Parameter]) -> list[dict[str, Any]]:
        rate, head = self.config.learning_rate, list(self.policy.value_head.parameters())
        return [{"params": weights, "lr": rate}, {"params": head, "lr": rate * self.config.value_rate}]

    def _learn(self, rollout: Rollout, rewards: Tensor) -> Metrics:
        config, answers = self.config, rollout.answers
        size = max(1, config.minibatch_size // config.samples)
        old, reference = self._scores(rollout, size)
        kl = kl_k1(old.logprobs, reference)

        everyone = torch.ones_like(rewards, dtype=torch.bool)
        scores = whiten(rewards, everyone, add_up=self._sum) if config.whiten_rewards else rewards
        last = answers.sum(1, keepdim=True) - 1
        token_rewards = (-self.coefficient * kl).scatter_add(1, last, scores.unsqueeze(1))
        advantages, returns = gae(token_rewards, old.values, answers, config.gamma, config.lam)
        advantages = whiten(advantages, answers, add_up=self._sum)

        explained = explained_variance(old.values, returns, answers)
        metrics = self._batch_metrics(rollout, old, reference, explained_variance=explained)
        limit = config.runaway and config.kl_target and config.runaway * config.kl_target
        if limit and metrics["kl"] > limit:
            self.stopped = True
        else:
            loss = partial(self._loss, rollout, old, advantages, returns)
            metrics |= self._update(len(answers) // config.samples, size, loss, most_kl=config.update_kl)
            self._steer(metrics["kl"])
        return metrics | {"stopped": float(self.stopped)}

    def _loss(
        self, rollout: Rollout, old: TokenScores, advantages: Tensor, returns: Tensor, prompts: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of a minibatch, and its terms by name."""
        rows = rollout.rows(prompts)
        config, answers = self.config, rollout.answers[rows]
        new = self._score(self.model, rollout, prompts, entropies=config.entropy_weight > 0)
        policy = ppo_policy_loss(new.logprobs, old.logprobs[rows], advantages[rows], answers, config.clip)
        value = value_loss(new.values, old.values[rows], returns[rows], answers, config.value_clip)
        bonus = masked_mean(new.entropy, answers)
        loss = policy.loss + config.value_weight * value - config.entropy_weight * bonus
        # gradients are averaged over processes: each counts by its share of the tokens, as one process would
        count = answers.sum()
        share = count * self.accelerator.num_processes / self._sum(count)
        terms = {
            "policy_loss": policy.loss,
            "value_loss": value,
            "clip_fraction": policy.clip_fraction,
            "update_kl": policy.approx_kl,
        }
        return loss * share, {name: term.detach() for name, term in terms.items()}
