"""Hugging Face transformers: the reference engine, for GPUs and freshly tuned models."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from llguidance import LLMatcher
from llguidance.hf import from_tokenizer
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache, TopPLogitsWarper
from transformers.cache_utils import DynamicLayer
from transformers.utils import logging

from reclm.errors import BadInput, Damaged, ReclmError
from reclm.llm.chat import Chat, Generation, SamplingParams, cut_at_stop
from reclm.llm.engines import Count, LocalGenerator, Precision
from reclm.llm.models import LanguageModel, transformers_folder

_ROOM = 64
"""Tokens that a cache has room for beyond those that it holds or is asked for."""
_KeysAndValues = tuple[torch.Tensor, torch.Tensor]


class TokenChooser:
    """Picks tokens for a batch of ``B`` prompts of token ids, from a vocabulary of ``size`` V.

    A row's choice depends on its own prompt, logits and seed alone: not on the rows beside it. ``matcher`` is the
    automaton of ``params.pattern`` at its start; ``seeds`` has one a row, in place of ``params.seed``.
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
        self._written = torch.zeros(len(prompts), size, dtype=torch.bool, device=device)
        self._prompted = torch.zeros_like(self._written)
        for row, prompt in enumerate(prompts):
            self._prompted[row, torch.tensor(prompt, device=device)] = True
        self._matchers = [] if matcher is None else [matcher.deep_copy() for _ in prompts]
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
            packed = np.frombuffer(masks, np.uint8).reshape(len(logits), -1)
            allowed = np.unpackbits(packed, axis=1, bitorder="little", count=logits.shape[1]).astype(bool)
            logits = logits.masked_fill(~torch.from_numpy(allowed).to(logits.device), float("-inf"))
        tokens = self._sample(logits) if params.temperature > 0 else logits.argmax(-1)
        self._written.scatter_(1, tokens.unsqueeze(1), True)
        ended = [token in self._end_ids for token in tokens.tolist()]
        for row, matcher in enumerate(self._matchers):
            if not ended[row]:
                matcher.consume_token(int(tokens[row]))
                ended[row] = matcher.is_stopped()
        return tokens, torch.tensor(ended)

    def keep(self, rows: list[int]) -> None:
        """Continue with these rows only."""
        index = torch.tensor(rows, device=self._written.device)
        self._written, self._prompted = self._written[index], self._prompted[index]
        self._random = [self._random[row] for row in rows]
        self._matchers = [self._matchers[row] for row in rows] if self._matchers else []

    def _sample(self, logits: torch.Tensor) -> torch.Tensor:
        logits = logits / self._params.temperature
        if self._params.top_p < 1:
            logits = TopPLogitsWarper(self._params.top_p)(torch.empty(0, dtype=torch.long), logits)  # pyright: ignore[reportArgumentType]
        chances = logits.softmax(-1).cpu()
        rows = zip(chances, self._random, strict=True)
        drawn = [torch.multinomial(row, 1, generator=random) for row, random in rows]
        return torch.cat(drawn).to(logits.device)


def _generator(prompt: Sequence[int], seed: int) -> torch.Generator:
    digest = hashlib.sha256(f"{seed} {list(prompt)}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little", signed=True))


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
    ) -> _KeysAndValues:
        """Append ``(B, heads, new, d)`` keys and values; return all of them."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        length = self._length + key_states.shape[-2]
        if not self._buffers:
            return self._fill(key_states, value_states)
        if length > self._buffers[0].shape[-2]:
            self._fill(*self._filled(self._length), length - self._length)
        for buffer, new in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[..., self._length : length, :] = new
        return self._filled(length)

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Continue with these rows only."""
        if self._buffers:
            keys, values = self._filled(self._length)
            self._fill(keys[indices], values[indices])

    def _fill(self, keys: torch.Tensor, values: torch.Tensor, room: int = 0) -> _KeysAndValues:
        """Make buffers that begin with ``keys`` and ``values``, and have ``room`` and more behind."""
        length = keys.shape[-2]
        self._buffers = []
        for filled in (keys, values):
            buffer = filled.new_empty(*filled.shape[:2], length + room + _ROOM, filled.shape[-1])
            buffer[..., :length, :] = filled
            self._buffers.append(buffer)
        return self._filled(length)

    def _filled(self, length: int) -> _KeysAndValues:
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


def read_network(kind: Any, model: LanguageModel, new_head: bool = False, **options: Any) -> Any:
    """Return a network of a class of transformers with the weights of ``model``, whose ``new_head`` may have none.

    Damaged where files cannot be read, or weights are missing: transformers would make them random numbers.
    """
    try:
        folder = transformers_folder(model, weights=True)
        _check_depth(folder)
        network, report = kind.from_pretrained(
            folder, use_safetensors=True, output_loading_info=True, **options
        )
    except (ReclmError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # of many classes: config, safetensors, torch
        message = f"transformers cannot read {model.path}: {error or type(error).__name__}"
        raise Damaged(message, where=model.path) from error
    head = f"{network.base_model_prefix}." if new_head else ""
    if missing := sorted(name for name in report["missing_keys"] if name.startswith(head)):
        names = f"{len(missing)} weights that its config.json names, such as {missing[0]}"
        raise Damaged(f"{model.path} lacks {names}", value=missing[0], where=model.path)
    return network


def _check_depth(folder: Path) -> None:
    """Raise ValueError where a model has more layers than weights: transformers would make them all beforehand."""
    layers = getattr(AutoConfig.from_pretrained(folder).get_text_config(), "num_hidden_layers", 0)
    weights = sum(len(safe_open(path, "pt").keys()) for path in folder.glob("model*.safetensors"))
    if isinstance(layers, int) and layers > weights:
        raise ValueError(f"config.json says num_hidden_layers = {layers}, and there are {weights} weights")


class TransformersGenerator(LocalGenerator):
    """Runs a model in left-padded batches of prompts of like length; the tokens that all begin with are computed once.

    Args:
        precision: of weights, activations and KV cache; ``auto`` is bf16 on a GPU and on processors that compute in it,
            else f32. In f32 a text does not depend on the rows beside it, but for ties within rounding.
        batch_size: most prompts in a batch; above 32 a CPU gains nothing.
        device: where to run, a GPU by default where there is one.
    """

    refuses = ("openvino", "openvino")
    neutral = frozenset({"batch_size", "device"})

    def __init__(
        self,
        model: LanguageModel,
        precision: Precision = "auto",
        batch_size: Count = 32,
        device: str | None = None,
    ) -> None:
        super().__init__(model)
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.precision = resolved_precision(precision, self.device)
        self.batch_size = batch_size
        bars = logging.is_progress_bar_enabled()
        logging.disable_progress_bar()
        try:
            dtype = torch.bfloat16 if self.precision == "bf16" else torch.float32
            network = read_network(AutoModelForCausalLM, model, dtype=dtype)
        finally:
            if bars:
                logging.enable_progress_bar()
        self._run(network.to(self.device))

    def _run(self, network: Any) -> None:
        """Sample from ``network``, where it is, from now on."""
        self.network: Any = network.eval()
        self.device = network.device
        self._vocabulary = network.get_output_embeddings().weight.shape[0]
        self._tokens: Any = None

    def generate(self, chats: Mapping[str, Chat], params: SamplingParams) -> Iterator[Generation]:
        """Answer every chat, each once and as soon as it is done."""
        groups, too_long = self.encode(chats, params)
        yield from too_long
        for prompts in groups:
            keys = list(prompts)
            for row, new, ended in self.sample(list(prompts.values()), params):
                yield self.read(keys[row], chats[keys[row]], prompts[keys[row]], new, ended, params)

    def sample(
        self, prompts: list[list[int]], params: SamplingParams, seeds: Sequence[int] | None = None
    ) -> Iterator[tuple[int, list[int], bool]]:
        """Continue prompts of token ids, batched in their order; ``seeds`` has one a row, in place of ``params.seed``.

        Yields row, new tokens (the one that ends the answer included) and whether it ended by itself, once it is done.
        """
        shared = shared_prefix(prompts)
        prefix = self._prefix(shared)
        for start in range(0, len(prompts), self.batch_size):
            rows = prompts[start : start + self.batch_size]
            batch_seeds = None if seeds is None else seeds[start : start + self.batch_size]
            for row, new, ended in self._batch(rows, len(shared), prefix, params, batch_seeds):
                yield start + row, new, ended

    def chooser(
        self, prompts: list[list[int]], params: SamplingParams, seeds: Sequence[int] | None = None
    ) -> TokenChooser:
        """Return the chooser of the tokens that follow these prompts, one row each."""
        matcher = None
        if params.pattern is not None:
            self._tokens = self._tokens or from_tokenizer(
                self.prompts.tokenizer, n_vocab=self._vocabulary, eos_token=sorted(self.end_ids)
            )
            matcher = LLMatcher(self._tokens, LLMatcher.grammar_from_regex(params.pattern))
        return TokenChooser(prompts, params, self._vocabulary, self.end_ids, matcher, self.device, seeds)

    @torch.inference_mode()
    def _prefix(self, shared: list[int]) -> DynamicCache:
        """Compute keys and values of the tokens that all prompts begin with, one row."""
        cache = DynamicCache(config=self.network.config)
        if shared:
            ids = torch.tensor([shared], device=self.device)
            self.network(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
        return cache

    def _batch(
        self,
        prompts: list[list[int]],
        shared: int,
        prefix: DynamicCache,
        params: SamplingParams,
        seeds: Sequence[int] | None,
    ) -> Iterator[tuple[int, list[int], bool]]:
        with torch.inference_mode():
            chooser = self.chooser(prompts, params, seeds)
            # equal prompts are read once
            places = {prompt: at for at, prompt in enumerate(dict.fromkeys(map(tuple, prompts)))}
            padded = _left_padded([list(prompt[shared:]) for prompt in places], shared)
            ids, attended = (part.to(self.device) for part in padded)
            cache = repeated(prefix, len(places))
            new: list[list[int]] = [[] for _ in prompts]
            rows = list(range(len(prompts)))
            finished: list[tuple[int, list[int], bool]] = []
            done = [False] * len(prompts)
            for step in range(params.max_new_tokens):
                positions = (attended.cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :]
                logits = self.network(
                    input_ids=ids,
                    attention_mask=attended,
                    position_ids=positions,
                    past_key_values=cache,
                    use_cache=True,
                    logits_to_keep=1,
                ).logits[:, -1]
                if len(logits) < len(rows):
                    index = torch.tensor([places[tuple(prompt)] for prompt in prompts], device=self.device)
                    cache.batch_select_indices(index)
                    logits, attended = logits[index], attended[index]
                tokens, ends = chooser(logits)
                last = step == params.max_new_tokens - 1
                for place, (row, token) in enumerate(zip(rows, tokens.tolist(), strict=True)):
                    if done[row]:
                        continue
                    new[row].append(token)
                    ended = bool(ends[place])
                    if params.stop and not ended:
                        _, ended = cut_at_stop(self.prompts.text(new[row]), params)
                    if ended or last:
                        done[row] = True
                        finished.append((row, new[row], ended))
                attended = torch.cat([attended, attended.new_ones(len(rows), 1)], dim=1)
                ids = tokens.unsqueeze(1)
                # rows that are done are computed on until they are worth the copy of the cache
                left = [place for place, row in enumerate(rows) if not done[row]]
                if left and len(left) <= 0.75 * len(rows):
                    index = torch.tensor(left, device=self.device)
                    cache.batch_select_indices(index)
                    chooser.keep(left)
                    ids, attended = ids[index], attended[index]
                    rows = [rows[place] for place in left]
                yield from finished
                finished.clear()
                if not left:
                    return


class NetworkGenerator(TransformersGenerator):
    """Runs a loaded network, as it is now: one that is being trained, or that has an adapter.

    ``model``, the files that the network was loaded from, gives tokenizer, context window and end tokens.
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
        """Yield row, new tokens (the one that ends it included) and whether it ended by itself, for each prompt."""
        longest, new, context = max(map(len, prompts), default=0), params.max_new_tokens, self.prompts.context
        if longest + new > context:
            tokens = f"{longest} tokens and up to {new} new ones, {self.model} takes {context}"
            raise BadInput(f"a prompt is too long: {tokens}; shorten the history or the item text")
        # accelerate may have moved the network
        self.device = self.network.device
        return super().sample(prompts, params, seeds)


def _left_padded(rows: list[list[int]], shared: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ids ``(B, L)`` and attention mask ``(B, shared + L)`` of rows that follow ``shared`` cached tokens."""
    longest = max(map(len, rows))
    ids = [[0] * (longest - len(row)) + row for row in rows]
    mask = [[1] * shared + [0] * (longest - len(row)) + [1] * len(row) for row in rows]
    return torch.tensor(ids), torch.tensor(mask)


def shared_prefix(prompts: list[list[int]]) -> list[int]:
    """Return the tokens that all prompts begin with; each prompt keeps at least one of its own."""
    if not prompts:
        return []
    # in lexical order, what the first and the last have in common, all have
    first, last = min(prompts), max(prompts)
    most = min(map(len, prompts)) - 1
    return first[: next((at for at in range(most) if first[at] != last[at]), most)]


def resolved_precision(precision: Precision, device: torch.device) -> Precision:
    """Return the precision that ``auto`` stands for on a device: bf16 where it computes in bf16, else f32."""
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "f32"
    computes_bf16 = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bf16" if computes_bf16 else "f32"
