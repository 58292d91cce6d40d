"""The stages one behind the other: what is done stays done, also where a run is killed."""

import json
import shutil
import signal
from pathlib import Path

import pytest
from safetensors.torch import load_file
from tiny_tuning import apart  # pyright: ignore[reportMissingImports]

from reclm.profilers.reclm.config import ORDER, RecLMConfig
from reclm.profilers.reclm.pipeline import RecLMPipeline


def adapter(out: Path, stage: str) -> Path:
    return out / stage / "adapter" / "adapter_model.safetensors"


def steps(out: Path, stage: str) -> list[int]:
    """The training steps that a stage's metrics have a line of."""
    lines = map(json.loads, (out / stage / "metrics.jsonl").read_text().splitlines())
    return [one["step"] for one in lines if "loss" in one or "reward" in one]


@pytest.mark.parametrize("stage", ORDER)
def test_a_killed_run_goes_on_to_the_same_adapter(tiny, tuned, tmp_path, stage) -> None:
    out, before = tmp_path / "out", ORDER[: ORDER.index(stage)]
    stages = [*before, stage]
    if before:
        shutil.copytree(tuned, out)
        for one in ORDER[len(before) :]:
            shutil.rmtree(out / one)
    done = {one: adapter(out, one).stat().st_mtime_ns for one in before}

    assert apart(tiny.folder, out, stage, stages=stages) == -signal.SIGKILL
    assert not adapter(out, stage).exists()
    assert len(steps(out, stage)) == 2
    assert apart(tiny.folder, out, stages=stages) == 0

    assert adapter(out, stage).read_bytes() == adapter(tuned, stage).read_bytes()
    assert steps(out, stage) == steps(tuned, stage) == list(range(1, len(steps(tuned, stage)) + 1))
    assert {one: adapter(out, one).stat().st_mtime_ns for one in before} == done
    assert not (out / stage / "checkpoints").exists()
    assert any(one.any() for one in load_file(adapter(out, stage)).values())


def test_a_profile_that_ppo_writes_ends_with_its_line(tiny, tuned, tmp_path, monkeypatch) -> None:
    seen = []
    monkeypatch.setattr(
        "reclm.profilers.reclm.pipeline.train_ppo", lambda *args: seen.append((args[1], args[3]))
    )
    out = Path(shutil.copytree(tuned, tmp_path / "out"))
    shutil.rmtree(out / "ppo")
    config = RecLMConfig.from_yaml(out / "config.yaml")
    RecLMPipeline(tiny.view, config, tiny.model, out, encoder=tiny.encoder, progress=False).train("ppo")
    ((asked, options),) = seen
    assert options.sampling.stop == ("\n",)
    # answers begin as the first turn's do
    assert all(tiny.prompts.text(ids).endswith("User 1: User identity:") for ids in asked)
