"""A saved model comes back with the same scores, or one line says why not."""

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from reclm import plugins
from reclm.data.storage import save
from reclm.errors import BadInput, Damaged, NotFound, ReclmError
from reclm.files import CHECKSUMS
from reclm.folders import Workspace
from reclm.recommend.base import Inputs
from reclm.recommend.recommender import Recommender
from reclm.recommend.saved import HEAD, INPUTS, WEIGHTS, find_model, load_model
from reclm.testing import checkerboard

from .conftest import AUGMENTED, DATA, PLAIN, Keep, make


@pytest.mark.parametrize("name", plugins.names("backbone"))
@pytest.mark.parametrize("items", ["id", "text", "id+text"])
@pytest.mark.parametrize("inputs", [PLAIN, AUGMENTED], ids=["base", "augment"])
def test_scores_are_the_same_to_the_bit(
    keep: Keep, workspace: Workspace, name: str, items: str, inputs: Inputs
) -> None:
    if name == "similarity" and (inputs is PLAIN or items == "id"):
        pytest.skip("it ranks by profiles, and by text")
    model = make(name, inputs, items=items)
    loaded: Any = load_model(keep(name, inputs, items=items), workspace).model
    rows = torch.arange(len(DATA.users)), torch.arange(len(DATA.items))
    assert torch.equal(loaded.scorer()(*rows), model.scorer()(*rows))


def test_the_data_set_is_found_by_its_folder_and_else_by_its_name(
    keep: Keep, workspace: Workspace, tmp_path: Path
) -> None:
    folder = keep("biasmf")
    head = (folder / HEAD).read_text()
    (folder / HEAD).write_text(head.replace("dataset_folder: null", "dataset_folder: /nowhere"))
    assert load_model(folder, workspace).data.fingerprint == DATA.fingerprint
    save(DATA, tmp_path / "elsewhere")
    (folder / HEAD).write_text(
        head.replace("dataset_folder: null", f"dataset_folder: {tmp_path / 'elsewhere'}")
    )
    assert load_model(folder, Workspace(tmp_path / "empty")).data.fingerprint == DATA.fingerprint


def test_another_data_set_of_that_name_is_refused(keep: Keep, workspace: Workspace) -> None:
    folder = keep("biasmf")
    other = checkerboard(seed=1)
    save(other, workspace.dataset("checkerboard"))
    with pytest.raises(BadInput, match=f"{DATA.fingerprint}, that of today's is {other.fingerprint}"):
        load_model(folder, workspace)


@pytest.mark.parametrize("file", ["model.safetensors", "inputs.safetensors"])
@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_damage_is_told_in_one_line(keep: Keep, workspace: Workspace, file: str, damage: str) -> None:
    path = keep("lightgcn", AUGMENTED) / file
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-50])
    else:
        path.unlink()
    with pytest.raises(Damaged, match="damaged model") as error:
        load_model(path.parent, workspace)
    assert "\n" not in str(error.value)


def test_weights_of_another_shape_and_a_newer_format_are_refused(keep: Keep, workspace: Workspace) -> None:
    folder = keep("biasmf")
    head = (folder / HEAD).read_text()
    (folder / HEAD).write_text(head.replace("dim: 8", "dim: 5"))
    with pytest.raises(Damaged, match="size mismatch"):
        load_model(folder, workspace)
    (folder / HEAD).write_text(head.replace("format: 1", "format: 2"))
    with pytest.raises(Damaged, match="format 2"):
        load_model(folder, workspace)


def test_an_encoder_that_has_changed_is_refused(trained: Callable[..., Recommender]) -> None:
    one = trained("biasmf")
    other = replace(one, about=one.about.model_copy(update={"encoder": "parity@1234"}))
    with pytest.raises(BadInput, match="is now 'parity'"):
        _ = other.encoder


def test_the_newest_run_is_found_and_in_it_the_augmented_model(
    keep: Keep, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RECLM_HOME", str(workspace.root))
    with pytest.raises(NotFound, match="reclm bench --backbone"):
        find_model()
    older = keep("biasmf", folder="runs/z/models/base")
    base, augment = (keep("biasmf", folder=f"runs/a/models/{name}") for name in ("base", "augment"))
    for seconds, folder in ((1, older), (2, augment), (3, base)):
        os.utime(folder / HEAD, (seconds, seconds))
    assert find_model() == augment
    assert find_model(workspace.runs() / "z") == older
    assert find_model(base) == base
    with pytest.raises(NotFound, match="no trained model in nowhere"):
        find_model(Path("nowhere"))


def test_profiles_of_some_are_kept_as_they_were(trained: Callable[..., Recommender]) -> None:
    model: Any = trained("biasmf", replace(AUGMENTED, item_profiles=None)).model
    assert model.item_fusion is None
    assert AUGMENTED.user_profiles is not None
    own = model.new_user_features(model.user_embedding, AUGMENTED.user_profiles)
    torch.testing.assert_close(model.user_features(), own)


@pytest.mark.parametrize("name", [WEIGHTS, INPUTS])
@pytest.mark.parametrize("sums", [True, False])
def test_fault_35_a_changed_byte_is_noticed(keep: Keep, workspace: Workspace, name: str, sums: bool) -> None:
    path = keep("biasmf", AUGMENTED) / name
    whole = path.read_bytes()
    path.write_bytes(whole[:-9] + bytes([whole[-9] ^ 0x40]) + whole[-8:])
    if sums:
        with pytest.raises(Damaged) as error:
            load_model(path.parent, workspace)
        assert error.value.value == name
        return
    path.with_name(CHECKSUMS).unlink()  # a model of 0.1
    for place in range(0, 400, 3):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        with suppress(ReclmError):
            load_model(path.parent, workspace)


def test_fault_35_settings_that_decide_the_scores_are_noticed_too(keep: Keep, workspace: Workspace) -> None:
    folder = keep("lightgcn")
    head = (folder / HEAD).read_text()
    for old, new in (
        ("layers: 2", "layers: 1"),
        ("encoder: parity", "encoder: other"),
        ("- train", "- valid"),
    ):
        assert old in head
        (folder / HEAD).write_text(head.replace(old, new))
        with pytest.raises(Damaged):
            load_model(folder, workspace)
    (folder / HEAD).write_text(head.replace("encoder_source: parity", "encoder_source: elsewhere"))
    load_model(folder, workspace)
