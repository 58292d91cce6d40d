"""Reinforcement learning for system optimisation: regression of relative rewards, two answers a prompt.

Paper: LangPTune https://arxiv.org/abs/2410.18870, eqs 6 and 8; the objective is REBEL's
(https://arxiv.org/abs/2404.16767).

Metrics of a step beside those of :mod:`~reclm.profilers.rl.loop`: ``reward_gap`` mean distance of the rewards of a
prompt's two answers, before penalty and whitening; means over its updates: ``loss``, ``update_kl`` a token from old to
new policy (k3, nats), ``updates`` done.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from reclm.profilers.rl.config import RLSOConfig
from reclm.profilers.rl.loop import Metrics, OnPolicy
from reclm.profilers.rl.losses import kl_k1, kl_k3, masked_mean, rlso_loss, rlso_rewards
from reclm.profilers.rl.policy import Policy
from reclm.profilers.rl.rollout import Reward, Rollout, Sampler


@dataclass(frozen=True)
class Pairs:
    """A batch of ``B`` prompts, whose answers are in rows ``2 b`` and ``2 b + 1``.

    Attributes:
        rollout: ``2 B`` answers of up to ``T`` tokens.
        logprobs: ``(2 B, T)``, of each token under the policy that wrote it (π_t).
        rewards: ``(B, 2)``, penalised and whitened.
    """

    rollout: Rollout
    logprobs: Tensor
    rewards: Tensor


class RLSO(OnPolicy):
    """Two answers a prompt; the policy's value head has no part in it and is frozen. See :class:`OnPolicy`.

    The reward may change between steps, as LangPTune's does with its recommender: a round takes its T steps from
    :meth:`run` (``itertools.islice(rlso.run(), T)``). The learning rate falls over ``steps``, those of all rounds.
    """

    config: RLSOConfig
    samples = 2

    def __init__(
        self,
        policy: Policy,
        sampler: Sampler,
        prompts: Sequence[list[int]],
        reward: Reward,
        config: RLSOConfig | None = None,
        accelerator: Accelerator | None = None,
    ) -> None:
        # with many processes, whatever requires a gradient must get one
        policy.value_head.requires_grad_(False)
        super().__init__(policy, sampler, prompts, reward, config or RLSOConfig(), accelerator)

    def _groups(self, weights: list[torch.nn.Parameter]) -> list[dict[str, Any]]:
        config = self.config
        return [
            {
                "params": weights,
                "lr": config.learning_rate,
                "weight_decay": config.weight_decay,
                "eps": config.epsilon,
            }
        ]

    def _learn(self, rollout: Rollout, rewards: Tensor) -> Metrics:
        metrics, pairs = self._pairs(rollout, rewards)
        return metrics | self._update(pairs)

    @torch.no_grad()
    def _pairs(self, rollout: Rollout, rewards: Tensor) -> tuple[Metrics, Pairs]:
        """Score with policy and reference, penalise and whiten."""
        config, size = self.config, 2 * self.config.forward_size
        old = self._scores(rollout, size)
        with self.policy.reference():
            reference = self._scores(rollout, size).logprobs
        kl = kl_k1(old.logprobs, reference).sum(1)
        scores = rlso_rewards(
            rewards, kl, config.kl_coefficient, white=config.whiten_rewards, add_up=self._sum
        )
        gap = rewards.view(-1, 2).diff().abs().mean()
        metrics = self._batch_metrics(rollout, rewards, old, reference, reward_gap=gap)
        return metrics, Pairs(rollout, old.logprobs, scores.view(-1, 2))

    def _update(self, pairs: Pairs) -> Metrics:
        """Take a gradient step on each minibatch of several epochs; π_t stays the policy that wrote the answers."""
        rate = self._set_rate()
        sums: dict[str, Tensor] = {}
        done = 0
        for prompts in self._minibatches(len(pairs.rewards)):
            self.optimizer.zero_grad()
            for part in prompts.split(self.config.forward_size):
                loss, terms = self._loss(pairs, part)
                share = len(part) / len(prompts)
                self.accelerator.backward(loss * share)
                sums = {name: sums.get(name, 0) + term * share for name, term in terms.items()}
            self.accelerator.clip_grad_norm_(self.model.parameters(), self.config.max_gradient_norm)
            self.optimizer.step()
            done += 1
        means = self._mean({name: total / done for name, total in sums.items()})
        return means | {"learning_rate": rate, "updates": float(done)}

    def _loss(self, pairs: Pairs, prompts: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of some prompts, and its terms by name."""
        rows = torch.stack([2 * prompts, 2 * prompts + 1], dim=1).flatten()
        old, new = pairs.logprobs[rows], self._score(self.model, pairs.rollout, rows).logprobs
        rewards = pairs.rewards[prompts]
        loss = rlso_loss(new.sum(1).view(-1, 2), old.sum(1).view(-1, 2), rewards, self.config.eta)
        with torch.no_grad():
            moved = masked_mean(kl_k3(old, new), pairs.rollout.answers[rows])
        return loss, {"loss": loss.detach(), "update_kl": moved}
