"""Texts without HTML, control characters and what is too long."""

import re
from html.parser import HTMLParser

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

# tags that may stand within a word; all others part words
_INLINE = {"a", "b", "big", "em", "font", "i", "s", "small", "span", "strong", "sub", "sup", "u"}
_MARKUP = r"<[A-Za-z/!?]|&[#A-Za-z]"
_TAGS = "a|b|blockquote|br|center|code|dd|div|dl|dt|em|font|h[1-6]|hr|i|img|li|ol|p|script|small|span|strong"
_TAGS += "|style|sub|sup|table|tbody|td|th|tr|u|ul"
_ATTRIBUTES = r"""(\s+[\w:-]+\s*=\s*("[^"]*"|'[^']*'|[^\s<>"']+))*\s*"""  # "a<b and b>c" is no tag
_HTML = rf"(?i)</?({_TAGS}){_ATTRIBUTES}/?>|&(#\d+|#x[0-9a-f]+|[a-z]{{2,8}}\d?);|<!--"


class _Text(HTMLParser):
    """Collect the text of HTML; tags that part words become spaces."""

    def __init__(self) -> None:
        super().__init__()
        self.pieces: list[str] = []
        self.unseen = ""

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag in ("script", "style"):
            self.unseen = tag
        self.pieces.append("" if tag in _INLINE else " ")

    def handle_endtag(self, tag: str) -> None:
        if tag == self.unseen:
            self.unseen = ""
        self.pieces.append("" if tag in _INLINE else " ")

    def handle_data(self, data: str) -> None:
        if not self.unseen:
            self.pieces.append(data)


def without_html(text: str) -> str:
    """Return the text that a browser would show, on one line.

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


def plain(column: pa.ChunkedArray) -> tuple[pa.ChunkedArray, np.ndarray]:
    """Clean texts of HTML, control characters, runs of blanks and nulls; return them and a mask of those with HTML."""
    column = pc.fill_null(column, "")
    marked = pc.match_substring_regex(column, _MARKUP).to_numpy()
    # most of it is <br />; only what is left after that is parsed, text by text
    column = pc.replace_substring_regex(column, r"(?i)<br\s*/?>", " ")
    rest = pc.match_substring_regex(column, _MARKUP)
    parsed = pa.array([without_html(text) for text in column.filter(rest).to_pylist()], column.type)
    if len(parsed):
        whole, mask = column.combine_chunks(), rest.combine_chunks()
        column = pa.chunked_array([pc.replace_with_mask(whole, mask, parsed)])
    column = pc.replace_substring_regex(column, r"[\x00-\x20\x7f]{2,}|[\x00-\x1f\x7f]", " ")
    return pc.utf8_trim_whitespace(column), marked


def readable(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return texts without HTML, where they hold tags or entities of it; all others are as they were.

    >>> readable(pa.chunked_array([["<p>Tom &amp; Jerry</p>", "R&B", "a<b", "&nbsp;x"]])).to_pylist()
    ['Tom & Jerry', 'R&B', 'a<b', 'x']
    """
    marked = pc.match_substring_regex(column, _HTML)
    if not pc.any(marked).as_py():
        return column
    texts = zip(column.to_pylist(), marked.to_pylist(), strict=True)
    return pa.chunked_array([[without_html(text) if html else text for text, html in texts]], pa.string())


def shortened(column: pa.ChunkedArray, longest: int | None) -> tuple[pa.ChunkedArray, np.ndarray]:
    """Cut texts to ``longest`` characters, if any, between words and with ``…``; return them and a mask of those."""
    if longest is None:
        return column, np.zeros(len(column), bool)
    long = pc.greater(pc.utf8_length(column), longest)
    cut = pc.replace_substring_regex(pc.utf8_slice_codeunits(column, 0, longest - 1), r"\s+\S*$", "")
    return pc.if_else(long, pc.binary_join_element_wise(cut, "…", ""), column), long.to_numpy()
