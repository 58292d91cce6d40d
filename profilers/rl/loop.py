"""The on-policy loop of PPO and RLSO: answers, rewards, scores, updates, checkpoints.

Metrics of a step that both log, means over the batch of all processes: ``reward`` (that of a cut answer included, the
``finish_reward`` and ``repeat_penalty`` of :class:`OnPolicyConfig` not), ``reward_std``, ``kl`` of an answer from the
reference (k1, nats), ``kl_token`` a token (k3), ``entropy`` a token (nats), ``tokens`` of an answer, ``unfinished``
share of cut answers, ``repeating`` share that say three words twice; ``kl_coefficient`` that the step used;
``learning_rate``; ``updates`` done; ``rollout_seconds``, ``reward_seconds``, ``score_seconds``, ``update_seconds``,
``rollout_tokens`` a second.

A checkpoint ``step-000012/`` holds what is trained as PEFT writes it, ``value_head.safetensors``, ``optimizer.pt``
(read with ``weights_only=True``), ``random.safetensors`` (torch's global states, which a reward may draw from) and
``state.json``.
"""

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from torch import Tensor

from reclm.errors import BadInput
from reclm.profilers.rl.config import OnPolicyConfig
from reclm.profilers.rl.losses import kl_controller, kl_k1, kl_k3, masked_mean
from reclm.profilers.rl.policy import Policy, TokenScores
from reclm.profilers.rl.rollout import PolicySampler, Rollout
from reclm.profilers.tuning.checkpoints import (
    Pace,
    checkpoints,
    read_optimizer,
    read_state,
    save_checkpoint,
    step_of,
)
from reclm.profilers.tuning.metrics_log import reading
from reclm.profilers.tuning.readability import repetition

Metrics = dict[str, float]


class Reward(Protocol):
    """Rates texts: a reward model, the NDCG of a ranking, a rule."""

    def __call__(self, texts: Sequence[str], rows: Sequence[int]) -> Sequence[float]:
        """Return a number for each answer; ``rows`` are the numbers of the prompts that they answer."""
        ...


def rewards_of(
    reward: Reward, rollout: Rollout, rows: Sequence[int], unfinished: float | None = None
) -> Tensor:
    """Return the rewards ``(B,)`` of a rollout; an answer that was cut gets ``unfinished``, unless that is None."""
    values = torch.tensor([float(value) for value in reward(rollout.texts, rows)], device=rollout.ids.device)
    if len(values) != len(rows) or not values.isfinite().all():
        bad = values[~values.isfinite()].tolist()
        returned = f"{bad[0]} among them" if bad else f"{len(values)} numbers"
        message = f"the reward must give {len(rows)} answers a finite number each; got {returned}"
        raise BadInput(message, value=values)
    return values if unfinished is None else values.masked_fill(rollout.unfinished, unfinished)


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

    Prompts come in a new order each time all were used. A step takes ``size``, of all processes together, which take
    turns: they answer the same prompts with the same seeds however many they are. The ``samples`` of a prompt follow
    each other.
    """
    places = range(step * size, (step + 1) * size)
    orders = {
        epoch: torch.randperm(prompts, generator=generator(seed, 0, epoch)).tolist()
        for epoch in range(places[0] // prompts, places[-1] // prompts + 1)
    }
    process_places = places[process::processes]
    rows = [orders[place // prompts][place % prompts] for place in process_places for _ in range(samples)]
    return rows, [
        seed * 1_000_003 + place * samples + sample for place in process_places for sample in range(samples)
    ]


def check_batch(name: str, size: int, accelerator: Accelerator) -> None:
    """Raise a BadInput where a batch cannot be shared evenly by the processes."""
    count = accelerator.num_processes
    if size % count:
        message = f"{name} = {size} cannot be shared evenly by {count} processes; make it a multiple"
        raise BadInput(message, value=size, where=name)


class OnPolicy(ABC):
    """A loop that learns from the policy's own answers, on one process or many (``accelerate launch``).

    A step depends on the seed and its number, not on what ran before it in the process: order, answers and minibatches
    are drawn from generators of their own. A run resumed from a checkpoint equals the unbroken run.

    ``sampler`` writes answers with the policy's network; ``prompts`` are token ids; ``accelerator`` is by default a new
    one, in full precision. ``watch`` may be set to a function that returns further metrics of a batch, from its answers
    and their prompts' numbers; their means over the processes are logged. ``stopped``: training ended before its last
    step.
    """

    config: Any

    def __init__(
        self,
        policy: Policy,
        sampler: PolicySampler,
        prompts: Sequence[list[int]],
        reward: Reward,
        config: OnPolicyConfig,
        accelerator: Accelerator | None = None,
    ) -> None:
        self.config = config
        self.accelerator = accelerator or Accelerator(cpu=not torch.cuda.is_available())
        if not prompts:
            raise BadInput(f"{type(self).__name__} has no prompts to answer")
        check_batch("batch_size", config.batch_size, self.accelerator)
        self.policy, self.sampler, self.prompts, self.reward = policy, sampler, prompts, reward
        self.trained = [weights for weights in policy.network.parameters() if weights.requires_grad]
        groups = self._groups(self.trained)
        self._rates = [float(group["lr"]) for group in groups]
        optimizer = torch.optim.AdamW(groups, weight_decay=0.0)
        self.model, self.optimizer = self.accelerator.prepare(policy, optimizer)
        self.watch: Callable[[Rollout, Sequence[int]], Metrics] | None = None
        self.step = 0
        self.stopped = False
        self.coefficient = config.kl_coefficient
        self._pace = Pace(config.checkpoint_steps)

    def run(self) -> Iterator[Metrics]:
        """Train to the last step; yield each step's metrics when it is done."""
        while self.step < self.config.steps and not self.stopped:
            yield self.train_step()

    def train_step(self) -> Metrics:
        """Sample a batch of answers, rate them, and update the policy."""
        config, group = self.config, self.accelerator
        started = perf_counter()
        process = (group.process_index, group.num_processes, config.samples)
        rows, seeds = batch_rows(self.step, config.batch_size, len(self.prompts), config.seed, *process)
        prompts = [self.prompts[row] for row in rows]
        rollout = self.sampler.roll_out(prompts, config.sampling, seeds, config.samples).to(group.device)
        sampled = perf_counter()
        rewards = rewards_of(self.reward, rollout, rows, config.unfinished_reward)
        repeated = torch.from_numpy(repetition(rollout.texts)).to(rewards)
        guarded = rewards + config.finish_reward * ~rollout.unfinished - config.repeat_penalty * repeated
        rated = perf_counter()
        means = {"reward": rewards.mean(), "square": rewards.square().mean()}
        means["repeating"] = (repeated > 0).float().mean()
        watched = self.watch(rollout, rows) if self.watch else {}
        metrics = {"kl_coefficient": self.coefficient, **self._learn(rollout, guarded)}
        learned = perf_counter()
        metrics |= self._mean(means | {name: torch.tensor(value) for name, value in watched.items()})
        metrics["reward_std"] = max(metrics.pop("square") - metrics["reward"] ** 2, 0.0) ** 0.5
        if not self.stopped:
            self.step += 1
        return metrics | {
            "rollout_seconds": sampled - started,
            "reward_seconds": rated - sampled,
            "score_seconds": self._scored - rated,
            "update_seconds": learned - self._scored,
            "rollout_tokens": float(rollout.answers.sum()) / (sampled - started),
        }

    def save(self, folder: Path, newest: int | None = None, last: bool = True) -> Path:
        """Write a checkpoint, complete or not at all, and delete all but the ``newest``; return its path.

        One that is not the ``last`` is left out where ``checkpoint_steps`` asks for none.
        """
        return save_checkpoint(folder, self.step, self._write, self.accelerator, newest, self._pace, last)

    def rewind(self, folder: Path, step: int) -> Path:
        """Go back to ``step``, and return its checkpoint: one in ``folder``, or a new one.

        What was done between the checkpoint before and that step is done again.
        """
        self.resume(folder, step)
        while self.step < step and not self.stopped:
            self.train_step()
        path = folder / f"step-{self.step:06d}"
        return path if path.is_dir() else self.save(folder)

    def _write(self, folder: Path) -> None:
        random = {f"cuda{at}": torch.cuda.get_rng_state(at) for at in range(torch.cuda.device_count())}
        state = {"step": self.step, **self._state(), "config": self.config.model_dump(mode="json")}
        self.policy.save(folder)
        torch.save(self.optimizer.state_dict(), folder / "optimizer.pt")
        save_file(random | {"cpu": torch.get_rng_state()}, folder / "random.safetensors")
        (folder / "state.json").write_text(json.dumps(state), encoding="utf-8")

    def resume(self, folder: Path, until: int | None = None) -> bool:
        """Go on from the latest checkpoint in ``folder``, or the latest ``until`` a step; return False without one."""
        *_, path = [None, *(path for path in checkpoints(folder) if until is None or step_of(path) <= until)]
        if path is None:
            return False
        with reading(path):
            state, optimizer = read_state(path), read_optimizer(path, self.optimizer)
            random = load_file(path / "random.safetensors")
            written = dict(state["config"])
        for name, value in self.config.model_dump(mode="json", exclude={"steps", "checkpoint_steps"}).items():
            if (before := written.get(name)) != value:
                message = f"the checkpoint {path} was written with {name} = {before!r:.100}, not {value!r}"
                remedy = "go on with the same options, or begin in another folder"
                raise BadInput(f"{message}; {remedy}", value=name, where=path)
        self.policy.load(path)
        with reading(path):
            torch.set_rng_state(random.pop("cpu"))
            for number in range(torch.cuda.device_count()):
                if f"cuda{number}" in random:
                    torch.cuda.set_rng_state(random[f"cuda{number}"], number)
            self.optimizer.load_state_dict(optimizer)
            self.step = state["step"]
            self._restore(state)
        return True

    @abstractmethod
    def _groups(self, weights: list[torch.nn.Parameter]) -> list[dict[str, Any]]:
        """Return AdamW's parameter groups, each with its first learning rate ``lr``."""

    @abstractmethod
    def _learn(self, rollout: Rollout, rewards: Tensor) -> Metrics:
        """Score a batch of answers with their rewards ``(B,)``, and update the policy."""

    def _state(self) -> dict[str, Any]:
        """Return the loop's own part of a checkpoint, as JSON."""
        return {"kl_coefficient": self.coefficient, "stopped": self.stopped}

    def _restore(self, state: dict[str, Any]) -> None:
        """Take over the state that :meth:`_state` returned."""
        coefficient, stopped = state["kl_coefficient"], state["stopped"]
        if type(coefficient) is not float or not 0 <= coefficient < math.inf or type(stopped) is not bool:
            raise ValueError("state.json has no weight of KL")
        self.coefficient, self.stopped = coefficient, stopped

    def _steer(self, kl: float) -> None:
        """Change the weight of KL towards the target, by the KL of the latest answers."""
        target, gain = self.config.kl_target, self.config.kl_gain
        self.coefficient = kl_controller(self.coefficient, kl, target, gain)

    @torch.no_grad()
    def _scores(self, rollout: Rollout, size: int) -> tuple[TokenScores, Tensor]:
        """Return the scores of all answers, and the reference's log-probabilities; those to ``size`` prompts at a time.

        Both begin at the states of the frozen layers, which the rollout has.
        """

        def score(entropies: bool) -> TokenScores:
            prompts = torch.arange(len(rollout.ids) // rollout.samples, device=rollout.ids.device).split(size)
            parts = [self._score(self.policy, rollout, part, entropies) for part in prompts]
            return TokenScores(*map(torch.cat, zip(*parts, strict=True)))

        scores = score(entropies=True)
        with self.policy.reference():
            reference = score(entropies=False).logprobs
        self._scored = perf_counter()
        return scores, reference

    def _score(self, policy: Any, rollout: Rollout, prompts: Tensor, entropies: bool = False) -> TokenScores:
        """Return a policy's scores of the answers to the prompts of these numbers, without entropies by default."""
        rows, config = rollout.rows(prompts), self.config
        batch = rollout.ids[rows], rollout.attention[rows], rollout.answers[rows]
        options = config.temperature, config.chunk, rollout.samples, rollout.states(prompts), entropies
        return policy(*batch, *options)

    def _batch_metrics(
        self, rollout: Rollout, old: TokenScores, reference: Tensor, **more: Tensor
    ) -> Metrics:
        """Return statistics of a batch over all processes; ``more`` are means of this process's part, too."""
        answers = rollout.answers
        return self._mean(
            {
                "kl": kl_k1(old.logprobs, reference).sum(1).mean(),
                "kl_token": masked_mean(kl_k3(old.logprobs, reference), answers),
                "entropy": masked_mean(old.entropy, answers),
                "tokens": answers.sum(1).float().mean(),
                "unfinished": rollout.unfinished.float().mean(),
                **more,
            }
        )

    def _update(
        self,
        size: int,
        minibatch_size: int,
        loss_of: Callable[[Tensor], tuple[Tensor, dict[str, Tensor]]],
        forward_size: int | None = None,
        most_kl: float | None = None,
    ) -> Metrics:
        """Take a gradient step on each minibatch of several epochs; return the means of the loss's terms.

        ``loss_of`` returns the loss of the answers to some of the ``size`` prompts, ``minibatch_size`` of them a step,
        and its terms by name. Those to ``forward_size`` are in memory at once, all by default. Updates end once
        ``update_kl`` is above ``most_kl``.
        """
        config, group = self.config, self.accelerator
        left = 1 - self.step / config.steps if config.schedule == "linear" else 1.0
        for parameters, rate in zip(self.optimizer.param_groups, self._rates, strict=True):
            parameters["lr"] = rate * left
        orders = (
            torch.randperm(size, generator=generator(config.seed, 1, self.step, epoch)).to(group.device)
            for epoch in range(config.epochs)
        )
        sums: dict[str, Tensor] = {}
        terms: dict[str, Tensor] = {}
        done = 0
        for minibatch in (rows for order in orders for rows in order.split(minibatch_size)):
            self.optimizer.zero_grad()
            for rows in minibatch.split(forward_size or size):
                loss, terms = loss_of(rows)
                share = len(rows) / len(minibatch)
                group.backward(loss * share)
                sums = {name: sums.get(name, 0) + term * share for name, term in terms.items()}
            group.clip_grad_norm_(self.model.parameters(), config.max_gradient_norm)
            self.optimizer.step()
            done += 1
            if most_kl and self._sum(terms["update_kl"]).item() / group.num_processes > most_kl:
                break
        means = self._mean({name: total / done for name, total in sums.items()})
        return means | {"learning_rate": config.learning_rate * left, "updates": float(done)}

    def _sum(self, values: Tensor) -> Tensor:
        return self.accelerator.reduce(values, reduction="sum")  # pyright: ignore[reportReturnType]

    def _mean(self, metrics: dict[str, Tensor]) -> Metrics:
        """Return means over the processes, as numbers."""
        total = self._sum(torch.stack([value.float() for value in metrics.values()]))
        return dict(zip(metrics, (total / self.accelerator.num_processes).tolist(), strict=True))
