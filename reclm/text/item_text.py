"""Items in few words, for prompts: title, topics, description, inferred from the values of the fields."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from reclm.data.item_text import item_texts
from reclm.llm.chat import plain

_SENTENCE = re.compile(r"(?<=[.!?…])\s+")


def item_lines(fields: pa.Table, template: str, chars: int) -> list[str]:
    """Return the text of every item as one safe line of whole sentences, empty where it has no text."""
    return [whole_sentences(plain(text), chars) for text in item_texts(fields, template)]


def whole_sentences(text: str, chars: int) -> str:
    """Return the first sentences of a text that fit ``chars`` together; the first stays whole, however long it is.

    >>> whole_sentences("Film. A ship meets a stranger. Nobody hears it.", 32)
    'Film. A ship meets a stranger.'
    """
    start, *rest = _SENTENCE.split(text)
    for sentence in rest:
        if len(start) + 1 + len(sentence) > chars:
            break
        start = f"{start} {sentence}"
    return start


def first_chars(text: str, chars: int) -> str:
    """Return the first characters of a text."""
    return text[:chars]


def cut_note(
    name: str, texts: Iterable[str | None], chars: int, cut: Callable[[str, int], str] = first_chars
) -> list[str]:
    """Return a line that says how many of the ``texts`` prompts show in part; none where all are shown whole.

    >>> cut_note("titles", ["Heat", "The Third Man", None], 9)
    ['1 of 2 titles are cut to 9 characters in prompts']
    """
    whole = [text for text in (plain(text or "") for text in texts) if text]
    count = sum(cut(text, chars) != text for text in whole)
    return [f"{count:,} of {len(whole):,} {name} are cut to {chars:,} characters in prompts"] if count else []


def cut_items(fields: pa.Table, template: str, chars: int) -> list[str]:
    """Return a line that says how many texts :func:`item_lines` cuts, as :func:`cut_note` does."""
    return cut_note("item texts", item_texts(fields, template), chars, whole_sentences)


SEPARATORS = r"\s*[,;|]\s*"
"""Separators of the topics in a field: a regular expression, for re and for pyarrow."""


@dataclass(frozen=True)
class ItemBrief:
    """An item in few words, safe to stand in a prompt; title and details are empty where no field has them."""

    title: str
    topics: tuple[str, ...]
    details: str


class ItemBriefs:
    """The briefs of all items of a table, made on demand.

    A field of few distinct short values (genre, category, subcategory) holds topics, of the others the first short one
    is the title and the longest is the description. Numbers (years, prices) are neither. Limits count characters.
    """

    def __init__(self, fields: pa.Table, title_limit: int = 80, details_limit: int = 300) -> None:
        self._fields = fields
        self._limits = title_limit, details_limit
        self.topic_fields, self.title_field, self.details_field = _roles(fields)
        self._brief = lru_cache(maxsize=65536)(self._make)

    def __getitem__(self, row: int) -> ItemBrief:
        return self._brief(int(row))

    def cut_titles(self) -> list[str]:
        """Return a line that says how many titles are cut (:func:`cut_note`)."""
        return cut_note("item titles", self._values(self.title_field), self._limits[0])

    def cut_details(self) -> list[str]:
        """Return a line that says how many titles with details are longer than the limit of details."""
        titled = zip(self._values(self.title_field), self._values(self.details_field), strict=True)
        texts = (plain(title or "", self._limits[0]) + plain(details) for title, details in titled if details)
        return cut_note("item titles with details", texts, self._limits[1])

    def _values(self, name: str | None) -> list[str | None]:
        return self._fields.column(name).to_pylist() if name else [None] * self._fields.num_rows

    def _make(self, row: int) -> ItemBrief:
        def value(name: str | None) -> str:
            return (self._fields.column(name)[row].as_py() or "") if name else ""

        topics = [
            (name, plain(topic, 40))
            for name in self.topic_fields
            for topic in re.split(SEPARATORS, value(name).strip())
            if topic
        ]
        # topics of later fields may begin with that of the first
        words = (_words(topic, topics[0][1] * (name != topics[0][0])) for name, topic in topics)
        fields = (self.title_field, self.details_field)
        title, details = (plain(value(name), limit) for name, limit in zip(fields, self._limits, strict=True))
        return ItemBrief(title, tuple(dict.fromkeys(words)), details)


def _words(topic: str, first: str) -> str:
    """Return a tag as words, without the broader topic that it begins with: ``newsus`` of ``news`` is ``us``."""
    topic = topic.replace("_", " ")
    if topic.islower():
        topic = topic.replace("-", " ")
    return topic.removeprefix(first).strip() or topic


def _roles(fields: pa.Table) -> tuple[list[str], str | None, str | None]:
    """Return the names of the topic fields, the title field and the field with the description."""
    topics: list[str] = []
    others: list[tuple[str, float]] = []
    for name in fields.column_names:
        values = pc.utf8_trim_whitespace(pc.fill_null(fields.column(name), "")).combine_chunks()
        values = values.filter(pc.not_equal(values, ""))
        if not len(values):
            continue
        pieces = pc.list_flatten(pc.split_pattern_regex(values, SEPARATORS))
        if pc.mean(pc.match_substring_regex(values, r"^[\d\s.,:/$€£+-]+$").cast(pa.float64())).as_py() > 0.5:
            continue
        length = float(np.mean(pc.utf8_length(values).to_numpy(zero_copy_only=False)))
        piece_length = float(np.mean(pc.utf8_length(pieces).to_numpy(zero_copy_only=False)))
        # a topic is shared by several items: each distinct one occurs three times and more
        if pc.count_distinct(pieces).as_py() * 3 <= len(pieces) and piece_length <= 30:
            topics.append(name)
        else:
            others.append((name, length))
    titles = [name for name, _ in others if name.lower() in {"title", "name"}]
    title = next(iter(titles + [name for name, length in others if length <= 120]), None)
    rest = [(length, name) for name, length in others if name != title]
    return topics, title, max(rest)[1] if rest else None
