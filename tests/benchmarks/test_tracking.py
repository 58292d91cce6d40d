"""Runs in TensorBoard and MLflow: what is read back is what the result says."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData  # pyright: ignore[reportAttributeAccessIssue]

from reclm.benchmarks import tracking
from reclm.benchmarks.results import Failure, ProtocolInfo, Result, ResultRow, RunInfo, TrialResult
from reclm.benchmarks.tracking import check_trackers, to_mlflow, to_tensorboard, track, trials
from reclm.errors import MissingExtra, NotFound
from reclm.folders import workspace


@pytest.fixture
def result() -> Result:
    """Two rows whose names make the same folder; one seed of the second failed."""
    options = {"backbone": "biasmf", "lr": 1e-3, "train.dim": [1, 2]}
    rows = [
        ResultRow(name="base", options=options),
        ResultRow(name="base!", against=("base",), options={**options, "lr": 0.25}),
    ]
    about = RunInfo(
        title="tracked",
        dataset="toy",
        fingerprint="f00",
        metrics=("ndcg@5", "coverage@5"),
        protocols=(ProtocolInfo(name="full-shot", users=2, candidates=3),),
        rows=tuple(rows),
        failures=(Failure(row="base!", seed=1, reason="out of luck"),),
    )
    trials_, history = {}, {}
    for place, key in enumerate([("base", 0), ("base", 1), ("base!", 0)]):
        values = {"ndcg@5": np.array([0.25, 0.5], np.float32) + place}
        overall = {"coverage@5": float("nan") if place else 0.5}
        trials_[*key, "full-shot"] = TrialResult(
            np.array(["a", "b"], object), np.ones(2, int), values, overall
        )
        history[key] = [
            {"epoch": epoch, "loss": place + 1 / epoch, "valid ndcg@5": epoch / 10} for epoch in (1, 2)
        ]
    return Result(about, trials_, history)


def test_a_training_has_its_options_curves_and_numbers(result: Result) -> None:
    runs = {f"{one.row} seed {one.seed}": one for one in trials(result)}
    assert list(runs) == ["base seed 0", "base seed 1", "base! seed 0", "base! seed 1"]
    assert runs["base seed 0"].metrics == {"full-shot/ndcg@5": 0.375, "full-shot/coverage@5": 0.5}
    assert runs["base! seed 0"].metrics == {"full-shot/ndcg@5": 2.375}
    assert runs["base! seed 0"].curves["epoch/loss"] == [(1, 3.0), (2, 2.5)]
    options = runs["base! seed 0"].options
    assert (options["lr"], options["against"], options["backbone"]) == (0.25, "base", "biasmf")
    assert (runs["base seed 1"].options["lr"], runs["base seed 1"].options["seed"]) == (1e-3, 1)
    assert (runs["base! seed 1"].error, runs["base! seed 1"].metrics) == ("out of luck", {})


def test_tensorboard_reads_what_was_written(result: Result, tmp_path: Path) -> None:
    assert to_tensorboard(result, tmp_path) == to_tensorboard(result, tmp_path)  # the second takes its place
    folders = {str(path.parent.relative_to(tmp_path)) for path in tmp_path.rglob("events.*")}
    assert folders == {f"tensorboard/{row}/seed-{seed}" for row in ("base", "base-1") for seed in (0, 1)}
    found = EventAccumulator(str(tmp_path / "tensorboard" / "base-1" / "seed-0")).Reload()
    points = found.Scalars("epoch/valid ndcg@5")
    assert [(one.step, one.value) for one in points] == [(1, pytest.approx(0.1)), (2, pytest.approx(0.2))]
    assert [one.value for one in found.Scalars("full-shot/ndcg@5")] == [2.375]
    start = found.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    options = HParamsPluginData.FromString(start).session_start_info.hparams
    assert options["lr"].number_value == 0.25
    assert options["backbone"].string_value == "biasmf"
    failed = EventAccumulator(str(tmp_path / "tensorboard" / "base-1" / "seed-1")).Reload()
    assert failed.Tensors("error/text_summary")[0].tensor_proto.string_val == [b"out of luck"]


def test_mlflow_reads_what_was_written(
    result: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.tracking import MlflowClient

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    workspace(tmp_path / "home")
    said = to_mlflow(result, tmp_path / "run")
    assert said.startswith("mlflow: experiment 'reclm toy' in sqlite:///")
    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/home/mlflow.db")
    experiment = client.get_experiment_by_name("reclm toy")
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    assert {name: run.info.status for name, run in runs.items()} == {
        "base seed 0": "FINISHED",
        "base seed 1": "FINISHED",
        "base! seed 0": "FINISHED",
        "base! seed 1": "FAILED",
    }
    one = runs["base! seed 0"]
    assert one.data.metrics["full-shot/ndcg_at_5"] == 2.375
    assert (one.data.params["lr"], one.data.params["train.dim"], one.data.tags["run"]) == (
        "0.25",
        "[1, 2]",
        "run",
    )
    curve = client.get_metric_history(one.info.run_id, "epoch/valid ndcg_at_5")
    assert [(point.step, point.value) for point in curve] == [(1, 0.1), (2, 0.2)]
    assert runs["base! seed 1"].data.tags["error"] == "out of luck"
    assert not (Path.cwd() / "mlruns").exists()


def test_a_tracker_that_is_missing_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, result: Result, tmp_path: Path
) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(tracking, "find_spec", lambda name: None if name == "mlflow" else real(name))
    check_trackers(["tensorboard"])
    for ask in (lambda: check_trackers(["mlflow"]), lambda: track(result, tmp_path, ["mlflow"])):
        with pytest.raises(MissingExtra) as caught:
            ask()
        assert caught.value.value == "mlflow"
        assert caught.value.remedy.startswith("pip install")
    with pytest.raises(NotFound) as unknown:
        check_trackers(["tensorbord"])
    assert unknown.value.remedy == "tensorboard"
