"""Where things lie: names from outside stay inside the workspace, and runs get folders of their own."""

from pathlib import Path

import pytest

from reclm.errors import BadInput
from reclm.files import draft_folder, move_to_free
from reclm.folders import Workspace, make_folder, workspace
from reclm.profiles.store import ProfileStore
from reclm.testing import checkerboard


def test_runs_that_end_in_the_same_second_have_folders_of_their_own(tmp_path: Path) -> None:
    space, folders = Workspace(tmp_path), []
    name = space.new_run("ml-100k", "../sgl")
    assert not space.root.joinpath("runs").exists(), "a run that is killed would leave it"
    for number in range(3):
        with draft_folder(name) as draft:
            (draft / "number").write_text(str(number))
            folders.append(move_to_free(draft, name))
    assert folders == [name, name.with_name(f"{name.name}-2"), name.with_name(f"{name.name}-3")]
    assert [(folder / "number").read_text() for folder in folders] == ["0", "1", "2"]
    assert sorted(space.runs().iterdir()) == folders


@pytest.mark.parametrize("address", ["s3://bucket/x", "s3:/bucket/x", "gs://b", "hf://datasets/x"])
def test_fault_29_an_address_is_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for write in (
        lambda place: ProfileStore.open(place, "f", "w"),
        lambda place: checkerboard().save(place),
        lambda place: make_folder(place, "--out"),
    ):
        with pytest.raises(BadInput) as error:
            write(Path(address))
        assert error.value.value == Path(address)
    assert list(tmp_path.iterdir()) == []


def test_fault_12_a_folder_whose_name_is_not_utf8_is_one_line(monkeypatch):
    with pytest.raises(BadInput) as error:
        workspace("caf\udce9")
    assert error.value.where == "folder"
    monkeypatch.setenv("RECLM_HOME", "caf\udce9")
    with pytest.raises(BadInput) as error:
        Workspace.at()
    assert error.value.where == "RECLM_HOME"
