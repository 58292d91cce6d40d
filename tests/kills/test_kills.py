"""A few kills of quick commands; ``python -m tests.kills`` kills all commands many times."""

import json
from pathlib import Path

import pytest

from .commands import COMMANDS
from .contents import contents
from .harness import Moment, Place


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("kills"), COMMANDS, forked=False)


@pytest.mark.parametrize("name", ["prepare", "prepare again"])
def test_a_killed_command_ends_as_one_that_was_not(place: Place, name: str) -> None:
    last = Moment("operation", place.unbroken(name).operations - 1)
    outcome = place.case(name, [last])
    assert (outcome.moments, outcome.faults) == ([last], [])


def test_contents_are_compared_by_their_meaning(tmp_path: Path) -> None:
    def write(
        folder: str, seconds: float, value: int, name: str = "20261130-120000-run"
    ) -> dict[str, list[str]]:
        (tmp_path / folder / name).mkdir(parents=True)
        (tmp_path / folder / name / "a.json").write_text(json.dumps({"seconds": seconds, "value": value}))
        return contents(tmp_path / folder)

    first = write("first", 1.0, 7)
    assert list(first) == ["TIME-run", "TIME-run/a.json"]
    assert write("second", 2.0, 7, "20261130-120001-run") == first
    assert write("third", 1.0, 8) != first
    (tmp_path / "first" / ".draft").touch()
    assert list(contents(tmp_path / "first")) == [".draft", *first]
