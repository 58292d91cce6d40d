"""Reward-model pairs: shares, what each negative is, and who is in which part."""

from collections import Counter

import numpy as np
import pytest

from reclm.errors import BadInput
from reclm.llm.chat import Message
from reclm.profilers.reclm.config import RewardDataConfig
from reclm.profilers.reclm.reward_model import (
    pair_dataset,
    rejected,
    reward_pairs,
    split_users,
    tokenise_pairs,
)
from reclm.profilers.reclm.samples import Sample

OWN = "User identity: cook, baker; User interests: bread, jam."
THEIRS = "User identity: pilot, sailor; User interests: wind, maps."
ASKED = (Message("system", "Describe."), Message("user", "Bread."))


def samples(count: int, lonely: int = 0) -> tuple[list[Sample], dict[str, str]]:
    """Users ``0 … count - 1``, each the next one's neighbour; the first ``lonely`` have none."""
    made = [
        Sample(
            ASKED, "user", str(at), "inference", neighbours=(str((at + 1) % count),) if at >= lonely else ()
        )
        for at in range(count)
    ]
    texts = {
        str(at): f"User identity: one {at}, two {at}; User interests: three {at}, four {at}."
        for at in range(count)
    }
    return made, texts


def test_each_negative_word_for_word():
    assert rejected("neighbour", OWN, THEIRS) == THEIRS
    assert rejected("mixed", OWN, THEIRS) == f"{OWN} {THEIRS}"
    assert rejected("identities", OWN) == "User identity: cook, baker."
    assert rejected("repeated", OWN) == "User identity: cook, baker; User identity: cook, baker."
    assert rejected("header", OWN) == "User identity:; User interests:"
    assert rejected("dot", OWN) == "."


def test_kinds_have_the_shares_of_the_config():
    asked, profiles = samples(50)
    pairs = list(reward_pairs(asked, profiles, RewardDataConfig(), np.random.default_rng(0)))
    counts = {"neighbour": 15, "mixed": 15, "identities": 5, "repeated": 5, "header": 5, "dot": 5}
    assert Counter(one.negative for one in pairs) == counts
    for pair in pairs:
        neighbour = profiles[str((int(pair.subject) + 1) % 50)]
        assert pair.chosen == profiles[pair.subject]
        assert pair.rejected == rejected(pair.negative, pair.chosen, neighbour)
        assert pair.prompt == ASKED


def test_users_without_a_neighbour_get_what_needs_none():
    asked, profiles = samples(50, lonely=10)
    profiles["11"] = profiles["12"]  # 11's only neighbour has the same profile: as good as none
    pairs = list(reward_pairs(asked, profiles, RewardDataConfig(), np.random.default_rng(0)))
    assert len(pairs) == 50
    assert Counter(one.negative for one in pairs)["neighbour"] == 15
    for pair in pairs:
        if int(pair.subject) < 10 or pair.subject == "11":
            assert pair.negative not in {"neighbour", "mixed"}


def test_users_too_many_without_a_neighbour_are_left_out():
    asked, profiles = samples(50, lonely=44)
    pairs = list(reward_pairs(asked, profiles, RewardDataConfig(), np.random.default_rng(0)))
    # 6 users with a neighbour are 60 % of 10 pairs
    assert Counter(one.negative for one in pairs) == {
        "neighbour": 3,
        "mixed": 3,
        "identities": 1,
        "repeated": 1,
        "header": 1,
        "dot": 1,
    }


def test_pairs_come_from_the_generator_alone():
    asked, profiles = samples(40)

    def drawn(seed: int) -> list:
        return list(reward_pairs(asked, profiles, RewardDataConfig(), np.random.default_rng(seed)))

    assert drawn(1) == drawn(1) != drawn(2)


def test_users_without_a_profile_are_left_out():
    asked, profiles = samples(10)
    del profiles["3"]
    pairs = list(reward_pairs(asked, profiles, RewardDataConfig(), np.random.default_rng(0)))
    assert {one.subject for one in pairs} == set(profiles)


def test_split_is_disjoint_whole_and_seeded():
    users = np.arange(100, 203)
    parts = split_users(users, RewardDataConfig(), np.random.default_rng(4))
    assert {name: len(part) for name, part in parts.items()} == {"train": 41, "eval": 21, "rl": 41}
    assert sorted(np.concatenate(list(parts.values())).tolist()) == users.tolist()
    again = split_users(users, RewardDataConfig(), np.random.default_rng(4))
    assert all(np.array_equal(parts[name], again[name]) for name in parts)
    other = split_users(users, RewardDataConfig(), np.random.default_rng(5))
    assert set(other["train"].tolist()) != set(parts["train"].tolist())


@pytest.mark.parametrize(
    ("key", "shares", "total"),
    [
        ("negatives", {"neighbour": 0.5, "dot": 0.4}, "0.9"),
        ("split", {"train": 0.5, "eval": 0.2, "rl": 0.4}, "1.1"),
    ],
)
def test_shares_must_sum_to_one(key, shares, total):
    with pytest.raises(BadInput, match=f"{key} = .*sum to {total} and must sum to 1") as caught:
        RewardDataConfig.build({key: shares})
    assert "\n" not in str(caught.value)


def test_columns_are_what_the_reward_trainer_reads():
    asked, profiles = samples(2)
    pairs = list(reward_pairs(asked, profiles, RewardDataConfig(), np.random.default_rng(0)))
    row = pair_dataset(pairs)[0]
    assert row["prompt"] == [
        {"role": "system", "content": "Describe."},
        {"role": "user", "content": "Bread."},
    ]
    assert row["chosen"] == [{"role": "assistant", "content": pairs[0].chosen}]
    assert row["rejected"] == [{"role": "assistant", "content": pairs[0].rejected}]
    assert (row["subject"], row["negative"]) == (pairs[0].subject, pairs[0].negative)


def test_tokens_of_a_pair_are_those_of_the_chat_template(smollm):
    asked, profiles = samples(3)
    pairs = pair_dataset(reward_pairs(asked, profiles, RewardDataConfig(), np.random.default_rng(0)))
    for row, ids in zip(pairs, tokenise_pairs(pairs, smollm), strict=True):
        for name in ("chosen", "rejected"):
            theirs = smollm.tokenizer.apply_chat_template([*row["prompt"], *row[name]])["input_ids"]
            assert ids[f"{name}_ids"] == theirs


def test_no_pairs_are_a_data_set_without_rows() -> None:
    assert len(pair_dataset([])) == 0
