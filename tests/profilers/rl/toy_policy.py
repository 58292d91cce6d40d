"""A toy task for the loops: how often the letter "e" is in the answer."""

from typing import Any

import torch
from accelerate import Accelerator
from transformers import AutoModelForCausalLM

from reclm.profilers.rl.loop import OnPolicy
from reclm.profilers.rl.policy import Policy
from reclm.profilers.rl.rollout import PolicySampler
from reclm.profilers.tuning.adapter import LoraOptions

PROMPTS = [[1, 40 + row, 60, 61, 62][: 3 + row % 3] for row in range(6)]


def count_e(texts, rows):
    return [text.count("e") for text in texts]


def make_loop(kind: Any, llama, config, reward, lora: LoraOptions | None = None) -> Any:
    """A PPO or an RLSO on a new policy."""
    network = AutoModelForCausalLM.from_pretrained(llama.path, dtype=torch.float32)
    lora = lora or LoraOptions(r=4, alpha=8)
    policy = Policy.adapt(network, lora, seed=config.seed, precision=config.precision)
    sampler = PolicySampler(policy.decoder, llama, batch_size=16)
    return kind(policy, sampler, PROMPTS, reward, config, Accelerator(cpu=True))


def weights(loop: OnPolicy) -> dict[str, torch.Tensor]:
    return {name: one.detach().clone() for name, one in loop.policy.named_parameters()}


def untimed(metrics: dict[str, float]) -> dict[str, float]:
    clocks = ("rollout_seconds", "reward_seconds", "score_seconds", "update_seconds", "rollout_tokens")
    return {name: one for name, one in metrics.items() if name not in clocks}
