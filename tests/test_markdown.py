"""The oracle is a Markdown parser: what is shown must be what was written."""

import html
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from reclm.console import fenced, literal, pipe_table, printable

PARSER = MarkdownIt("gfm-like", {"linkify": False, "html": True})
FORGED = [
    "# head",
    "a | b | c",
    "`code` and ``more``",
    "<script>alert(1)</script> &lt;b&gt; &amp;",
    "[link](https://x.org) ![image](y.png) <https://x.org>",
    "1. one",
    "12) twelve",
    "- item",
    "+ item",
    "> quote",
    "=====",
    "---",
    "***",
    "~~~",
    "a\n\n# b\n| c | d |\n| --- | --- |",
    "end \\",
    "\\| \\",
    "*a* _b_ ~~c~~",
    "    indented",
    "[a]: https://x.org",
    "\x1b[31mred",
    "2.5 km",
]
TEXTS = st.text(st.sampled_from("a1 \n\t|\\`*_[](){}<>#+-=.!~&;:/$\"'\x1b✓"), max_size=30) | st.text(
    max_size=30
)


def shown(source: str) -> str:
    """What a reader of the rendered page sees; fails on anything but plain words."""
    rendered = PARSER.render(source)
    assert not set(re.findall(r"</?([a-z0-9]+)", rendered)) - set(ALLOWED), rendered
    return html.unescape(re.sub(r"<[^>]*>", "", rendered)).strip()


ALLOWED = ("p", "li", "ul", "h3", "table", "thead", "tbody", "tr", "th", "td")


def same(text: str) -> str:
    return printable(" ".join(text.split()))


@given(TEXTS)
def test_any_text_is_shown_as_it_is_written(text):
    assert shown(literal(text)) == same(text)
    assert shown(f"### {literal(text)}") == same(text)
    assert shown(f"- {literal(text)}") == same(text)


@pytest.mark.parametrize("text", FORGED)
def test_forged_text(text):
    assert shown(literal(text)) == same(text)
    assert PARSER.render(literal(text)).count("<p>") == 1


@given(st.lists(st.tuples(TEXTS, TEXTS), max_size=3))
def test_a_cell_stays_one_cell(rows):
    rendered = PARSER.render(pipe_table(["a", "b"], [[literal(one), literal(other)] for one, other in rows]))
    cells = re.findall(r"<td[^>]*>(.*?)</td>", rendered)
    assert [html.unescape(cell) for cell in cells] == [same(text) for row in rows for text in row]


def test_a_table_aligns_numbers():
    assert pipe_table(["", "n"], [["x", "1"]]) == "|  | n |\n| --- | ---: |\n| x | 1 |"
    assert pipe_table(["a", "b"], [], text=2) == "| a | b |\n| --- | --- |"


def test_a_long_text_is_cut():
    assert literal("abcdef", 4) == "abc…"


@pytest.mark.parametrize("text", ["x: 1", "```\n# out\n```", "````` five"])
def test_code_cannot_leave_its_fence(text):
    (token,) = PARSER.parse(fenced(text, "yaml"))
    assert (token.type, token.info, token.content) == ("fence", "yaml", text + "\n")
