"""Cosine rankings and their rewards against values by hand; items are embedded once for each encoder."""

import math
from typing import Any

import numpy as np
import pytest
import tiny_langptune  # pyright: ignore[reportMissingImports]
import torch

from reclm.data.sessions import SessionOptions, Sessions
from reclm.profilers.langptune.config import PromptConfig
from reclm.profilers.langptune.profiler import by_pass
from reclm.profilers.langptune.prompts import SessionHistories
from reclm.profilers.langptune.recommender import CandidateRanker, SystemReward, mrr, ndcg

VECTORS = {
    "jazz": (1, 0),
    "tea": (0, 1),
    "both": (1, 1),
    "far": (-1, 0),
    "loud jazz": (5, 0),
    "fan": (2, 1),
    "nothing": (0, 0),
}
ITEMS = ["jazz", "tea", "both", "far", "loud jazz"]
NO_HISTORY = np.array([[-1, -1]])


class Lookup:
    """An encoder that looks vectors up; ``asked`` are the texts of each call."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []

    def encode(self, texts: list[str]) -> np.ndarray:
        self.asked.append(list(texts))
        return np.array([VECTORS[text] for text in texts], np.float32)


def ranker(candidates=(0, 1, 2, 3, 4)) -> CandidateRanker:
    encoder: Any = Lookup()
    return CandidateRanker(encoder, ITEMS, np.array(candidates))


def ranks(
    profile: str, future: list[int], history: Any = NO_HISTORY, candidates=(0, 1, 2, 3, 4)
) -> list[int]:
    return ranker(candidates).ranks([profile], np.array(history), np.array([future])).tolist()[0]


def test_scores_are_cosines():
    scores = ranker().scores(["fan", "tea"], np.repeat(NO_HISTORY, 2, 0))
    root = math.sqrt(5)
    wanted = [[2 / root, 1 / root, 3 / math.sqrt(10), -2 / root, 2 / root], [0, 1, math.sqrt(0.5), 0, 0]]
    torch.testing.assert_close(scores, torch.tensor(wanted))


def test_ranks():
    assert ranks("fan", [2]) == [1]
    assert ranks("fan", [3]) == [5]
    assert ranks("fan", [1, 2]) == [4, 1]
    # as near as the other jazz, which stands first
    assert ranks("fan", [0]) == ranks("fan", [4]) == [3]


def test_the_history_is_not_ranked():
    assert ranks("fan", [1], [[2, 0]]) == [2]
    # what is no candidate counts for nobody
    assert ranks("fan", [1], [[2, -1]], candidates=[0, 1, 3]) == [2]
    scores = ranker([0, 1, 3]).scores(["fan"], np.array([[3, 2]]))
    assert scores.isinf().tolist() == [[False, False, True]]


def test_a_text_that_says_nothing_is_not_rewarded():
    assert ranks("nothing", [0]) == [5]
    assert ranks("nothing", [0], [[1, 2]]) == [3]


def test_rewards_by_hand():
    torch.testing.assert_close(ndcg(torch.tensor([[1], [3], [7]])), torch.tensor([1, 1 / 2, 1 / 3]))
    best = 1 + 1 / math.log2(3)
    found = ndcg(torch.tensor([[1, 2], [2, 1], [3, 1], [7, 15]]))
    torch.testing.assert_close(found, torch.tensor([1, 1, (1 / 2 + 1) / best, (1 / 3 + 1 / 4) / best]))
    torch.testing.assert_close(mrr(torch.tensor([[1], [4]])), torch.tensor([1, 1 / 4]))
    torch.testing.assert_close(mrr(torch.tensor([[4, 2], [3, 9]])), torch.tensor([1 / 2, 1 / 3]))


def test_rewards_of_the_first_ranks():
    ranks = torch.tensor([[1, 2, 9], [3, 1, 4], [7, 15, 4]])
    best = 1 + 1 / math.log2(3)
    # of three relevant items, two fit into two ranks
    torch.testing.assert_close(ndcg(ranks, 2), torch.tensor([1, 1 / best, 0]))
    best += 1 / 2
    torch.testing.assert_close(ndcg(ranks, 3), torch.tensor([(1 + 1 / math.log2(3)) / best, 1.5 / best, 0]))
    torch.testing.assert_close(ndcg(ranks, 99), ndcg(ranks))
    torch.testing.assert_close(mrr(ranks, 3), torch.tensor([1.0, 1.0, 0.0]))


def test_items_are_embedded_when_the_encoder_changed_and_never_otherwise():
    one = ranker()
    for _ in range(3):
        one.ranks(["fan"], NO_HISTORY, np.array([[0]]))
    encoder: Any = one.encoder
    assert encoder.asked.count(ITEMS) == 1
    one.changed()
    one.changed()
    assert encoder.asked.count(ITEMS) == 1
    one.ranks(["fan"], NO_HISTORY, np.array([[0]]))
    assert encoder.asked.count(ITEMS) == 2
    assert encoder.asked.count(["fan"]) == 4


def sessions() -> Sessions:
    """Three users of two items each; the last is for the test."""
    return Sessions(
        np.arange(3),
        np.array([[1, -1], [2, 4], [0, 1]]),
        np.array([[2], [3], [4]]),
        np.array([0, 0, 2], np.int8),
        np.arange(5),
        None,
        None,
        "fingerprint",
        SessionOptions(),
    )


@pytest.mark.parametrize(("name", "third"), [("ndcg", 1 / math.log2(4)), ("mrr", 1 / 3)])
def test_the_reward_is_of_the_session_that_was_asked(name, third, monkeypatch):
    monkeypatch.setitem(VECTORS, "The user likes far away", (-1, 0))
    monkeypatch.setitem(VECTORS, "The user likes", (3, 2))
    histories = SessionHistories(tiny_langptune.view(), sessions(), PromptConfig(begin="The user likes"))
    reward = SystemReward(ranker(), histories, np.array([1, 0]), name)
    # prompt 0 is session 1: of jazz, tea and far, the last is wanted; prompt 1 is session 0: "both" is
    assert reward([" far  away", "", ""], [0, 0, 1]) == pytest.approx([1, third, 1])


def test_rewards_of_whole_passes_over_the_prompts():
    rewards = np.arange(9.0)
    # of four prompts two updates are a pass; the ninth begins a fifth
    assert by_pass(rewards, prompts=4, batch=2)[0].tolist() == [0.5, 2.5, 4.5, 6.5]
    assert by_pass(rewards, prompts=4, batch=2)[1] == "passes over the prompts"
    for prompts, batch in (
        (5, 2),
        (6, 2),
        (2, 4),
    ):  # no whole number of updates; three passes; less than an update
        values, what = by_pass(rewards, prompts, batch)
        assert (values.tolist(), what) == (rewards.tolist(), "updates")
