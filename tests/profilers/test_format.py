import re

import pytest

from reclm.profilers.profile_format import PAPERS, ProfileFormatError

answer_pattern, parse, tidy = PAPERS.pattern, PAPERS.parse, PAPERS.tidy
GOOD = "User identity: film fan, night owl, home cook; User interests: Alien, space horror, robots."


def test_a_profile_is_read_and_written_back():
    parts = parse(GOOD, 3)
    identities, interests = ("film fan", "night owl", "home cook"), ("Alien", "space horror", "robots")
    assert parts == {"identities": identities, "interests": interests}
    assert PAPERS.text(parts) == GOOD


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "not of the form"),
        ("I'm ready to help you craft a profile.", "not of the form"),
        ("User identity: film fan, night owl.", "not of the form"),
        ("User identity: a, b, c; User interests: d, e, f", "breaks off"),
        ("User identity: a, b; User interests: d, e, f.", "2 identities instead of 3"),
        ("User identity: a, b, c; User interests: d, e.", "2 interests instead of 3"),
        ("User identity: a, , c; User interests: d, e, f.", "an empty phrase among the identities"),
        (
            "User identity: a, b, c; User interests: d, e, f; User identity: g.",
            "more than phrases among the interests",
        ),
        ("User identity: a, b\nc, d; User interests: d, e, f.", "more than phrases among the identities"),
    ],
)
def test_what_is_out_of_format_says_why(text, why):
    with pytest.raises(ProfileFormatError, match=why):
        parse(text, 3)


@pytest.mark.parametrize(
    ("text", "trimmed"),
    [
        (GOOD, GOOD),
        (
            "User identity: a fan, b; User interests: x, y, z and",
            "User identity: a fan, b; User interests: x, y.",
        ),
        ("User identity: a, b; User interests: x of the, y.", "User identity: a, b; User interests: x, y."),
        ("User identity: a, A, of; User interests: x, b", "User identity: a, of; User interests: x."),
        (
            "User identity: film fan; User interests: film fans, x.",
            "User identity: film fan; User interests: x.",
        ),
        ("User identity: a; User interests: tie me up.", "User identity: a; User interests: tie me up."),
        # nothing would be left, or there is nothing to trim: as it is
        ("User identity: a; User interests: a.", "User identity: a; User interests: a."),
        ("no profile at all", "no profile at all"),
        ("", ""),
    ],
)
def test_trimming_takes_away_and_adds_nothing(text, trimmed):
    assert tidy(text) == trimmed


def test_of_too_many_interests_those_about_the_titles_stay():
    text = "User identity: a b, c d; User interests: comedy, heavy metal, space, The Alien films."
    assert tidy(text, 2) == "User identity: a b, c d; User interests: comedy, heavy metal."
    assert (
        tidy(text, 2, "Aliens; Heat") == "User identity: a b, c d; User interests: comedy, The Alien films."
    )


@pytest.mark.parametrize(
    ("answer", "fits"),
    [
        (" film fan, night owl; User interests: Alien, space horror, robots of 1979.", True),
        (" film fan, night owl; User interests: Alien, a tale of two cities, don't look.", True),
        (" films, night owl; User interests: Alien, space horror, robots.", False),  # one word is no identity
        (" film fan, night owl; User interests: Alien, space horror.", False),
        (" film fan, night owl; User interests: Alien, space horror, robots", False),
        (" film fan, night owl; User interests: Alien, space horror, inThe.", False),
        ("film fan, night owl; User interests: Alien, space horror, robots.", False),
        (" film fan, night owl; User interests: Alien, one two three four five six, robots.", False),
    ],
)
def test_the_pattern_is_the_format(answer, fits):
    assert bool(re.fullmatch(answer_pattern(2, spare=1), answer)) == fits
    if fits:
        assert parse(tidy("User identity:" + answer, 2), 2)


PHRASES = ["Nørd XL Chew Toy", "Solé", "Ελληνική Ταινία", "Русский роман", "Čeští hrdinové", "Été à Paris"]
PHRASES += ["猫 好き", "ホラー 映画", "한국 드라마", "أفلام رعب", "हिन्दी फ़िल्में", "סרטי אימה", "หนังผี ไทย"]


@pytest.mark.parametrize("phrase", PHRASES)
def test_fault_10_the_pattern_has_letters_of_any_script(phrase):
    answer = f" film fan, night owl; User interests: {phrase}, Heat, 1984."
    assert re.fullmatch(answer_pattern(2, every_script=True), answer)
    assert PAPERS.text(parse(f"User identity:{answer}", None)) == f"User identity:{answer}"
    assert tidy(f"User identity:{answer}") == f"User identity:{answer}"
    two = " ".join(f"{phrase} {phrase}".split()[:2])
    assert re.fullmatch(answer_pattern(1, every_script=True), f" {two}; User interests: Heat, 1984.")
    matcher = pytest.importorskip("llguidance").LLMatcher
    assert not matcher.validate_grammar(matcher.grammar_from_regex(answer_pattern(2, every_script=True)))


@pytest.mark.parametrize(
    "word", ["a.b", "a;b", "[x]", "a_b", "<b>", "\u202ex", "\u200b", "1e400", "\U0001f600", "a\nb"]
)
def test_fault_10_and_nothing_else(word):
    assert not re.fullmatch(answer_pattern(1, every_script=True), f" film {word}; User interests: x, y.")
