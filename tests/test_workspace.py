"""Where things lie: names from outside stay inside the workspace, and runs get folders of their own."""

from pathlib import Path

from reclm.folders import Workspace


def test_runs_that_end_in_the_same_second_have_folders_of_their_own(tmp_path: Path) -> None:
    space = Workspace(tmp_path)
    folders = [space.new_run("ml-100k", "../sgl") for _ in range(5)]
    assert len(set(folders)) == 5
    assert all(one.is_dir() and one.parent == space.runs() for one in folders)
