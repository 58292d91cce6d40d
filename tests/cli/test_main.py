"""What every command shares: one line for a mistake, and for Ctrl-C."""

import errno
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
import yaml

import reclm.cli
from reclm import plugins
from reclm.benchmarks.suite import load_suite
from reclm.errors import BadInput, ReclmError
from reclm.recommend.saved import load_model

from .conftest import Run


def ended(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> int | str | None:
    def fails() -> None:
        raise error

    app = typer.Typer()
    app.command()(fails)
    monkeypatch.setattr(reclm.cli, "app", app)
    monkeypatch.setattr(sys, "argv", ["reclm"])
    with pytest.raises(SystemExit) as stop:
        reclm.cli.main()
    return stop.value.code


def test_ctrl_c_says_that_nothing_is_lost(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ended(monkeypatch, KeyboardInterrupt()) == 130
    assert capsys.readouterr().err == ("stopped; what is done is kept: run the same command again to go on\n")


def test_an_error_that_quotes_data_cannot_steer_the_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ended(monkeypatch, ReclmError("unknown user '\x1b]0;pwn\x07'\nsecond line")) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: unknown user ")
    assert error.count("\n") == 1
    assert error.strip().isprintable()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_disk_that_takes_nothing_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: int
) -> None:
    assert ended(monkeypatch, OSError(number, os.strerror(number), "home/x")) == 2
    assert capsys.readouterr().err.startswith(f"error: home/x: {os.strerror(number)}; what is done is kept")


def test_any_other_error_of_the_system_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OSError, match="strange"):
        ended(monkeypatch, OSError("strange"))


PWN = """
from pathlib import Path

from reclm.backbones.bprmf import BPRMF as Pwn

Path("pwned").touch()
"""
SUITE = """
title: Theirs
dataset: films
rows:
  - {name: base, backbone: biasmf}
  - {name: own, backbone: biasmf, PLACE}
"""
PLACES = {
    "backbone": "model: {}}\n  - {name: x, backbone: pwn_38:Pwn",
    "profiler": "profiles: {profiler: 'pwn_38:Pwn'}",
    "engine": "profiles: {engine: 'pwn_38:Pwn'}",
    "nested": "profiles: {profiler: reclm, settings: {teacher: {engine: 'pwn_38:Pwn'}}}",
}


@pytest.fixture
def pwn(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A module in the working folder that leaves a file when it is imported; the path of that file."""
    monkeypatch.setattr(plugins, "_TYPED", set())
    monkeypatch.setattr("sys.path", list(sys.path))
    (tmp_path / "pwn_38.py").write_text(PWN)
    yield tmp_path / "pwned"
    sys.modules.pop("pwn_38", None)


def foreign_model(folder: Path) -> Path:
    folder.mkdir()
    about = {"backbone": "pwn_38:Pwn", "config": {}, "variant": "base", "seed": 0}
    (folder / "model.yaml").write_text(yaml.safe_dump(about | {"dataset": "films", "fingerprint": "f"}))
    return folder


@pytest.mark.parametrize("place", PLACES)
def test_fault_38_a_suite_runs_no_code_of_its_own(run: Run, pwn: Path, tmp_path: Path, place: str) -> None:
    (tmp_path / "suite.yaml").write_text(SUITE.replace("PLACE", PLACES[place]))
    for command in (
        ["suite", "suite.yaml"],
        ["--suite", "suite.yaml"],
        ["suite", "suite.yaml", "--rows", "base"],
    ):
        code, _, err = run("bench", *command)
        assert (code, pwn.exists()) == (2, False)
        assert "--trust" in err
        assert "pwn_38:Pwn" in err


def test_fault_38_neither_does_a_model_a_tuned_folder_or_a_file_of_options(
    run: Run, pwn: Path, tmp_path: Path
) -> None:
    model, tuned = foreign_model(tmp_path / "model"), tmp_path / "tuned"
    tuned.mkdir()
    (tuned / "about.yaml").write_text("profiler: pwn_38:Pwn\n")
    (tmp_path / "options.yaml").write_text("teacher: {engine: 'pwn_38:Pwn'}\n")
    for command in (
        ["recommend", "--run", model, "--user", "u1"],
        ["profile", "--dataset", "films", "--profiler", tuned],
        ["steer", "--dataset", "films", "--profiler", tuned, "--user", "anne"],
        ["bench", "--dataset", "films", "--augment", "--profiler", tuned],
        ["tune", "--dataset", "films", "--config", tmp_path / "options.yaml", "--dry-run"],
    ):
        code, _, err = run(*command)
        assert (code, pwn.exists()) == (2, False), command
        assert "--trust" in err


def test_fault_38_code_is_run_by_consent(run: Run, pwn: Path, tmp_path: Path) -> None:
    model = foreign_model(tmp_path / "model")
    code, _, err = run("recommend", "--run", model, "--user", "u1", "--trust")
    assert (code, "--trust" in err) == (2, False)  # the next thing is wrong with it: there are no weights
    with pytest.raises(BadInput) as error:
        load_model(model)
    assert (error.value.value, error.value.remedy) == ("pwn_38:Pwn", "--trust")
    assert not pwn.exists()
    (tmp_path / "suite.yaml").write_text(SUITE.replace("PLACE", PLACES["backbone"]))
    with pytest.raises(BadInput):
        load_suite(tmp_path / "suite.yaml")
    assert len(load_suite(tmp_path / "suite.yaml", trust=True).rows) == 3
    assert plugins.get("backbone", "pwn_38:Pwn").__name__ == "BPRMF"  # typed by the user
    assert pwn.exists()
    assert len(load_suite(tmp_path / "suite.yaml").rows) == 3


@pytest.mark.parametrize(
    "command",
    [
        "recommend --profile {}",
        "recommend --users {}",
        "recommend --history {}",
        "recommend --run {}",
        "profile --dataset {}",
        "profile --set instruction={}",
        "profile --store {}",
        "profile --model {}",
        "profiles search {}",
        "data prepare table --source {}",
        "data prepare table --source x.csv --name {}",
        "bench --home {}",
        "steer --user u0 --edit {}",
        "{}",
    ],
)
def test_fault_12_bytes_that_are_not_utf8_are_one_line(run: Run, command: str) -> None:
    """Python passes such bytes of an argument on as halves of surrogate pairs."""
    code, out, err = run(*command.format("caf\udce9").split())
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("error: command line: 'caf") or "=caf" in err
    assert "UTF-8" in err
