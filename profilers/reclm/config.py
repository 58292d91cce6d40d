"""Options of the RecLM profiler (arXiv 2412.19302)."""

from pydantic import Field

from reclm.config import Config


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
