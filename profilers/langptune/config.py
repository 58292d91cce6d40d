"""Options of LangPTune (arXiv 2410.18870). Defaults are the paper's for Gemma-2B-it (section 6)."""

from typing import Any, Literal

from pydantic import Field, model_validator

from reclm.config import Config
from reclm.data.sessions import SessionOptions
from reclm.llm.chat import SamplingParams
from reclm.profilers.rl.config import RLSOConfig
from reclm.profilers.tuning.adapter import LoraOptions

Variant = Literal["full", "cl", "rlso", "zero"]


class PromptConfig(Config):
    """Options of the prompt: the history that it shows, and the first words of the profile."""

    item_chars: int = Field(default=1000, ge=20)
    """Most characters of an item's text: whole sentences, as many as fit (the first one always)."""
    review_chars: int = Field(default=500, ge=0)
    """Most characters of a review, cut at a word; 0 leaves reviews out."""
    begin: str = ""
    """First words of every profile, which small models need to keep to the task, such as "The user likes"."""
    fold: int | None = Field(default=None, ge=1)
    """Longer histories are read so many items at a time, each time with the profile so far; None: all at once."""


class ContrastiveConfig(Config):
    """Contrastive learning of the recommender (section 3, equation 7)."""

    steps: int = Field(default=4000, ge=1)
    """Batches of all rounds together; K = 5 rounds of J = 800 in the paper."""
    batch_size: int = Field(default=256, ge=2)
    """Profiles in a batch, and as many next items, of all processes together."""
    learning_rate: float = Field(default=1e-7, ge=0)
    """Learning rate of AdamW where encoder and LLM are trained; falls linearly to 0."""
    learning_rate_alone: float = Field(default=1e-5, ge=0)
    """Learning rate where the encoder alone is trained (variant ``cl``)."""
    weight_decay: float = Field(default=1e-6, ge=0)
    temperature: float = Field(default=0.1, gt=0)
    """Cosines are divided by it."""
    correct_popularity: bool = False
    """Take the log of how often an item comes next off its logit. A batch holds popular items more often than others,
    and as negatives they are pushed away more: what is learned is not what is likely, but what is likelier than its
    popularity says (Yi et al., "Sampling-bias-corrected neural modeling for large corpus item recommendations",
    RecSys 2019). The paper does not."""
    reuse: bool = False
    """Sample one profile of a session in a round, and take it again whenever the session is drawn again. The paper
    samples anew each time, which is nearly all that a batch costs on a processor without an accelerator."""
    max_gradient_norm: float = Field(default=1.0, gt=0)
    checkpoint_steps: int | None = Field(default=None, ge=1)
    """Batches between checkpoints, as in ``rlso``."""


class LangPTuneConfig(Config):
    """The profiler and its training. A part is set by its name: ``--set rlso.steps=100``."""

    variant: Variant = "full"
    """The trained part: recommender and language model in turns, one of them (``cl``, ``rlso``), or neither."""
    source: Literal["profile", "history"] = "profile"
    """The text that is embedded for a user: the profile, or the history's own text without a language model (the
    paper's baselines EMB-0 and EMB-CL, by ``variant`` ``zero`` and ``cl``)."""
    rounds: int = Field(default=5, ge=1)
    """K: turns of contrastive learning and RLSO."""
    sessions: SessionOptions = SessionOptions()
    train_ratio: float = Field(default=1.0, gt=0, le=1)
    """Share of the training sessions that are learned from, drawn by the seed."""
    prompts: PromptConfig = PromptConfig()
    reward: Literal["ndcg", "mrr"] = "ndcg"
    """Metric of the ranking of all candidates that is the reward."""
    reward_at: int | None = Field(default=None, ge=1)
    """Ranks that the reward counts, the first; by default all, as in the paper's release."""
    cl: ContrastiveConfig = ContrastiveConfig()
    rlso: RLSOConfig = RLSOConfig()
    """``steps`` are those of all rounds together; K = 5 of T = 200 in the paper."""
    lora: LoraOptions = LoraOptions(r=1024, alpha=2048)
    """The adapter that RLSO trains; the paper's is on the output layer, too."""
    max_new_tokens: int | None = Field(default=None, ge=1)
    """Most tokens of a profile once tuned; None: as in training (``rlso.max_new_tokens``)."""
    temperature: float = Field(default=0.0, ge=0)
    """Sampling temperature of profiles once tuned; 0 takes the most likely token each time."""
    measured: int = Field(default=0, ge=0)
    """Most test sessions that are measured; 0: all."""
    seed: int = 0
    """Seed of the whole training; added to ``rlso.seed``."""

    @model_validator(mode="after")
    def _even(self) -> "LangPTuneConfig":
        steps = {"cl": self.cl.steps, "rlso": self.rlso.steps}
        for (name, count), trained in zip(steps.items(), self.trains, strict=True):
            if trained and count % self.rounds:
                message = f"cannot be shared evenly by {self.rounds} rounds; make it a multiple"
                raise ValueError(f"{name}.steps = {count} {message}")
        if self.source == "history" and self.trains[1]:
            message = "source = history has no language model to train"
            raise ValueError(f"{message}; variant {self.variant!r} needs one")
        return self

    @property
    def trains(self) -> tuple[bool, bool]:
        """Return whether the recommender is trained, and whether the language model is."""
        return self.variant in {"full", "cl"}, self.variant in {"full", "rlso"}

    def needed(self) -> "LangPTuneConfig":
        """Return the training of ``cl``, ``rlso`` or ``full`` with defaults for all that it does not use."""
        (recommends, writes), profiles = self.trains, self.source == "profile"
        idle = {"learning_rate_alone" if writes else "learning_rate", *([] if profiles else ["reuse"])}
        used = self.cl.model_dump(exclude=idle) if recommends else {}
        unused: dict[str, Any] = {"cl": ContrastiveConfig(**used)}
        if not writes:
            drawn = {"max_new_tokens", "temperature", "top_p", "stop"} if profiles else set()
            unused["rlso"] = RLSOConfig(**self.rlso.model_dump(include=drawn))
            unused |= {
                name: type(self).model_fields[name].default for name in ("reward", "reward_at", "lora")
            }
            unused["rounds"] = 1
        elif self.lora.whole:
            unused["lora"] = LoraOptions(train="last_layers", layers=self.lora.layers)
        if not profiles:
            unused["prompts"] = self.prompts.model_copy(update={"begin": "", "fold": None})
            unused |= {"max_new_tokens": None, "temperature": 0.0}
        return self.model_copy(update=unused)

    @property
    def writing(self) -> SamplingParams:
        """The sampling parameters of profiles once tuned."""
        length = self.max_new_tokens or self.rlso.max_new_tokens
        # the most likely token is the same whatever the seed
        seed = self.seed if self.temperature else 0
        return SamplingParams(max_new_tokens=length, temperature=self.temperature, seed=seed)
