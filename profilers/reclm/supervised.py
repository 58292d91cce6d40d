"""Knowledge distillation and two-turn tuning with LoRA (RecLM, https://arxiv.org/abs/2412.19302, 2.2 and 2.3).

*mask* and *naive* say which tokens carry loss: those of all answers of a chat, or of the last one only; in both an
answer's tokens and the token that ends its turn, so that the model learns to stop. TRL takes ids and ``labels`` as
they are. Its own ``assistant_only_loss`` needs ``{% generation %}`` in the chat template, which SmolLM2's and Llama
2's lack, and knows no *naive*; where a template has it, *mask* is the same (a test compares them).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from reclm.errors import BadInput
from reclm.llm.chat import Chat, Message
from reclm.llm.models import LanguageModel
from reclm.llm.tokens import PromptTokenizer
from reclm.profilers.reclm.config import SupervisedConfig
from reclm.profilers.reclm.prompts import NO, YES
from reclm.profilers.reclm.samples import messages_of
from reclm.profilers.rl.policy import LogitHead
from reclm.profilers.tuning.training import (
    add_adapter,
    batch_order,
    evenly,
    load_network,
    train,
    trainer_arguments,
)

Variant = Literal["mask", "naive"]
NO_LOSS = -100
"""The label of a token without loss in torch's cross entropy and in TRL."""
_BATCH = 8


@dataclass(frozen=True)
class LabelledChat:
    """A chat as tokens: ``n`` ids, and ``n`` labels: the id itself where there is loss, else ``NO_LOSS``."""

    input_ids: list[int]
    labels: list[int]


def label_chat(
    prompts: PromptTokenizer, messages: Sequence[Message], variant: Variant = "mask"
) -> LabelledChat:
    """Return a chat as tokens with the labels of ``variant``."""
    answers = [number for number, turn in enumerate(messages) if turn.role == "assistant"]
    if not answers:
        raise BadInput("a sample to learn from has no answer; give one with an assistant message")
    learned = set(answers if variant == "mask" else answers[-1:])
    ids, owners = prompts.training_ids(tuple(messages))
    labels = [token if owner in learned else NO_LOSS for token, owner in zip(ids, owners, strict=True)]
    return LabelledChat(ids, labels)


def label_samples(samples: Any, prompts: PromptTokenizer, variant: Variant = "mask") -> Any:
    """Return samples as a ``datasets.Dataset`` of ``input_ids`` and ``labels``, which TRL's SFTTrainer takes."""

    def labelled(rows: Mapping[str, list[Any]]) -> dict[str, list[list[int]]]:
        chats = [label_chat(prompts, messages_of(row), variant) for row in rows["messages"]]
        for subject, chat in zip(rows["subject"], chats, strict=True):
            if len(chat.input_ids) > prompts.context:
                raise BadInput(
                    f"the sample of {subject!r} has {len(chat.input_ids)} tokens, {prompts.model} takes "
                    f"{prompts.context}; set max_tokens to that at most",
                    value=len(chat.input_ids),
                    where="max_tokens",
                )
        return {"input_ids": [chat.input_ids for chat in chats], "labels": [chat.labels for chat in chats]}

    return samples.map(
        labelled, batched=True, remove_columns=samples.column_names, load_from_cache_file=False, desc="tokens"
    )


def token_table(prompts: PromptTokenizer, messages: Sequence[Message]) -> str:
    """Return a sample token by token: place, token, and an ``x`` where it carries loss in *mask* and *naive*."""
    mask, naive = (label_chat(prompts, messages, variant) for variant in ("mask", "naive"))
    lines = [" place  mask  naive  token"]
    for place, (token, *labels) in enumerate(zip(mask.input_ids, mask.labels, naive.labels, strict=True)):
        marks = ["x" if label != NO_LOSS else "." for label in labels]
        text = prompts.tokenizer.decode([token], skip_special_tokens=False)
        lines.append(f"{place:6d}  {marks[0]:^4}  {marks[1]:^5}  {text!r}")
    return "\n".join(lines)


def tune(
    model: LanguageModel,
    prompts: PromptTokenizer,
    samples: Any,
    held_out: Any,
    folder: Path,
    config: SupervisedConfig,
    *,
    variant: Variant = "mask",
    start: Path | None = None,
    seed: int = 0,
    what: str = "tuning",
    progress: bool = True,
) -> Path:
    """Train a LoRA adapter on answers, and return its folder; an interrupted run goes on.

    Args:
        prompts: the model's tokenizer.
        samples, held_out: ``datasets.Dataset`` of ``messages`` (see :mod:`~reclm.profilers.reclm.samples`);
            the loss on ``held_out`` is logged after each epoch.
        folder: of the stage.
        variant: which answers carry loss.
        start: an adapter to go on with.
    """
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    tokens = label_samples(samples, prompts, variant)
    lengths = np.fromiter(map(len, tokens["input_ids"]), np.int64, len(tokens))
    order = batch_order(lengths, config, np.random.default_rng([seed, 1]))
    tested = held_out.select(evenly(len(held_out), config.evaluated))
    tested = label_samples(tested, prompts, variant) if len(tested) else None
    network = add_adapter(load_network(model, config.four_bit), config.lora, start=start, seed=seed)
    trainer = SFTTrainer(
        model=network,
        args=trainer_arguments(
            SFTConfig, folder, config, len(order), seed, tested is not None, packing=False
        ),
        train_dataset=tokens.select(order),
        eval_dataset=tested,
        processing_class=prompts.tokenizer,
    )
    return train(trainer, folder, what, progress)


@torch.inference_mode()
def yes_no_accuracy(
    network: Any, prompts: PromptTokenizer, samples: Sequence[Mapping[str, Any]]
) -> np.ndarray:
    """Return ``(n,)`` bool: which two-turn samples (equation 4) are answered rightly, by the likelier of Yes and No.

    Args:
        network: a transformers causal language model.
        samples: rows of ``messages`` that end in the answer, and ``label``; the first turn's answer is given.
    """
    samples = list(samples)
    if not samples:
        return np.zeros(0, bool)
    chats = [Chat(tuple(messages_of(row["messages"])[:-1])) for row in samples]
    questions = [torch.tensor(prompts.ids(chat)) for chat in chats]
    # the first token in which the two answers differ behind a question
    yes, no = (prompts.ids(Chat(chats[0].messages, word))[len(questions[0])] for word in (YES, NO))
    wanted = np.array([row["label"] == YES for row in samples], bool)
    answers = np.zeros(len(samples), bool)
    head = LogitHead(network)
    order = np.argsort([len(ids) for ids in questions], kind="stable")
    for rows in np.split(order, range(_BATCH, len(order), _BATCH)):
        batch = [questions[row] for row in rows]
        ids = pad_sequence(batch, batch_first=True).to(network.device)
        there = pad_sequence([torch.ones_like(one) for one in batch], batch_first=True).to(network.device)
        last = there.sum(1) - 1
        states = head.hidden(ids, there)[torch.arange(len(batch), device=ids.device), last]
        logits = head.logits(states)
        answers[rows] = (logits[:, yes] > logits[:, no]).cpu().numpy()
    return answers == wanted
