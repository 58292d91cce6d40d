"""Answers of a policy: how they are drawn, and the batch that is learned from."""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Self

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor

from reclm.errors import BadInput
from reclm.llm.chat import SamplingParams, cut_at_stop
from reclm.llm.engines.transformers import NetworkGenerator
from reclm.llm.models import LanguageModel
from reclm.profilers.rl.decoder import SplitDecoder

_BLOCK = 256
"""Tokens whose probabilities are added up before one is drawn."""
_NUCLEUS = 1024
"""Most likely tokens that are looked at first for the nucleus of top-p sampling."""


@dataclass(frozen=True)
class Rollout:
    """``B`` prompts of up to ``P`` tokens and their answers of up to ``T``.

    Each ``samples`` rows in sequence answer one prompt.
    """

    ids: Tensor
    """``(B, P + T)``: prompts padded on the left, answers on the right, with 0."""
    attention: Tensor
    """``(B, P + T)``, true where there is a token."""
    answers: Tensor
    """``(B, T)``, true on the tokens of the answer, the one that ends it included."""
    unfinished: Tensor
    """``(B,)``, true where the answer was cut."""
    texts: list[str]
    samples: int = 1
    prompt_states: Tensor | None = None
    """``(B / samples, P, h)``: the frozen layers' states of the prompts; None where there are no such layers."""
    answer_states: Tensor | None = None
    """``(B, T - 1, h)``: those of the answers, without the last token."""

    @classmethod
    def build(
        cls,
        prompts: Sequence[list[int]],
        answers: Sequence[list[int]],
        ended: Sequence[bool],
        texts: list[str],
        samples: int = 1,
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
        return cls(torch.tensor(rows), attention, attention[:, left:], ~torch.tensor(ended), texts, samples)

    @property
    def prompt_length(self) -> int:
        """P."""
        return self.ids.shape[1] - self.answers.shape[1]

    def rows(self, groups: Tensor) -> Tensor:
        """Return the rows that answer the prompts number ``groups``: ``(n,) -> (n · samples,)``."""
        return (
            groups.unsqueeze(1) * self.samples + torch.arange(self.samples, device=groups.device)
        ).flatten()

    def states(self, groups: Tensor) -> tuple[Tensor, Tensor] | None:
        """Return the frozen layers' states of prompts number ``groups``, and of their answers, where there are any."""
        if self.prompt_states is None or self.answer_states is None:
            return None
        return self.prompt_states[groups], self.answer_states[self.rows(groups)]

    def to(self, device: torch.device) -> "Rollout":
        """Return the rollout with its tensors on ``device``."""
        moved = {name: value.to(device) for name, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(self, **moved)


class _Drawn(NamedTuple):
    """Answers of a batch to ``B`` prompts, of which ``U`` are different."""

    tokens: Tensor
    """``(B, T)``"""
    lengths: Tensor
    """``(B,)``: tokens of the answer, the one that ends it included."""
    ended: Tensor
    """``(B,)``: false where it was cut."""
    places: Tensor
    """``(B,)``: which of the different prompts each answers."""
    prompt_states: Tensor
    """``(U, P, h)``, padded on the left"""
    answer_states: Tensor
    """``(B, T, h)``"""


class PolicySampler(NetworkGenerator):
    """Samples from a policy as it is now, in batches of ``batch_size`` rows.

    Equal prompts of a batch are read once; LoRA matrices are merged with the weights meanwhile; rows that are done
    leave the batch. A token is drawn on the device by one uniform number, that of its row and place: it depends on
    prompt, seed and logits alone, not on the rows beside it.
    """

    def __init__(self, decoder: SplitDecoder, model: LanguageModel, batch_size: int = 96) -> None:
        super().__init__(decoder.network, model, batch_size)
        self.decoder = decoder

    def sample(
        self, prompts: list[list[int]], params: SamplingParams, seeds: Sequence[int] | None = None
    ) -> Iterator[tuple[int, list[int], bool]]:
        """Yield row, new tokens (the one that ends it included) and whether it ended by itself, for each prompt."""
        self._check(prompts, params)
        if params.pattern is not None or params.repetition_penalty != 1 or params.presence_penalty:
            with self.decoder.computing():
                yield from super().sample(prompts, params, seeds)
            return
        seeds = [params.seed] * len(prompts) if seeds is None else seeds
        for start in range(0, len(prompts), self.batch_size):
            batch = slice(start, start + self.batch_size)
            drawn = self._draw(prompts[batch], params, seeds[batch])
            for row, tokens in enumerate(_answers(drawn)):
                yield start + row, tokens, bool(drawn.ended[row])

    def roll_out(
        self, prompts: Sequence[list[int]], params: SamplingParams, seeds: Sequence[int], samples: int = 1
    ) -> Rollout:
        """Answer each prompt (token ids) once, drawn by its seed; each ``samples`` in sequence are the same prompt."""
        if not prompts or not all(prompts):
            raise BadInput("rollout: there is no prompt, or one without a token")
        self._check(prompts, params)
        # prompts of like length lie together in a batch, with all of their answers
        order = sorted(range(0, len(prompts), samples), key=lambda row: len(prompts[row]))
        size = max(1, self.batch_size // samples)
        answers: list[list[int]] = [[] for _ in prompts]
        ended = [False] * len(prompts)
        parts: list[tuple[list[int], list[int], _Drawn]] = []
        for start in range(0, len(order), size):
            groups = order[start : start + size]
            rows = [row + at for row in groups for at in range(samples)]
            drawn = self._draw([prompts[row] for row in rows], params, [seeds[row] for row in rows])
            for row, tokens, end in zip(rows, _answers(drawn), drawn.ended.tolist(), strict=True):
                answers[row], ended[row] = tokens, end
            parts.append((groups, rows, drawn))
        texts = [self.decode(tokens).strip() for tokens in answers]
        rollout = Rollout.build(list(prompts), answers, ended, texts, samples).to(self.decoder.device)
        return rollout if not self.decoder.first else _with_states(rollout, parts)

    def _check(self, prompts: Sequence[list[int]], params: SamplingParams) -> None:
        longest, new, context = max(map(len, prompts), default=0), params.max_new_tokens, self.prompts.context
        if longest + new > context:
            tokens = f"{longest} tokens and up to {new} new ones, {self.model} takes {context}"
            raise BadInput(f"a prompt is too long: {tokens}; shorten the history or the item text")

    @torch.no_grad()
    def _draw(self, prompts: Sequence[list[int]], params: SamplingParams, seeds: Sequence[int]) -> _Drawn:
        decoder, count, most = self.decoder, len(prompts), params.max_new_tokens
        device = decoder.device
        different = {prompt: at for at, prompt in enumerate(dict.fromkeys(map(tuple, prompts)))}
        places = torch.tensor([different[tuple(prompt)] for prompt in prompts], device=device)
        keys = torch.tensor([_key(*row) for row in zip(prompts, seeds, strict=True)], device=device)
        ends = torch.tensor(sorted(self.end_ids), device=device)
        ids, attended = (part.to(device) for part in _padded(list(different)))
        with merged(self.network), decoder.computing():
            caches = decoder.caches(roomy=True)
            prompt_states = decoder.lower(ids, attended, caches[0])
            hidden = decoder.upper(prompt_states, attended, caches[1])[:, -1]
            _select(caches, places)
            hidden, attended = hidden[places], attended[places]
            tokens, lengths = places.new_zeros(count, most), places.new_zeros(count)
            states = prompt_states.new_zeros(count, most if decoder.first else 0, prompt_states.shape[-1])
            ended = torch.zeros(count, dtype=torch.bool, device=device)
            # the rows in the batch, and those among them that go on
            rows, going = torch.arange(count, device=device), torch.ones_like(ended)
            for step in range(most):
                token = draw(
                    decoder.logits(hidden), uniform(keys[rows], step), params.temperature, params.top_p
                )
                tokens[rows, step] = token
                lengths[rows] += going
                stops = torch.isin(token, ends) | self._stops(tokens[rows, : step + 1], params)
                ended[rows] |= going & stops
                going = going & ~stops
                left = int(going.sum())
                if not left or step == most - 1:
                    break
                # rows that are done are computed on until they are worth the copy of the cache
                if left <= 0.75 * len(rows):
                    index = going.nonzero().squeeze(1)
                    _select(caches, index)
                    rows, token, attended, going = rows[index], token[index], attended[index], going[index]
                attended = torch.cat([attended, attended.new_ones(len(rows), 1)], dim=1)
                state = decoder.lower(token.unsqueeze(1), attended, caches[0])
                if decoder.first:
                    states[rows, step] = state.squeeze(1)
                hidden = decoder.upper(state, attended, caches[1])[:, -1]
        return _Drawn(tokens, lengths, ended, places, prompt_states, states)

    def _stops(self, tokens: Tensor, params: SamplingParams) -> Tensor:
        """Return which rows of tokens ``(B, n)`` hold a stop string, ``(B,)``; without any, no text is read."""
        if not params.stop:
            return torch.zeros(len(tokens), dtype=torch.bool, device=tokens.device)
        found = [cut_at_stop(self.prompts.text(row), params)[1] for row in tokens.tolist()]
        return torch.tensor(found, device=tokens.device)


def draw(logits: Tensor, chance: Tensor, temperature: float, top_p: float = 1.0) -> Tensor:
    """Return a token of each row by inversion of its distribution: ``(B, V), (B,) -> (B,)``; logits are overwritten.

    The token is the first whose cumulative probability exceeds ``chance``, a number in [0, 1). Probabilities are added
    up by blocks first, then within the chosen one: neither they nor noise take memory beside the logits, but for the
    nucleus where ``top_p`` is below 1. A temperature of 0 takes the most likely token.
    """
    if temperature == 0:
        return logits.argmax(-1)
    weights = logits.sub_(logits.amax(-1, keepdim=True)).div_(temperature).exp_()
    if top_p < 1:
        weights, tokens = _nucleus(weights, top_p)
        return tokens.gather(1, _invert(weights, chance).unsqueeze(1)).squeeze(1)
    size = weights.shape[1]
    whole = size // _BLOCK * _BLOCK
    blocks = weights[:, :whole].unflatten(1, (-1, _BLOCK)).sum(-1)
    blocks = torch.cat([blocks, weights[:, whole:].sum(-1, keepdim=True)], dim=1).double()
    block = _invert(blocks, chance).unsqueeze(1)
    before = blocks.cumsum(1).gather(1, block) - blocks.gather(1, block)
    rest = (chance.unsqueeze(1) * blocks.sum(1, keepdim=True) - before) / blocks.gather(1, block)
    columns = block * _BLOCK + torch.arange(_BLOCK, device=logits.device)
    inner = weights.gather(1, columns.clamp(max=size - 1)).masked_fill(columns >= size, 0)
    return columns.gather(1, _invert(inner, rest.squeeze(1)).unsqueeze(1)).squeeze(1)


def _invert(weights: Tensor, chance: Tensor) -> Tensor:
    """Return the first column at which the sum of weights exceeds ``chance`` of all: ``(B, n), (B,) -> (B,)``."""
    sums = weights.double().cumsum(1)
    # never all of it: the column found has a weight
    wanted = chance.double().clamp(0, 1 - 2.0**-40).unsqueeze(1) * sums[:, -1:]
    return (sums <= wanted).sum(1).clamp(max=weights.shape[1] - 1)


def _nucleus(weights: Tensor, top_p: float) -> tuple[Tensor, Tensor]:
    """Return the weights of the most likely tokens that hold ``top_p``, and these: ``(B, V) -> (B, n) × 2``."""
    total, count = weights.sum(-1, keepdim=True), min(_NUCLEUS, weights.shape[1])
    while True:
        best, tokens = weights.topk(count, dim=-1)
        before = best.cumsum(-1) - best
        if count == weights.shape[1] or bool((before[:, -1:] >= top_p * total).all()):
            return best.masked_fill(before >= top_p * total, 0), tokens
        count = min(8 * count, weights.shape[1])


def uniform(keys: Tensor, step: int) -> Tensor:
    """Return a number in [0, 1) of each key and step, by SplitMix64: ``(B,) int64 -> (B,) float64``.

    It is the same on every device. Paper: Steele, Lea & Flood, Fast splittable pseudorandom number generators (2014).
    """
    bits = keys + _signed(0x9E3779B97F4A7C15 * (step + 1))
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        bits = (bits ^ _shifted(bits, shift)) * _signed(factor)
    return _shifted(bits ^ _shifted(bits, 31), 11).double() * 2.0**-53


def _shifted(bits: Tensor, by: int) -> Tensor:
    """Return ``bits >> by`` of unsigned numbers."""
    return (bits >> by) & (2 ** (64 - by) - 1)


def _signed(number: int) -> int:
    return (number + 2**63) % 2**64 - 2**63


def _key(prompt: Sequence[int], seed: int) -> int:
    digest = hashlib.sha256(f"{seed} {list(prompt)}".encode()).digest()
    return int.from_bytes(digest[:8], "little", signed=True)


@contextmanager
def merged(network: Any) -> Iterator[None]:
    """Run LoRA layers as one matrix each within the block; the weights are then the same tensors as before."""
    layers: list[Any] = [part for part in network.modules() if isinstance(part, LoraLayer)]
    before = [
        (layer, layer.get_base_layer(), layer.get_base_layer().weight.data)
        for layer in layers
        if not layer.disable_adapters and not layer.merged
    ]
    try:
        for layer, *_ in before:
            layer.merge(safe_merge=True)
        yield
    finally:
        for layer, base, weights in before:
            base.weight.data = weights
            layer.merged_adapters.clear()


def _select(caches: tuple[Any, ...], rows: Tensor) -> None:
    for cache in caches:
        cache.batch_select_indices(rows)


def _padded(prompts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Return ids and attention mask, ``(B, L)`` each, of prompts padded on the left."""
    longest = max(map(len, prompts))
    ids = [[0] * (longest - len(prompt)) + list(prompt) for prompt in prompts]
    mask = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    return torch.tensor(ids), torch.tensor(mask)


def _answers(drawn: _Drawn) -> list[list[int]]:
    lengths = drawn.lengths.tolist()
    return [row[:length] for row, length in zip(drawn.tokens.tolist(), lengths, strict=True)]


def _with_states(rollout: Rollout, parts: list[tuple[list[int], list[int], _Drawn]]) -> Rollout:
    """Return the rollout with the states of its batches: their first rows by prompt, their rows, and what was drawn."""
    size, width = parts[0][2].prompt_states.shape[-1], rollout.answers.shape[1] - 1
    new, samples = parts[0][2].prompt_states.new_zeros, rollout.samples
    prompts = new(len(rollout.ids) // samples, rollout.prompt_length, size)
    answers = new(len(rollout.ids), width, size)
    for groups, rows, drawn in parts:
        states = drawn.prompt_states[drawn.places[::samples]]
        prompts[torch.tensor(groups) // samples, -states.shape[1] :] = states
        answers[rows] = drawn.answer_states[:, :width]
    return replace(rollout, prompt_states=prompts, answer_states=answers)


def sample_all(
    sampler: NetworkGenerator,
    prompts: Sequence[list[int]],
    params: SamplingParams,
    seeds: Sequence[int] | None = None,
) -> list[tuple[list[int], bool]]:
    """Answer each prompt (token ids): return the tokens, and whether the model ended the answer by itself."""
    # rows of like length lie together in the engine's batches
    order = sorted(range(len(prompts)), key=lambda row: len(prompts[row]))
    row_seeds = None if seeds is None else [seeds[row] for row in order]
    sampled = sampler.sample([prompts[row] for row in order], params, row_seeds)
    answers = {order[place]: (new, ended) for place, new, ended in sampled}
    return [answers[row] for row in range(len(prompts))]
