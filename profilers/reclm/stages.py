"""The training of every stage with LoRA (RecLM, https://arxiv.org/abs/2412.19302, sections 2.2 to 2.4).

*mask* and *naive* say which tokens of a supervised stage carry loss: those of all answers of a chat, or of the last one
only, and the token that ends the turn. TRL's ``assistant_only_loss`` needs ``{% generation %}`` in the chat template,
which SmolLM2's and Llama 2's lack, and knows no *naive*; where a template has it, *mask* is the same.
"""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from peft import (
    LoraConfig,
    get_peft_model,
    get_peft_model_state_dict,
    load_peft_weights,
    set_peft_model_state_dict,
)
from peft.tuners.lora import LoraLayer
from peft.utils.constants import DUMMY_TARGET_MODULES

from reclm.console import progress_bar
from reclm.errors import BadInput
from reclm.files import atomic_folder
from reclm.llm.chat import Chat, Message
from reclm.llm.models import LanguageModel
from reclm.llm.tokens import PromptTokenizer
from reclm.profilers.reclm.config import SupervisedConfig
from reclm.profilers.reclm.prompts import NO, YES
from reclm.profilers.reclm.reward_model import padded, tokenise_pairs
from reclm.profilers.reclm.samples import messages_of
from reclm.profilers.rl.config import PPOConfig
from reclm.profilers.rl.decoder import SplitDecoder
from reclm.profilers.rl.loop import Reward
from reclm.profilers.rl.policy import Policy
from reclm.profilers.rl.ppo import PPO
from reclm.profilers.rl.rollout import PolicySampler
from reclm.profilers.tuning.adapter import ADAPTER, LoraOptions, add_adapter, with_adapter
from reclm.profilers.tuning.checkpoints import CHECKPOINTS, check_room, checkpoints
from reclm.profilers.tuning.metrics_log import MetricsLog, writing
from reclm.profilers.tuning.training import batch_order, evenly, load_network, train, trainer_arguments

Variant = Literal["mask", "naive"]
NO_LOSS = -100
"""The label of a token without loss in torch's cross entropy and in TRL."""


def label_chat(
    prompts: PromptTokenizer, messages: Sequence[Message], variant: Variant = "mask"
) -> dict[str, list[int]]:
    """Return a chat's ``input_ids`` and ``labels``: the id itself where there is loss, else ``NO_LOSS``."""
    answers = [number for number, turn in enumerate(messages) if turn.role == "assistant"]
    if not answers:
        raise BadInput("a sample to learn from has no answer; give one with an assistant message")
    learned = answers if variant == "mask" else answers[-1:]
    ids, owners = prompts.training_ids(tuple(messages))
    labels = [token if owner in learned else NO_LOSS for token, owner in zip(ids, owners, strict=True)]
    return {"input_ids": ids, "labels": labels}


def label_samples(samples: Any, prompts: PromptTokenizer, variant: Variant = "mask") -> Any:
    """Return samples as a ``datasets.Dataset`` of ``input_ids`` and ``labels``, which TRL's SFTTrainer takes."""

    def labelled(row: Mapping[str, Any]) -> dict[str, list[int]]:
        chat = label_chat(prompts, messages_of(row["messages"]), variant)
        if (count := len(chat["input_ids"])) > prompts.context:
            raise BadInput(
                f"the sample of {row['subject']!r} has {count} tokens, {prompts.model} takes {prompts.context}; set "
                "max_tokens to that at most",
                value=count,
                where="max_tokens",
            )
        return chat

    # in memory: each run would leave a file of them beside the samples
    options = {"remove_columns": samples.column_names, "load_from_cache_file": False}
    return samples.map(labelled, keep_in_memory=True, **options)


def token_table(prompts: PromptTokenizer, messages: Sequence[Message]) -> str:
    """Return a sample token by token: place, token, and an ``x`` where it carries loss in *mask* and *naive*."""
    mask, naive = (label_chat(prompts, messages, variant) for variant in ("mask", "naive"))
    lines = [" place  mask  naive  token"]
    rows = zip(mask["input_ids"], mask["labels"], naive["labels"], strict=True)
    for place, (token, *labels) in enumerate(rows):
        marks = ["x" if label != NO_LOSS else "." for label in labels]
        text = prompts.tokenizer.decode([token], skip_special_tokens=False)
        lines.append(f"{place:6d}  {marks[0]:^4}  {marks[1]:^5}  {text!r}")
    return "\n".join(lines)


@torch.inference_mode()
def yes_no_accuracy(
    network: Any, prompts: PromptTokenizer, samples: Sequence[Mapping[str, Any]]
) -> np.ndarray:
    """Return ``(n,)`` bool: which two-turn samples (equation 4) are answered rightly, by the likelier of Yes and No."""
    if not len(samples):
        return np.zeros(0, bool)
    wanted = np.array([row["label"] == YES for row in samples], bool)
    chats = [Chat(tuple(messages_of(row["messages"])[:-1])) for row in samples]
    questions = list(map(prompts.ids, chats))
    # the first token in which the two answers differ behind a question
    yes, no = (prompts.ids(Chat(chats[0].messages, word))[len(questions[0])] for word in (YES, NO))
    answers = np.zeros(len(chats), bool)
    decoder = SplitDecoder(network)
    for rows, ids, mask in padded(questions, 8, 0, network.device):
        states = decoder.upper(decoder.lower(ids, mask), mask)
        logits = decoder.logits(states[torch.arange(len(rows), device=ids.device), mask.sum(1) - 1])
        answers[rows] = (logits[:, yes] > logits[:, no]).cpu().numpy()
    return answers == wanted


@dataclass(frozen=True)
class StageRun:
    """The model to train, its tokenizer, and the folder of the stage, where an interrupted run goes on."""

    model: LanguageModel
    prompts: PromptTokenizer
    folder: Path
    seed: int = 0
    progress: bool = True


def tune(
    run: StageRun,
    samples: Any,
    held_out: Any,
    config: SupervisedConfig,
    variant: Variant = "mask",
    start: Path | None = None,
) -> Path:
    """Train a LoRA adapter on answers, a new one or the one at ``start``, and return its folder.

    The loss on ``held_out``, like ``samples`` a ``datasets.Dataset`` of ``messages``, is logged after each epoch.
    """
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    network = add_adapter(load_network(run.model, config.four_bit), config.lora, start=start, seed=run.seed)
    tokens = partial(label_samples, prompts=run.prompts, variant=variant)
    return _train(run, (SFTTrainer, SFTConfig), network, tokens, samples, held_out, config)


def tune_reward(run: StageRun, pairs: Any, held_out: Any, config: SupervisedConfig) -> Path:
    """Train a reward model on pairs (equation 6), log its accuracy on ``held_out``, and return its adapter's folder."""
    from trl.trainer.reward_config import RewardConfig
    from trl.trainer.reward_trainer import RewardTrainer

    network = load_network(run.model, config.four_bit, scores=True)
    with torch.random.fork_rng():
        # transformers draws the new layer from the global state
        torch.manual_seed(run.seed)
        torch.nn.init.normal_(network.score.weight, std=0.02)
    network = add_adapter(network, config.lora, "SEQ_CLS", seed=run.seed)
    tokens = partial(tokenise_pairs, prompts=run.prompts)
    return _train(run, (RewardTrainer, RewardConfig), network, tokens, pairs, held_out, config)


def _train(
    run: StageRun,
    classes: tuple[Any, Any],
    network: Any,
    tokens: Callable[[Any], Any],
    samples: Any,
    held_out: Any,
    config: SupervisedConfig,
) -> Path:
    """Train ``network`` with a trainer and arguments of TRL's ``classes`` on the ``tokens`` of samples."""
    learned = tokens(samples)
    lengths = np.array([max(map(len, row.values())) for row in learned])
    order = batch_order(lengths, config, np.random.default_rng([run.seed, 1]))
    tested = held_out.select(evenly(len(held_out), config.evaluated))
    tested = tokens(tested) if len(tested) else None
    trainer = classes[0](
        model=network,
        args=trainer_arguments(classes[1], run.folder, config, len(order), run.seed, tested is not None),
        train_dataset=learned.select(order),
        eval_dataset=tested,
        processing_class=run.prompts.tokenizer,
    )
    return train(trainer, run.folder, run.folder.name, run.progress, config.checkpoint_steps)


def train_ppo(
    run: StageRun,
    prompts: Sequence[list[int]],
    reward: Reward,
    config: PPOConfig,
    lora: LoraOptions,
    start: Path | None = None,
) -> Path:
    """Train the model with the adapter at ``start`` for ``reward`` (equations 7, 8), and return the adapter's folder.

    The adapter holds all stages, that of ``start`` and PPO's in one, on the untuned model. Where the KL ran away it is
    that of the step before. ``prompts`` are token ids, answers begun.
    """
    folder, network = run.folder, load_network(run.model, full=lora.whole)
    if start is not None:
        network = with_adapter(network, start)
    policy = Policy.adapt(network, lora, seed=config.seed, precision=config.precision)
    ppo = PPO(policy, PolicySampler(policy.decoder, run.model), prompts, reward, config)
    steps, first = folder / CHECKPOINTS, ppo.accelerator.is_main_process
    with progress_bar("PPO", config.steps, run.progress and first) as advance, writing(folder):
        check_room(steps, ppo.trained, ppo.accelerator, 2)
        if not ppo.resume(steps):
            ppo.save(steps)
        advance(ppo.step)
        log = MetricsLog(folder, ppo.step + ppo.stopped) if first else None
        for metrics in ppo.run():
            # before the checkpoint: rows behind the latest checkpoint are cut off, missing ones stay missing
            if log:
                log.add(ppo.step + ppo.stopped, metrics)
            ppo.save(steps, newest=2, last=ppo.stopped or ppo.step == config.steps)
            advance(1, f"PPO: reward {metrics['reward']:.2f}, KL {metrics['kl']:.1f}")
        done = ppo.rewind(steps, max(0, ppo.step - 1)) if ppo.stopped else checkpoints(steps)[-1]
        if log:
            log.close()
            with atomic_folder(folder / ADAPTER) as draft:
                combine_adapters(run.model, start, done, draft)
            shutil.rmtree(steps, ignore_errors=True)
        ppo.accelerator.wait_for_everyone()
    return folder / ADAPTER


def combine_adapters(model: LanguageModel, first: Path | None, second: Path, folder: Path) -> None:
    """Write the adapter whose update is the sum of two: their matrices side by side, ranks added.

    Where ``second`` holds layers that were trained themselves, from ``first`` on, these take the place of its matrices.
    """
    network = load_network(model, device="cpu")
    if first is None:
        network = with_adapter(network, second)
    elif trained := LoraConfig.from_pretrained(str(second)).modules_to_save:
        network = _below(network, first, trained)
        weights = {
            **load_peft_weights(str(first), device="cpu"),
            **load_peft_weights(str(second), device="cpu"),
        }
        needed = get_peft_model_state_dict(network, save_embedding_layers=False)
        set_peft_model_state_dict(network, {name: weights[name] for name in needed})
    else:
        network = with_adapter(network, first, "first")
        network.load_adapter(str(second), "second")
        network.add_weighted_adapter(["first", "second"], [1.0, 1.0], "default", combination_type="cat")
        network.set_adapter("default")
    network.save_pretrained(str(folder), selected_adapters=["default"], save_embedding_layers=False)


def _below(network: Any, adapter: Path, trained: Sequence[str]) -> Any:
    """Return the network with an adapter like the one in a folder, but on none of the ``trained`` layers, and these."""
    config: Any = LoraConfig.from_pretrained(str(adapter))
    adapted = with_adapter(network, adapter)
    names = [name for name, part in adapted.get_base_model().named_modules() if isinstance(part, LoraLayer)]
    below = [name for name in names if not name.startswith(tuple(f"{layer}." for layer in trained))]
    config.target_modules, config.modules_to_save = below or DUMMY_TARGET_MODULES, list(trained)
    return get_peft_model(adapted.unload(), config)
