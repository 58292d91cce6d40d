"""What answers are worth."""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from reclm.errors import ReclmError
from reclm.profilers.rl.rollout import Rollout


class Reward(Protocol):
    """A reward model, a ranking's NDCG, a rule: anything that judges texts."""

    def __call__(self, texts: Sequence[str], rows: Sequence[int]) -> Sequence[float]:
        """A number an answer; ``rows`` says which of the prompts each answers."""
        ...


def judge(reward: Reward, rollout: Rollout, rows: Sequence[int], unfinished: float | None = None) -> Tensor:
    """Rewards ``(B,)`` of a roll-out.

    Args:
        rows: which of the prompts each answer belongs to.
        unfinished: the reward of an answer that was cut, in place of its own (Γ in LangPTune); None leaves it.

    Raises:
        ReclmError: if the reward is not one finite number an answer.
    """
    given = torch.tensor([float(one) for one in reward(rollout.texts, rows)], device=rollout.ids.device)
    if len(given) != len(rows) or not given.isfinite().all():
        bad = given[~given.isfinite()].tolist()
        found = f"{bad[0]} among them" if bad else f"{len(given)} numbers"
        raise ReclmError(f"the reward must give {len(rows)} answers a finite number each; got {found}")
    return given if unfinished is None else given.masked_fill(rollout.unfinished, unfinished)
