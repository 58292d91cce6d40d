"""``reclm report`` on the command line."""

import os
import shlex
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "benchmarks" / "report"))

from made_runs import made_result  # pyright: ignore[reportMissingImports]

NAMES = ("report.html", "report.md", "report.tex", "results.csv")


@pytest.fixture
def saved(tmp_path):
    folder = tmp_path / "my run"
    made_result(users=20, seeds=1, backbones=("LightGCN",)).save(folder)
    return folder


def test_it_says_what_it_wrote_and_what_to_do_next(run, saved, tmp_path):
    code, out, _ = run("report", saved)
    assert code == 0
    assert all((saved / name).stat().st_size > 1000 for name in NAMES)
    assert all(name in out for name in (str(saved), *NAMES))
    (command,) = (line for line in out.splitlines() if line.startswith("next: "))
    assert shlex.split(command.split("   ")[0])[-1] == str(saved / "report.html")
    code, out, _ = run("report", saved, "--out", tmp_path / "else" / "where")
    assert code == 0
    assert sorted(os.listdir(tmp_path / "else" / "where")) == sorted(NAMES)


def test_the_command_that_bench_names_with_a_home_runs(run, saved, tmp_path):
    code, out, _ = run("report", saved, "--home", tmp_path / "home")
    assert code == 0
    assert "--home" not in out


def one_line(result) -> str:
    code, _, error = result
    assert code == 2
    assert error.count("\n") == 1
    return error


def test_no_run_is_one_line(run, tmp_path):
    assert "no run in" in one_line(run("report", tmp_path / "none"))
    (tmp_path / "empty").mkdir()
    assert "reclm bench writes one" in one_line(run("report", tmp_path / "empty"))


@pytest.mark.parametrize(
    "name",
    ["about.json", "results.parquet", "users.parquet", "history.parquet", "examples.json", "profiles.json"],
)
@pytest.mark.parametrize("text", ["", "[1]", '{"x": 1}', "\x00\xff"])
def test_a_damaged_run_is_one_line(run, saved, name, text):
    (saved / name).write_bytes(text.encode("latin-1"))
    assert str(saved) in one_line(run("report", saved))
    assert not (saved / "report.html").exists()


def test_a_folder_that_cannot_be_written_is_one_line(run, saved, tmp_path):
    (tmp_path / "file").write_text("")
    assert str(tmp_path / "file") in one_line(run("report", saved, "--out", tmp_path / "file"))
