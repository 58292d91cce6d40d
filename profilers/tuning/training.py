"""Load a language model to train it, give it a LoRA adapter, and train it by one of TRL's trainers."""

import importlib.util
import json
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from accelerate.utils import broadcast_object_list
from peft import (
    LoraConfig,
    PeftModel,
    get_peft_model,
    get_peft_model_state_dict,
    load_peft_weights,
    prepare_model_for_kbit_training,
)
from peft.tuners.tuners_utils import check_target_module_exists
from peft.utils.constants import DUMMY_TARGET_MODULES
from pydantic import Field, model_validator
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PrinterCallback,
    TrainerCallback,
)
from transformers.pytorch_utils import Conv1D
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import logging

from reclm.config import Config
from reclm.console import progress_bar
from reclm.errors import BadInput, Damaged, MissingExtra, ReclmError
from reclm.files import atomic_folder
from reclm.llm.engines.transformers import read_network
from reclm.llm.models import LanguageModel
from reclm.profilers.tuning.checkpoints import CHECKPOINTS, Pace, check_trainer_checkpoint
from reclm.profilers.tuning.metrics_log import MetricsLog, reading, writing

ADAPTER = "adapter"
"""Folder of a stage's adapter."""
_OF_A_RUN = {"num_tokens", "eval_num_tokens", "train_loss", "total_flos"}
"""Metrics that a trainer counts from where it was begun, or begun again; they are not logged."""
_WHOLE_LAYERS = 4
"""Layers that are trained themselves where their number is not said."""
_POOL = 16
"""Batches whose samples are sorted by length together."""


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


def load_network(
    model: LanguageModel,
    four_bit: bool | None = False,
    *,
    scores: bool = False,
    device: str | None = None,
    full: bool = False,
) -> Any:
    """Load the model to be trained: bf16 on a GPU that has it, else f32.

    ``four_bit``: hold the weights in 4 bits; None: where bitsandbytes and a GPU are there. ``scores``: a model of one
    number for a text (a reward model), in place of a causal one. ``full``: f32 in any case, for weights that are
    trained themselves: small steps are lost in bf16.
    """
    gpu = device != "cpu" and torch.cuda.is_available()
    possible = gpu and importlib.util.find_spec("bitsandbytes") is not None
    if four_bit and not possible:
        remedy = "pip install bitsandbytes"
        message = f"four_bit = true needs a GPU and bitsandbytes; {remedy}, or leave it out"
        raise MissingExtra(message, where="four_bit", remedy=remedy)
    bf16 = gpu and not full and torch.cuda.is_bf16_supported(including_emulation=False)
    options: dict[str, Any] = {"dtype": torch.bfloat16 if bf16 else torch.float32}
    if possible and four_bit is not False:
        from transformers import BitsAndBytesConfig

        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=options["dtype"]
        )
    if scores:
        options["num_labels"] = 1
    kind: Any = AutoModelForSequenceClassification if scores else AutoModelForCausalLM
    with quiet():
        network = read_network(kind, model, new_head=scores, **options)
    if "quantization_config" in options:
        return prepare_model_for_kbit_training(network)
    return network.to(device or ("cuda" if gpu else "cpu"))


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the bars, tables and deprecation notes of transformers, datasets and TRL within the block."""
    import datasets

    bars, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    data_bars = datasets.are_progress_bars_disabled()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    datasets.disable_progress_bars()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
        if not data_bars:
            datasets.enable_progress_bars()


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


def batch_order(lengths: np.ndarray, config: Any, generator: np.random.Generator) -> np.ndarray:
    """Return the order in which samples are learned from, all epochs one after the other: ``(n,)`` sample numbers.

    Each epoch is shuffled, and batches hold samples of similar length (``lengths``, in tokens). The order is fixed
    before training, so that a resumed run sees the samples that the unbroken run would have seen.
    """
    chosen, count = evenly(len(lengths), config.limit), int(np.ceil(config.epochs))
    epochs = [_epoch(chosen, lengths, config.batch_size, generator) for _ in range(count)]
    return np.concatenate(epochs)[: max(1, round(config.epochs * len(chosen)))]


def evenly(total: int, most: int | None) -> np.ndarray:
    """Return at most ``most`` of the numbers below ``total``, evenly spread, ``(n,)`` int64."""
    return np.linspace(0, total - 1, total if most is None else min(most, total)).round().astype(np.int64)


def _epoch(chosen: np.ndarray, lengths: np.ndarray, batch: int, generator: np.random.Generator) -> np.ndarray:
    shuffled = generator.permutation(chosen)
    pools = [shuffled[start : start + _POOL * batch] for start in range(0, len(shuffled), _POOL * batch)]
    ordered = np.concatenate([pool[np.argsort(lengths[pool], kind="stable")] for pool in pools])
    whole = len(ordered) // batch * batch
    batches = generator.permutation(ordered[:whole].reshape(-1, batch))
    return np.concatenate([batches.reshape(-1), ordered[whole:]])


def trainer_arguments(
    kind: Any, folder: Path, config: Any, samples: int, seed: int, evaluate: bool, **more: Any
) -> Any:
    """Return ``SFTConfig`` or ``RewardConfig`` for ``samples`` samples in their order."""
    updates = int(np.ceil(samples / (config.batch_size * config.accumulate)))
    bf16 = torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    return kind(
        output_dir=str(folder / CHECKPOINTS),
        num_train_epochs=1,
        train_sampling_strategy="sequential",
        per_device_train_batch_size=config.batch_size,
        per_device_eval_batch_size=config.batch_size,
        gradient_accumulation_steps=config.accumulate,
        learning_rate=config.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=round(config.warmup * updates),
        max_grad_norm=config.max_gradient_norm,
        weight_decay=0.0,
        gradient_checkpointing=config.checkpoint_activations,
        bf16=bf16,
        use_cpu=not torch.cuda.is_available(),
        max_length=None,
        seed=seed,
        logging_steps=1,
        save_strategy="no",  # _SaveCallback tells when
        save_total_limit=2,
        eval_strategy="steps" if evaluate else "no",
        eval_steps=max(1, round(updates / max(1, round(config.epochs)))),
        disable_tqdm=True,
        report_to=[],
        **more,
    )


def train(
    trainer: Any, folder: Path, what: str, progress: bool = True, checkpoint_steps: int | None = None
) -> Path:
    """Train, or resume from the latest complete checkpoint; return the adapter's folder, ``folder/adapter``."""
    first = trainer.is_world_process_zero()
    per_update = trainer.args.per_device_train_batch_size * trainer.args.gradient_accumulation_steps
    updates = int(np.ceil(len(trainer.train_dataset) / (per_update * trainer.args.world_size)))
    with progress_bar(what, updates, progress and first) as advance:
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(_SaveCallback(Pace(checkpoint_steps)))
        if first:
            trainer.add_callback(_LogCallback(folder, advance))
        with writing(folder), quiet():
            _train(trainer, folder)
            if first:
                # the embeddings are not trained, whether or not their vocabulary can be looked up
                with atomic_folder(folder / ADAPTER) as draft:
                    trainer.model.save_pretrained(str(draft), save_embedding_layers=False)
                shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
            trainer.accelerator.wait_for_everyone()
    return folder / ADAPTER


def _train(trainer: Any, folder: Path) -> None:
    """Run ``trainer``, from the latest checkpoint if there is one: what fails before its first step is damaged."""
    checkpoint = _latest(folder / CHECKPOINTS)
    if checkpoint is None:
        trainer.train()
        return
    check_trainer_checkpoint(checkpoint, trainer)
    trainer.add_callback(first_step := _FirstStep())
    try:
        with writing(folder):
            trainer.train(resume_from_checkpoint=str(checkpoint))
    except ReclmError:
        raise
    except Exception:
        if first_step.begun:
            raise
        with reading(checkpoint):
            raise


def _latest(folder: Path) -> Path | None:
    """Return the newest checkpoint that is complete: its state is written last."""
    complete: dict[int, Path] = {}
    for path in folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*"):
        with suppress(OSError, ValueError):
            json.loads((path / "trainer_state.json").read_text(encoding="utf-8"))
            complete[int(path.name.rpartition("-")[2])] = path
    return complete[max(complete)] if complete else None


class _FirstStep(TrainerCallback):
    """Notes that the first step has begun."""

    begun = False

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.begun = True


class _SaveCallback(TrainerCallback):
    """Asks for checkpoints at their pace, the same ones on all processes."""

    def __init__(self, pace: Pace) -> None:
        self.pace = pace

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        (control.should_save,) = broadcast_object_list([self.pace.due(state.global_step)])
        self.pace.begin()

    def on_evaluate(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.pace.begin()  # evaluation comes between

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.pace.end()


class _LogCallback(TrainerCallback):
    """Writes the metrics log and moves the progress bar."""

    def __init__(self, folder: Path, advance: Callable[[int], None]) -> None:
        self.folder, self.advance = folder, advance
        self.log: MetricsLog | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.is_world_process_zero:
            self.log = MetricsLog(self.folder, state.global_step, map(_numbers, state.log_history))
            self.advance(state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.advance(1)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if logs and self.log:
            self.log.add(state.global_step, _numbers(logs))

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.log:
            self.log.close()


def _numbers(row: dict[str, Any]) -> dict[str, float]:
    return {
        name: value for name, value in row.items() if isinstance(value, int | float) and name not in _OF_A_RUN
    }
