"""Options of the zero-shot profiler."""

from pydantic import Field

from reclm.config import Config
from reclm.data.dataset import ProfileKind
from reclm.llm.chat import SamplingParams
from reclm.profilers.profile_format import answer_pattern


class ZeroShotConfig(Config):
    """What is asked, and how the answer is generated. Prompt tokens are what costs: keep the prompts short."""

    history: int = Field(default=8, ge=1)
    """Newest items of a user that a prompt names."""
    text_chars: int = Field(default=260, ge=40)
    """Most characters of titles and description in a prompt."""
    topics: int = Field(default=5, ge=0)
    """Most topics (genres, categories) named, the commonest of the history first."""
    clickers: int = Field(default=5, ge=0)
    """Newest users of an item whose profiles its prompt may quote; 5 in the paper."""
    quoted: int = Field(default=4, ge=1)
    """Most interests quoted from those profiles, and half as many identities."""
    phrases: int = Field(default=3, ge=1, le=10)
    """Identities, and as many interests, in a user's profile; 3 in the paper."""
    item_phrases: int = Field(default=3, ge=1, le=10)
    """The same of an item's profile; 5 in the paper, which takes half as long again."""
    constrain: bool = True
    """Let the model write nothing that is not in the profile format."""
    max_new_tokens: int = Field(default=80, ge=8)
    temperature: float = Field(default=0.0, ge=0)
    """0 takes the most likely token each time; the paper samples at 0.9."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    repetition_penalty: float = Field(default=1.0, gt=0)
    """On the words of prompt and answer. The paper's 1.3 drives a small model away from the history's own words."""
    presence_penalty: float = Field(default=2.0, ge=-2, le=2)
    """On the words of the answer alone: keeps phrases from being repeated."""
    second_penalty: float | None = Field(default=1.1, gt=1)
    """Repetition penalty when a profile with too few different phrases is written once more; none: it stays."""
    seed: int = 0

    def sampling(self, kind: ProfileKind, again: bool = False) -> SamplingParams:
        """How to generate profiles of a kind; ``again``: those that said too much twice."""
        # an item's prompt says less than a history, and more of the answer is said twice
        phrases, spare = (self.phrases, 1) if kind == "user" else (self.item_phrases, 2)
        return SamplingParams(
            max_new_tokens=self.max_new_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            repetition_penalty=(again and self.second_penalty) or self.repetition_penalty,
            presence_penalty=self.presence_penalty,
            stop=("\n",),
            pattern=answer_pattern(phrases, spare) if self.constrain else None,
            seed=self.seed,
        )
