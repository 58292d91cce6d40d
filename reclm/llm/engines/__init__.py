"""Engines that run a language model: on this machine (a :class:`LocalGenerator`), or at a server."""

from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from reclm import plugins
from reclm.errors import BadInput
from reclm.llm.chat import Chat, Generation, Message, NoAnswers, SamplingParams, TextGenerator, cut_at_stop
from reclm.llm.models import Format, LanguageModel, read_json
from reclm.llm.tokens import PromptTokenizer, TooLong

Precision = Literal["auto", "f32", "bf16"]
Count = Annotated[int, Field(ge=1, le=2**31 - 1)]


class LocalGenerator(TextGenerator):
    """Tokenizes prompts, the same for all engines, and reads answers; a subclass runs the model."""

    refuses: ClassVar[tuple[Format, str]]
    """The format that the engine cannot read, and the engine that can."""

    def __init__(self, model: LanguageModel) -> None:
        wrong, other = self.refuses
        if model.format == wrong:
            name, remedy = plugins.name_of("generator", type(self)), f"--engine {other}"
            message = f"engine {name!r} cannot read {model.path} ({wrong}); use {remedy}"
            raise BadInput(message, value=str(model.path), remedy=remedy)
        self.model = model.name
        self.prompts = PromptTokenizer.of(model)
        self.end_ids = _end_ids(model, self.prompts.tokenizer.eos_token_id)

    def count_tokens(self, chats: Mapping[str, Chat]) -> dict[str, int]:
        """Count the prompt tokens of each chat, the given start of the answer included."""
        return {key: len(self.prompts.ids(chat)) for key, chat in chats.items()}

    def encode(
        self, chats: Mapping[str, Chat], params: SamplingParams
    ) -> tuple[list[dict[str, list[int]]], list[Generation]]:
        """Return prompt ids by key, shortest first, in groups of chats that differ in their last message only.

        The second value stands for the answers to prompts that are too long; NoAnswers if all are.
        """
        if params.pattern is not None:
            from llguidance import LLMatcher

            if fault := LLMatcher.validate_grammar(LLMatcher.grammar_from_regex(params.pattern)):
                message = f"pattern {params.pattern!r} is no regular expression: {' '.join(fault.split())}"
                raise BadInput(message, value=params.pattern)
        groups: dict[tuple[Message, ...], dict[str, list[int]]] = {}
        too_long: list[Generation] = []
        for key, chat in chats.items():
            try:
                ids = self.prompts.checked(key, chat, params.max_new_tokens)
            except TooLong as error:
                too_long.append(Generation.failed(key, str(error)))
            else:
                groups.setdefault(chat.messages[:-1], {})[key] = ids
        if too_long and not groups:
            raise NoAnswers(too_long[0].fault, value=too_long[0].key)
        ordered = [dict(sorted(group.items(), key=lambda item: len(item[1]))) for group in groups.values()]
        return ordered, too_long

    def decode(self, ids: Sequence[int]) -> str:
        """Return new tokens as text, special tokens left out."""
        return self.prompts.text([token for token in ids if token not in self.end_ids])

    def read(
        self, key: str, chat: Chat, prompt: Sequence[int], new: list[int], ended: bool, params: SamplingParams
    ) -> Generation:
        """Return the answer ``new`` as a generation. ``ended``: the engine stopped before the limit of new tokens."""
        written, cut = cut_at_stop(self.decode(new), params)
        count = sum(token not in self.end_ids for token in new)
        reason = "stop" if ended or cut or count < len(new) else "length"
        return Generation(key, (chat.answer_start + written).strip(), len(prompt), count, reason)


def _end_ids(model: LanguageModel, eos: int | None) -> frozenset[int]:
    named = read_json(model, "generation_config.json").get("eos_token_id")
    ids = named if isinstance(named, list) else [named]
    return frozenset({*(id for id in ids if isinstance(id, int)), eos} - {None})
