"""Rollouts: answers of the policy to a batch of prompts as tensors, and their rewards."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, Self

import torch
from torch import Tensor

from reclm.errors import BadInput
from reclm.llm.chat import SamplingParams
from reclm.llm.engines import LocalGenerator
from reclm.llm.engines.transformers import TransformersGenerator
from reclm.llm.models import LanguageModel


class Sampler(Protocol):
    """Writes answers token by token."""

    def sample(
        self, prompts: list[list[int]], params: SamplingParams, seeds: Sequence[int] | None = None
    ) -> Iterator[tuple[int, list[int], bool]]:
        """Yield row, new tokens (the one that ends it included) and whether it ended by itself, for each prompt."""
        ...

    def decode(self, ids: list[int]) -> str:
        """Return new tokens as text, without special tokens."""
        ...


class PolicyGenerator(TransformersGenerator):
    """The transformers engine around a loaded network: it samples from the policy as it is at the moment.

    Args:
        network: a transformers causal language model (``Policy.base``).
        model: the files that the network was loaded from; gives tokenizer, context window and end tokens.
        batch_size: most prompts in a batch.
    """

    def __init__(self, network: Any, model: LanguageModel, batch_size: int = 32) -> None:
        LocalGenerator.__init__(self, model)
        self.model = f"{model.name}+policy"
        self.precision = "bf16" if network.dtype == torch.bfloat16 else "f32"
        self.batch_size = batch_size
        self._run(network)

    def sample(
        self, prompts: list[list[int]], params: SamplingParams, seeds: Sequence[int] | None = None
    ) -> Iterator[tuple[int, list[int], bool]]:
        """Sample answers (see :class:`Sampler`)."""
        longest, context = max(map(len, prompts), default=0), self.prompts.context
        if longest + params.max_new_tokens > context:
            raise BadInput(
                f"a prompt is too long: {longest} tokens and up to {params.max_new_tokens} new ones, "
                f"{self.model} takes {context}; shorten the history or the item text"
            )
        # accelerate may have moved the network
        self.device = self.network.device
        return super().sample(prompts, params, seeds)


@dataclass(frozen=True)
class Rollout:
    """``B`` prompts of up to ``P`` tokens and their answers of up to ``T``.

    Attributes:
        ids: ``(B, P + T)``: prompts padded on the left, answers on the right, with 0.
        attention: ``(B, P + T)``, true where there is a token.
        answers: ``(B, T)``, true on the tokens of the answer, the one that ends it included.
        texts: the answers as text, stripped.
        finish_reasons: ``length`` for an answer that was cut.
    """

    ids: Tensor
    attention: Tensor
    answers: Tensor
    texts: list[str]
    finish_reasons: list[Literal["stop", "length"]]

    @property
    def prompt_ids(self) -> Tensor:
        """``(B, P)``."""
        return self.ids[:, : self.ids.shape[1] - self.answers.shape[1]]

    @property
    def answer_ids(self) -> Tensor:
        """``(B, T)``."""
        return self.ids[:, self.ids.shape[1] - self.answers.shape[1] :]

    @property
    def unfinished(self) -> Tensor:
        """``(B,)``, true where the answer was cut."""
        return torch.tensor([reason == "length" for reason in self.finish_reasons], device=self.ids.device)

    @classmethod
    def build(
        cls,
        prompts: Sequence[list[int]],
        answers: Sequence[list[int]],
        ended: Sequence[bool],
        texts: list[str],
    ) -> Self:
        """Build a rollout from token ids."""
        for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
            if not prompt or not answer:
                raise BadInput(f"rollout: {'answer' if prompt else 'prompt'} {row} has no token", value=row)
        left, right = max(map(len, prompts)), max(map(len, answers))
        rows = [
            [0] * (left - len(prompt)) + prompt + answer + [0] * (right - len(answer))
            for prompt, answer in zip(prompts, answers, strict=True)
        ]
        column = torch.arange(left + right)
        begin = left - torch.tensor([len(prompt) for prompt in prompts])
        end = left + torch.tensor([len(answer) for answer in answers])
        attention = (column >= begin.unsqueeze(1)) & (column < end.unsqueeze(1))
        reasons: list[Literal["stop", "length"]] = ["stop" if done else "length" for done in ended]
        return cls(torch.tensor(rows), attention, attention[:, left:], texts, reasons)

    def to(self, device: torch.device) -> "Rollout":
        """Return the rollout with its tensors on ``device``."""
        ids, attention, answers = (each.to(device) for each in (self.ids, self.attention, self.answers))
        return Rollout(ids, attention, answers, self.texts, self.finish_reasons)


def roll_out(
    sampler: Sampler, prompts: Sequence[list[int]], params: SamplingParams, seeds: Sequence[int]
) -> Rollout:
    """Answer each prompt once; equal prompts with different seeds get different answers.

    Args:
        prompts: token ids.
        seeds: one a prompt; with it, the prompt and the weights, the answer is fixed.
    """
    if not prompts or not all(prompts):
        raise BadInput("rollout: there is no prompt, or one without a token")
    # rows of like length lie together in the engine's batches
    order = sorted(range(len(prompts)), key=lambda row: len(prompts[row]))
    answers: dict[int, tuple[list[int], bool]] = {}
    sampled = sampler.sample([prompts[row] for row in order], params, [seeds[row] for row in order])
    for place, new, ended in sampled:
        answers[order[place]] = (new, ended)
    in_order = [answers[row] for row in range(len(prompts))]
    texts = [sampler.decode(new).strip() for new, _ in in_order]
    return Rollout.build(prompts, [new for new, _ in in_order], [ended for _, ended in in_order], texts)


class Reward(Protocol):
    """Rates texts: a reward model, the NDCG of a ranking, a rule."""

    def __call__(self, texts: Sequence[str], rows: Sequence[int]) -> Sequence[float]:
        """Return a number an answer; ``rows`` says which of the prompts each answers."""
        ...


def rewards_of(
    reward: Reward, rollout: Rollout, rows: Sequence[int], unfinished: float | None = None
) -> Tensor:
    """Return the rewards ``(B,)`` of a rollout.

    Args:
        rows: which of the prompts each answer belongs to.
        unfinished: the reward of an answer that was cut, in place of its own (Γ in LangPTune); None leaves it.
    """
    values = torch.tensor([float(value) for value in reward(rollout.texts, rows)], device=rollout.ids.device)
    if len(values) != len(rows) or not values.isfinite().all():
        bad = values[~values.isfinite()].tolist()
        returned = f"{bad[0]} among them" if bad else f"{len(values)} numbers"
        raise BadInput(
            f"the reward must give {len(rows)} answers a finite number each; got {returned}", value=values
        )
    return values if unfinished is None else values.masked_fill(rollout.unfinished, unfinished)
