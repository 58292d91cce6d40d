"""Two processes learn what one learns from the same batches."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import two_processes  # pyright: ignore[reportMissingImports]
from safetensors.torch import load_file

from reclm.profiles.store import ProfileStore


@pytest.fixture(scope="module")
def two(place, tmp_path_factory) -> Path:
    """``metrics.json`` of a few batches with the weights beside it, and ``out`` of the full variant."""
    folder = tmp_path_factory.mktemp("two")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    files = [two_processes.__file__, place.folder, folder / "out", folder / "metrics.json"]
    done = subprocess.run([*launch, *files], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


def same(found: Path, wanted: Path) -> None:
    one, other = load_file(found), load_file(wanted)
    assert one.keys() == other.keys()
    for name, values in one.items():
        torch.testing.assert_close(values, other[name], atol=2e-5, rtol=1e-3, msg=name)


def test_batches_of_contrastive_learning(place, two, tmp_path):
    written = json.loads((two / "metrics.json").read_text(encoding="utf-8"))
    assert written["processes"] == 2
    wanted = two_processes.contrast(place.folder, tmp_path / "weights.safetensors")
    for found, one in zip(written["metrics"], wanted, strict=True):
        for name in ("loss", "accuracy", "learning_rate"):
            assert found[name] == pytest.approx(one[name], rel=1e-5), name
    same(two / "metrics.safetensors", tmp_path / "weights.safetensors")


def lines(file: Path) -> Iterator[dict[str, float]]:
    yield from map(json.loads, file.read_text(encoding="utf-8").splitlines())


def test_all_of_langptune(two, tuned):
    for stage, names in {
        "cl": ["step", "loss", "accuracy", "words", "compliance"],
        "rlso": ["step", "loss", "reward", "reward_gap", "kl", "tokens", "unfinished", "words"],
    }.items():
        found, wanted = (
            list(lines(two / "out" / stage / "metrics.jsonl")),
            list(lines(tuned / stage / "metrics.jsonl")),
        )
        assert len(found) == 4
        for one, other in zip(found, wanted, strict=True):
            assert {name: one[name] for name in names} == pytest.approx(
                {name: other[name] for name in names}, rel=1e-3, abs=1e-5
            )
    same(two / "out" / "encoder" / "model.safetensors", tuned / "encoder" / "model.safetensors")
    name = Path("adapter") / "adapter_model.safetensors"
    same(two / "out" / name, tuned / name)


def test_what_is_shared_is_written_once(two):
    out = two / "out"
    assert json.loads((two / "metrics.json").read_text())["results"] > 0
    assert not list(out.rglob("*.partial"))
    assert (out / "report.md").is_file()
    assert ProfileStore.read(out / "profiles").count("user") == 12
    assert sorted(one.name for one in (out / "cl").iterdir()) == ["metrics.jsonl", "tensorboard"]
