"""The fields of a form and their phrases: the patterns that hold a model to them, and how phrases are compared."""

import re
from dataclasses import dataclass

from reclm.llm.chat import Chat

# no capital behind a small letter, no number within a word: a model that may not begin another word would write on
# without a space
ASCII_WORD = r"[A-Z]{0,6}[a-z]{1,14}(?:['-][A-Za-z][a-z]{0,11})?|[A-Z]{1,6}|[0-9]{1,4}(?:st|nd|rd|th|s)?"
_UPPER, _LOWER = "A-ZÀ-ÖØ-ÞĀ-ɏΆ-ΏΑ-ΫЀ-Я", "a-zß-öø-ÿĀ-ɏΐά-ώа-џ"  # of Ā-ɏ both, which alternate
# letters without case and the marks that belong to them, Armenian to Thai, Georgian, kana, Chinese, Hangul, …
_OTHER = "\u0531-\u1cff\u2c00-\u2dff\u3005\u3041-\u30fa\u30fc-\u318e\u3400-\u4dbf\u4e00-\u9fff\ua4d0-\ud7a3"
WORD = (
    rf"[{_UPPER}]{{0,6}}[{_LOWER}]{{1,14}}(?:['’-][{_UPPER}{_LOWER}][{_LOWER}]{{0,11}})?|[{_UPPER}]{{1,6}}|"
    rf"[{_OTHER}]{{1,14}}|[0-9]{{1,4}}(?:st|nd|rd|th|s)?"
)
_DANGLING = re.compile(
    r"(?:[\s'-]+(?:a|an|and|as|at|by|for|from|is|of|or|that|the|their|to|with))+$|[\s'-]+$", re.IGNORECASE
)
_COMMON = {"and", "for", "from", "its", "that", "the", "their", "with", "you", "your"}


@dataclass(frozen=True)
class Field:
    """A field of a form: phrases of so many words behind a heading.

    Attributes:
        name: of its phrases, in messages.
        keys: its names in JSON; the first is asked for.
        words: least and most words of a phrase.
        share: phrases in it, where the form has ``phrases``; None for as many.
        exact: a profile has this many phrases; else as many as a model happens to write, at most the form's.
        titles: its phrases are names of items, in which marks may stand.
        like: a regular expression of the headings that are read as this one.
        marked: one of those in Markdown.
    """

    name: str
    heading: str
    keys: tuple[str, ...]
    words: tuple[int, int]
    share: int | None = None
    exact: bool = True
    titles: bool = False
    like: str = ""
    marked: str = ""

    @property
    def reads(self) -> str:
        """The regular expression of its heading."""
        return self.like or literal(self.heading)

    @property
    def group(self) -> str:
        """The regular expression of the field, with groups for its heading and its phrases."""
        return rf"(?P<{self.name}_heading>{self.reads}):\s*(?P<{self.name}>.+?)"

    def count(self, phrases: int) -> int:
        """Return the number of its phrases."""
        return phrases if self.share is None else self.share

    def most(self, phrases: int) -> int:
        """Return the most phrases that it may have."""
        return self.count(phrases) if self.exact else max(self.count(phrases), phrases)

    def phrase(self, word: str) -> str:
        """Return the regular expression of a phrase."""
        least, most = self.words
        # a full stop within a title stands behind initials and the like: Dr. Strangelove, St. Elmo's Fire
        word = rf"(?:(?:{word})[:!?]?|[A-Z][a-z]{{0,2}}\.)" if self.titles else f"(?:{word})"
        return f"{word}(?: {word}){{{least - 1},{most - 1}}}"

    def listed(self, word: str, count: int) -> str:
        """Return the regular expression of ``count`` phrases; of at most so many where they are not exact."""
        phrase = self.phrase(word)
        return ", ".join([phrase] * count) if self.exact else f"{phrase}(?:, {phrase}){{0,{count - 1}}}"

    def json_phrase(self) -> str:
        """Return the regular expression of a phrase in JSON; servers that check the JSON text itself take it, too."""
        word = r'[^ ,;"\\\n\r\t]{1,20}'
        return f"^{word}( {word}){{0,{self.words[1]}}}$"


def literal(text: str) -> str:
    """Return the regular expression of a text, with spaces as they are."""
    return re.escape(text).replace(r"\ ", " ")


def beyond_ascii(chat: Chat) -> bool:
    """Return whether a prompt has letters that are not ASCII's."""
    texts = (message.content for message in chat.messages)
    return any(not text.isascii() and any(c.isalpha() and c > "\x7f" for c in text) for text in texts)


def stems(text: str) -> set[str]:
    """Return the words of a text of three letters and more, cut to five letters, so that inflections agree."""
    return {word[:5] for word in re.findall(r"[^\W\d_]{3,}", text.casefold())} - _COMMON


def distinct(phrases: list[str], seen: set[str]) -> tuple[str, ...]:
    """Return the trimmed phrases that are not among those seen before, and add them."""
    kept = []
    for raw in phrases:
        phrase = _DANGLING.sub("", raw.strip())
        key = " ".join(word.removesuffix("s") for word in phrase.casefold().split())
        if key and key not in seen:
            seen.add(key)
            kept.append(phrase)
    return tuple(kept)
