"""The policy: a language model with trained layers, its reference and value function, token scores and rollouts."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch
from peft import PeftModel, get_peft_model_state_dict, load_peft_weights, set_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from reclm.errors import BadInput, NotFound
from reclm.llm.chat import SamplingParams
from reclm.llm.engines.transformers import NetworkGenerator
from reclm.profilers.rl.losses import entropy
from reclm.profilers.tuning.metrics_log import reading
from reclm.profilers.tuning.training import LoraOptions, add_adapter

_ADAPTER_FILE, _VALUE_FILE = "adapter_model.safetensors", "value_head.safetensors"


class LogitHead:
    """The output layer of a transformers causal language model, apart from the layers below.

    It may be within a PEFT model: LoRA matrices on the output layer are used and trained like others.
    """

    def __init__(self, network: Any) -> None:
        self._network = network
        self._head = network.get_output_embeddings()
        if self._head is None:
            kind = type(network).__name__
            raise BadInput(f"{kind} has no output layer to take log-probabilities from; use a causal LM")
        config = network.config.get_text_config()
        # Cohere, Granite and Gemma scale or cap logits behind the output layer
        divisor = getattr(config, "logits_scaling", None) or 1
        self._scale = (getattr(config, "logit_scale", None) or 1) / divisor
        self._cap = getattr(config, "final_logit_softcapping", None)

    def hidden(self, ids: Tensor, attention: Tensor) -> Tensor:
        """Return the input of the output layer: ``(B, L), (B, L) -> (B, L, h)``; ``attention`` is 0 on padding."""
        return self._decode(ids, attention).last_hidden_state

    def hidden_of_groups(self, ids: Tensor, attention: Tensor, prompt: int, size: int) -> Tensor:
        """Return :meth:`hidden` before each token behind the prompts: ``(B, P + T), (B, P + T) -> (B, T, h)``.

        ``prompt`` is P; each ``size`` rows in sequence have the same prompt, which is read once for them.
        """
        first = self._decode(ids[::size, :prompt], attention[::size, :prompt], use_cache=True)
        cache = first.past_key_values
        cache.batch_repeat_interleave(size)
        last = first.last_hidden_state[:, -1:].repeat_interleave(size, 0)
        # nothing is read off the last token
        tokens = ids[:, prompt:-1]
        if not tokens.shape[1]:
            return last
        behind = self._decode(tokens, attention[:, :-1], past_key_values=cache)
        return torch.cat([last, behind.last_hidden_state], dim=1)

    def _decode(self, ids: Tensor, attention: Tensor, **more: Any) -> Any:
        """Run the layers below on the tokens at the end of those that ``attention`` covers."""
        positions = (attention.long().cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        more = {"use_cache": "past_key_values" in more, **more}
        return self._network.get_decoder()(
            input_ids=ids, attention_mask=attention.long(), position_ids=positions, **more
        )

    def logits(self, hidden: Tensor) -> Tensor:
        """Return the logits, ``(…, h) -> (…, V)`` in float32."""
        logits = self._head(hidden).float()
        if self._scale != 1:
            logits = logits * self._scale
        return logits if self._cap is None else torch.tanh(logits / self._cap) * self._cap

    @torch.no_grad()
    def check(self) -> None:
        """Raise BadInput where the logits of three tokens differ from those of the model itself."""
        ids = torch.arange(3, device=next(self._network.parameters()).device).unsqueeze(0)
        logits = self.logits(self.hidden(ids, torch.ones_like(ids)))
        expected = self._network(input_ids=ids, use_cache=False).logits.float()
        if not torch.allclose(logits, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max())):
            kind, how = type(self._network).__name__, "in an unknown way; use another model"
            raise BadInput(f"{kind} changes its logits behind the output layer {how}")


def token_logprobs(
    head: LogitHead, hidden: Tensor, tokens: Tensor, mask: Tensor, temperature: float = 1.0, chunk: int = 512
) -> tuple[Tensor, Tensor]:
    """Return the log-probability of each token, and the entropy of the distribution it was drawn from, in nats.

    ``log π(a) = z_a / τ − log Σ exp(z / τ)``, with the gradient of the dense computation. The output layer is run on
    ``chunk`` tokens at a time, and again in the backward pass: a batch of 32 answers of 100 tokens has
    3,200 × 49,152 logits, 630 MB in float32 and several times that for the gradient.

    ``hidden`` ``(B, T, h)`` is the state *before* each token, ``mask`` ``(B, T)`` true where there is a token; the
    results ``(B, T)`` are 0 elsewhere. ``temperature`` is τ.
    """
    of_chunk = partial(_chunk, head, temperature)
    if torch.is_grad_enabled():
        of_chunk = partial(checkpoint, of_chunk, use_reentrant=False, preserve_rng_state=False)
    parts = [
        of_chunk(states, chosen)
        for states, chosen in zip(hidden[mask].split(chunk), tokens[mask].split(chunk), strict=True)
    ]
    both = torch.cat(parts, dim=1) if parts else hidden.new_zeros(2, 0)
    logprobs, entropies = (
        torch.zeros(mask.shape, dtype=torch.float32, device=mask.device).masked_scatter(mask, part.float())
        for part in both
    )
    return logprobs, entropies


def _chunk(head: LogitHead, temperature: float, hidden: Tensor, tokens: Tensor) -> Tensor:
    """Return log-probabilities and entropies of ``n`` tokens, ``(2, n)``."""
    logits = head.logits(hidden)
    if temperature != 1:
        logits = logits / temperature
    chosen = logits.gather(-1, tokens.unsqueeze(-1)).squeeze(-1) - logits.logsumexp(-1)
    return torch.stack([chosen, entropy(logits)])


class TokenScores(NamedTuple):
    """Scores of the answers' tokens, ``(B, T)`` in float32; 0 where there is no token."""

    logprobs: Tensor
    entropy: Tensor
    """Entropy of the distribution that the token was drawn from, in nats."""
    values: Tensor
    """V of the state in which it was drawn."""


class Policy(nn.Module):
    """A causal language model with a LoRA adapter, or trained layers of its own, and a value head.

    The reference policy is the same network with the adapter switched off, or the layers as they were
    (:meth:`reference`): bit for bit the model that training began with, and no second copy of the frozen weights.
    Dropout is off at all times, so that the probability ratio of PPO is 1 before the first update. What of ``network``
    requires a gradient is trained; ``value_head`` is 0 everywhere at the start.
    """

    def __init__(self, network: PeftModel) -> None:
        super().__init__()
        self.network = network
        base: Any = network.get_base_model()
        self.value_head = nn.Linear(base.config.get_text_config().hidden_size, 1)
        nn.init.zeros_(self.value_head.weight)
        nn.init.zeros_(self.value_head.bias)
        self.value_head.to(next(network.parameters()).device)
        self._head = LogitHead(base)
        self.eval()
        self._head.check()

    @classmethod
    def adapt(cls, network: Any, options: LoraOptions | None = None, *, seed: int = 0) -> Self:
        """Return a policy that begins as ``network``, a transformers causal LM that is changed in place.

        One that has an adapter already is merged with it first: the reference is then the tuned model. Dropout of
        ``options`` is left out. ``seed`` is of the adapter's random half; torch's global state is left as it was.
        """
        if isinstance(network, PeftModel):
            network = network.merge_and_unload()  # pyright: ignore[reportCallIssue]
        options = (options or LoraOptions()).model_copy(update={"dropout": 0.0})
        # the value head is drawn, too, before it is set to 0
        with torch.random.fork_rng():
            return cls(add_adapter(network, options, seed=seed))

    @property
    def base(self) -> Any:
        """The transformers model with the adapter's matrices inside; engines run it."""
        return self.network.get_base_model()

    def reference(self) -> AbstractContextManager[None]:
        """Let the policy be the model that it began as, within the block."""
        return self.network.disable_adapter()

    def forward(
        self,
        ids: Tensor,
        attention: Tensor,
        answers: Tensor,
        temperature: float = 1.0,
        chunk: int = 512,
        samples: int = 1,
    ) -> TokenScores:
        """Score the answers at the end of the rows (see :class:`Rollout` and :func:`token_logprobs`).

        ``samples`` answers to a prompt follow each other; the prompt is read once for all of them.
        """
        tokens = answers.shape[1]
        if samples > 1:
            hidden = self._head.hidden_of_groups(ids, attention, ids.shape[1] - tokens, samples)
        else:
            hidden = self._head.hidden(ids, attention)[:, -tokens - 1 : -1]
        logprobs, entropies = token_logprobs(
            self._head, hidden, ids[:, -tokens:], answers, temperature, chunk
        )
        values = self.value_head(hidden.to(self.value_head.weight.dtype)).squeeze(-1)
        return TokenScores(logprobs, entropies, values.float().masked_fill(~answers, 0))

    def train(self, mode: bool = True) -> Self:
        """Leave dropout off in either mode."""
        return super().train(False)

    def save(self, folder: Path) -> None:
        """Write a PEFT folder and the value head, both as safetensors."""
        folder.mkdir(parents=True, exist_ok=True)
        # the base model's embeddings are not trained, whether or not its vocabulary can be looked up
        self.network.save_pretrained(str(folder), save_embedding_layers=False)
        save_file(self.value_head.state_dict(), folder / _VALUE_FILE)

    def load(self, folder: Path) -> None:
        """Take over the weights that :meth:`save` wrote."""
        # peft would look for a missing folder on the hub
        for name in (_ADAPTER_FILE, _VALUE_FILE):
            if not (folder / name).is_file():
                message = f"{folder} holds no policy: {name} is missing; give a folder that Policy.save wrote"
                raise NotFound(message, value=folder)
        device = str(self.value_head.weight.device)
        with reading(
            folder, f"{folder} holds no policy for this model; give a folder that Policy.save wrote"
        ):
            weights = load_peft_weights(str(folder), device=device)
            # peft would pass over what does not belong to this model
            if weights.keys() != get_peft_model_state_dict(self.network, save_embedding_layers=False).keys():
                raise ValueError("other layers or modules are trained in it")
            set_peft_model_state_dict(self.network, weights)
            self.value_head.load_state_dict(load_file(folder / _VALUE_FILE, device=device))


@dataclass(frozen=True)
class Rollout:
    """``B`` prompts of up to ``P`` tokens and their answers of up to ``T``."""

    ids: Tensor
    """``(B, P + T)``: prompts padded on the left, answers on the right, with 0."""
    attention: Tensor
    """``(B, P + T)``, true where there is a token."""
    answers: Tensor
    """``(B, T)``, true on the tokens of the answer, the one that ends it included."""
    unfinished: Tensor
    """``(B,)``, true where the answer was cut."""
    texts: list[str]

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
        return cls(torch.tensor(rows), attention, attention[:, left:], ~torch.tensor(ended), texts)

    def to(self, device: torch.device) -> "Rollout":
        """Return the rollout with its tensors on ``device``."""
        moved = {name: value.to(device) for name, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(self, **moved)


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


def roll_out(
    sampler: NetworkGenerator, prompts: Sequence[list[int]], params: SamplingParams, seeds: Sequence[int]
) -> Rollout:
    """Answer each prompt (token ids) once, drawn by its seed: equal prompts get different answers."""
    if not prompts or not all(prompts):
        raise BadInput("rollout: there is no prompt, or one without a token")
    tokens, ended = zip(*sample_all(sampler, prompts, params, seeds), strict=True)
    return Rollout.build(prompts, tokens, ended, [sampler.decode(new).strip() for new in tokens])
