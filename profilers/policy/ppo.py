"""Proximal policy optimisation of a language model.

Papers: PPO https://arxiv.org/abs/1707.06347, on language models with a steered KL penalty
https://arxiv.org/abs/1909.08593; in RecLM (https://arxiv.org/abs/2412.19302) eqs 7 and 8.

What a step's metrics mean, means over the batch of all processes: ``reward`` as the callable gave it, ``reward_std``,
``kl`` of an answer from the reference (k1, nats), ``kl_token`` a token (k3), ``kl_coefficient`` β that the step used,
``entropy`` a token (nats), ``tokens`` of an answer, ``unfinished`` share of cut answers; over the step's updates:
``policy_loss``, ``value_loss``, ``clip_fraction``, ``update_kl`` old to new policy, ``updates`` done;
``explained_variance`` of the returns by the values; ``learning_rate``; ``rollout_seconds``, ``reward_seconds``,
``update_seconds`` with scoring, ``rollout_tokens`` a second; ``stopped`` 1 if KL ran away.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import torch
from accelerate import Accelerator
from torch import Tensor

from reclm.errors import ReclmError
from reclm.profilers.policy import checkpoints
from reclm.profilers.policy.config import PPOConfig
from reclm.profilers.policy.control import KLController
from reclm.profilers.policy.losses import (
    explained_variance,
    gae,
    kl_k1,
    kl_k3,
    masked_mean,
    ppo_policy_loss,
    value_loss,
    whiten,
)
from reclm.profilers.policy.model import Policy, TokenScores
from reclm.profilers.policy.order import batch_rows, generator
from reclm.profilers.policy.rewards import Reward, judge
from reclm.profilers.policy.rollout import Rollout, Sampler, roll_out

Metrics = dict[str, float]


@dataclass(frozen=True)
class Experience:
    """A batch of answers with what the losses need; ``(B, T)`` but for the roll-out."""

    rollout: Rollout
    old: TokenScores
    advantages: Tensor
    returns: Tensor


class PPO:
    """The loop, one process or many (``accelerate launch``).

    A step depends on the seed and its number, not on what ran before it in the process: order, answers and minibatches
    are drawn from generators of their own. A run that goes on from a checkpoint is the run that was never broken.

    Args:
        policy: what is trained.
        sampler: writes answers with the policy's network.
        prompts: token ids; they come in a new order each time all were used.
        reward: what answers are worth.
        config: options.
        accelerator: by default a new one, in full precision.

    Raises:
        ReclmError: if there are no prompts, or fewer answers a step than processes.

    Attributes:
        step: steps done.
        stopped: whether KL ran away.
    """

    def __init__(
        self,
        policy: Policy,
        sampler: Sampler,
        prompts: Sequence[list[int]],
        reward: Reward,
        config: PPOConfig | None = None,
        accelerator: Accelerator | None = None,
    ) -> None:
        self.config = config or PPOConfig()
        self.accelerator = accelerator or Accelerator()
        if not prompts:
            raise ReclmError("PPO has no prompts to answer")
        if self.config.batch_size % self.accelerator.num_processes:
            raise ReclmError(
                f"batch_size = {self.config.batch_size} cannot be shared evenly by "
                f"{self.accelerator.num_processes} processes; make it a multiple"
            )
        self.policy = policy
        self.sampler = sampler
        self.prompts = prompts
        self.reward = reward
        adapter = [one for one in policy.network.parameters() if one.requires_grad]
        optimizer = torch.optim.AdamW(
            [{"params": adapter}, {"params": list(policy.value_head.parameters())}],
            lr=self.config.learning_rate,
            weight_decay=0.0,
        )
        self.model, self.optimizer = self.accelerator.prepare(policy, optimizer)
        self.kl = KLController(self.config.kl_coefficient, self.config.kl_target, self.config.kl_gain)
        self.step = 0
        self.stopped = False

    def run(self) -> Iterator[Metrics]:
        """Train to the last step, or until KL runs away; yields each step's metrics when it is done."""
        while self.step < self.config.steps and not self.stopped:
            yield self.train_step()

    def train_step(self) -> Metrics:
        """One batch of answers and the updates on it.

        Raises:
            ReclmError: if the reward is not one finite number an answer.
        """
        started = perf_counter()
        rows, seeds = self._batch()
        rollout = roll_out(self.sampler, [self.prompts[row] for row in rows], self.config.sampling, seeds)
        rollout = rollout.to(self.accelerator.device)
        written = perf_counter()
        rewards = judge(self.reward, rollout, rows, self.config.unfinished_reward)
        judged = perf_counter()
        metrics, experience = self._experience(rollout, rewards)
        limit = self.config.runaway and self.config.kl_target and self.config.runaway * self.config.kl_target
        if limit and metrics["kl"] > limit:
            self.stopped = True
        else:
            metrics |= self._update(experience)
            self.kl.update(metrics["kl"])
            self.step += 1
        return metrics | {
            "stopped": float(self.stopped),
            "rollout_seconds": written - started,
            "reward_seconds": judged - written,
            "update_seconds": perf_counter() - judged,
            "rollout_tokens": float(rollout.answers.sum()) / (written - started),
        }

    def save(self, folder: Path) -> Path:
        """Write a checkpoint ``folder/step-000012``, complete or not at all; returns its path."""
        state = {
            "step": self.step,
            "kl_coefficient": self.kl.coefficient,
            "stopped": self.stopped,
            "config": self.config.model_dump(mode="json"),
        }
        path = folder / f"step-{self.step:06d}"
        if self.accelerator.is_main_process:
            checkpoints.write(path, self.policy, self.optimizer.state_dict(), state)
        self.accelerator.wait_for_everyone()
        return path

    def resume(self, folder: Path) -> bool:
        """Go on from the latest checkpoint in ``folder``; False if there is none.

        Raises:
            ReclmError: if it cannot be read, or is of another model or of other options (``steps`` may change).
        """
        latest = checkpoints.latest(folder)
        if latest is None:
            return False
        optimizer, state = checkpoints.read(latest, self.policy, self.config)
        self.optimizer.load_state_dict(optimizer)
        self.step = int(state["step"])
        self.kl.coefficient = float(state["kl_coefficient"])
        self.stopped = bool(state["stopped"])
        return True

    def _batch(self) -> tuple[list[int], list[int]]:
        """The prompts that this process answers in this step, and a seed for each."""
        config, processes = self.config, self.accelerator
        return batch_rows(
            self.step,
            config.batch_size,
            len(self.prompts),
            config.seed,
            processes.process_index,
            processes.num_processes,
        )

    @torch.no_grad()
    def _experience(self, rollout: Rollout, rewards: Tensor) -> tuple[Metrics, Experience]:
        """Score with policy and reference, and estimate advantages."""
        config, answers = self.config, rollout.answers
        old = self._scores(rollout)
        with self.policy.reference():
            reference = self._scores(rollout).logprobs
        kl = kl_k1(old.logprobs, reference)

        everyone = torch.ones_like(rewards, dtype=torch.bool)
        scores = whiten(rewards, everyone, add_up=self._sum) if config.whiten_rewards else rewards
        last = answers.sum(1, keepdim=True) - 1
        token_rewards = (-self.kl.coefficient * kl).scatter_add(1, last, scores.unsqueeze(1))
        advantages, returns = gae(token_rewards, old.values, answers, config.gamma, config.lam)
        advantages = whiten(advantages, answers, add_up=self._sum)

        metrics = {
            "reward": rewards.mean(),
            "reward_square": rewards.square().mean(),
            "kl": kl.sum(1).mean(),
            "kl_token": masked_mean(kl_k3(old.logprobs, reference), answers),
            "entropy": masked_mean(old.entropy, answers),
            "tokens": answers.sum(1).float().mean(),
            "unfinished": rollout.unfinished.float().mean(),
            "explained_variance": explained_variance(old.values, returns, answers),
        }
        values = self._mean(metrics) | {"kl_coefficient": self.kl.coefficient}
        values["reward_std"] = max(values.pop("reward_square") - values["reward"] ** 2, 0.0) ** 0.5
        return values, Experience(rollout, old, advantages, returns)

    def _update(self, experience: Experience) -> Metrics:
        """Several epochs of minibatches of clipped objectives."""
        rate = self._set_rate()
        sums: dict[str, Tensor] = {}
        done, size = 0, len(experience.advantages)
        for epoch in range(self.config.epochs):
            order = torch.randperm(size, generator=generator(self.config.seed, 1, self.step, epoch))
            for rows in order.to(experience.advantages.device).split(self.config.minibatch_size):
                loss, terms = self._loss(experience, rows)
                self.optimizer.zero_grad()
                self.accelerator.backward(loss)
                self.accelerator.clip_grad_norm_(self.model.parameters(), self.config.max_gradient_norm)
                self.optimizer.step()
                sums = {name: sums.get(name, 0) + one for name, one in terms.items()}
                done += 1
                moved = self._sum(terms["update_kl"]).item() / self.accelerator.num_processes
                if self.config.update_kl and moved > self.config.update_kl:
                    break
            else:
                continue
            break
        means = self._mean({name: total / done for name, total in sums.items()})
        return means | {"learning_rate": rate, "updates": float(done)}

    def _loss(self, experience: Experience, rows: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The objective of a minibatch, and its terms by name."""
        config, rollout, old = self.config, experience.rollout, experience.old
        answers = rollout.answers[rows]
        new = self.model(
            rollout.ids[rows], rollout.attention[rows], answers, config.temperature, config.chunk
        )
        policy = ppo_policy_loss(
            new.logprobs, old.logprobs[rows], experience.advantages[rows], answers, config.clip
        )
        value = value_loss(new.values, old.values[rows], experience.returns[rows], answers, config.value_clip)
        bonus = masked_mean(new.entropy, answers)
        loss = policy.loss + config.value_weight * value - config.entropy_weight * bonus
        # processes are averaged: each counts by its share of the tokens, so that one process gives the same
        count = answers.sum()
        share = count * self.accelerator.num_processes / self._sum(count)
        terms = {
            "policy_loss": policy.loss,
            "value_loss": value,
            "clip_fraction": policy.clip_fraction,
            "update_kl": policy.approx_kl,
        }
        return loss * share, {name: one.detach() for name, one in terms.items()}

    def _scores(self, rollout: Rollout) -> TokenScores:
        """Scores of all answers, computed a minibatch at a time."""
        parts = [
            self.policy(
                rollout.ids[rows],
                rollout.attention[rows],
                rollout.answers[rows],
                self.config.temperature,
                self.config.chunk,
            )
            for rows in torch.arange(len(rollout.ids)).split(self.config.minibatch_size)
        ]
        return TokenScores(*map(torch.cat, zip(*parts, strict=True)))

    def _set_rate(self) -> float:
        config = self.config
        left = 1 - self.step / config.steps if config.schedule == "linear" else 1.0
        rate = config.learning_rate * left
        for group, factor in zip(self.optimizer.param_groups, (1.0, config.value_rate), strict=True):
            group["lr"] = rate * factor
        return rate

    def _sum(self, values: Tensor) -> Tensor:
        return self.accelerator.reduce(values, reduction="sum")  # pyright: ignore[reportReturnType]

    def _mean(self, metrics: dict[str, Tensor]) -> Metrics:
        """Means over the processes, as numbers."""
        together = self._sum(torch.stack([one.float() for one in metrics.values()]))
        return dict(zip(metrics, (together / self.accelerator.num_processes).tolist(), strict=True))
