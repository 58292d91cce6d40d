"""The policy, its reference and its value function: one copy of all weights that are not trained."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch
from peft import (
    LoraConfig,
    PeftModel,
    get_peft_model,
    get_peft_model_state_dict,
    load_peft_weights,
    set_peft_model_state_dict,
)
from peft.tuners.tuners_utils import check_target_module_exists
from peft.utils.constants import DUMMY_TARGET_MODULES
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from reclm.errors import ReclmError
from reclm.profilers.rl.config import LoraOptions
from reclm.profilers.rl.logprobs import LogitHead, token_logprobs


def adapter_config(network: Any, options: LoraOptions, task: str = "CAUSAL_LM") -> LoraConfig:
    """PEFT's words for ``options``.

    Layers that are trained themselves are ``modules_to_save`` without a LoRA target: PEFT trains a copy of each, and
    runs the layers as they were when the adapter is off.

    Args:
        network: a transformers model without an adapter.
        task: PEFT's name of what the model is for.

    Raises:
        ReclmError: if the model has fewer layers than are asked for, no such modules in them, or layers to be trained
            themselves that are not in float32.
    """
    targets: Any = options.modules
    whole: list[str] | None = None
    if options.last_layers is not None:
        layers = _last_layers(network, options.last_layers)
        if options.whole:
            _in_float32(layers)
            targets, whole = DUMMY_TARGET_MODULES, list(layers)
        else:
            targets = _targets(layers, options.modules)
    return LoraConfig(
        r=options.r,
        lora_alpha=options.alpha,
        lora_dropout=options.dropout,
        target_modules=targets,
        modules_to_save=whole,
        task_type=task,
    )


def _last_layers(network: Any, count: int) -> dict[str, nn.Module]:
    """The last decoder layers, by their names within the network."""
    depth = network.config.get_text_config().num_hidden_layers
    if count > depth:
        raise ReclmError(
            f"last_layers = {count}, but {type(network).__name__} has {depth} layers; ask for fewer"
        )
    for name, module in network.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == depth:
            return {f"{name}.{at}": module[at] for at in range(depth - count, depth)}
    raise ReclmError(
        f"{type(network).__name__} does not hold its {depth} layers in a list; leave last_layers out"
    )


def _targets(layers: dict[str, nn.Module], modules: str | list[str]) -> list[str]:
    """Names of what gets LoRA matrices within ``layers``, by PEFT's rules."""
    within = [
        (f"{layer}.{name}", one) for layer, top in layers.items() for name, one in top.named_modules() if name
    ]
    if modules == "all-linear":
        names = [name for name, one in within if isinstance(one, nn.Linear | Conv1D)]
    else:
        rule = LoraConfig(target_modules=modules)
        names = [name for name, _ in within if check_target_module_exists(rule, name)]
    if not names:
        raise ReclmError(
            f"the last {len(layers)} layers have no modules {modules}; choose others, or all-linear"
        )
    return names


def _in_float32(layers: dict[str, nn.Module]) -> None:
    other = {one.dtype for layer in layers.values() for one in layer.parameters()} - {torch.float32}
    if other:
        raise ReclmError(
            f"whole = true trains layers in place, and small steps are lost in {other.pop()}; "
            "load the model in float32, or leave whole out"
        )


_ADAPTER_FILE = "adapter_model.safetensors"
_VALUE_FILE = "value_head.safetensors"


class TokenScores(NamedTuple):
    """Of each token of the answers, ``(B, T)`` in float32; 0 where there is none.

    Attributes:
        logprobs: log π of the token.
        entropy: of the distribution that it was drawn from, in nats.
        values: V of the state in which it was drawn.
    """

    logprobs: Tensor
    entropy: Tensor
    values: Tensor


class Policy(nn.Module):
    """A causal language model with a LoRA adapter, or trained layers of its own, and a value head.

    The reference that the policy must stay near to is the same network with the adapter switched off, or the layers as
    they were (:meth:`reference`): bit for bit the model that training began with. Dropout is off at all times, so that
    the probability ratio of PPO is 1 before the first update.

    Args:
        network: the adapted model; what requires a gradient is what is trained.

    Raises:
        ReclmError: if the model has no output layer, or one that computes in an unknown way.

    Attributes:
        network: the adapted model.
        value_head: ``(h,) -> (1,)``, 0 everywhere at the start.
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
        """A policy that begins as ``network``, which is changed in place.

        Args:
            network: a transformers causal language model. One that has an adapter already (a tuned one) is merged
                with it first: the reference is then the tuned model.
            options: what is trained; dropout is left out.
            seed: of the new adapter's random half; torch's global state is left as it was.

        Raises:
            ReclmError: if the model has no such layers, see
                :func:`~reclm.profilers.rl.policy.adapter_config`.
        """
        if isinstance(network, PeftModel):
            network = network.merge_and_unload()  # pyright: ignore[reportCallIssue]
        options = (options or LoraOptions()).model_copy(update={"dropout": 0.0})
        config = adapter_config(network, options)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return cls(get_peft_model(network, config))  # pyright: ignore[reportArgumentType]

    @classmethod
    def read(cls, network: Any, folder: Path) -> Self:
        """The policy that :meth:`save` wrote, on the model that it was begun with.

        Raises:
            ReclmError: if the folder does not hold one.
        """
        _existing(folder)
        try:
            policy = cls(PeftModel.from_pretrained(network, str(folder), is_trainable=True))
        except (OSError, ValueError, LookupError, RuntimeError) as error:
            raise _unreadable(folder, error) from error
        policy.load(folder)
        return policy

    @property
    def base(self) -> Any:
        """The transformers model with the adapter's matrices inside; engines run this one."""
        return self.network.get_base_model()

    @contextmanager
    def reference(self) -> Iterator[Self]:
        """Within, the policy is the model that it began as."""
        with self.network.disable_adapter():
            yield self

    def forward(
        self,
        ids: Tensor,
        attention: Tensor,
        answers: Tensor,
        temperature: float = 1.0,
        chunk: int = 512,
        samples: int = 1,
    ) -> TokenScores:
        """Score the answers at the end of the rows.

        Args:
            ids: ``(B, P + T)``, prompts padded on the left and answers on the right.
            attention: ``(B, P + T)``, 0 on padding.
            answers: ``(B, T)``, true on tokens of the answer.
            temperature: the distribution is softmax(logits / temperature).
            chunk: see :func:`~reclm.profilers.rl.logprobs.token_logprobs`.
            samples: answers to each prompt, one behind the other; the prompt is read once for all of them.
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
        """Dropout stays off in either mode."""
        return super().train(False)

    def save(self, folder: Path) -> None:
        """Write a PEFT folder and the value head, both as safetensors."""
        folder.mkdir(parents=True, exist_ok=True)
        # the base model's embeddings are not trained, whether or not its vocabulary can be looked up
        self.network.save_pretrained(str(folder), save_embedding_layers=False)
        head = {name: one.detach().cpu().contiguous() for name, one in self.value_head.state_dict().items()}
        save_file(head, folder / _VALUE_FILE)

    def load(self, folder: Path) -> None:
        """Take over the weights that :meth:`save` wrote.

        Raises:
            ReclmError: if the folder does not hold them, or those of other options.
        """
        _existing(folder)
        device = str(self.value_head.weight.device)
        try:
            weights = load_peft_weights(str(folder), device=device)
            # peft would pass over what does not belong to this model
            if weights.keys() != get_peft_model_state_dict(self.network, save_embedding_layers=False).keys():
                raise ValueError("other layers or modules are trained in it")
            set_peft_model_state_dict(self.network, weights)
            self.value_head.load_state_dict(load_file(folder / _VALUE_FILE, device=device))
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            raise _unreadable(folder, error) from error


def _existing(folder: Path) -> None:
    # peft would look for a missing folder on the hub
    for name in (_ADAPTER_FILE, _VALUE_FILE):
        if not (folder / name).is_file():
            raise ReclmError(
                f"{folder} holds no policy: {name} is missing; give a folder that Policy.save wrote"
            )


def _unreadable(folder: Path, error: Exception) -> ReclmError:
    reason = " ".join(str(error).split())[:200]
    return ReclmError(
        f"{folder} holds no policy for this model; give a folder that Policy.save wrote ({reason})"
    )
