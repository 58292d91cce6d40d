import numpy as np
import pytest

from reclm.profilers.tuning.quality import profiles_quality


class WordEncoder:
    """A vector a text: how often each of four words is in it."""

    def encode(self, texts):
        return np.array(
            [[text.count(word) for word in ("alien", "robot", "golf", "cake")] for text in texts], float
        )


HISTORIES = ["alien robot", "golf golf", "cake", "alien cake"]
TEXTS = [
    "User identity: alien fan, b c; User interests: robot, x.",
    "User identity: golf fan, b c; User interests: golf, golf.",  # says golf twice
    "User identity: alien fan, b c; User interests: robot, y.",  # about another's history
    "",
]


def test_shares_are_counted_over_all_profiles():
    quality = profiles_quality(TEXTS, HISTORIES, WordEncoder(), phrases=2)  # pyright: ignore[reportArgumentType]
    assert quality.profiles == 4
    assert quality.in_format == 3 / 4
    assert quality.empty == 1 / 4
    assert quality.repeated == 1 / 4
    assert quality.named == 2 / 4
    # cosines with the four histories: [1, 0, 0, .5], [0, 1, 0, 0], [1, 0, 0, .5], [0, 0, 0, 0]; own above the median
    assert quality.closer == 2 / 4
    assert quality.good == 1 / 4
    assert quality.distinct == 4 / 4
    assert list(quality.faults.values()) == [1]


def test_without_an_encoder_words_decide():
    quality = profiles_quality(TEXTS[:2], HISTORIES[:2], phrases=2)
    assert (quality.closer, quality.named) == (1, 1)


def test_equal_histories_may_have_equal_texts():
    assert profiles_quality(["a", "a", "b"], ["x", "x", "y"]).distinct == 1
    assert profiles_quality(["a", "a", "a"], ["x", "z", "y"]).distinct == 1 / 3


def test_nothing_to_measure():
    assert profiles_quality([], []).profiles == 0
    with pytest.raises(ValueError, match="1 profiles for 0 histories"):
        profiles_quality(["a"], [])
