"""The prompts of a round that are saved: damaged ones are written again while the policy is the same."""

import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from reclm.errors import Damaged
from reclm.profilers.langptune.pipeline import Alternation

IDS = [[1, 2], [3]]
DAMAGES = (
    "",
    "[[1, 2]",
    "[[1, 2]]",
    "[[1, 2], []]",
    "[[1, 2], [9]]",
    "[[1, 2], [-1]]",
    "[[1, 2], [3.5]]",
    "null",
)


def alternation(folder, step: int) -> Any:
    """Round 2 of 2, of two updates each; the tokenizer knows five tokens."""
    one: Any = Alternation.__new__(Alternation)
    config = SimpleNamespace(rounds=2, rlso=SimpleNamespace(steps=4), writing=None)
    prompts = SimpleNamespace(ids=lambda chat: chat, tokenizer=range(5))
    one.tuning = SimpleNamespace(folder=folder, config=config, prompts=prompts, train_rows=np.arange(2))
    one.writer = SimpleNamespace(chats=lambda rows, _: dict(zip(rows, IDS, strict=True)))
    one.rlso = SimpleNamespace(step=step)
    return one


@pytest.mark.parametrize("cached", DAMAGES)
def test_damaged_prompts_are_written_again_before_the_policy_learns(tmp_path, cached) -> None:
    (tmp_path / "rlso").mkdir()
    file = tmp_path / "rlso" / "round-2.json"
    file.write_text(cached)
    assert alternation(tmp_path, 2)._round_prompts(2) == IDS
    assert json.loads(file.read_text()) == IDS
    assert alternation(tmp_path, 3)._round_prompts(2) == IDS


@pytest.mark.parametrize("cached", DAMAGES)
def test_damaged_prompts_are_refused_where_the_policy_has_learned_since(tmp_path, cached) -> None:
    (tmp_path / "rlso").mkdir()
    file = tmp_path / "rlso" / "round-2.json"
    file.write_text(cached)
    with pytest.raises(Damaged) as refused:
        alternation(tmp_path, 3)._round_prompts(2)
    assert refused.value.where == file
    assert file.read_text() == cached
