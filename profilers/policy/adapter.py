"""Which matrices of a network are trained: LoRA's on all layers or on the last ones, or the last layers themselves."""

from typing import Any

import torch
from peft import LoraConfig
from peft.tuners.tuners_utils import check_target_module_exists
from peft.utils.constants import DUMMY_TARGET_MODULES
from torch import nn
from transformers.pytorch_utils import Conv1D

from reclm.errors import ReclmError
from reclm.profilers.policy.config import LoraOptions


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
