"""The trained part of a language model: a LoRA adapter, or its last layers, new or read from a folder."""

import json
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict, load_peft_weights
from peft.tuners.tuners_utils import check_target_module_exists
from peft.utils.constants import DUMMY_TARGET_MODULES
from pydantic import Field, model_validator
from torch import nn
from transformers.pytorch_utils import Conv1D

from reclm.config import Config
from reclm.errors import BadInput, Damaged, ReclmError

ADAPTER = "adapter"
"""Folder of a stage's adapter."""
_WHOLE_LAYERS = 4
"""Layers that are trained themselves where their number is not said."""


class LoraOptions(Config):
    """The trained part of a model: an adapter, or its last layers."""

    r: int = Field(default=4, ge=1)
    """Rank; RecLM's release has 4 for PPO."""
    alpha: int = Field(default=8, ge=1)
    """The update is scaled by alpha / r; RecLM's release has 8."""
    modules: str | list[str] = "all-linear"
    """Layers that get one; ``all-linear`` is all but the output layer."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of the adapter's inputs that are dropped in supervised training."""
    train: Literal["adapter", "last_layers"] = "adapter"
    """``last_layers``: the last layers and the final norm are trained themselves, in float32, as in LangPTune for
    Llama-3-8B-it; there is no adapter, whatever its size. The reference's are held beside them, and the layers below
    run once a token."""
    layers: int | None = Field(default=None, ge=1)
    """Only so many of the layers, the last, get an adapter or are trained; by default all, and 4 with ``last_layers``,
    as in LangPTune for Llama-3-8B-it."""

    @model_validator(mode="before")
    @classmethod
    def _of_0_1(cls, values: Any) -> Any:
        """Take options as version 0.1 wrote them to run folders."""
        if not isinstance(values, dict) or not values.keys() & {"whole", "last_layers"}:
            return values
        names = {"whole": "train", "last_layers": "layers"}
        values = {names.get(name, name): value for name, value in values.items()}
        if isinstance(whole := values.get("train"), bool):
            values["train"] = "last_layers" if whole else "adapter"
        return values

    @property
    def whole(self) -> bool:
        """Return whether layers are trained themselves."""
        return self.train == "last_layers"


def with_adapter(network: Any, folder: Path, name: str = "default", **options: Any) -> Any:
    """Return the network with the adapter in ``folder``; Damaged where that cannot be read, or is not of this network.

    PEFT would look for missing files on the hub, and leave random numbers where weights are missing.
    """
    try:
        for file in ("adapter_config.json", "adapter_model.safetensors"):
            if not (folder / file).is_file():
                raise FileNotFoundError(f"{file} is missing")
        about = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        if lost := {"peft_type", "r", "lora_alpha", "target_modules"} - {*about}:
            raise ValueError(f"adapter_config.json lacks {min(lost)}")  # PEFT has defaults
        adapted = PeftModel.from_pretrained(network, str(folder), adapter_name=name, **options)
        needed = get_peft_model_state_dict(adapted, adapter_name=name, save_embedding_layers=False)
        stored = load_peft_weights(str(folder), device="cpu")
        if other := sorted(needed.keys() ^ stored.keys()):
            raise ValueError(f"{len(other)} weights are missing or of another model, such as {other[0]}")
        _check_mergeable(adapted, name)
    except (ReclmError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # of many classes: config, safetensors, torch
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        message = f"{folder} is no adapter of this model: {reason}; tune again in another folder"
        raise Damaged(message, where=folder) from error
    return adapted


def _check_mergeable(adapted: Any, name: str) -> None:
    """Raise an error where PEFT cannot merge an adapter into the weights: some variants of LoRA, repeated layers."""
    adapted.base_model._check_merge_allowed()
    for layer in adapted.base_model.modules():
        if (variant := getattr(layer, "lora_variant", {}).get(name)) is not None:
            weights = layer.get_base_layer().weight
            if torch.is_floating_point(weights):  # those in 4 bits are trained, not merged
                variant.merge_safe(layer, name, weights.data.clone())


def add_adapter(
    network: Any, lora: LoraOptions, task: str = "CAUSAL_LM", start: Path | None = None, seed: int = 0
) -> Any:
    """Return the network with an adapter to train: a new one, or a copy of the one at ``start``.

    Layers that are trained themselves are ``modules_to_save`` without a LoRA target: PEFT trains a copy of each, and
    runs the layers as they were when the adapter is off. Torch's global random state is left as it was.
    """
    if start is not None:
        return with_adapter(network, start, is_trainable=True)
    targets: Any = lora.modules
    whole: list[str] | None = None
    if lora.whole:
        layers = _last_layers(network, lora.layers or _WHOLE_LAYERS)
        whole = [*layers, *_final_norm(network)]
        parts = dict(network.named_modules())
        dtypes = {weights.dtype for name in whole for weights in parts[name].parameters()}
        if other := dtypes - {torch.float32}:
            message = f"train = last_layers trains layers in place, and small steps are lost in {other.pop()}"
            raise BadInput(f"{message}; load the model in float32, or train an adapter")
        targets = DUMMY_TARGET_MODULES
    elif lora.layers is not None:
        targets = _targets(_last_layers(network, lora.layers), lora.modules)
    trained = {"target_modules": targets, "modules_to_save": whole}
    config = LoraConfig(r=lora.r, lora_alpha=lora.alpha, lora_dropout=lora.dropout, task_type=task, **trained)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return get_peft_model(network, config)


def _last_layers(network: Any, count: int) -> dict[str, nn.Module]:
    """Return the last decoder layers, by their names within the network."""
    depth, kind = network.config.get_text_config().num_hidden_layers, type(network).__name__
    if count > depth:
        raise BadInput(f"layers = {count}, but {kind} has {depth} layers; ask for fewer")
    for name, module in network.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == depth:
            return {f"{name}.{at}": module[at] for at in range(depth - count, depth)}
    raise BadInput(f"{kind} does not hold its {depth} layers in a list; leave layers out")


def _final_norm(network: Any) -> list[str]:
    """Return the name of the norm behind the last layer, where it has the usual one."""
    norm = getattr(network.get_decoder(), "norm", None)
    return [name for name, part in network.named_modules() if part is norm] if norm is not None else []


def _targets(layers: dict[str, nn.Module], modules: str | list[str]) -> list[str]:
    """Return the names of the modules within ``layers`` that get LoRA matrices, by PEFT's rules."""
    named = chain.from_iterable(top.named_modules(prefix=layer) for layer, top in layers.items())
    within = [(name, part) for name, part in named if name not in layers]
    if modules == "all-linear":
        names = [name for name, part in within if isinstance(part, nn.Linear | Conv1D)]
    else:
        rule = LoraConfig(target_modules=modules)
        names = [name for name, _ in within if check_target_module_exists(rule, name)]
    if not names:
        raise BadInput(
            f"the last {len(layers)} layers have no modules {modules}; choose others, or all-linear"
        )
    return names
