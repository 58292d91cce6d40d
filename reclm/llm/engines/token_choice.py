"""Choosing the next token of each row of a batch: penalties, pattern, greedy or sampled."""

import hashlib
from collections.abc import Sequence
from typing import Any

import torch
from llguidance import LLMatcher
from llguidance.hf import from_tokenizer
from transformers import TopPLogitsWarper

from reclm.llm.chat import SamplingParams


class PatternCompiler:
    """Regular expressions as automata over a tokenizer's vocabulary of ``size`` tokens."""

    def __init__(self, tokenizer: Any, size: int, end_ids: Sequence[int]) -> None:
        self._tokens = from_tokenizer(tokenizer, n_vocab=size, eos_token=list(end_ids))

    def matcher(self, pattern: str) -> LLMatcher:
        """An automaton at its start."""
        return LLMatcher(self._tokens, LLMatcher.grammar_from_regex(pattern))


class TokenChooser:
    """Picks tokens for a batch of prompts.

    A row's choice depends on its own prompt, logits and ``params.seed`` alone: not on the rows beside it.

    Args:
        prompts: token ids of each row's prompt, ``B`` rows.
        params: how to choose.
        size: size ``V`` of the vocabulary.
        end_ids: tokens that end an answer.
        patterns: needed where ``params.pattern`` is set.
        seeds: a seed each row, in place of ``params.seed``.
    """

    def __init__(
        self,
        prompts: Sequence[Sequence[int]],
        params: SamplingParams,
        size: int,
        end_ids: frozenset[int],
        patterns: PatternCompiler | None,
        device: torch.device,
        seeds: Sequence[int] | None = None,
    ) -> None:
        self._params = params
        self._end_ids = end_ids
        self._rows = torch.arange(len(prompts), device=device)
        self._written = torch.zeros(len(prompts), size, dtype=torch.bool, device=device)
        self._prompted = torch.zeros_like(self._written)
        for row, prompt in enumerate(prompts):
            self._prompted[row, torch.tensor(prompt, device=device)] = True
        self._matchers: list[LLMatcher] = []
        if params.pattern is not None:
            assert patterns is not None
            start = patterns.matcher(params.pattern)
            self._matchers = [start.deep_copy() for _ in prompts]
        seeds = [params.seed] * len(prompts) if seeds is None else seeds
        self._random = [_generator(prompt, seed) for prompt, seed in zip(prompts, seeds, strict=True)]

    def __call__(self, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The next token of each row, and whether the row's answer ends with it: ``(B, V) -> (B,), (B,)``."""
        logits = logits.float()
        params = self._params
        if params.repetition_penalty != 1:
            penalty = torch.where(logits > 0, 1 / params.repetition_penalty, params.repetition_penalty)
            logits = torch.where(self._prompted | self._written, logits * penalty, logits)
        if params.presence_penalty:
            logits = logits - params.presence_penalty * self._written
        if self._matchers:
            masks = b"".join(matcher.compute_bitmask() for matcher in self._matchers)
            logits = logits.masked_fill(~_unpacked(masks, logits), float("-inf"))
        tokens = self._sample(logits) if params.temperature > 0 else logits.argmax(-1)
        self._written[self._rows, tokens] = True
        ended = [token in self._end_ids for token in tokens.tolist()]
        for row, matcher in enumerate(self._matchers):
            if not ended[row]:
                matcher.consume_token(int(tokens[row]))
                ended[row] = matcher.is_stopped()
        return tokens, torch.tensor(ended)

    def keep(self, rows: list[int]) -> None:
        """Go on with these rows only."""
        index = torch.tensor(rows, device=self._rows.device)
        self._rows = torch.arange(len(rows), device=self._rows.device)
        self._written, self._prompted = self._written[index], self._prompted[index]
        self._random = [self._random[row] for row in rows]
        self._matchers = [self._matchers[row] for row in rows] if self._matchers else []

    def _sample(self, logits: torch.Tensor) -> torch.Tensor:
        logits = logits / self._params.temperature
        if self._params.top_p < 1:
            logits = TopPLogitsWarper(self._params.top_p)(torch.empty(0, dtype=torch.long), logits)  # pyright: ignore[reportArgumentType]
        chances = logits.softmax(-1).cpu()
        drawn = [
            torch.multinomial(row, 1, generator=own) for row, own in zip(chances, self._random, strict=True)
        ]
        return torch.cat(drawn).to(logits.device)


def _generator(prompt: Sequence[int], seed: int) -> torch.Generator:
    digest = hashlib.sha256(f"{seed} {list(prompt)}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little", signed=True))


def _unpacked(masks: bytes, logits: torch.Tensor) -> torch.Tensor:
    """Bit masks, one after the other, as ``(B, V)`` booleans; the lowest bit of a byte comes first."""
    packed = torch.frombuffer(bytearray(masks), dtype=torch.uint8).view(len(logits), -1)
    bits = (packed.unsqueeze(-1) >> torch.arange(8, dtype=torch.uint8)) & 1
    return bits.view(len(logits), -1)[:, : logits.shape[1]].bool().to(logits.device)
