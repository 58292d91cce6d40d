"""HTML made plain."""

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reclm.data.readers.markup import plain, shortened, without_html


@pytest.mark.parametrize(
    ("html", "text"),
    [
        ("one<br />two<BR>three", "one two three"),
        ("<p>Tom &amp; <b>J</b>erry</p><p>I &lt;3 it</p>", "Tom & Jerry I <3 it"),
        ("a < b > c, I <3 AT&T & you", "a < b > c, I <3 AT&T & you"),
        ("<script>alert(1)</script>x<style>p {}</style>", "x"),
        ("seen <!-- not seen -->again", "seen again"),
        ("a&nbsp;b&#39;s\tc\x00d\n", "a b's c d"),
        ("<a href='", "<a href='"),
        ("oops <![ broken, <b>bold</b>", "oops bold"),
        (None, ""),
    ],
)
def test_by_hand(html, text):
    column, _ = plain(pa.chunked_array([[html]], pa.string()))
    assert column.to_pylist() == [text]


def test_html_is_marked_and_a_bare_ampersand_is_none():
    column = pa.chunked_array([["<i>a</i>", "b & c < d"], ["e<br/>"]])
    texts, marked = plain(column)
    assert texts.to_pylist() == ["a", "b & c < d", "e"]
    assert marked.tolist() == [True, False, True]


@given(st.lists(st.text("<>/!ab &;#x-\n", max_size=30)))
def test_columns_and_single_texts_are_made_plain_alike(texts):
    column, _ = plain(pa.chunked_array([texts], pa.string()))
    for text, cleaned in zip(texts, column.to_pylist(), strict=True):
        if "br" not in text.lower():
            assert cleaned == without_html(text)


def test_shortened_cuts_between_words():
    column = pa.chunked_array([["one two three", "one two", "abcdefghij", "éé éé éé"]])
    texts, long = shortened(column, 8)
    assert texts.to_pylist() == ["one…", "one two", "abcdefg…", "éé éé éé"]
    assert long.tolist() == [True, False, True, False]
    assert shortened(column, None)[0] is column


@given(st.lists(st.text("ab é", max_size=20)), st.integers(2, 12))
def test_shortened_is_never_too_long_and_begins_alike(texts, longest):
    column, long = shortened(pa.chunked_array([texts], pa.string()), longest)
    for text, cut, was_long in zip(texts, column.to_pylist(), long, strict=True):
        assert len(cut) <= longest
        assert was_long == (len(text) > longest)
        assert text.startswith(cut.removesuffix("…"))
