"""What is counted in profiles, against values worked by hand."""

import numpy as np
import pytest

from reclm.profilers.tuning.readability import (
    compliance,
    copying,
    interpretability,
    readability,
)

SOURCE = "Title: The Dark Knight\nDescription: Batman fights crime in the city."


def test_copying_is_a_share_of_the_profiles_trigrams():
    profiles = [
        "Batman fights crime in the city.",  # all of its 4
        "This user likes The DARK “Knight”!",  # "the dark knight" of 4
        "Batman fights; Batman fights crime.",  # "batman fights crime" of 3
        "Batman fights crime, Batman fights crime.",  # the same one twice of 4
        "Something else entirely.",
    ]
    shares = copying(profiles, [SOURCE] * 5)
    assert shares.tolist() == [1, 1 / 4, 1 / 3, 2 / 4, 0]


def test_copying_is_from_the_own_source_and_of_any_length():
    profiles, sources = ["a b c d", "a b c d"], ["a b c", "x y z"]
    assert copying(profiles, sources).tolist() == [1 / 2, 0]
    assert copying(profiles, sources, n=1).tolist() == [3 / 4, 0]
    assert copying(profiles, sources, n=4).tolist() == [0, 0]


def test_copying_of_fewer_than_n_words_is_nan():
    shares = copying(["", "two words", "- - -", "now three words"], ["two words", "", "- - -", ""])
    np.testing.assert_array_equal(shares, [np.nan, np.nan, np.nan, 0])


def test_reading_ease_by_hand():
    # com-e-dy en-ter-tain-ment and 3 words of one syllable: 10 syllables, 5 words
    one = 206.835 - 1.015 * 5 - 84.6 * 10 / 5
    # the dash is no word: 4 words, 2 sentences, 4 syllables
    two = 206.835 - 1.015 * 4 / 2 - 84.6 * 4 / 4
    ease = readability(["He likes comedy, good entertainment.", "Cats – run. Dogs bark!"])
    np.testing.assert_allclose(ease, [one, two])


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("cat dog.", 1),
        ("cat dog", 1),
        ("cat! dog?", 2),
        ("“cat.” dog", 2),
        ("**cat.** (dog.)\n", 2),
        ("cat\n- dog", 2),
        ("cat... \n\n dog", 2),
        ("cat 3.5 dog", 1),
    ],
)
def test_where_sentences_end(text, sentences):
    words = 3 if "3.5" in text else 2
    np.testing.assert_allclose(readability([text]), 206.835 - 1.015 * words / sentences - 84.6)


def test_reading_ease_without_words_is_nan():
    assert np.isnan(readability(["", " \n", "..."])).all()


@pytest.mark.parametrize(
    ("profile", "in_order"),
    [
        ("She likes films. She likes songs.", True),
        ("She likes “films.”\n", True),
        ("**She likes films.**", True),
        ("She likes films", False),
        ("She likes films.\n\n- songs", False),
        ("", False),
        (" ... ", False),
        ("She likes films. She likes songs. She LIKES films!", False),  # a sentence twice
        ("a b c d, a b c d.", True),
        ("a b c d, a b c d, a b c d.", False),  # four words thrice
        ("x x x x x.", True),
        ("x x x x x x.", False),
    ],
)
def test_profiles_in_order(profile, in_order):
    assert compliance([profile, profile], [True, False]).tolist() == [in_order, False]


def test_means_over_the_profiles_that_a_measure_applies_to():
    profiles = ["Batman fights crime in the city.", "cat cat cat cat", ""]
    found = interpretability(profiles, [SOURCE] * 3, [True, True, True])
    # bat-man fights crime in the city: pyphen parts "bat-man" and "city" not at all
    ease = (206.835 - 1.015 * 6 - 84.6 * 7 / 6, 206.835 - 1.015 * 4 - 84.6)
    assert found == pytest.approx(
        {
            "copying": (1 + 0) / 2,
            "readability": sum(ease) / 2,
            "compliance": 1 / 3,
            "words": (6 + 4 + 0) / 3,
            "distinct_2": (5 + 1) / (5 + 3),
        }
    )


def test_a_batch_of_empty_profiles_has_no_means_but_of_words_and_order():
    found = interpretability(["", ""], ["", ""], [True, False])
    assert {name for name, value in found.items() if np.isnan(value)} == {
        "copying",
        "readability",
        "distinct_2",
    }
    assert found["words"] == found["compliance"] == 0
    assert np.isnan(list(interpretability([], [], []).values())).all()


def test_lists_of_different_lengths():
    with pytest.raises(ValueError):
        copying(["a b c"], [])
    with pytest.raises(ValueError):
        compliance(["a b c"], [True, False])
