"""Prompts for the form that says what a model knows: of an item, or of a taste, in the noun of the data set."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any

from reclm.data.dataset import ProfileKind, TrainingView
from reclm.llm.chat import Chat, Message, plain
from reclm.profilers.profile_format import NOUN, described
from reclm.text.item_text import cut_note, item_texts

_OF_A_LIST = 80
"""Most characters of an item's text where a prompt shows several."""


def describing_chats(
    view: TrainingView,
    kind: ProfileKind,
    sources: Iterable[tuple[str, Sequence[int]]],
    words: Mapping[str, Any],
    chars: int,
) -> Iterator[tuple[str, Chat]]:
    """Yield the chat of each ``(id, item_idx)`` that has an item with a text; the items' order stays.

    ``words`` are tasks and examples; the items' texts have at most ``chars`` characters together.
    """
    noun = view.noun or NOUN
    form, texts = described(noun), item_texts(view.item_text, view.text_template)
    task = Message("system", words["tasks"][kind].format(noun=noun))
    question, _, answer = _example(words["examples"], noun)[kind].format(noun=noun).rpartition("\n")
    example = (Message("user", question), Message("assistant", answer))
    each = _chars_of_one(kind, chars)
    for id, items in sources:
        shown = [text for row in items if (text := form.unforged(plain(texts[row], each)))]
        lengths = accumulate(len(text) + 2 for text in shown)
        shown = shown[: max(1, sum(length - 2 <= chars for length in lengths))]
        if shown:
            yield id, Chat((task, *example, Message("user", "; ".join(shown))), form.start)


def cut_texts(view: TrainingView, kind: ProfileKind, chars: int) -> list[str]:
    """Return a line that says how many items' texts these prompts cut; none where all are shown whole."""
    return cut_note("item texts", item_texts(view.item_text, view.text_template), _chars_of_one(kind, chars))


def _chars_of_one(kind: ProfileKind, chars: int) -> int:
    return chars if kind == "item" else min(chars, _OF_A_LIST)


def _example(examples: Sequence[Mapping[str, Any]], noun: str) -> Mapping[str, Any]:
    """Return the first example whose nouns have a word of ``noun``; else the last one."""
    named = set(noun.casefold().split())
    return next((one for one in examples if named & set(one["nouns"])), examples[-1])
