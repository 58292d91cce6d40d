"""The page in a browser: what a reader sees, not what its source says."""

import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from made_runs import SCRIPT
from PIL import Image

if TYPE_CHECKING:
    from playwright.sync_api import Page

OVERLAPS = """() => [...document.querySelectorAll('figure svg')].flatMap(svg => {
  const boxes = [...svg.querySelectorAll('text')].map(one => [one.textContent, one.getBoundingClientRect()]);
  const over = (a, b) => Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1
    && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 3;
  const all = svg.getBoundingClientRect();
  const cut = boxes.filter(([, one]) => one.left < all.left - 1 || one.right > all.right + 1
    || one.top < all.top - 2 || one.bottom > all.bottom + 2).map(([text]) => 'cut: ' + text);
  return cut.concat(boxes.flatMap(([text, one], at) => boxes.slice(at + 1)
    .filter(([, other]) => over(one, other)).map(([other]) => text + ' over ' + other)));
})"""
LUMINANCE = """selector => {
  const light = colour => colour.match(/[\\d.]+/g).slice(0, 3)
    .map(one => one / 255).map(one => one <= .03928 ? one / 12.92 : ((one + .055) / 1.055) ** 2.4)
    .reduce((sum, one, at) => sum + one * [.2126, .7152, .0722][at], 0);
  const one = document.querySelector(selector), style = getComputedStyle(one);
  return [light(style.color), light(getComputedStyle(document.body).backgroundColor)];
}"""


@dataclass
class Seen:
    """A page that was opened, and what went wrong with it."""

    page: "Page"
    wrong: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def open_page(browser, written: Path):
    def open_page(width: int = 1280, scheme: str = "light") -> Seen:
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        seen = Seen(context.new_page())
        seen.page.on("console", lambda message: seen.wrong.append(message.text))
        seen.page.on("pageerror", lambda error: seen.wrong.append(str(error)))
        seen.page.on("request", lambda request: seen.asked.append(request.url))
        seen.page.goto((written / "report.html").as_uri(), wait_until="load")
        return seen

    return open_page


@pytest.fixture(scope="module")
def desktop(open_page) -> Seen:
    return open_page()


@pytest.fixture(scope="module")
def phone(open_page) -> Seen:
    return open_page(width=375)


@pytest.fixture(scope="module")
def dark(open_page) -> Seen:
    return open_page(scheme="dark")


def test_it_needs_nothing_but_itself(desktop, written):
    assert desktop.wrong == []
    assert [url for url in desktop.asked if not url.startswith("data:")] == [
        (written / "report.html").as_uri()
    ]


def test_a_script_in_a_title_is_text(desktop):
    assert desktop.page.title().endswith(SCRIPT)
    assert desktop.page.evaluate("document.scripts.length") == 0
    shown = desktop.page.inner_text("body")
    assert shown.count(SCRIPT) > 20
    for where in (
        "h1",
        "#results h3",
        "#results th bdi",
        "#users .profile",
        "#users .items li",
        ".instead",
        "dd",
    ):
        assert any(SCRIPT in text for text in desktop.page.locator(where).all_inner_texts()), where
    assert any(SCRIPT[:20] in text for text in desktop.page.locator("figure text").all_text_contents())


@pytest.mark.parametrize("width", ["desktop", "phone"])
def test_every_figure_is_drawn_and_legible(width, request):
    page = request.getfixturevalue(width).page
    figures = page.locator("figure svg")
    # bars, differences and activity for two protocols; loss and metric by epoch
    assert figures.count() == 3 * 2 + 2
    for at in range(figures.count()):
        box = figures.nth(at).bounding_box()
        assert box["width"] > 320
        assert box["height"] > 150
        assert figures.nth(at).locator("path").count() > 5
    smallest = page.evaluate(
        "Math.min(...[...document.querySelectorAll('figure text')].map(one => one.getBoundingClientRect().height))"
    )
    assert smallest >= 10
    assert page.evaluate(OVERLAPS) == []


def test_a_phone_scrolls_downwards_only(phone):
    assert phone.wrong == []
    assert phone.page.evaluate("document.documentElement.scrollWidth") == 375
    wide = phone.page.locator("#results .scroll").first
    assert wide.evaluate("one => one.scrollWidth > one.clientWidth")
    name = wide.locator("tbody th").first
    before = name.bounding_box()["x"]
    wide.evaluate("one => one.scrollTo(200, 0)")
    assert name.bounding_box()["x"] == pytest.approx(before, abs=1)  # the row's name stays


@pytest.mark.parametrize("selector", ["h1", ".about", "tbody td", "figcaption", "sup", ".below td", "dt"])
def test_contrast_is_enough_in_the_light_and_in_the_dark(selector, desktop, dark):
    for seen, is_dark in ((desktop, False), (dark, True)):
        ink, paper = seen.page.evaluate(LUMINANCE, selector)
        assert (paper < 0.05) == is_dark
        bright, dim = max(ink, paper), min(ink, paper)
        assert (bright + 0.05) / (dim + 0.05) > 4.5  # WCAG AA


def test_figures_turn_dark_with_the_page(desktop, dark):
    read = "getComputedStyle(document.querySelector('.picture')).filter"
    assert desktop.page.evaluate(read) == "none"
    assert "invert" in dark.page.evaluate(read)
    images = [seen.page.locator(".picture").first.screenshot() for seen in (desktop, dark)]
    light, black = (np.asarray(Image.open(io.BytesIO(one)).convert("L"), float) for one in images)
    for pixels, paper in ((light, 255), (black, 20)):
        assert abs(np.median(pixels) - paper) < 10  # most of it is paper
        assert np.abs(pixels - paper).max() > 150  # the ink stands out from it


def test_print_is_light_and_breaks_no_figure(dark):
    dark.page.emulate_media(media="print")
    try:
        assert dark.page.evaluate(LUMINANCE, "h1")[1] == 1
        assert dark.page.evaluate("getComputedStyle(document.querySelector('.picture')).filter") == "none"
        kept = (
            "[...document.querySelectorAll('figure, tbody tr')].map(one => getComputedStyle(one).breakInside)"
        )
        assert set(dark.page.evaluate(kept)) == {"avoid"}
        assert (
            dark.page.locator(".scroll").first.evaluate("one => getComputedStyle(one).overflowX") == "visible"
        )
    finally:
        dark.page.emulate_media(media="screen")


def test_ids_are_unique_and_what_is_referred_to_is_there(desktop):
    ids = desktop.page.evaluate("[...document.querySelectorAll('[id]')].map(one => one.id)")
    assert len(ids) == len(set(ids))
    used = desktop.page.evaluate(
        "[...document.querySelectorAll('use')].map(one => one.getAttribute('xlink:href').slice(1))"
        ".concat([...document.querySelectorAll('[clip-path]')]"
        ".map(one => one.getAttribute('clip-path').slice(5, -1)))"
    )
    assert len(used) > 100
    assert set(used) <= set(ids)
