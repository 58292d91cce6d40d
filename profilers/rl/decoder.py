"""A causal language model in two parts that run apart: frozen layers below, trained layers above, and its output layer.

All that the upper part needs to know of a token is its state between them: computed once, while the token is sampled,
it serves all scoring and all passes of an update.
"""

from contextlib import AbstractContextManager, nullcontext
from copy import copy
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from reclm.errors import BadInput
from reclm.llm.engines.transformers import RoomyLayer

_APART = {"full_attention", "sliding_attention"}
"""Kinds of layers whose cache is keys and values of all tokens."""


class PartCache(DynamicCache):
    """Keys and values of some of a network's layers, of which the lowest is number ``first``."""

    def __init__(self, layers: list[DynamicLayer], first: int) -> None:
        super().__init__()
        self.layers: Any = layers
        self.first = first

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> Any:
        """Append keys and values to those of a layer; return all of them."""
        return super().update(key_states, value_states, layer_idx - self.first, *args, **kwargs)


class SplitDecoder:
    """A transformers causal LM, apart: :meth:`lower`, :meth:`upper` and :meth:`logits`.

    ``first`` is the number of the first layer with a weight that is trained when this is made. The layers below it are
    the lower part, without a gradient. It is 0, and the lower part is the embedding alone, where all layers are trained
    or the model's layers cannot be run apart. Both parts run the network's own modules, those of PEFT among them.

    Where the lower part is in bf16 and the trained layers in float32 (see :class:`~reclm.profilers.rl.policy.Policy`),
    these compute in bf16, too, from weights and states in float32.
    """

    def __init__(self, network: Any) -> None:
        self.network = network
        self._head = network.get_output_embeddings()
        if self._head is None:
            kind = type(network).__name__
            raise BadInput(f"{kind} has no output layer to take log-probabilities from; use a causal LM")
        config = network.config.get_text_config()
        # Cohere, Granite and Gemma scale or cap logits behind the output layer
        divisor = getattr(config, "logits_scaling", None) or 1
        self._scale = (getattr(config, "logit_scale", None) or 1) / divisor
        self._cap = getattr(config, "final_logit_softcapping", None)
        self._decoder = network.get_decoder()
        self._plain = set(getattr(config, "layer_types", None) or _APART) <= _APART
        self.first = self._first_trained()
        self._parts = self._split(self.first)
        if self.first and not self._agrees():
            self.first, self._parts = 0, self._split(0)
        if not self._agrees():
            kind, how = type(network).__name__, "in an unknown way; use another model"
            raise BadInput(f"{kind} changes its logits behind the output layer {how}")

    def lower(self, ids: Tensor, attention: Tensor, cache: DynamicCache | None = None) -> Tensor:
        """Return the states of the tokens ``ids`` below the first trained layer: ``(B, L), (B, C + L) -> (B, L, h)``.

        ``attention`` is 0 on padding, and covers the C tokens that ``cache`` holds, too.
        """
        states = self.network.get_input_embeddings()(ids)
        return self._run(self._parts[0], states, attention, cache) if self.first else states

    def upper(self, states: Tensor, attention: Tensor, cache: DynamicCache | None = None) -> Tensor:
        """Return the input of the output layer: ``(B, L, h), (B, C + L) -> (B, L, h)``."""
        with self.computing():
            return self._run(self._parts[1], states.to(self._upper_dtype), attention, cache)

    def logits(self, hidden: Tensor) -> Tensor:
        """Return the logits, ``(…, h) -> (…, V)`` in float32."""
        logits = self._head(hidden.to(self._dtype)).float()
        if self._scale != 1:
            logits = logits * self._scale
        return logits if self._cap is None else torch.tanh(logits / self._cap) * self._cap

    def states(self, ids: Tensor, attention: Tensor, prompt: int, samples: int = 1) -> tuple[Tensor, Tensor]:
        """Return the lower part's states of the prompts, ``(B / samples, P, h)``, and behind them, ``(B, T - 1, h)``.

        See :meth:`hidden`. Nothing is read off the last token.
        """
        cache, mask = self.caches()[0], attention[::samples, :prompt]
        first = self.lower(ids[::samples, :prompt], mask, cache)
        if self.first:
            cache.batch_repeat_interleave(samples)
        behind = ids[:, prompt:-1]
        if not behind.shape[1]:
            return first, first.new_zeros(len(ids), 0, first.shape[-1])
        return first, self.lower(behind, attention[:, :-1], cache)

    def hidden(
        self,
        ids: Tensor,
        attention: Tensor,
        prompt: int,
        samples: int = 1,
        states: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """Return the output layer's input before each token behind the prompt: ``(B, P + T) × 2 -> (B, T, h)``.

        ``prompt`` is P; each ``samples`` rows in sequence have the same prompt, which is read once for them.
        ``states`` are those of :meth:`states`, which are computed where they are None.
        """
        first, behind = self.states(ids, attention, prompt, samples) if states is None else states
        cache = self.caches()[1]
        last = self.upper(first, attention[::samples, :prompt], cache)[:, -1:]
        last = last.repeat_interleave(samples, 0)
        if not behind.shape[1]:
            return last
        cache.batch_repeat_interleave(samples)
        return torch.cat([last, self.upper(behind, attention[:, :-1], cache)], dim=1)

    def caches(self, roomy: bool = False) -> tuple[DynamicCache, DynamicCache]:
        """Return empty caches of both parts; ``roomy`` ones grow in place, which takes no gradient."""
        if not self._plain:
            return DynamicCache(), DynamicCache(config=self.network.config)
        kind, depth = (
            RoomyLayer if roomy else DynamicLayer,
            self.network.config.get_text_config().num_hidden_layers,
        )
        lower, upper = ([kind() for _ in range(count)] for count in (self.first, depth - self.first))
        return PartCache(lower, 0), PartCache(upper, self.first)

    def computing(self) -> AbstractContextManager[Any]:
        """Let layers whose weights are float32 compute in the precision of the others, within the block."""
        if self._dtype == self._upper_dtype:
            return nullcontext()
        return torch.autocast(self.device.type, self._dtype)

    @property
    def head_is_trained(self) -> bool:
        """Return whether a weight of the output layer is trained."""
        return any(weights.requires_grad for weights in self._head.parameters())

    @property
    def device(self) -> torch.device:
        """The device of the network, which accelerate may move."""
        return self.network.get_input_embeddings().weight.device

    @property
    def _dtype(self) -> torch.dtype:
        return self.network.get_input_embeddings().weight.dtype

    @property
    def _upper_dtype(self) -> torch.dtype:
        layers = getattr(self._decoder, "layers", None)
        return next(layers[self.first].parameters()).dtype if layers else self._dtype

    def _first_trained(self) -> int:
        trained = [
            weights for weights in self.network.get_input_embeddings().parameters() if weights.requires_grad
        ]
        if trained or not self._plain or not hasattr(self._decoder, "norm"):
            return 0
        for number, layer in enumerate(getattr(self._decoder, "layers", [])):
            if any(weights.requires_grad for weights in layer.parameters()):
                return number
        return 0

    def _split(self, first: int) -> tuple[Any, Any]:
        if not first:
            return None, self._decoder
        layers = list(self._decoder.layers)
        return self._part(layers[:first], 0, nn.Identity()), self._part(
            layers[first:], first, self._decoder.norm
        )

    def _part(self, layers: list[nn.Module], first: int, norm: nn.Module) -> Any:
        """Return the decoder with some of its layers only; it shares all modules with it."""
        part = copy(self._decoder)
        part._modules = {**self._decoder._modules, "layers": nn.ModuleList(layers), "norm": norm}
        part.config = copy(self._decoder.config)
        part.config.num_hidden_layers = len(layers)
        if types := getattr(part.config, "layer_types", None):
            part.config.layer_types = types[first : first + len(layers)]
        return part

    def _run(self, decoder: Any, states: Tensor, attention: Tensor, cache: DynamicCache | None) -> Tensor:
        positions = (attention.long().cumsum(-1) - 1).clamp(min=0)[:, -states.shape[1] :]
        return decoder(
            inputs_embeds=states,
            attention_mask=attention.long(),
            position_ids=positions,
            past_key_values=cache,
            use_cache=cache is not None,
        ).last_hidden_state

    @torch.no_grad()
    def _agrees(self) -> bool:
        """Return whether the logits of three tokens are those of the model itself."""
        ids = torch.arange(3, device=self.device).unsqueeze(0)
        logits = self.logits(self.hidden(ids, torch.ones_like(ids), 1))
        with self.computing():
            expected = self.network(input_ids=ids, use_cache=False).logits[:, :2].float()
        error = 3e-2 if self._dtype == torch.bfloat16 else 1e-3
        return torch.allclose(logits, expected, rtol=error, atol=error * float(expected.abs().max()))
