"""A supervised stage that was broken off goes on from its checkpoint, and refuses a damaged one."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file, save_file

from reclm.errors import BadInput, Damaged
from reclm.profilers.reclm import stages
from reclm.profilers.reclm.config import SupervisedConfig
from reclm.profilers.reclm.stages import StageRun
from reclm.profilers.tuning import training

TWO_STEPS = {
    "lora": {"r": 2, "alpha": 4, "dropout": 0.1},
    **{"epochs": 1, "batch_size": 4, "accumulate": 1, "limit": 8, "evaluated": 0, "checkpoint_steps": 1},
}


@pytest.fixture(scope="module")
def broken(tiny, tmp_path_factory):
    """A stage's folder with the checkpoint of step 1 of 2, and its trainer as it is before training."""
    rows = [{"input_ids": [3 + at, 4, 5, 6], "labels": [-100, 4, 5, 6]} for at in range(8)]
    samples: Any = Dataset.from_list(rows)
    folder, trainers = tmp_path_factory.mktemp("stage"), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stages, "train", lambda trainer, *_: trainers.append(trainer))
        patch.setattr(stages, "label_samples", lambda samples, **_: samples)
        run = StageRun(tiny.model, tiny.prompts, folder, progress=False)
        for _ in range(2):
            stages.tune(run, samples, samples.select(range(0)), SupervisedConfig(**TWO_STEPS))
    training.train(trainers[0], folder / "whole", "whole", False, 1)  # its checkpoints go to `folder`
    shutil.rmtree(folder / "checkpoints" / "checkpoint-2", ignore_errors=True)
    return folder, trainers[1]


def changed_tensors(path: Path, change) -> None:
    save_file(change(load_file(path)), path)


def changed_torch(path: Path, change) -> None:
    value = torch.load(path, weights_only=True)
    change(value)
    torch.save(value, path)


def changed_json(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def without_one(tensors):
    return dict(sorted(tensors.items())[1:])


def narrow(optimizer) -> None:
    optimizer["state"][0]["exp_avg"] = optimizer["state"][0]["exp_avg"].flatten()


DAMAGES = {
    "weights cut": lambda folder: (folder / "adapter_model.safetensors").write_bytes(b"x" * 99),
    "weights gone": lambda folder: (folder / "adapter_model.safetensors").unlink(),
    "a weight gone": lambda folder: changed_tensors(folder / "adapter_model.safetensors", without_one),
    "another shape": lambda folder: changed_tensors(
        folder / "adapter_model.safetensors", lambda all: {name: one[:1] for name, one in all.items()}
    ),
    "optimizer cut": lambda folder: (folder / "optimizer.pt").write_bytes(b"x" * 99),
    "optimizer gone": lambda folder: (folder / "optimizer.pt").unlink(),
    "optimizer of another shape": lambda folder: changed_torch(folder / "optimizer.pt", narrow),
    "schedule cut": lambda folder: (folder / "scheduler.pt").write_bytes(b"x" * 99),
    "schedule gone": lambda folder: (folder / "scheduler.pt").unlink(),
    "schedule of another step": lambda folder: changed_torch(
        folder / "scheduler.pt", lambda one: one.update(last_epoch=7)
    ),
    "random state cut": lambda folder: (folder / "rng_state.pth").write_bytes(b"x" * 99),
    "random state gone": lambda folder: (folder / "rng_state.pth").unlink(),
    "state of another step": lambda folder: changed_json(folder / "trainer_state.json", global_step=0),
    "state of no step": lambda folder: changed_json(folder / "trainer_state.json", global_step="1"),
    "log without steps": lambda folder: changed_json(folder / "trainer_state.json", log_history=[{"a": 1}]),
    "state of another kind": lambda folder: (folder / "trainer_state.json").write_text("[]"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_of_a_trainer_is_refused(broken, tmp_path, damage) -> None:
    folder, trainer = broken
    shutil.copytree(folder / "checkpoints", tmp_path / "checkpoints")
    checkpoint = tmp_path / "checkpoints" / "checkpoint-1"
    DAMAGES[damage](checkpoint)
    with pytest.raises(Damaged) as refused:
        training.train(trainer, tmp_path, "resumed", False)
    assert refused.value.value == checkpoint
    assert not (tmp_path / "adapter").exists()


def test_a_disk_that_is_full_as_it_goes_on_is_no_damage(broken, tmp_path, monkeypatch) -> None:
    folder, trainer = broken
    shutil.copytree(folder / "checkpoints", tmp_path / "checkpoints")

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(training, "MetricsLog", full)
    with pytest.raises(BadInput):
        training.train(trainer, tmp_path, "resumed", False)


def test_a_sound_checkpoint_goes_on_to_the_same_end(broken, tmp_path) -> None:
    folder, trainer = broken
    shutil.copytree(folder / "checkpoints", tmp_path / "checkpoints")
    resumed = load_file(training.train(trainer, tmp_path, "resumed", False) / "adapter_model.safetensors")
    whole = load_file(folder / "whole" / "adapter" / "adapter_model.safetensors")
    assert resumed.keys() == whole.keys()
    assert all(torch.equal(one, whole[name]) for name, one in resumed.items())
