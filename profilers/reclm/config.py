"""Options of the RecLM profiler (arXiv 2412.19302)."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, field_validator

from reclm.config import Config
from reclm.data.dataset import ProfileKind
from reclm.llm.chat import SamplingParams
from reclm.profilers.profile_format import PAPERS
from reclm.profilers.rl.config import PPOConfig
from reclm.profilers.tuning.adapter import LoraOptions

StageName = Literal["kd", "collab", "reward", "ppo", "items"]
ORDER: tuple[StageName, ...] = ("kd", "collab", "reward", "ppo", "items")
"""Every stage, in the order in which they build on one another."""
WRITERS: dict[ProfileKind, tuple[StageName, ...]] = {"user": ("kd", "collab", "ppo"), "item": ("items",)}
"""Stages whose adapters write profiles of a kind, in order."""
ENDS = ("\n",)
"""A profile is one line; text behind it, such as the next user's profile, is no part of it."""
Negative = Literal["neighbour", "mixed", "identities", "repeated", "header", "dot"]


def _whole(shares: dict[Any, float]) -> dict[Any, float]:
    total = sum(shares.values())
    if abs(total - 1) > 1e-6:
        raise ValueError(f"they sum to {total:g} and must sum to 1")
    return shares


def _adapter(lora: LoraOptions) -> LoraOptions:
    if lora.whole:
        raise ValueError(
            "the stages' adapters are added up, which layers cannot be; leave train = last_layers out"
        )
    return lora


Lora = Annotated[LoraOptions, AfterValidator(_adapter)]
Share = Annotated[float, Field(ge=0, le=1)]


class InstructionConfig(Config):
    """The content of a prompt. RecLM, arXiv 2412.19302, section 2.3 and its release."""

    history: int = Field(default=10, ge=1)
    """Newest items of the target user."""
    neighbour_history: int = Field(default=5, ge=1)
    """Newest items of each similar user; the release shows 5."""
    clickers: int = Field(default=5, ge=0)
    """Newest users of an item whose profiles its prompt quotes; the release quotes 5."""
    item_chars: int = Field(default=300, ge=20)
    """Most characters of an item's text: whole sentences, as many as fit (the first one always)."""
    max_tokens: int = Field(default=2048, ge=64)
    """Most tokens of a sample, answers included; items that do not fit are left out. 2048 in the release."""
    answer_tokens: int = Field(default=100, ge=1)
    """Room for the answer where the sample has none; the release generates at most 100."""
    phrases: int = Field(default=3, ge=1, le=10)
    """Identities, and as many interests, of a user; section 2.2."""
    item_phrases: int = Field(default=5, ge=1, le=10)
    """Identities, and as many interests, of an item; section 2.3."""

    def phrases_of(self, kind: ProfileKind) -> int:
        """Return the number of identities, and of interests, in a profile of ``kind``."""
        return self.phrases if kind == "user" else self.item_phrases


class TeacherConfig(Config):
    """The source of the profiles that the model learns from. RecLM, section 2.2."""

    users: Path | None = None
    """A file of user profiles (CSV, TSV, Parquet, JSON lines), or a folder of profiles that ``reclm profile`` wrote."""
    items: Path | None = None
    """A file or folder of item profiles; without them there is no items stage."""
    model: str | None = None
    """A chat model to be asked where there is no file."""
    engine: str | None = None
    """The engine that runs it; ``server`` for an OpenAI-compatible server."""
    engine_options: dict[str, Any] = Field(default_factory=dict)
    """Options of the engine, such as ``in_flight``."""
    limit: int = Field(default=1000, ge=1)
    """Users, and items, that it is asked about at most."""
    id_column: str | None = None
    """The column of ids; by default the one called id, user_id, item_id or UID (the paper's release)."""
    text_column: str | None = None
    """The column of profiles; by default the one called text, profile or Response (the paper's release)."""
    phrases: int | None = Field(default=3, ge=1)
    """Identities, and as many interests, of a user; 3 in the paper. None takes any number."""
    item_phrases: int | None = Field(default=5, ge=1)
    """Identities, and as many interests, of an item; 5 in the paper."""
    strict: bool = True
    """Refuse a file with ids that are not in the data set; otherwise they are left out and counted."""

    def file(self, kind: ProfileKind) -> Path | None:
        """Return the file (or folder) of profiles of ``kind``."""
        return self.users if kind == "user" else self.items


class NeighbourConfig(Config):
    """Similar users and items. RecLM, arXiv 2412.19302, section 2.3."""

    count: int = Field(default=5, ge=1)
    """Neighbours of a user, and of an item; 5 in the paper's release."""
    epochs: int = Field(default=50, ge=1)
    """Epochs of the LightGCN, which knows users and items by ID; section 6.1."""
    dim: int = Field(default=32, ge=1)
    """Its latent width d; section 6.1."""
    layers: int = Field(default=2, ge=1)
    """Its layers; section 6.1."""
    seed: int = 0


class RewardDataConfig(Config):
    """Pairs for the reward model. RecLM, section 2.4; the proportions are the release's."""

    negatives: Annotated[dict[Negative, Share], AfterValidator(_whole)] = {  # noqa: RUF012 - pydantic copies it
        "neighbour": 0.3,
        "mixed": 0.3,
        "identities": 0.1,
        "repeated": 0.1,
        "header": 0.1,
        "dot": 0.1,
    }
    """Shares of the negatives, which sum to 1: a neighbour's profile; the own one with a neighbour's appended; its
    identities only; its identities said twice; the bare header; a full stop."""
    split: Annotated[dict[Literal["train", "eval", "rl"], Share], AfterValidator(_whole)] = {  # noqa: RUF012
        "train": 0.4,
        "eval": 0.2,
        "rl": 0.4,
    }
    """Shares of the users: to train the reward model, to evaluate it, and for reinforcement learning."""


class SupervisedConfig(Config):
    """Supervised training of one stage. Defaults are those of knowledge distillation in RecLM's release."""

    lora: Lora = LoraOptions(r=8, alpha=16, dropout=0.1)
    """The adapter. A stage that goes on with another's adapter has that one's size."""
    epochs: float = Field(default=3, gt=0)
    """Passes over the samples; a fraction stops within a pass."""
    batch_size: int = Field(default=4, ge=1)
    """Samples a gradient computation, on each process."""
    accumulate: int = Field(default=2, ge=1)
    """Gradient computations an update."""
    learning_rate: float = Field(default=2e-4, ge=0)
    """Learning rate of AdamW after the warm-up; falls to 0 along a cosine."""
    warmup: float = Field(default=0.03, ge=0, lt=1)
    """Share of the updates in which the rate rises."""
    max_gradient_norm: float = Field(default=1.0, gt=0)
    limit: int | None = Field(default=None, ge=1)
    """Samples to learn from, drawn evenly; all by default."""
    evaluated: int = Field(default=100, ge=0)
    """Held-out samples, drawn evenly, whose loss is logged after each pass."""
    checkpoint_steps: int | None = Field(default=None, ge=1)
    """Updates between checkpoints: what a killed run does again. By default so many that writing them takes at most a
    twentieth of the time. It may differ when a training goes on."""
    four_bit: bool | None = None
    """Hold the frozen weights in 4 bits (NF4); by default where bitsandbytes and a GPU are there."""
    checkpoint_activations: bool = False
    """Compute activations again on the way back: less memory, a third more time."""


class GenerationConfig(Config):
    """Sampling of the tuned model's profiles."""

    max_new_tokens: int = Field(default=100, ge=8)
    """100 in the release."""
    temperature: float = Field(default=0.0, ge=0)
    """0 takes the most likely token each time; the release samples at 0.9."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """0.9 in the release."""
    repetition_penalty: float = Field(default=1.0, gt=0)
    """1.3 in the release."""
    constrain: bool = False
    """Let the model write nothing that is not in the profile format, tuned or not."""
    seed: int = 0

    def params(self, phrases: int, *, every_script: bool = False) -> SamplingParams:
        """Return how profiles of ``phrases`` identities and interests are generated."""
        pattern = PAPERS.pattern(phrases, 0, every_script=every_script) if self.constrain else None
        return SamplingParams(**self.model_dump(exclude={"constrain"}), stop=ENDS, pattern=pattern)


class RecLMConfig(Config):
    """The profiler and its tuning. A part is set by its name: ``--set kd.epochs=1``."""

    stages: tuple[StageName, ...] = ORDER
    """Stages to train, in this order. The paper's ablation: GPT_KD is ``[kd]``, Naive and Mask ``[kd, collab]``, RecLM
    all; LLMRec-style profiles come from none: the model as it is, one user at a time."""
    variant: Literal["mask", "naive"] = "mask"
    """Answers of a two-turn sample that carry loss: both, or the last."""
    held_out: float = Field(default=0.2, ge=0, lt=1)
    """Share of the teacher's subjects that are not learned from: they measure every stage."""
    measured: int = Field(default=60, ge=0)
    """Held-out users, and items, whose profiles are written after every stage for the report; each user's nearest
    neighbour too. 0: no report."""
    instructions: InstructionConfig = InstructionConfig()
    neighbours: NeighbourConfig = NeighbourConfig()
    teacher: TeacherConfig = TeacherConfig()
    kd: SupervisedConfig = SupervisedConfig()
    collab: SupervisedConfig = SupervisedConfig(batch_size=1, accumulate=8, learning_rate=5e-5)
    reward: SupervisedConfig = SupervisedConfig(lora=LoraOptions(r=4, alpha=8), learning_rate=1.41e-5)
    reward_data: RewardDataConfig = RewardDataConfig()
    ppo: PPOConfig = PPOConfig()
    ppo_lora: LoraOptions = LoraOptions(r=4, alpha=8)
    """The part that PPO trains on top of the tuned model: an adapter, of 4 and 8 in the release, or its last layers."""
    items: SupervisedConfig = SupervisedConfig()
    generation: GenerationConfig = GenerationConfig()
    seed: int = 0

    @field_validator("stages")
    @classmethod
    def _ordered(cls, stages: tuple[StageName, ...]) -> tuple[StageName, ...]:
        if "ppo" in stages and "reward" not in stages:
            raise ValueError("ppo needs the reward stage before it")
        return tuple(stage for stage in ORDER if stage in stages)
