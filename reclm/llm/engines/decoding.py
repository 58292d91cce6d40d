"""Decoding in batches: the choice of the next token, and a key/value cache that does not copy itself at each one."""

import hashlib
from collections.abc import Sequence
from copy import deepcopy

import torch
from llguidance import LLMatcher
from transformers import DynamicCache, TopPLogitsWarper
from transformers.cache_utils import DynamicLayer

from reclm.llm.chat import SamplingParams

_ROOM = 64


class TokenChooser:
    """Picks tokens for a batch of ``B`` prompts of token ids, from a vocabulary of ``size`` V.

    A row's choice depends on its own prompt, logits and seed alone: not on the rows beside it.

    Args:
        matcher: the automaton of ``params.pattern`` at its start, where there is one.
        seeds: a seed each row, in place of ``params.seed``.
    """

    def __init__(
        self,
        prompts: Sequence[Sequence[int]],
        params: SamplingParams,
        size: int,
        end_ids: frozenset[int],
        matcher: LLMatcher | None,
        device: torch.device,
        seeds: Sequence[int] | None = None,
    ) -> None:
        self._params, self._end_ids = params, end_ids
        self._rows = torch.arange(len(prompts), device=device)
        self._written = torch.zeros(len(prompts), size, dtype=torch.bool, device=device)
        self._prompted = torch.zeros_like(self._written)
        for row, prompt in enumerate(prompts):
            self._prompted[row, torch.tensor(prompt, device=device)] = True
        self._matchers = [matcher.deep_copy() for _ in prompts] if matcher else []
        seeds = [params.seed] * len(prompts) if seeds is None else seeds
        self._random = [_generator(prompt, seed) for prompt, seed in zip(prompts, seeds, strict=True)]

    def __call__(self, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the next token of each row, and whether it ends the row's answer: ``(B, V) -> (B,), (B,)``."""
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
        """Continue with these rows only."""
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
        rows = zip(chances, self._random, strict=True)
        return torch.cat([torch.multinomial(row, 1, generator=own) for row, own in rows]).to(logits.device)


def _generator(prompt: Sequence[int], seed: int) -> torch.Generator:
    digest = hashlib.sha256(f"{seed} {list(prompt)}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little", signed=True))


def _unpacked(masks: bytes, logits: torch.Tensor) -> torch.Tensor:
    """Unpack concatenated bit masks to ``(B, V)`` booleans; the lowest bit of a byte comes first."""
    packed = torch.frombuffer(bytearray(masks), dtype=torch.uint8).view(len(logits), -1)
    bits = (packed.unsqueeze(-1) >> torch.arange(8, dtype=torch.uint8)) & 1
    return bits.view(len(logits), -1)[:, : logits.shape[1]].bool().to(logits.device)


class RoomyLayer(DynamicLayer):
    """A :class:`DynamicLayer` with room for tokens to come; ``keys`` and ``values`` are views of its filled part.

    The original joins old and new at every token: half the time of a batched step on a CPU.
    """

    def __init__(self) -> None:
        super().__init__()
        self._buffers: list[torch.Tensor] = []
        self._length = 0

    @classmethod
    def repeated(cls, layer: DynamicLayer, rows: int) -> "RoomyLayer":
        """Return ``rows`` copies of a layer's one row."""
        roomy = cls()
        if layer.keys is not None and layer.values is not None:
            roomy.lazy_initialization(layer.keys, layer.values)
            roomy._fill(layer.keys.expand(rows, -1, -1, -1), layer.values.expand(rows, -1, -1, -1))
        return roomy

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: object, **kwargs: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append ``(B, heads, new, d)`` keys and values; return all of them."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        length = self._length + key_states.shape[-2]
        if not self._buffers:
            return self._fill(key_states, value_states)
        if length > self._buffers[0].shape[-2]:
            self._fill(*self._show(self._length), length - self._length)
        for buffer, new in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[..., self._length : length, :] = new
        return self._show(length)

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Continue with these rows only."""
        if self._buffers:
            keys, values = self._show(self._length)
            self._fill(keys[indices], values[indices])

    def _fill(
        self, keys: torch.Tensor, values: torch.Tensor, room: int = 0
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Make buffers that begin with ``keys`` and ``values``, and have ``room`` and more behind."""
        length = keys.shape[-2]
        self._buffers = []
        for filled in (keys, values):
            buffer = filled.new_empty(*filled.shape[:2], length + room + _ROOM, filled.shape[-1])
            buffer[..., :length, :] = filled
            self._buffers.append(buffer)
        return self._show(length)

    def _show(self, length: int) -> tuple[torch.Tensor, torch.Tensor]:
        self._length = length
        keys, values = (buffer[..., :length, :] for buffer in self._buffers)
        self.keys, self.values = keys, values
        return keys, values


def repeated(prefix: DynamicCache, rows: int) -> DynamicCache:
    """Return a cache of ``rows`` rows that each begin with the one row of ``prefix``, which stays as it is."""
    if all(type(layer) is DynamicLayer for layer in prefix.layers):
        cache = DynamicCache()
        cache.layers = [RoomyLayer.repeated(layer, rows) for layer in prefix.layers]  # pyright: ignore[reportAttributeAccessIssue, reportArgumentType]
        return cache
    # sliding windows, linear attention: as transformers keeps them
    cache = deepcopy(prefix)
    cache.batch_repeat_interleave(rows)
    return cache
