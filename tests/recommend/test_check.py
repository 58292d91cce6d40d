"""What a data set can tell, on data of which it is known."""

from dataclasses import replace

import pytest

from reclm.data.dataset import Interactions
from reclm.errors import NotFound
from reclm.folders import Workspace
from reclm.recommend.check import check
from reclm.testing import checkerboard

TOLD = checkerboard(users=60, items=40, cold=8)


def test_histories_that_tell_the_answer_are_said_to(workspace: Workspace) -> None:
    found = check(TOLD, progress=False)
    reach = found.reach["full-shot"]
    assert reach["EASE"] > 0.9 > reach["popularity"]
    assert set(found.hopes.values()) == {True}
    assert found.answer.startswith("Profiles could help in full-shot and zero-shot")
    assert found.answer in str(found)
    assert "<td>EASE</td>" in found._repr_html_()


def test_a_test_part_that_has_nothing_to_do_with_the_past_is_said_to_differ(workspace: Workspace) -> None:
    other = Interactions(TOLD.test.user_idx, TOLD.test.item_idx ^ 1)  # items that nobody of the sort touched
    found = check(replace(TOLD, test=other), progress=False)
    assert set(found.hopes.values()) == {False}
    (sentence,) = [text for text in found.findings if text.startswith("full-shot: what users did")]
    assert "the two parts differ" in sentence
    assert "no profile can help much" in found.answer


def test_items_without_text_are_told_by_histories_alone() -> None:
    found = check(replace(TOLD, item_text=TOLD.item_text.select([])), progress=False)
    assert "nearest texts" not in found.reach["full-shot"]
    assert found.hopes["full-shot"]


def test_without_a_test_part_there_is_nothing_to_check() -> None:
    with pytest.raises(NotFound):
        check(replace(TOLD, test=Interactions.empty()), progress=False)
