"""The policy: a language model with trained layers, its reference and value function, and token scores."""

from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch
from peft import PeftModel, get_peft_model_state_dict, load_peft_weights, set_peft_model_state_dict
from peft.utils import ModulesToSaveWrapper
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from reclm.errors import NotFound
from reclm.llm.engines import Precision
from reclm.llm.engines.transformers import resolved_precision
from reclm.profilers.rl.decoder import SplitDecoder
from reclm.profilers.rl.losses import entropy
from reclm.profilers.tuning.adapter import LoraOptions, add_adapter
from reclm.profilers.tuning.metrics_log import reading

_ADAPTER_FILE, _VALUE_FILE = "adapter_model.safetensors", "value_head.safetensors"


def token_logprobs(
    decoder: SplitDecoder,
    hidden: Tensor,
    tokens: Tensor,
    mask: Tensor,
    temperature: float = 1.0,
    chunk: int = 512,
    entropies: bool = True,
) -> tuple[Tensor, Tensor]:
    """Return the log-probability of each token, and the entropy of the distribution it was drawn from, in nats.

    ``log π(a) = z_a / τ − log Σ exp(z / τ)``, with the gradient of the dense computation. The output layer is run on
    ``chunk`` tokens at a time: a batch of 32 answers of 100 tokens has 3,200 × 49,152 logits, 630 MB in float32 and
    several times that for the gradient. Without ``entropies`` (they are 0 then) the gradient of a chunk is computed
    with its logits; with them, or where the output layer is trained, the logits are computed again for it.

    ``hidden`` ``(B, T, h)`` is the state *before* each token, ``mask`` ``(B, T)`` true where there is a token; the
    results ``(B, T)`` are 0 elsewhere. ``temperature`` is τ.
    """
    learns, known = torch.is_grad_enabled(), hidden[mask]
    chunks = list(zip(known.split(chunk), tokens[mask].split(chunk), strict=True))
    both = [hidden.new_zeros(2, 0)]
    if entropies or (learns and decoder.head_is_trained):
        of_chunk = partial(_chunk, decoder, temperature, entropies)
        if learns:
            of_chunk = partial(checkpoint, of_chunk, use_reentrant=False, preserve_rng_state=False)
        both += [of_chunk(*one) for one in chunks]
    elif chunks:
        chosen = partial(_chosen, decoder, temperature)
        logprobs: Any = _Logprobs.apply(known, tokens[mask], chosen, chunk) if learns else None
        logprobs = torch.cat([chosen(*one) for one in chunks]) if logprobs is None else logprobs
        both += [torch.stack([logprobs, torch.zeros_like(logprobs)])]
    logprobs, entropy_of = (
        torch.zeros(mask.shape, dtype=torch.float32, device=mask.device).masked_scatter(mask, part.float())
        for part in torch.cat(both, dim=1)
    )
    return logprobs, entropy_of


class _Logprobs(torch.autograd.Function):
    """Log-probabilities of tokens whose gradient is computed, chunk by chunk, before it is asked for."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, tokens: Tensor, chosen: Any, chunk: int) -> Tensor:
        logprobs, gradients = [], []
        for part, some in zip(hidden.split(chunk), tokens.split(chunk), strict=True):
            with torch.enable_grad():
                states = part.detach().requires_grad_()
                ours = chosen(states, some)
                # a token's log-probability depends on its own state alone
                gradients += torch.autograd.grad(ours.sum(), states)
            logprobs.append(ours.detach())
        ctx.save_for_backward(torch.cat(gradients))
        return torch.cat(logprobs)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return gradients[0].unsqueeze(-1) * ctx.saved_tensors[0], None, None, None


def _chosen(decoder: SplitDecoder, temperature: float, hidden: Tensor, tokens: Tensor) -> Tensor:
    """Return the log-probabilities of ``n`` tokens, ``(n,)``."""
    return -nn.functional.cross_entropy(_tempered(decoder, temperature, hidden), tokens, reduction="none")


def _chunk(
    decoder: SplitDecoder, temperature: float, entropies: bool, hidden: Tensor, tokens: Tensor
) -> Tensor:
    """Return log-probabilities and entropies of ``n`` tokens, ``(2, n)``."""
    logits = _tempered(decoder, temperature, hidden)
    logprobs = -nn.functional.cross_entropy(logits, tokens, reduction="none")
    return torch.stack([logprobs, entropy(logits) if entropies else torch.zeros_like(logprobs)])


def _tempered(decoder: SplitDecoder, temperature: float, hidden: Tensor) -> Tensor:
    logits = decoder.logits(hidden)
    return logits if temperature == 1 else logits / temperature


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
    requires a gradient is trained; ``value_head`` is 0 everywhere at the start. ``decoder`` runs the frozen layers
    below and the trained ones apart.
    """

    def __init__(self, network: PeftModel) -> None:
        super().__init__()
        self.network = network
        base: Any = network.get_base_model()
        self.value_head = nn.Linear(base.config.get_text_config().hidden_size, 1)
        nn.init.zeros_(self.value_head.weight)
        nn.init.zeros_(self.value_head.bias)
        self.value_head.to(next(network.parameters()).device)
        self.eval()
        self.decoder = SplitDecoder(base)

    @classmethod
    def adapt(
        cls,
        network: Any,
        options: LoraOptions | None = None,
        *,
        seed: int = 0,
        precision: Precision = "auto",
    ) -> Self:
        """Return a policy that begins as ``network``, a transformers causal LM that is changed in place.

        One that has an adapter already is merged with it first: the reference is then the tuned model. Dropout of
        ``options`` is left out. ``seed`` is of the adapter's random half; torch's global state is left as it was.
        ``precision``: see :attr:`~reclm.profilers.rl.config.OnPolicyConfig.precision`.
        """
        if isinstance(network, PeftModel):
            network = network.merge_and_unload()  # pyright: ignore[reportCallIssue]
        options = options or LoraOptions()
        options = options.model_copy(update={"dropout": 0.0})
        # the value head is drawn, too, before it is set to 0
        with torch.random.fork_rng():
            adapted = add_adapter(network, options, seed=seed)
            if precision == "auto" and not options.whole:
                precision = "f32"  # an adapter's network stays as it was loaded
            if resolved_precision(precision, network.device) == "bf16":
                _freeze_in_bf16(adapted)
            return cls(adapted)

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
        states: tuple[Tensor, Tensor] | None = None,
        entropies: bool = True,
    ) -> TokenScores:
        """Score the answers at the end of the rows (see :class:`Rollout` and :func:`token_logprobs`).

        ``samples`` answers to a prompt follow each other; the prompt is read once for all of them. ``states`` are those
        of the frozen layers, where they are known (:meth:`~reclm.profilers.rl.decoder.SplitDecoder.states`).
        """
        tokens = answers.shape[1]
        hidden = self.decoder.hidden(ids, attention, ids.shape[1] - tokens, samples, states)
        logprobs, entropy_of = token_logprobs(
            self.decoder, hidden, ids[:, -tokens:], answers, temperature, chunk, entropies
        )
        values = self.value_head(hidden.to(self.value_head.weight.dtype)).squeeze(-1)
        return TokenScores(logprobs, entropy_of, values.float().masked_fill(~answers, 0))

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


def _freeze_in_bf16(network: nn.Module) -> None:
    """Turn frozen weights to bf16, but for the reference's copies of trained layers: these are compared with them."""
    wrapped = (part for part in network.modules() if isinstance(part, ModulesToSaveWrapper))
    compared = {weights for part in wrapped for weights in part.parameters()}
    for weights in network.parameters():
        if not weights.requires_grad and weights not in compared:
            weights.data = weights.data.bfloat16()
