"""The folder of a tuned profiler: what it may be opened for, and gone on with."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_tuning  # pyright: ignore[reportMissingImports]
import torch

from reclm.errors import BadInput, Damaged, NotFound
from reclm.llm.models import find_model
from reclm.profilers.reclm.profiler import RecLMFolder, RecLMProfiler
from reclm.profilers.tuning.adapter import with_adapter
from reclm.profilers.tuning.training import load_network


def begin(tiny, folder: Path, **changes) -> RecLMFolder:
    """Go on in ``folder`` with other settings."""
    config = tiny_tuning.config(tiny.folder, **changes)
    return RecLMFolder.begin(folder, config, tiny.view, tiny.model, tiny.model_name)


@pytest.fixture
def folder(tuned, tmp_path) -> Path:
    """A copy of what was tuned."""
    return Path(shutil.copytree(tuned, tmp_path / "tuned"))


@pytest.fixture(scope="session")
def other_model(tiny) -> Path:
    """The tiny model with other weights."""
    folder = Path(shutil.copytree(tiny.model.path, tiny.folder / "other"))
    from safetensors.torch import load_file, save_file

    weights = {name: one + 1 for name, one in load_file(folder / "model.safetensors").items()}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


def test_what_was_begun_is_read(tiny, folder) -> None:
    tuned = RecLMFolder.read(folder)
    assert tuned.config == tiny.config
    assert (tuned.about.dataset, tuned.about.fingerprint) == ("tastes", "fingerprint")
    assert (tuned.about.model, tuned.about.weights) == (tiny.model_name, tiny.model.name)
    assert tuned.adapter("kd") == folder / "kd" / "adapter"
    assert (tuned.last("user"), tuned.last("item")) == ("ppo", "items")
    assert tuned.model() == tiny.model


def test_the_last_stage_is_the_last_that_is_wanted_and_done(tiny, folder) -> None:
    assert begin(tiny, folder, stages=["kd", "collab"]).last("user") == "collab"
    shutil.rmtree(folder / "collab" / "adapter")
    shutil.rmtree(folder / "items" / "adapter")
    assert begin(tiny, folder, stages=["kd", "collab", "items"]).last("user") == "kd"
    assert RecLMFolder.read(folder).last("item") is None


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"kd": {"epochs": 2}}, "kd.epochs = 0.5, not 2.0"),
        ({"variant": "naive"}, "variant = mask, not naive"),
        ({"ppo_lora": {"r": 3, "alpha": 4}}, "ppo_lora.r = 2, not 3"),
        ({"kd": {"lora": {"r": 9}}}, "kd.lora.r = 2, not 9"),
        ({"teacher": {"phrases": 1}}, r"teacher.users = .*users.csv, not None"),
        ({"reward_data": {"negatives": {"dot": 1}}}, "reward_data.negatives = "),
    ],
)
def test_other_options_are_told_by_their_key(tiny, folder, changes, told: str) -> None:
    values = tiny.config.model_dump(mode="json")
    for part, change in changes.items():
        deeper = {"lora": {**values[part]["lora"], **change["lora"]}} if "lora" in change else {}
        changes = {part: {**values[part], **change, **deeper} if part in {"kd", "ppo_lora"} else change}
    before = (folder / "config.yaml").read_text()
    with pytest.raises(BadInput, match=f"tuned with {told}") as raised:
        begin(tiny, folder, **changes)
    assert "begin in another folder (--out)" in str(raised.value)
    assert "\n" not in str(raised.value)
    assert (folder / "config.yaml").read_text() == before


def test_what_does_not_change_the_tuning_may_differ(tiny, folder) -> None:
    generation = {"temperature": 0.5}
    tuned = begin(tiny, folder, stages=["kd"], measured=0, generation=generation)
    # to look at it changes nothing
    assert RecLMFolder.read(folder).config == tiny.config
    tuned.write()
    assert RecLMFolder.read(folder).config == tuned.config
    assert tuned.config.generation.temperature == 0.5


def test_another_data_set_or_model_is_refused(tiny, folder, other_model) -> None:
    view = replace(tiny.view, fingerprint="another")
    with pytest.raises(BadInput, match="fingerprint"):
        RecLMFolder.begin(folder, tiny.config, view, tiny.model, None)
    other = find_model(str(other_model))
    with pytest.raises(BadInput, match="weights"):
        RecLMFolder.begin(folder, tiny.config, tiny.view, other, None)
    with pytest.raises(BadInput, match="model@"):
        RecLMFolder.read(folder).model(str(other_model))


def test_before_anything_is_learned_options_may_change(tiny, tmp_path) -> None:
    begin(tiny, tmp_path / "new")
    # samples that were made to be looked at
    (tmp_path / "new" / "kd" / "data").mkdir(parents=True)
    (tmp_path / "new" / "teacher").mkdir()
    tuned = begin(tiny, tmp_path / "new", variant="naive")
    assert RecLMFolder.read(tmp_path / "new").config.variant == tuned.config.variant == "naive"
    assert not (tmp_path / "new" / "kd").exists()
    assert (tmp_path / "new" / "teacher").exists()


def test_a_folder_of_something_else_is_left_alone(tiny, tmp_path) -> None:
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(BadInput):
        begin(tiny, tmp_path)
    assert [one.name for one in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(BadInput, match=r"thesis\.tex"):
        begin(tiny, tmp_path / "thesis.tex")
    with pytest.raises(NotFound):
        RecLMFolder.read(tmp_path)


def test_a_beginning_that_cannot_be_written_is_begun_again(tiny, tmp_path, monkeypatch) -> None:
    write = Path.write_text

    def full(path: Path, text: str, **options: Any) -> int:
        write(path, text[:3], **options)
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_text", full)
        with pytest.raises(BadInput, match="No space"):
            begin(tiny, tmp_path / "new")
    tuned = begin(tiny, tmp_path / "new")
    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_text", full)
        with pytest.raises(BadInput, match="No space"):
            begin(tiny, tmp_path / "new", measured=9).write()
    assert RecLMFolder.read(tmp_path / "new").config == tuned.config


def test_a_generator_is_the_model_as_its_stage_left_it(tiny, folder) -> None:
    tuned = RecLMFolder.read(folder)
    names = {stage: tuned.generator(stage, tiny.model).model for stage in (None, "kd", "collab", "ppo")}
    assert names[None] == tiny.model.name
    assert names["kd"].startswith(f"{tiny.model.name}+kd@")
    assert len(set(names.values())) == 4
    from peft import PeftModel

    from reclm.profilers.tuning.training import load_network

    ids = torch.arange(40, 60).unsqueeze(0)
    generator = tuned.generator("ppo", tiny.model).load()
    assert generator.model == names["ppo"]
    with torch.no_grad():
        expected = PeftModel.from_pretrained(load_network(tiny.model), str(folder / "ppo" / "adapter"))
        found = generator.network(input_ids=ids).logits  # pyright: ignore[reportAttributeAccessIssue]
        torch.testing.assert_close(found, expected.eval()(input_ids=ids).logits, atol=1e-5, rtol=1e-5)
        plain = load_network(tiny.model)(input_ids=ids).logits
    assert (found - plain).abs().max() > 1e-4


def test_open_refuses_what_is_not_there(tiny, folder, other_model, tmp_path) -> None:
    begin(tiny, tmp_path / "unfinished")
    with pytest.raises(NotFound):
        RecLMProfiler.open(tmp_path / "unfinished", None, None, None)
    with pytest.raises(BadInput, match="model@"):
        RecLMProfiler.open(folder, None, str(other_model), None)
    with pytest.raises(BadInput, match="openvino"):
        RecLMProfiler.open(folder, None, None, "openvino")
    with pytest.raises(NotFound):
        RecLMProfiler.open(tmp_path / "nowhere", None, None, None)
    name = RecLMProfiler.open(folder, None, tiny.model_name, "transformers").writer
    assert name.startswith(f"reclm-{tiny.model.name}+ppo@")


@pytest.mark.parametrize("damage", ["lost weight", "no weights", "no config", "lost scale", "aLoRA"])
def test_a_damaged_adapter_is_told_and_no_random_numbers_take_its_place(tiny, folder, damage: str) -> None:
    from safetensors.torch import load_file, save_file

    adapter = folder / "kd" / "adapter"
    weights = adapter / "adapter_model.safetensors"
    if damage == "lost weight":
        kept = load_file(weights)
        kept.pop(next(iter(kept)))
        save_file(kept, weights)
    elif damage == "no weights":
        weights.unlink()
    else:
        about = json.loads((adapter / "adapter_config.json").read_text())
        if damage == "aLoRA":  # PEFT merges none
            about["alora_invocation_tokens"] = [1]
        else:
            about.pop("lora_alpha")
        (adapter / "adapter_config.json").write_text(json.dumps([] if damage == "no config" else about))
    with pytest.raises(Damaged) as caught:
        with_adapter(load_network(tiny.model, device="cpu"), adapter)
    assert caught.value.where == adapter


def test_a_model_that_lacks_weights_is_not_tuned(tiny, tmp_path) -> None:
    from safetensors.torch import load_file, save_file

    folder = Path(shutil.copytree(tiny.model.path, tmp_path / "model"))
    kept = load_file(folder / "model.safetensors")
    name = next(name for name in kept if "mlp" in name)
    kept.pop(name)
    save_file(kept, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(Damaged) as caught:
        load_network(find_model(str(folder)), device="cpu")
    assert caught.value.value == name


def test_a_model_of_more_layers_than_weights_is_told_before_they_are_made(tiny, tmp_path) -> None:
    folder = Path(shutil.copytree(tiny.model.path, tmp_path / "model"))
    about = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(about | {"num_hidden_layers": 1000}))
    with pytest.raises(Damaged, match="num_hidden_layers = 1000") as caught:
        load_network(find_model(str(folder)), device="cpu")
    assert caught.value.where == folder


def test_a_folder_of_version_0_1_opens_and_asks_and_writes_as_it_did(tiny) -> None:
    profiler = RecLMProfiler.open(Path(__file__).parent / "tuned_by_0_1", model=tiny.model_name)
    profiler.encoder = tiny.encoder
    assert profiler.fit(tiny.view).writer == "reclm-model@35c9ae46+collab@4a423e7f"
    subjects = list(profiler.subjects(tiny.view, "user", np.arange(3), {}))
    assert {one.id: one.prompt_hash for one in subjects} == {
        "u0": "4d179de70e70b7f0adf2b2b395a83469",
        "u1": "d29874bfc0bb9079870e5f90fef36470",
        "u2": "5a3f26ee4fb431c77882f99f4e4f1d32",
    }
    chats: Any = {
        one.prompt_hash: one.source for one in subjects
    }  # the untrained model's answers are all cut
    answers = {answer.prompt_hash: answer.text for answer in profiler.answers("user", chats)}
    texts = {one.id: answers[one.prompt_hash] for one in subjects}
    assert texts["u0"] == texts["u1"] == "User identity: anc \ufffda\ufffd3"
    assert list(profiler.subjects(tiny.view, "item", np.arange(2), {}))
    assert "+items@" in profiler.writer
