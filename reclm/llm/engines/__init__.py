"""Engines that run a language model: on this machine (a :class:`LocalGenerator`), or at a server."""

import json
from collections.abc import Mapping, Sequence
from typing import Literal

from reclm.errors import BadInput
from reclm.llm.chat import Chat, Generation, Message, SamplingParams, TextGenerator
from reclm.llm.models import LanguageModel, context_length, load_tokenizer, transformers_folder
from reclm.llm.tokens import PromptTokenizer

Precision = Literal["auto", "f32", "bf16"]


class LocalGenerator(TextGenerator):
    """Tokenizes prompts and reads answers; a subclass runs the model.

    Attributes:
        prompts: the tokenizer, the same for all engines, so that they get the same ids.
        end_ids: the tokens that end an answer.
    """

    def __init__(self, model: LanguageModel) -> None:
        self.model = model.name
        tokenizer = load_tokenizer(model)
        self.prompts = PromptTokenizer(tokenizer, context_length(model), model.name)
        self.end_ids = _end_ids(model, tokenizer.eos_token_id)

    def count_tokens(self, chats: Mapping[str, Chat]) -> dict[str, int]:
        """Count the prompt tokens of each chat, the given start of the answer included."""
        return {key: len(self.prompts.ids(chat)) for key, chat in chats.items()}

    def encode(self, chats: Mapping[str, Chat], params: SamplingParams) -> list[dict[str, list[int]]]:
        """Return prompt ids by key, shortest first, in groups of chats that differ in their last message only.

        Raises:
            BadInput: if a prompt does not fit the model's context window, or the pattern is no regular expression.
        """
        if params.pattern is not None:
            from llguidance import LLMatcher

            fault = LLMatcher.validate_grammar(LLMatcher.grammar_from_regex(params.pattern))
            if fault:
                reason = " ".join(fault.split())
                raise BadInput(
                    f"pattern {params.pattern!r} is no regular expression: {reason}", value=params.pattern
                )
        groups: dict[tuple[Message, ...], dict[str, list[int]]] = {}
        for key, chat in chats.items():
            ids = self.prompts.checked(key, chat, params.max_new_tokens)
            groups.setdefault(chat.messages[:-1], {})[key] = ids
        return [dict(sorted(group.items(), key=lambda item: len(item[1]))) for group in groups.values()]

    def read(
        self, key: str, chat: Chat, prompt: Sequence[int], new: list[int], ended: bool, params: SamplingParams
    ) -> Generation:
        """Return the answer ``new`` as a generation. ``ended``: the engine stopped before the limit of new tokens."""
        ids = [token for token in new if token not in self.end_ids]
        written = self.prompts.text(ids)
        cuts = [at for at in (written.find(stop) for stop in params.stop) if at >= 0]
        text = chat.answer_start + (written[: min(cuts)] if cuts else written)
        stopped = ended or bool(cuts) or len(ids) < len(new)
        return Generation(key, text.strip(), len(prompt), len(ids), "stop" if stopped else "length")


def _end_ids(model: LanguageModel, eos: int | None) -> frozenset[int]:
    path = transformers_folder(model) / "generation_config.json"
    named = json.loads(path.read_text(encoding="utf-8")).get("eos_token_id") if path.is_file() else None
    named = named if isinstance(named, list) else [named]
    return frozenset(token for token in (*named, eos) if token is not None)
