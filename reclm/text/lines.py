"""Texts from data as lines of a prompt."""

import re

import pyarrow as pa

from reclm.text.chat import plain
from reclm.text.items import item_texts

_SENTENCE = re.compile(r"(?<=[.!?…])\s+")


def item_lines(fields: pa.Table, template: str, chars: int) -> list[str]:
    """The text of every item as one safe line of whole sentences: ``I`` strings, empty where there is no text.

    Args:
        fields, template: as in :func:`~reclm.text.items.item_texts`.
        chars: sentences are taken while they fit; see :func:`whole_sentences`.
    """
    return [whole_sentences(plain(text), chars) for text in item_texts(fields, template)]


def whole_sentences(text: str, chars: int) -> str:
    """The first sentences of a text that fit ``chars`` together; the first stays whole, however long it is.

    >>> whole_sentences("Film. A ship meets a stranger. Nobody hears it.", 32)
    'Film. A ship meets a stranger.'
    """
    kept, *rest = _SENTENCE.split(text)
    for sentence in rest:
        if len(kept) + 1 + len(sentence) > chars:
            break
        kept = f"{kept} {sentence}"
    return kept
