"""Options of the RecLM profiler (arXiv 2412.19302)."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from reclm.config import Config

StageName = Literal["kd", "collab", "reward", "ppo", "items"]
ORDER: tuple[StageName, ...] = ("kd", "collab", "reward", "ppo", "items")
"""Every stage, in the order in which they build on one another."""
Negative = Literal["neighbour", "mixed", "identities", "repeated", "header", "dot"]


def _whole(shares: dict[Any, float]) -> dict[Any, float]:
    total = sum(shares.values())
    if abs(total - 1) > 1e-6:
        raise ValueError(f"they sum to {total:g} and must sum to 1")
    return shares


Share = Annotated[float, Field(ge=0, le=1)]


class InstructionConfig(Config):
    """What a prompt shows. RecLM, arXiv 2412.19302, section 2.3 and its release."""

    history: int = Field(default=10, ge=1)
    """Newest items of the target user."""
    neighbour_history: int = Field(default=5, ge=1)
    """Newest items of each similar user; the release shows 5."""
    clickers: int = Field(default=5, ge=0)
    """Newest users of an item whose profiles its prompt quotes; the release quotes 5."""
    item_chars: int = Field(default=300, ge=20)
    """Most characters of an item's text: whole sentences, as many as fit (the first one always)."""
    max_tokens: int = Field(default=2048, ge=64)
    """Most tokens of a sample, answers included; what does not fit is left out item by item. 2048 in the release."""
    answer_tokens: int = Field(default=100, ge=1)
    """Room kept for the answer where the sample has none; the release generates at most 100."""
    phrases: int = Field(default=3, ge=1, le=10)
    """Identities, and as many interests, of a user; section 2.2."""
    item_phrases: int = Field(default=5, ge=1, le=10)
    """The same of an item; section 2.3."""


class TeacherConfig(Config):
    """How a file of teacher profiles is read. RecLM, section 2.2."""

    id_column: str | None = None
    """Whose profile it is; by default the column called id, user_id, item_id or UID (the paper's release)."""
    text_column: str | None = None
    """The profile; by default the column called text, profile or Response (the paper's release)."""
    phrases: int | None = Field(default=3, ge=1)
    """Identities, and as many interests, of a user; 3 in the paper. None takes any number."""
    item_phrases: int | None = Field(default=5, ge=1)
    """The same of an item; 5 in the paper."""
    strict: bool = True
    """Refuse a file with ids that are not in the data set; otherwise they are left out and counted."""


class NeighbourConfig(Config):
    """Who is similar to whom. RecLM, arXiv 2412.19302, section 2.3."""

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
    """What the reward model is shown. RecLM, section 2.4; the proportions are the release's."""

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
