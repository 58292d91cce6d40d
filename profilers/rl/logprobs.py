"""Log-probabilities of given tokens, without the logits of the whole batch ever lying in memory.

A batch of 32 answers of 100 tokens has 3,200 × 49,152 logits: 630 MB in float32, several times that for the gradient.
Here the output layer is run on ``chunk`` tokens at a time and run again on the way back, so that one chunk's logits
are there at once.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from reclm.errors import ReclmError
from reclm.profilers.rl.losses import entropy


class LogitHead:
    """Output layer of a causal language model, apart from the layers below.

    Args:
        network: a transformers causal language model, or one that a PEFT model holds (``get_base_model()``); LoRA
            matrices on the output layer are used and trained like the others.

    Raises:
        ReclmError: if the model has no output layer.
    """

    def __init__(self, network: Any) -> None:
        self._network = network
        self._head = network.get_output_embeddings()
        if self._head is None:
            raise ReclmError(
                f"{type(network).__name__} has no output layer to take log-probabilities from; use a causal LM"
            )
        config = network.config.get_text_config()
        # what Cohere, Granite and Gemma do to logits behind the output layer
        self._scale = (getattr(config, "logit_scale", None) or 1) / (
            getattr(config, "logits_scaling", None) or 1
        )
        self._cap = getattr(config, "final_logit_softcapping", None)

    def hidden(self, ids: Tensor, attention: Tensor) -> Tensor:
        """What the output layer reads: ``(B, L), (B, L) -> (B, L, h)``; ``attention`` is 0 on padding."""
        return self._decode(ids, attention).last_hidden_state

    def hidden_of_groups(self, ids: Tensor, attention: Tensor, prompt: int, size: int) -> Tensor:
        """:meth:`hidden` before each token behind the prompts, which are read once for each group of equal ones.

        Args:
            ids: ``(B, P + T)``, rows of a group one behind the other.
            attention: ``(B, P + T)``, 0 on padding.
            prompt: P.
            size: rows in a group.

        Returns:
            ``(B, T, h)``.
        """
        first = self._decode(ids[::size, :prompt], attention[::size, :prompt], use_cache=True)
        cache = first.past_key_values
        cache.batch_repeat_interleave(size)
        last = first.last_hidden_state[:, -1:].repeat_interleave(size, 0)
        # nothing is read off the last token
        tokens, known = ids[:, prompt:-1], attention[:, :-1]
        if not tokens.shape[1]:
            return last
        behind = self._decode(tokens, known, past_key_values=cache)
        return torch.cat([last, behind.last_hidden_state], dim=1)

    def _decode(self, ids: Tensor, attention: Tensor, **more: Any) -> Any:
        """The layers below, of the tokens at the end of what ``attention`` covers."""
        positions = (attention.long().cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        more = {"use_cache": "past_key_values" in more, **more}
        return self._network.get_decoder()(
            input_ids=ids, attention_mask=attention.long(), position_ids=positions, **more
        )

    def logits(self, hidden: Tensor) -> Tensor:
        """``(…, h) -> (…, V)`` in float32."""
        logits = self._head(hidden).float()
        if self._scale != 1:
            logits = logits * self._scale
        return logits if self._cap is None else torch.tanh(logits / self._cap) * self._cap

    @torch.no_grad()
    def check(self) -> None:
        """Compare with the model's own logits of three tokens.

        Raises:
            ReclmError: if the model computes its logits in a way that is not known here.
        """
        ids = torch.arange(3, device=next(self._network.parameters()).device).unsqueeze(0)
        ours = self.logits(self.hidden(ids, torch.ones_like(ids)))
        own = self._network(input_ids=ids, use_cache=False).logits.float()
        if not torch.allclose(ours, own, rtol=1e-3, atol=1e-3 * float(own.abs().max())):
            raise ReclmError(
                f"{type(self._network).__name__} changes its logits behind the output layer in an unknown way; "
                "use another model"
            )


def token_logprobs(
    head: LogitHead, hidden: Tensor, tokens: Tensor, mask: Tensor, temperature: float = 1.0, chunk: int = 512
) -> tuple[Tensor, Tensor]:
    """Log-probability of each token, and the entropy of the distribution that it was chosen from, in nats.

    ``log π(a) = z_a / τ − log Σ exp(z / τ)``, with the gradient of the dense computation.

    Args:
        head: the output layer.
        hidden: ``(B, T, h)``, the state *before* each token.
        tokens: ``(B, T)``.
        mask: ``(B, T)``, true where there is a token; the results are 0 elsewhere and nothing is computed for it.
        temperature: τ.
        chunk: tokens whose logits are in memory at once.

    Returns:
        Two ``(B, T)`` in float32.
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
        torch.zeros(mask.shape, dtype=torch.float32, device=mask.device).masked_scatter(mask, one.float())
        for one in both
    )
    return logprobs, entropies


def _chunk(head: LogitHead, temperature: float, hidden: Tensor, tokens: Tensor) -> Tensor:
    """Log-probabilities and entropies of ``n`` tokens, ``(2, n)``."""
    logits = head.logits(hidden)
    if temperature != 1:
        logits = logits / temperature
    chosen = logits.gather(-1, tokens.unsqueeze(-1)).squeeze(-1) - logits.logsumexp(-1)
    return torch.stack([chosen, entropy(logits)])
