"""A few cases of each target; ``python -m tests.fuzz`` runs thousands."""

from random import Random

import pytest

from .harness import run_case
from .mutate import KINDS, mutate
from .targets import TARGETS


@pytest.mark.parametrize("name", TARGETS)
def test_damaged_files_are_read_rightly_or_refused_in_one_line(name: str) -> None:
    outcomes = [run_case(TARGETS[name], case) for case in range(8)]
    assert [outcome for outcome in outcomes if outcome.fault] == []


@pytest.mark.parametrize("ending", [*KINDS, ".bin"])
def test_a_mutation_is_the_same_each_time(ending: str) -> None:
    data = b'user_id,item_id\nu1,"i1"\n'
    changed = [[mutate(f"x{ending}", data, Random(case)) for case in range(30)] for _ in range(2)]
    assert changed[0] == changed[1]
    assert len(set(changed[0])) > 10
