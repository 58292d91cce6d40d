"""Columns of text that may hold HTML, made plain."""

import re
from html.parser import HTMLParser

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

Column = pa.ChunkedArray

_INLINE = frozenset(("a", "b", "big", "em", "font", "i", "s", "small", "span", "strong", "sub", "sup", "u"))
"""Tags that may stand within a word; all others part words."""

_UNSEEN = frozenset(("script", "style"))


class _Text(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.pieces: list[str] = []
        self.unseen = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in _UNSEEN:
            self.unseen = tag
        if tag not in _INLINE:
            self.pieces.append(" ")

    def handle_endtag(self, tag: str) -> None:
        if tag == self.unseen:
            self.unseen = ""
        if tag not in _INLINE:
            self.pieces.append(" ")

    def handle_data(self, data: str) -> None:
        if not self.unseen:
            self.pieces.append(data)


def without_html(text: str) -> str:
    """The text that a browser would show, on one line.

    >>> without_html("<p>Tom &amp; <b>J</b>erry</p><p>I &lt;3 it</p>")
    'Tom & Jerry I <3 it'
    """
    parser = _Text()
    try:
        parser.feed(text)
        parser.close()
    except AssertionError:  # "<![" that begins nothing known: HTMLParser gives up
        return " ".join(re.sub(r"<[^>]*>?", " ", text).split())
    return " ".join("".join(parser.pieces).split())


def plain(column: Column) -> tuple[Column, np.ndarray]:
    """Texts without HTML, control characters and runs of blanks; null becomes empty.

    Returns:
        the texts, and ``(n,)`` bool: which held HTML.
    """
    column = pc.fill_null(column, "")
    found = pc.match_substring_regex(column, r"<[A-Za-z/!?]|&[#A-Za-z]").to_numpy()
    # most of it is <br />; only what is left after that is parsed, text by text
    column = pc.replace_substring_regex(column, r"(?i)<br\s*/?>", " ")
    rest = pc.match_substring_regex(column, r"<[A-Za-z/!?]|&[#A-Za-z]")
    parsed = [without_html(text) for text in column.filter(rest).to_pylist()]
    if parsed:
        column = pc.replace_with_mask(
            column.combine_chunks(), rest.combine_chunks(), pa.array(parsed, column.type)
        )
        column = pa.chunked_array([column])
    column = pc.replace_substring_regex(column, r"[\x00-\x20\x7f]{2,}|[\x00-\x1f\x7f]", " ")
    return pc.utf8_trim_whitespace(column), found


def shortened(column: Column, longest: int | None) -> tuple[Column, np.ndarray]:
    """Texts of ``longest`` characters at most, cut between words and ended by ``…`` where they were longer.

    Returns:
        the texts, and ``(n,)`` bool: which were longer. None for ``longest`` leaves all as they are.
    """
    if longest is None:
        return column, np.zeros(len(column), bool)
    long = pc.greater(pc.utf8_length(column), longest)
    cut = pc.replace_substring_regex(pc.utf8_slice_codeunits(column, 0, longest - 1), r"\s+\S*$", "")
    return pc.if_else(long, pc.binary_join_element_wise(cut, "…", ""), column), long.to_numpy()
