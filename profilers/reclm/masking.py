"""Which tokens carry loss (RecLM, arXiv 2412.19302, section 2.3): *mask* and *naive*.

In *mask* all answers of a chat do, in *naive* the last one only; in both an answer's tokens and the token that ends
its turn, so that the model learns to stop. TRL takes the token ids and ``labels`` as they are. Its own
``assistant_only_loss`` needs ``{% generation %}`` in the chat template, which SmolLM2's and Llama 2's lack, and knows
no *naive*; where a template has it, *mask* is the same (a test compares them).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from reclm.errors import ReclmError
from reclm.llm.chat import Message
from reclm.llm.tokens import PromptTokenizer

Variant = Literal["mask", "naive"]
NO_LOSS = -100
"""The label of a token without loss, as torch's cross entropy and TRL have it."""


@dataclass(frozen=True)
class Masked:
    """A sample as tokens: ``n`` ids, and ``n`` labels: the id itself where there is loss, else ``NO_LOSS``."""

    input_ids: list[int]
    labels: list[int]


def masked(prompts: PromptTokenizer, messages: Sequence[Message], variant: Variant = "mask") -> Masked:
    """A chat as tokens with the loss of ``variant``.

    Raises:
        ReclmError: if no answer is in it, or the chat template refuses it.
    """
    answers = [number for number, one in enumerate(messages) if one.role == "assistant"]
    if not answers:
        raise ReclmError("a sample to learn from has no answer; give one with an assistant message")
    learned = set(answers if variant == "mask" else answers[-1:])
    ids, owners = prompts.training_ids(tuple(messages))
    labels = [one if owner in learned else NO_LOSS for one, owner in zip(ids, owners, strict=True)]
    return Masked(ids, labels)


def tokenised(samples: Any, prompts: PromptTokenizer, variant: Variant = "mask") -> Any:
    """A ``datasets.Dataset`` of ``messages`` as one of ``input_ids`` and ``labels``, which TRL's SFTTrainer takes.

    Raises:
        ReclmError: if a sample is longer than the model's context window.
    """

    def tokens(rows: Mapping[str, list[Any]]) -> dict[str, list[list[int]]]:
        made = [masked(prompts, messages_of(row), variant) for row in rows["messages"]]
        for subject, one in zip(rows["subject"], made, strict=True):
            if len(one.input_ids) > prompts.context:
                raise ReclmError(
                    f"the sample of {subject!r} has {len(one.input_ids)} tokens, {prompts.model} takes "
                    f"{prompts.context}; set max_tokens to that at most"
                )
        return {"input_ids": [one.input_ids for one in made], "labels": [one.labels for one in made]}

    return samples.map(
        tokens, batched=True, remove_columns=samples.column_names, load_from_cache_file=False, desc="tokens"
    )


def messages_of(row: Iterable[Mapping[str, str]]) -> list[Message]:
    """The messages of a saved sample."""
    return [Message(one["role"], one["content"]) for one in row]  # pyright: ignore[reportArgumentType]


def token_table(prompts: PromptTokenizer, messages: Sequence[Message]) -> str:
    """A sample token by token, a line each: place, token, and an ``x`` where it carries loss in *mask* and *naive*."""
    both = {variant: masked(prompts, messages, variant) for variant in ("mask", "naive")}
    lines = [" place  mask  naive  token"]
    rows = zip(both["mask"].input_ids, both["mask"].labels, both["naive"].labels, strict=True)
    for place, (one, in_mask, in_naive) in enumerate(rows):
        marks = ["x" if label != NO_LOSS else "." for label in (in_mask, in_naive)]
        shown = prompts.tokenizer.decode([one], skip_special_tokens=False)
        lines.append(f"{place:6d}  {marks[0]:^4}  {marks[1]:^5}  {shown!r}")
    return "\n".join(lines)
