"""Chats as token ids, the same for every engine: text from data cannot become a special token, and so forge a role."""

import re
from datetime import datetime
from functools import lru_cache
from typing import Any, Self

from reclm.errors import BadInput
from reclm.llm.chat import Chat, Message, encodable
from reclm.llm.models import LanguageModel, context_length, load_tokenizer

_SLOT = re.compile("\ue000(\\d+)\ue001")
_AS_TEXT = {"add_special_tokens": False, "split_special_tokens": True}


_THAT_DAY = datetime(2024, 7, 26)
_FORMS = ("%d %b %Y", "%d %B %Y", "%B %d, %Y", "%b %d %Y", "%Y-%m-%d", "%d/%m/%Y", "%Y")
_DATED = (
    "{%- macro strftime_now(form) -%}{{ "
    f"{ {form: _THAT_DAY.strftime(form) for form in _FORMS} }"
    ".get(form, '2024-07-26') }}{%- endmacro -%}"
)
"""Makes a template that writes today's date write the same every day, so that equal prompts stay equal."""


class TooLong(BadInput):
    """A prompt that does not fit the model."""


class PromptTokenizer:
    """Turns a chat into token ids, for a model that takes ``context`` of them, prompt and answer together."""

    def __init__(self, tokenizer: Any, context: int, model: str) -> None:
        if not getattr(tokenizer, "chat_template", None):
            remedy = "use an instruction-tuned one (…-Instruct, …-chat)"
            raise BadInput(f"model {model!r} has no chat template; {remedy}", value=model)
        self.tokenizer, self.context, self.model = tokenizer, context, model
        added = {str(token): (idx, token) for idx, token in tokenizer.added_tokens_decoder.items()}
        self._added = {text: token for text, token in added.items() if len(text) > 1 and not text.isspace()}
        longest_first = map(re.escape, sorted(self._added, key=len, reverse=True))
        self._added_pattern = re.compile("|".join(longest_first) or "(?!)")
        self._layout = lru_cache(maxsize=64)(self._render)
        self._text_ids = lru_cache(maxsize=4096)(self._encode)

    @classmethod
    def of(cls, model: LanguageModel) -> Self:
        """Load the tokenizer of a model."""
        return cls(load_tokenizer(model), context_length(model), model.name)

    def ids(self, chat: Chat) -> list[int]:
        """Return the token ids of the prompt, with the given start of the answer at its end."""
        messages, layout = self._template(chat.messages)
        ids: list[int] = []
        run = ""
        for piece in layout:
            match piece:
                case ("token", token):
                    ids += [*self._text_ids(run), token]
                    run = ""
                case ("slot", number):
                    run += messages[number].content.strip()
                case (_, text):
                    run += text
        return [*ids, *self._text_ids(run + chat.answer_start)]

    def checked(self, key: str, chat: Chat, new_tokens: int) -> list[int]:
        """Return :meth:`ids`; :class:`TooLong` if they and ``new_tokens`` more do not fit the model."""
        ids = self.ids(chat)
        if len(ids) + new_tokens > self.context:
            message = (
                f"the prompt of {key!r} is too long: {len(ids)} tokens and up to {new_tokens} new ones, "
                f"{self.model} takes {self.context}; shorten the history or the item text"
            )
            raise TooLong(message, value=len(ids), where=key)
        return ids

    def training_ids(self, messages: tuple[Message, ...]) -> tuple[list[int], list[int]]:
        """Return the token ids of a finished chat, and for each the number of the message that owns it, or -1.

        A message owns every token that holds a character of its content, and the token that ends the turn where one
        follows at once. The model must write the tokens that the assistant's messages own.
        """
        if not self.tokenizer.is_fast:
            message = f"the tokenizer of {self.model!r} gives no offsets; a fast one is needed to tune"
            raise BadInput(message, value=self.model)
        joined, layout = self._template(messages, finished=True)
        dropped = len(messages) - len(joined)  # 1 where the system message is part of the first user message
        ids: list[int] = []
        owners: list[int] = []
        run, closing = "", -1
        spans: list[tuple[int, int, int]] = []
        end: tuple[tuple[str, Any], ...] = (("end", None),)
        for piece in layout + end:
            match piece:
                case ("slot", number):
                    content, closing = joined[number].content.strip(), number + dropped
                    spans.append((len(run), len(run) + len(content), closing))
                    run += content
                case ("text", text):
                    run += text
                    closing = closing if not text.strip() else -1
                case (kind, token):
                    if kind == "token" and closing >= 0:
                        # white space between an answer and the token that ends it is to be written too
                        spans[-1] = (spans[-1][0], len(run), closing)
                    run_ids, run_owners = self._owned(run, spans)
                    ids += run_ids
                    owners += run_owners
                    if kind == "token":
                        ids.append(token)  # pyright: ignore[reportArgumentType]
                        owners.append(closing)
                    run, spans, closing = "", [], -1
        return ids, owners

    def _owned(self, text: str, spans: list[tuple[int, int, int]]) -> tuple[list[int], list[int]]:
        """Return the ids of a text, and for each the number of the ``(start, end, number)`` span that it overlaps."""
        if not text:
            return [], []
        if match := self._added_pattern.search(text):
            cut = match.start() + 1
            later = [(start - cut, end - cut, of) for start, end, of in spans]
            ids, owners = self._owned(text[:cut], spans)
            rest, rest_owners = self._owned(text[cut:], later)
            return ids + rest, owners + rest_owners
        coded = self.tokenizer(encodable(text), return_offsets_mapping=True, **_AS_TEXT)
        owners = [-1] * len(coded["input_ids"])
        for at, (first, last) in enumerate(coded["offset_mapping"]):
            for start, end, number in spans:
                if first < end and last > start:
                    owners[at] = number
        return coded["input_ids"], owners

    def text(self, ids: list[int]) -> str:
        """Decode generated ids, special tokens left out."""
        return self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def _template(
        self, messages: tuple[Message, ...], finished: bool = False
    ) -> tuple[tuple[Message, ...], tuple[tuple[str, Any], ...]]:
        """Return messages and layout; the system message joins the first user message if the template knows none.

        A template that leaves a message out, or changes their order, loses what was asked: it is used with all messages
        or not at all.
        """
        roles = tuple(message.role for message in messages)
        try:
            layout = self._layout(roles, finished)
            slots = [value for kind, value in layout if kind == "slot"]
            if slots == list(range(len(roles))):
                return messages, layout
            lost = next((at for at in range(len(roles)) if slots.count(at) != 1), None)
            reason = (
                "it changes the order"
                if lost is None
                else f"its {roles[lost]} message is left out or repeated"
            )
        except Exception as error:  # templates are programs: any error may come of one
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            cause: Exception | None = error
        else:
            cause = None
        if roles[0] == "system" and roles[1:2] == ("user",):
            system, first, *rest = messages
            joined = Message(first.role, f"{system.content}\n\n{first.content}")
            return self._template((joined, *rest), finished)
        message = f"the chat template of {self.model!r} refuses the prompt: {reason}"
        raise BadInput(message, value=self.model) from cause

    def _render(self, roles: tuple[str, ...], finished: bool = False) -> tuple[tuple[str, Any], ...]:
        """Render the template of these roles as ``("text", str)``, ``("token", id)`` and ``("slot", number)``."""
        template = self.tokenizer.get_chat_template()  # the default one of several
        rendered = self.tokenizer.apply_chat_template(
            [{"role": role, "content": f"\ue000{number}\ue001"} for number, role in enumerate(roles)],
            tokenize=False,
            add_generation_prompt=not finished,
            # some templates begin a reasoning
            enable_thinking=False,
            date_string=f"{_THAT_DAY:%d %b %Y}",
            chat_template=_DATED + template if "strftime_now" in template else None,
        )
        layout: list[tuple[str, Any]] = []
        for number, part in enumerate(_SLOT.split(encodable(rendered))):
            layout += [("slot", int(part))] if number % 2 else self._literal(part)
        return tuple(layout)

    def _literal(self, text: str) -> list[tuple[str, Any]]:
        pieces: list[tuple[str, Any]] = []
        end = 0
        for match in self._added_pattern.finditer(text):
            idx, token = self._added[match[0]]
            before = text[end : match.start()]
            pieces += [("text", before.rstrip() if token.lstrip else before), ("token", idx)]
            end = match.end()
            if token.rstrip:
                end += len(text[end:]) - len(text[end:].lstrip())
        return [*pieces, ("text", text[end:])]

    def _encode(self, text: str) -> tuple[int, ...]:
        """Encode ``text`` as text only: an added token that it spells is cut inside, so that the token cannot arise."""
        if not text:
            return ()
        if match := self._added_pattern.search(text):
            cut = match.start() + 1
            return self._encode(text[:cut]) + self._encode(text[cut:])
        return tuple(self.tokenizer.encode(encodable(text), **_AS_TEXT))
