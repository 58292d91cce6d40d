"""``reclm bench`` from the command line, on a small data set with the encoder that is installed."""

import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import reclm.cli
from reclm.benchmarks.results import Result
from reclm.data.storage import save
from reclm.testing import checkerboard


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace that holds the checkerboard."""
    home = tmp_path_factory.mktemp("home")
    save(checkerboard(), home / "datasets" / "checkerboard")
    return home


def run(home: Path, *options: str) -> int:
    """The exit code of ``reclm bench`` on the checkerboard."""
    old = sys.argv
    command, options = (options[:2], options[2:]) if options[0] == "suite" else ((), options)
    shared = ["--dataset", "checkerboard", "--home", str(home), "--epochs", "3"]
    sys.argv = ["reclm", "bench", *command, *shared, *options]
    try:
        reclm.cli.main()
    except SystemExit as stop:
        return int(stop.code or 0)
    finally:
        sys.argv = old
    return 0


@pytest.mark.real_model
def test_base_and_augment_side_by_side_with_files_and_the_next_command(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [
        "--augment",
        "--profiler",
        "keywords",
        "--seeds",
        "2",
        "--set",
        "dim=4",
        "--out",
        str(tmp_path / "run"),
    ]
    assert run(home, *options) == 0
    out = capsys.readouterr().out
    for words in ("base", "augment", "full-shot", "zero-shot", "NDCG@20", "24 of 24 users", "--seeds 3"):
        assert words in out
    assert "--seeds 2" not in out.partition("next: ")[2]
    record = Result.load(tmp_path / "run")
    assert record.about.suite["model"] == {"dim": 4}
    assert record.row("augment").coverage["user"] == (24, 24)
    assert pq.read_table(tmp_path / "run" / "results.parquet").num_rows == (2 + 6) * 2 * 2 * 14
    assert (tmp_path / "run" / "comparison.png").stat().st_size > 10_000

    # again, trained again: the same numbers, bit for bit
    options[-1:] = [str(tmp_path / "again"), "--fresh"]
    assert run(home, *options) == 0
    assert (tmp_path / "again" / "users.parquet").read_bytes() == (
        tmp_path / "run" / "users.parquet"
    ).read_bytes()


def test_several_backbones_make_one_table(home: Path, tmp_path: Path) -> None:
    assert (
        run(
            home,
            "--backbone",
            "popularity",
            "--backbone",
            "random",
            "--no-references",
            "--out",
            str(tmp_path / "run"),
        )
        == 0
    )
    rows = Result.load(tmp_path / "run").about.rows
    assert [(row.backbone, row.baseline) for row in rows] == [("popularity", True), ("random", True)]


@pytest.mark.real_model
def test_a_store_is_taken_as_it_is(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = home / "profiles" / "checkerboard" / "keywords"
    assert run(home, "--augment", "--profiler", "keywords", "--out", str(tmp_path / "first")) == 0
    capsys.readouterr()
    assert (
        run(home, "--augment", "--store", str(folder), "--kind", "user", "--out", str(tmp_path / "run")) == 0
    )
    assert "profiles by keywords: 24 of 24 users\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--backbone", "ligthgcn"], "did you mean 'lightgcn'?"),
        (["--set", "layrs=3"], "did you mean 'layers'?"),
        (["--set", "layers=none"], "layers = 'none'"),
        (["--set", "lr"], "key=value"),
        (["--augment", "--profiler", "keyword"], "did you mean 'keywords'?"),
        (["--augment", "--profiler", "keywords", "--adapter", "x"], "there is no folder x"),
        (["--suite", "lastfm", "--adapter", "x"], "--adapter does not go with a suite"),
        (["--augment", "--store", "nowhere"], "no profile store at nowhere"),
        (["--encoder", "./nowhere"], "no encoder at ./nowhere"),
        (["--dataset", "checkerbord"], "did you mean 'checkerboard'?"),
        (["suite", "lasftm"], "did you mean 'lastfm'?"),
        (["--suite", "lastfm", "--backbone", "sgl"], "--backbone does not go with a suite"),
        (["--suite", "lastfm", "--set", "lr=1"], "--set does not go with a suite"),
        (["suite", "lastfm", "--rows", "LightGNC"], "did you mean 'LightGCN'?"),
        (["--row", "LightGCN"], "--row chooses among the rows of a suite"),
        (["--controls"], "--controls is about profiles, which this trains without; add --augment"),
        (["--profiler-set", "terms=3"], "add --augment"),
        (["--fusion", "residual"], "--fusion is about profiles"),
        (["--select-on", "test", "--set", "batch_size=abc"], "batch_size = 'abc'"),
        (["--out", __file__], "holds something else than a run; choose another --out"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    home: Path, capsys: pytest.CaptureFixture[str], options: list[str], words: str
) -> None:
    assert run(home, *options) == 2
    *before, error = capsys.readouterr().err.strip().splitlines()
    assert words in error
    assert error.startswith("error: ")
    assert all("━" in line for line in before), "a slow machine shows progress before"


def test_a_store_of_other_data_is_refused(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from reclm.profiles.store import ProfileStore

    with ProfileStore.open(tmp_path / "store", "0123456789abcdef", "keywords"):
        pass
    assert run(home, "--augment", "--store", str(tmp_path / "store")) == 2
    assert "0123456789abcdef" in capsys.readouterr().err


def test_the_spellings_of_0_1_run_and_name_the_new_ones(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "suite.yaml").write_text(SUITE)
    for name in ("a", "b"):
        options = ["--suite", str(tmp_path / "suite.yaml"), "--row", "plain", "--out", str(tmp_path / name)]
        assert run(home, *options) == 0
        assert "reclm bench suite NAME" in capsys.readouterr().err
    old = sys.argv
    try:
        sys.argv = ["reclm", "bench", "--compare", str(tmp_path / "a"), str(tmp_path / "b")]
        with pytest.raises(SystemExit) as stop:
            reclm.cli.main()
    finally:
        sys.argv = old
    assert not stop.value.code
    output = capsys.readouterr()
    assert "reclm bench compare A B" in output.err
    assert "agree" in output.out


SUITE = """
title: parity
dataset: elsewhere
metrics: [ndcg@5]
model: {items: id, dim: 4}
train: {metric: ndcg@5, epochs: 9}
rows:
  - {name: plain, backbone: biasmf, published: {full-shot: {ndcg@5: 0.5}}}
  - {name: broken, backbone: lightgcn}
"""


def test_a_suite_is_printed_beside_what_was_published_and_a_failed_cell_is_exit_code_1(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from reclm.backbones.lightgcn import LightGCN

    (tmp_path / "suite.yaml").write_text(SUITE)
    options = ["suite", str(tmp_path / "suite.yaml"), "--seeds", "2", "--out", str(tmp_path / "run")]

    def broken(*given: object) -> None:
        raise RuntimeError("no luck")

    with monkeypatch.context() as patched:
        patched.setattr(LightGCN, "__init__", broken)
        assert run(home, *options) == 1
    out = capsys.readouterr().out
    assert "failed: broken, seed 1: RuntimeError: no luck" in out
    assert "published" in out
    rows = pq.read_table(tmp_path / "run" / "results.parquet").to_pylist()
    assert {(row["row"], row["seed"]) for row in rows} == {("plain", 0), ("plain", 1)}
    assert run(home, *options) == 0
    assert "failed:" not in capsys.readouterr().out
    assert Result.load(tmp_path / "run").about.dataset == "checkerboard"
    assert len({cell.key for cell in Result.load(tmp_path / "run").trials.values()}) == 4
