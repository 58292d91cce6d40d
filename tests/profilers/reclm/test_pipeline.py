"""The stages one behind the other: what is done stays done, also where a run is killed."""

import json
import shutil
import signal
from pathlib import Path

import pytest
from safetensors.torch import load_file
from tiny_tuning import Letters, apart, config, tune, view  # pyright: ignore[reportMissingImports]

from reclm.profilers.reclm.config import ORDER, RecLMConfig
from reclm.profilers.reclm.measure import BEFORE, Measurement
from reclm.profilers.reclm.pipeline import RecLMPipeline
from reclm.profilers.reclm.profiler import RecLMProfiler


def adapter(out: Path, stage: str) -> Path:
    return out / stage / "adapter" / "adapter_model.safetensors"


def metrics(out: Path, stage: str) -> list[dict[str, float]]:
    """The lines of a stage's metrics, without those that tell its speed."""
    lines = map(json.loads, (out / stage / "metrics.jsonl").read_text().splitlines())
    speed = ("runtime", "per_second", "seconds", "rollout_tokens")
    return [{name: one[name] for name in one if not name.endswith(speed)} for one in lines]


def steps(out: Path, stage: str) -> list[float]:
    """The training steps that a stage's metrics have a line of."""
    return [one["step"] for one in metrics(out, stage) if "loss" in one or "reward" in one]


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
    assert metrics(out, stage) == metrics(tuned, stage)
    assert {one: adapter(out, one).stat().st_mtime_ns for one in before} == done
    assert not (out / stage / "checkpoints").exists()
    assert any(one.any() for one in load_file(adapter(out, stage)).values())


def test_checkpoints_of_a_run_that_was_killed_at_the_end_of_a_stage_are_deleted(
    tiny, tuned, tmp_path
) -> None:
    shutil.copytree(tuned, tmp_path / "out")
    left = tmp_path / "out" / "collab" / "checkpoints" / "checkpoint-3"
    left.mkdir(parents=True)
    tune(tiny.folder, tmp_path / "out")
    assert not left.parent.exists()


def test_a_subject_without_an_answer_is_left_out_of_the_measurement(tiny, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(RecLMProfiler, "write", lambda self, subjects: iter(()))
    options = {"model": str(tiny.folder / "model"), "folder": tmp_path / "out", "encoder": Letters()}
    tuning = RecLMProfiler(config(tiny.folder), **options).tuning(view())
    assert Measurement(tuning)._profiles("user", BEFORE, ["u0", "u1"]) == {}


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
