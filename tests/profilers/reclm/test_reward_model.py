"""The reward model: its loss by hand, what it learns, and that batching has no influence."""

import json
from math import exp, log
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from reclm.llm.chat import Message
from reclm.profilers.reclm.config import SupervisedConfig
from reclm.profilers.reclm.reward_model import Pair, RewardModel, pair_accuracy, pair_dataset
from reclm.profilers.reclm.stages import StageRun, tune_reward

LORA = {"r": 2, "alpha": 4, "dropout": 0.0}
WORDS = ("jazz", "chess", "tea", "bread", "wind", "maps", "films", "news", "sea", "moon")


def pair(at: int) -> Pair:
    """A user's question, a profile, and a full stop."""
    word = WORDS[at % 10]
    asked = (
        Message("system", "Describe."),
        Message("user", f"User {at} chose:\n- {word}" + " more" * (at % 7)),
    )
    return Pair(f"u{at}", asked, f"User identity: {word} fan; User interests: {word}.", ".", "dot")


def chats(pairs, side: str) -> list[tuple[Message, ...]]:
    return [(*one.prompt, Message("assistant", getattr(one, side))) for one in pairs]


@torch.no_grad()
def alone(reward: RewardModel, chat: tuple[Message, ...]) -> float:
    """The network's own answer to one chat, nothing padded."""
    ids, _ = reward.prompts.training_ids(chat)
    return reward.network(input_ids=torch.tensor([ids])).logits.item()


@pytest.fixture(scope="module")
def tune(tiny, tmp_path_factory):
    def tune(learned, held_out, **options):
        config = SupervisedConfig(**{"lora": LORA, "epochs": 1, "batch_size": 8, "accumulate": 1, **options})
        folder = tmp_path_factory.mktemp("reward")
        pairs, others = (pair_dataset(map(pair, some)) for some in (learned, held_out))
        adapter = tune_reward(
            StageRun(tiny.model, tiny.prompts, folder, progress=False), pairs, others, config
        )
        lines = (folder / "metrics.jsonl").read_text().splitlines()
        return RewardModel.load(tiny.model, adapter, tiny.prompts), list(map(json.loads, lines))

    return tune


@pytest.fixture(scope="module")
def untrained(tune):
    return tune(range(8), range(8, 10), learning_rate=0)


@pytest.fixture(scope="module")
def trained(tune):
    return tune(range(32), range(32, 48), learning_rate=1e-2, epochs=4)


def test_the_loss_is_that_of_equation_6(untrained) -> None:
    reward, rows = untrained
    assert reward.network.score.weight.any()

    def loss(numbers) -> float:
        pairs = [pair(at) for at in numbers]
        margins = [
            alone(reward, better) - alone(reward, worse)
            for better, worse in zip(chats(pairs, "chosen"), chats(pairs, "rejected"), strict=True)
        ]
        return sum(-log(1 / (1 + exp(-one))) for one in margins) / len(margins)

    assert rows[0]["loss"] == pytest.approx(loss(range(8)), rel=1e-4)
    assert [one["eval_loss"] for one in rows if "eval_loss" in one] == [
        pytest.approx(loss(range(8, 10)), rel=1e-4)
    ]


def test_it_tells_a_profile_from_a_full_stop(trained, untrained) -> None:
    reward, rows = trained
    assert [one["eval_accuracy"] for one in rows if "eval_accuracy" in one][-1] == 1
    fresh = pair_dataset(map(pair, range(50, 70)))
    assert pair_accuracy(reward, fresh) == {"all": (20, 20), "dot": (20, 20)}
    losses = [one["loss"] for one in rows if "loss" in one]
    assert losses[-1] < losses[0] / 2


def test_scores_do_not_depend_on_what_else_is_asked(trained) -> None:
    reward, _ = trained
    some = [*chats(map(pair, range(20)), "chosen"), *chats(map(pair, range(20)), "rejected")]
    expected = [alone(reward, one) for one in some]
    assert np.std(expected) > 0.1
    np.testing.assert_allclose(reward.scores(some), expected, atol=1e-4)
    np.testing.assert_allclose(reward.scores(some[::-1]), expected[::-1], atol=1e-4)
    assert reward.scores([]).shape == (0,)


def test_a_call_puts_what_was_begun_in_front(trained, tiny) -> None:
    reward, _ = trained
    pairs = [pair(1), pair(2)]
    begun = RewardModel(reward.network, tiny.prompts, [one.prompt for one in pairs])
    given = begun(["a; User interests: b.", "", "a; User interests: b."], [1, 0, 0])
    texts = ["User identity: a; User interests: b.", "User identity:", "User identity: a; User interests: b."]
    expected = reward.scores(
        [(*pairs[row].prompt, Message("assistant", text)) for row, text in zip([1, 0, 0], texts, strict=True)]
    )
    np.testing.assert_allclose(given, expected, atol=1e-5)
    assert given[0] != given[2]


def test_accuracy_is_counted_by_kind() -> None:
    def counted(chats):
        return np.array([len(one[-1].content) for one in chats], np.float32)

    asked = pair(0).prompt
    kinds = [("dot", "long", "."), ("dot", ".", "long"), ("mixed", "long", "."), ("header", "same", "same")]
    pairs = pair_dataset(Pair("u", asked, better, worse, kind) for kind, better, worse in kinds)  # pyright: ignore[reportArgumentType]
    found = pair_accuracy(SimpleNamespace(scores=counted), pairs)  # pyright: ignore[reportArgumentType]
    # equally good is not right
    assert found == {"all": (2, 4), "dot": (1, 2), "mixed": (1, 1), "header": (0, 1)}
    assert pair_accuracy(SimpleNamespace(scores=counted), []) == {"all": (0, 0)}  # pyright: ignore[reportArgumentType]
