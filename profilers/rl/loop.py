"""The on-policy loop of PPO and RLSO: answers, rewards, scores, updates, checkpoints.

Metrics of a step that both log, means over the batch of all processes: ``reward`` (that of a cut answer included),
``reward_std``, ``kl`` of an answer from the reference (k1, nats), ``kl_token`` a token (k3), ``entropy`` a token
(nats), ``tokens`` of an answer, ``unfinished`` share of cut answers; ``learning_rate``; ``rollout_seconds``,
``reward_seconds``, ``update_seconds`` with scoring, ``rollout_tokens`` a second.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any, ClassVar

import torch
from accelerate import Accelerator
from torch import Tensor

from reclm.errors import BadInput
from reclm.profilers.rl import checkpoints
from reclm.profilers.rl.config import OnPolicyConfig
from reclm.profilers.rl.losses import kl_k1, kl_k3, masked_mean
from reclm.profilers.rl.policy import Policy, TokenScores
from reclm.profilers.rl.rollout import Reward, Rollout, Sampler, rewards_of, roll_out

Metrics = dict[str, float]
Watch = Callable[[Rollout, Sequence[int]], Metrics]


def generator(*numbers: int) -> torch.Generator:
    """Return a generator of its own for each tuple of numbers."""
    seed = 0
    for number in numbers:
        seed = (seed * 6_364_136_223_846_793_005 + number + 1_442_695_040_888_963_407) % 2**63
    return torch.Generator().manual_seed(seed)


def batch_rows(
    step: int, size: int, prompts: int, seed: int, process: int = 0, processes: int = 1, samples: int = 1
) -> tuple[list[int], list[int]]:
    """Return the prompts that a process answers in a step, and a seed for each answer.

    Prompts come in a new order each time all were used. Processes take turns: together they answer the same prompts
    with the same seeds however many they are.

    Args:
        step: steps done.
        size: prompts a step, of all processes together.
        prompts: number of prompts.
        samples: answers to each prompt; they follow each other.
    """
    places = range(step * size, (step + 1) * size)
    orders = {
        epoch: torch.randperm(prompts, generator=generator(seed, 0, epoch)).tolist()
        for epoch in range(places[0] // prompts, places[-1] // prompts + 1)
    }
    own = places[process::processes]
    rows = [orders[place // prompts][place % prompts] for place in own for _ in range(samples)]
    return rows, [seed * 1_000_003 + place * samples + sample for place in own for sample in range(samples)]


class OnPolicy(ABC):
    """A loop that learns from the policy's own answers, on one process or many (``accelerate launch``).

    A step depends on the seed and its number, not on what ran before it in the process: order, answers and minibatches
    are drawn from generators of their own. A run resumed from a checkpoint equals the unbroken run.

    Args:
        policy: the model to train.
        sampler: writes answers with the policy's network.
        prompts: token ids.
        reward: rates the answers.
        config: options.
        accelerator: by default a new one, in full precision.

    Attributes:
        samples: answers to each prompt of a batch.
        watch: returns further metrics of a batch's answers, from them and their prompts' numbers; their means over the
            processes are logged.
        step: steps done.
        stopped: whether training ended before its last step.
    """

    samples: ClassVar[int] = 1

    def __init__(
        self,
        policy: Policy,
        sampler: Sampler,
        prompts: Sequence[list[int]],
        reward: Reward,
        config: OnPolicyConfig,
        accelerator: Accelerator | None = None,
    ) -> None:
        self.config = config
        self.accelerator = accelerator or Accelerator(cpu=not torch.cuda.is_available())
        if not prompts:
            raise BadInput(f"{type(self).__name__} has no prompts to answer")
        if config.batch_size % self.accelerator.num_processes:
            raise BadInput(
                f"batch_size = {config.batch_size} cannot be shared evenly by "
                f"{self.accelerator.num_processes} processes; make it a multiple",
                value=config.batch_size,
                where="batch_size",
            )
        self.policy, self.sampler, self.prompts, self.reward = policy, sampler, prompts, reward
        groups = self._groups([weights for weights in policy.network.parameters() if weights.requires_grad])
        self._rates = [float(group["lr"]) for group in groups]
        optimizer = torch.optim.AdamW(groups, weight_decay=0.0)
        self.model, self.optimizer = self.accelerator.prepare(policy, optimizer)
        self.watch: Watch | None = None
        self.step = 0
        self.stopped = False

    def run(self) -> Iterator[Metrics]:
        """Train to the last step; yield each step's metrics when it is done."""
        while self.step < self.config.steps and not self.stopped:
            yield self.train_step()

    def train_step(self) -> Metrics:
        """Sample a batch of answers, rate them, and update the policy."""
        started = perf_counter()
        rows, seeds = self._batch()
        rollout = roll_out(self.sampler, [self.prompts[row] for row in rows], self.config.sampling, seeds)
        rollout = rollout.to(self.accelerator.device)
        sampled = perf_counter()
        rewards = rewards_of(self.reward, rollout, rows, self.config.unfinished_reward)
        rated = perf_counter()
        watched = self.watch(rollout, rows) if self.watch else {}
        metrics = self._learn(rollout, rewards)
        if watched:
            metrics |= self._mean({name: torch.tensor(value) for name, value in watched.items()})
        if not self.stopped:
            self.step += 1
        return metrics | {
            "rollout_seconds": sampled - started,
            "reward_seconds": rated - sampled,
            "update_seconds": perf_counter() - rated,
            "rollout_tokens": float(rollout.answers.sum()) / (sampled - started),
        }

    def save(self, folder: Path) -> Path:
        """Write a checkpoint ``folder/step-000012``, complete or not at all; return its path."""
        state = {"step": self.step, **self._state(), "config": self.config.model_dump(mode="json")}
        path = folder / f"step-{self.step:06d}"
        if self.accelerator.is_main_process:
            checkpoints.write(path, self.policy, self.optimizer.state_dict(), state)
        self.accelerator.wait_for_everyone()
        return path

    def resume(self, folder: Path) -> bool:
        """Go on from the latest checkpoint in ``folder``; return False if there is none."""
        latest = checkpoints.latest(folder)
        if latest is None:
            return False
        optimizer, state = checkpoints.read(latest, self.policy, self.config)
        self.optimizer.load_state_dict(optimizer)
        self.step = int(state["step"])
        self._restore(state)
        return True

    @abstractmethod
    def _groups(self, weights: list[torch.nn.Parameter]) -> list[dict[str, Any]]:
        """Return AdamW's parameter groups, each with its first learning rate ``lr``."""

    @abstractmethod
    def _learn(self, rollout: Rollout, rewards: Tensor) -> Metrics:
        """Score a batch of answers with their rewards ``(B,)``, and update the policy."""

    def _state(self) -> dict[str, Any]:
        """Return the algorithm's own part of a checkpoint, as JSON."""
        return {}

    def _restore(self, state: dict[str, Any]) -> None:  # noqa: B027
        """Take over the state that :meth:`_state` returned."""

    def _batch(self) -> tuple[list[int], list[int]]:
        """Return the prompts that this process answers in this step, and a seed for each answer."""
        config, group = self.config, self.accelerator
        return batch_rows(
            self.step,
            config.batch_size,
            len(self.prompts),
            config.seed,
            group.process_index,
            group.num_processes,
            self.samples,
        )

    def _scores(self, rollout: Rollout, size: int) -> TokenScores:
        """Return the scores of all answers, computed ``size`` at a time."""
        parts = [
            self._score(self.policy, rollout, rows) for rows in torch.arange(len(rollout.ids)).split(size)
        ]
        return TokenScores(*map(torch.cat, zip(*parts, strict=True)))

    def _score(self, policy: Any, rollout: Rollout, rows: Tensor) -> TokenScores:
        return policy(
            rollout.ids[rows],
            rollout.attention[rows],
            rollout.answers[rows],
            self.config.temperature,
            self.config.chunk,
            self.samples,
        )

    def _batch_metrics(
        self, rollout: Rollout, rewards: Tensor, old: TokenScores, reference: Tensor, **more: Tensor
    ) -> Metrics:
        """Return statistics of a batch over all processes; ``more`` are means of this process's part, too."""
        answers = rollout.answers
        values = self._mean(
            {
                "reward": rewards.mean(),
                "reward_square": rewards.square().mean(),
                "kl": kl_k1(old.logprobs, reference).sum(1).mean(),
                "kl_token": masked_mean(kl_k3(old.logprobs, reference), answers),
                "entropy": masked_mean(old.entropy, answers),
                "tokens": answers.sum(1).float().mean(),
                "unfinished": rollout.unfinished.float().mean(),
                **more,
            }
        )
        values["reward_std"] = max(values.pop("reward_square") - values["reward"] ** 2, 0.0) ** 0.5
        return values

    def _minibatches(self, size: int) -> Iterator[Tensor]:
        """Yield the samples, of ``size``, that each gradient step learns from, in all epochs one after the other."""
        for epoch in range(self.config.epochs):
            order = torch.randperm(size, generator=generator(self.config.seed, 1, self.step, epoch))
            yield from order.to(self.accelerator.device).split(self.config.minibatch_size)

    def _set_rate(self) -> float:
        """Set and return the learning rate of this step's updates."""
        config = self.config
        left = 1 - self.step / config.steps if config.schedule == "linear" else 1.0
        for group, rate in zip(self.optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate * left
        return config.learning_rate * left

    def _sum(self, values: Tensor) -> Tensor:
        return self.accelerator.reduce(values, reduction="sum")  # pyright: ignore[reportReturnType]

    def _mean(self, metrics: dict[str, Tensor]) -> Metrics:
        """Return means over the processes, as numbers."""
        total = self._sum(torch.stack([value.float() for value in metrics.values()]))
        return dict(zip(metrics, (total / self.accelerator.num_processes).tolist(), strict=True))
