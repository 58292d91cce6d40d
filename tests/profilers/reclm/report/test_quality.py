import numpy as np
import pytest

from reclm.profilers.tuning.quality import (
    HeldOut,
    StageQuality,
    Vectors,
    closeness,
    distinct,
    stage_quality,
)


@pytest.fixture
def measured(encoder, held_out, texts) -> StageQuality:
    return stage_quality("kd", texts, held_out, Vectors(encoder, progress=False))


def test_format_and_words_are_of_the_held_out_ones_only(measured):
    assert measured.subjects == 3
    assert measured.compliance.mean == 2 / 3
    assert measured.faults == {"not of the form 'User identity: a, b; User interests: x, y.'": 1}
    assert measured.words == (6 + 6 + 2) / 3
    # x a | x b | no profile, and what stands on either side of a heading is no pair
    assert measured.distinct_1 == 5 / 6
    assert measured.distinct_2 == 1 / 1
    assert measured.repetition == 0


def test_a_phrase_said_twice(encoder):
    texts = {
        "a": "User identity: cook; User interests: bread, Breads.",
        "b": "User identity: cook; User interests: bread, jam.",
    }
    encoder.vectors |= dict.fromkeys(texts.values(), (1, 0))
    found = stage_quality("kd", texts, HeldOut("user", ("a", "b")), Vectors(encoder, progress=False))
    assert found.repetition == 1 / 2


def test_teacher_beside_the_teachers_of_others(measured):
    # Ann (1, 0) to her own (1, 0) and Bob's (.6, .8); Bob (0, 1) to his own and to hers. Dan has no teacher
    assert measured.teacher.n == 2
    assert measured.teacher.mean == pytest.approx((1 + 0.8) / 2)
    assert measured.teacher.high - measured.teacher.mean == pytest.approx(
        12.7062047 * 0.1
    )  # t s / √2, s = .2 / √2
    assert measured.other_teacher == pytest.approx((0.6 + 0) / 2)


def test_over_smoothing(measured):
    # Ann to Bob 0 and Cyd .6, and to Dan .8; Bob to Cyd .8, and to Ann 0 and Dan .6; Dan has no neighbour
    assert measured.neighbours.n == 2
    assert measured.neighbours.mean == pytest.approx(((0 + 0.6) / 2 + 0.8) / 2)
    assert measured.strangers == pytest.approx((0.8 + (0 + 0.6) / 2) / 2)


def test_histories_are_compared_alike(measured):
    half = 0.5**0.5
    # Ann's history to Bob's 0 and Cyd's √½, and to Dan's 0; Bob's to Cyd's √½, and to Ann's 0 and Dan's -1
    assert measured.history_neighbours == pytest.approx(((0 + half) / 2 + half) / 2)
    assert measured.history_strangers == pytest.approx((0 + (0 - 1) / 2) / 2)


def test_what_cannot_be_told_is_none(encoder, texts):
    vectors = Vectors(encoder, progress=False)
    assert stage_quality("kd", {}, HeldOut("user", ("ann",)), vectors) == StageQuality("kd", 0)
    assert not encoder.asked
    alone = stage_quality("kd", {"ann": texts["ann"]}, HeldOut("user", ("ann", "bob")), vectors)
    assert (alone.subjects, alone.compliance.n) == (1, 1)
    assert alone.teacher is alone.other_teacher is alone.neighbours is alone.strangers is None
    assert alone.history_neighbours is alone.history_strangers is None
    nothing = stage_quality("kd", {"ann": ""}, HeldOut("user", ("ann",)), vectors)
    assert (nothing.words, nothing.distinct_1, nothing.distinct_2, nothing.compliance.mean) == (
        0,
        None,
        None,
        0,
    )
    assert not encoder.asked  # nothing to compare with, nothing to encode


def test_a_text_is_encoded_once_for_all_stages(encoder, held_out, texts):
    vectors = Vectors(encoder, progress=False)
    first = stage_quality("kd", texts, held_out, vectors)
    asked = list(encoder.asked)
    assert len(asked) == len(set(asked))
    again = stage_quality("kd", texts, held_out, vectors)
    assert encoder.asked == asked
    assert again == first


def test_a_text_without_direction_is_like_nobody(encoder):
    encoder.vectors |= {"": (0, 0)}
    vectors = Vectors(encoder, progress=False)
    assert vectors([""]).tolist() == [[0, 0]]
    assert vectors([]).shape[0] == 0


@pytest.mark.parametrize("seed", range(5))
def test_sums_say_what_a_loop_over_all_pairs_says(seed):
    rng = np.random.default_rng(seed)
    names = [f"u{at}" for at in range(12)]
    rows = {name: rng.normal(size=5) for name in names}

    class Encoder:
        def encode(self, texts, *, progress=None):
            return np.array([rows[text] for text in texts])

    neighbours = {name: list(rng.choice(names, rng.integers(0, 6))) for name in names}
    near, far = closeness(
        names[:8], {name: name for name in names}, neighbours, Vectors(Encoder(), progress=False)
    )
    expected = []
    for one in names[:8]:
        cosine = {
            other: rows[one] @ rows[other] / np.linalg.norm(rows[one]) / np.linalg.norm(rows[other])
            for other in names
            if other != one
        }
        close = set(neighbours[one]) - {one}
        if close:
            others = [value for other, value in cosine.items() if other not in close]
            expected.append((np.mean([cosine[other] for other in close]), np.mean(others)))
    np.testing.assert_allclose(np.stack([near, far], 1), expected)


def test_distinct_n():
    assert distinct(["a b a c"], 1) == 3 / 4
    assert distinct(["a b a b"], 2) == 2 / 3
    assert distinct(["a b", "A, b."], 2) == 1 / 2  # neither case nor punctuation counts; no pair across texts
    assert distinct(["a"], 2) is None
    assert distinct([], 1) is None
