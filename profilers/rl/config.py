"""Options of PPO and of RLSO."""

from typing import Literal

from pydantic import Field, model_validator

from reclm.config import Config
from reclm.llm.chat import SamplingParams
from reclm.llm.engines import Precision


class OnPolicyConfig(Config):
    """Options that PPO and RLSO share."""

    steps: int = Field(ge=1)
    """Updates; each is a batch of new answers."""
    batch_size: int = Field(default=64, ge=1)
    """Prompts a step, of all processes together."""
    samples: int = Field(ge=1)
    """G: answers to each prompt, which is read once for all of them."""
    minibatch_size: int = Field(ge=1)
    """Answers (RLSO: prompts) a gradient step, on each process."""
    epochs: int = Field(default=4, ge=1)
    """Passes over a batch."""
    learning_rate: float = Field(ge=0)
    """Learning rate of the adapter, by AdamW."""
    schedule: Literal["constant", "linear"] = "linear"
    """``linear`` falls to 0 behind the last step."""
    max_gradient_norm: float = Field(default=1.0, gt=0)
    """Gradients of all that is trained together are scaled down to this length."""

    precision: Precision = "auto"
    """``bf16`` holds the frozen weights in bf16, and multiplies in it, too, where layers are trained themselves (their
    weights stay in float32). ``auto`` does so for ``train = last_layers`` on a GPU, and on processors that compute in
    bf16; with an adapter it leaves the weights as they were loaded: bf16 on a GPU that has it, else f32."""

    max_new_tokens: int = Field(ge=1)
    """Most tokens of an answer."""
    temperature: float = Field(default=1.0, gt=0)
    """Temperature of sampling, and of the probabilities of policy and reference."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Answers are drawn from the most likely tokens that hold this share; probabilities are not cut."""
    stop: tuple[str, ...] = ()
    """An answer ends behind the first of these strings, too; it is part of what was written."""
    unfinished_reward: float | None = None
    """Reward of an answer that was cut at ``max_new_tokens``, in place of its own; None leaves it."""
    finish_reward: float = 0.0
    """Added to the reward of an answer that ends by itself."""
    repeat_penalty: float = Field(default=0.0, ge=0)
    """Taken off the reward of an answer, times the share of its word triples that it said before."""
    whiten_rewards: bool = True
    """Rewards are brought to mean 0 and variance 1 within a batch, so that KL weighs alike whatever their scale."""
    kl_coefficient: float = Field(ge=0)
    """Weight of the KL from the reference, at the start."""
    kl_target: float | None = Field(gt=0)
    """KL of an answer that the weight is steered towards, in nats; None leaves the weight as it is."""
    kl_gain: float = Field(default=0.1, ge=0, le=1)
    """K of the controller: the weight changes by at most a fifth of it in a step."""

    checkpoint_steps: int | None = Field(default=None, ge=1)
    """Updates between checkpoints: what a killed run does again. By default so many that writing them takes at most a
    twentieth of the time. It may differ when a training goes on."""
    chunk: int = Field(default=512, ge=1)
    """Tokens whose logits are in memory at once."""
    seed: int = 0
    """Seed of the order of the prompts, the answers and the minibatches."""

    @property
    def sampling(self) -> SamplingParams:
        """The sampling parameters of answers."""
        return SamplingParams(
            max_new_tokens=self.max_new_tokens, temperature=self.temperature, top_p=self.top_p, stop=self.stop
        )


class PPOConfig(OnPolicyConfig):
    """Defaults are those of RecLM's release where it states them, else those of Ziegler et al. (1909.08593)."""

    steps: int = Field(default=100, ge=1)
    samples: int = Field(default=1, ge=1)
    minibatch_size: int = Field(default=16, ge=1)
    """Answers a gradient step, on each process: those of whole prompts."""
    learning_rate: float = Field(default=1e-5, ge=0)
    value_rate: float = Field(default=10.0, ge=0)
    """Learning rate of the value head, in learning rates of the adapter: it begins at 0 and has a line to learn."""

    max_new_tokens: int = Field(default=100, ge=1)
    temperature: float = Field(default=0.9, gt=0)
    top_p: float = Field(default=0.9, gt=0, le=1)

    gamma: float = Field(default=1.0, ge=0, le=1)
    """Discount of later rewards."""
    lam: float = Field(default=0.95, ge=0, le=1)
    """λ of generalised advantage estimation."""
    clip: float = Field(default=0.2, gt=0)
    """The probability ratio earns nothing beyond 1 ± clip."""
    value_clip: float = Field(default=0.2, gt=0)
    """Values may move this far in a step before their error stops counting as smaller."""
    value_weight: float = Field(default=0.1, ge=0)
    """Weight of the value loss beside the policy loss."""
    entropy_weight: float = Field(default=0.0, ge=0)
    """Weight of the entropy bonus, a nat a token."""

    kl_coefficient: float = Field(default=0.2, ge=0)
    """β at the start: a nat of KL from the reference costs this much (whitened) reward."""
    kl_target: float | None = Field(default=6.0, gt=0)
    runaway: float | None = Field(default=5.0, gt=1)
    """Training ends once an answer's KL exceeds this many targets; None, or no target: never."""
    update_kl: float | None = Field(default=0.1, gt=0)
    """A step's updates end once the policy is this far, in nats a token, from the one that wrote the answers."""


class RLSOConfig(OnPolicyConfig):
    """Defaults are LangPTune's (2410.18870) for Gemma-2B-it; what the paper does not state is its release's.

    For Llama-3-8B-it it has ``learning_rate`` 3e-7, ``kl_coefficient`` 0 and ``steps`` 2,500.
    """

    steps: int = Field(default=1000, ge=1)
    """Updates; each is a batch of new answers. K = 5 alternations of T = 200 in the paper."""
    samples: int = Field(default=2, ge=2)
    """G: answers to each prompt, which is read once for all of them; the regression is over all pairs of them."""
    minibatch_size: int = Field(default=64, ge=1)
    """Prompts, with all their answers, a gradient step, on each process; the release takes the batch as a whole."""
    forward_size: int = Field(default=4, ge=1)
    """Prompts whose answers are in memory at once: gradients of a minibatch are added up, whatever this is."""
    learning_rate: float = Field(default=1e-7, ge=0)
    weight_decay: float = Field(default=1e-6, ge=0)
    """Weight decay of the adapter's matrices."""
    epsilon: float = Field(default=1e-6, gt=0)
    """ε of AdamW, in the release: gradients that are not well above it move less than the learning rate."""
    max_gradient_norm: float = Field(default=1.0, gt=0)
    """Gradients are scaled down to this length; neither paper nor release names one."""

    max_new_tokens: int = Field(default=512, ge=1)
    unfinished_reward: float | None = 0.0
    """Γ: reward of an answer that was cut at ``max_new_tokens``, in place of its own; None leaves it."""
    whiten_rewards: bool = True
    """Rewards less the KL penalty are brought to mean 0 and variance 1 within a batch."""

    eta: float = Field(default=1.0, gt=0)
    """η: how far the log-ratio of two answers is moved for a difference of 1 in their (whitened) rewards."""
    kl_coefficient: float = Field(default=0.2, ge=0)
    """γ at the start: a nat of KL from the reference costs this much reward, before whitening."""
    kl_target: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _steerable(self) -> "RLSOConfig":
        if self.kl_target is not None and not self.kl_coefficient:
            raise ValueError(
                "kl_target multiplies kl_coefficient, which is 0; give it a weight to begin with"
            )
        return self
