"""The loop, on a toy reward: how often the letter "e" is in the answer."""

import json
from itertools import islice
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from transformers import AutoModelForCausalLM

from reclm.errors import ReclmError
from reclm.profilers.policy.config import PPOConfig
from reclm.profilers.policy.control import KLController
from reclm.profilers.policy.model import LoraOptions, Policy
from reclm.profilers.policy.ppo import PPO
from reclm.profilers.policy.rollout import PolicyGenerator

PROMPTS = [[1, 40 + row, 60, 61, 62][: 3 + row % 3] for row in range(6)]
TOY = PPOConfig(
    steps=40,
    batch_size=16,
    minibatch_size=8,
    epochs=2,
    learning_rate=1e-2,
    schedule="constant",
    max_new_tokens=8,
    temperature=1.0,
    top_p=1.0,
    kl_coefficient=0.02,
    update_kl=None,
)


def count_e(texts, rows):
    return [text.count("e") for text in texts]


def make(llama, config: PPOConfig, reward=count_e) -> PPO:
    network = AutoModelForCausalLM.from_pretrained(llama.path, dtype=torch.float32)
    policy = Policy.adapt(network, LoraOptions(r=4, alpha=8), seed=config.seed)
    sampler = PolicyGenerator(policy.base, llama, batch_size=16)
    return PPO(policy, sampler, PROMPTS, reward, config, Accelerator(cpu=True))


def weights(ppo: PPO) -> dict[str, torch.Tensor]:
    return {name: one.detach().clone() for name, one in ppo.policy.named_parameters()}


def untimed(metrics: dict[str, float]) -> dict[str, float]:
    clocks = ("rollout_seconds", "reward_seconds", "update_seconds", "rollout_tokens")
    return {name: one for name, one in metrics.items() if name not in clocks}


def curve(llama, seed: int, steps: int = 50) -> list[float]:
    """Mean rewards of ten stretches of a run."""
    metrics = list(make(llama, TOY.model_copy(update={"seed": seed, "steps": steps, "runaway": None})).run())
    size = steps // 10
    rewards = [one["reward"] for one in metrics]
    return [sum(rewards[at : at + size]) / size for at in range(0, steps, size)]


def test_the_reward_rises(llama):
    means = curve(llama, seed=0)
    assert means[-1] > means[0] + 2
    assert sum(later > earlier for earlier, later in zip(means, means[1:], strict=False)) >= 7
