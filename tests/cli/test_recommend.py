"""``reclm bench``, then ``reclm recommend``, with an encoder that knows two words."""

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from fake_encoder import use_encoder

import reclm.cli
from reclm.benchmarks.suite import REFERENCES
from reclm.data.storage import save
from reclm.profiles.profiles import Profiles
from reclm.testing import checkerboard


class Parity:
    """An encoder."""

    name = source = "parity"
    dim = 8

    def __init__(self, name: str | None = None) -> None:
        pass

    def encode(
        self, texts: Sequence[str], batch_size: int = 32, progress: Callable[[int], None] | None = None
    ) -> np.ndarray:
        return np.array([["even" in text, "odd" in text, *[0] * 6] for text in texts], np.float32)


def command(*words: object) -> int:
    """The exit code of ``reclm …``."""
    old = sys.argv
    sys.argv = ["reclm", *map(str, words)]
    try:
        reclm.cli.main()
    except SystemExit as stop:
        return int(stop.code or 0)
    finally:
        sys.argv = old
    return 0


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, str]:
    """A workspace, the folder of a run in it, and what ``reclm bench`` printed."""
    home = tmp_path_factory.mktemp("home")
    data = checkerboard()
    titles = [f"[bold]{title}[/bold]\x1b[31m" for title in data.item_text["title"].to_pylist()]
    save(replace(data, item_text=pa.table({"title": titles})), home / "datasets" / "checkerboard")
    with pytest.MonkeyPatch.context() as patch, (home / "out").open("w") as out:
        use_encoder(patch, Parity)
        patch.setattr(sys, "stdout", out)
        settings = [f"--set={one}" for one in ("dim=8", "lr=0.05", "batch_size=64", "patience=40")]
        plain = ["bench", "--dataset", "checkerboard", "--home", home, "--epochs", "40", *settings]
        assert command(*plain, "--augment", "--profiler", "keywords", "--seeds", 2) == 0
    (run,) = (home / "runs").iterdir()
    return home, run, (home / "out").read_text()


@pytest.fixture
def ask(
    bench: tuple[Path, Path, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Runs ``reclm recommend …``: exit code, stdout, stderr."""

    def ask(*words: object) -> tuple[int, str, str]:
        use_encoder(monkeypatch, Parity)
        monkeypatch.setenv("COLUMNS", "120")
        code = command("recommend", *words, "--home", bench[0])
        output = capsys.readouterr()
        return code, output.out, output.err

    return ask


Ask = Callable[..., tuple[int, str, str]]


def test_bench_keeps_a_model_a_variant_and_names_the_command(bench: tuple[Path, Path, str], ask: Ask) -> None:
    _, run, out = bench
    heads = {one.parent.name: one.read_text() for one in run.glob("models/*/model.yaml")}
    assert heads.keys() == {"base", "augment", *REFERENCES.values()}
    assert all("\nseed: 1\n" in head for head in heads.values())  # the last one
    (line,) = [line for line in out.splitlines() if "reclm recommend" in line]
    code, out, _ = ask(*line.removeprefix("next: reclm recommend ").split())
    assert code == 0
    assert "for user u0, trained on " in out


def test_a_table_with_titles_as_text(ask: Ask) -> None:
    code, out, err = ask("--user", "u0", "--k", "5")
    assert (code, err) == (0, "")
    rows = [line.split() for line in out.splitlines() if line.split() and line.split()[0].isdigit()]
    assert [row[0] for row in rows] == ["1", "2", "3", "4", "5"]
    parities = [int(row[1][1:]) % 2 for row in rows]
    assert parities == sorted(parities)  # an even user likes even items
    assert parities[0] == 0
    assert "[bold]even calm" in out
    assert "\x1b" not in out
    assert "model: lightgcn, augment, items by id+text, in " in out


def test_json_of_a_new_user_with_a_history_a_profile_and_new_items(
    ask: Ask, bench: tuple[Path, Path, str], tmp_path: Path
) -> None:
    (tmp_path / "new.csv").write_text("item_id,title\nn1,odd loud fire\nn2,even blue water\n")
    code, out, _ = ask(
        "--history",
        "i1, i3,i5",
        "--profile",
        "likes odd things",
        "--new-items",
        tmp_path / "new.csv",
        "--json",
    )
    assert code == 0
    found = json.loads(out)
    assert found["model"]["variant"] == "augment"
    assert found["built_from"].startswith(
        "a new user: a history of 3 items (features of its items propagated"
    )
    assert [one["rank"] for one in found["items"]] == list(range(1, 11))
    names = [one["item_id"] for one in found["items"]]
    assert not {"i1", "i3", "i5"} & {*names}
    base = ["--run", bench[1] / "models" / "base", "--new-items", tmp_path / "new.csv"]
    order = json.loads(ask("--history", "i1,i3,i5", "--k", "99", *base, "--json")[1])
    at = {one["item_id"]: one["rank"] for one in order["items"]}
    assert at["n1"] < at["n2"]
    assert {one["item_id"] for one in order["items"] if one["new"]} == {"n1", "n2"}


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--user", "u77"], "unknown user 'u77' among the 24 users"),
        (["--history", "i1,zz"], "unknown item 'zz' among the 20 items"),
        (["--history", " , "], "--history names no item"),
        (["--profile", ""], "--profile is empty"),
        ([], "--user ID for a user"),
        (["--user", "u1", "--run", "nowhere"], "no trained model in nowhere"),
        (["--user", "u1", "--new-items", "nowhere.csv"], "no such file: nowhere.csv"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(ask: Ask, words: list[str], says: str) -> None:
    code, out, err = ask(*words)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert says in err
    assert err.count("\n") == 1


def test_a_profile_is_no_use_to_a_plain_model(ask: Ask, bench: tuple[Path, Path, str]) -> None:
    code, _, err = ask("--profile", "likes odd things", "--run", bench[1] / "models" / "base")
    assert code == 2
    assert "without user profiles" in err


def test_without_a_run_the_command_that_makes_one_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("recommend", "--user", "u1", "--home", tmp_path) == 2
    assert "train one: reclm bench" in capsys.readouterr().err


@pytest.fixture
def comma_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace whose data set has ids with commas, no item text, and nothing to validate or to test on."""
    home = tmp_path / "home"
    log = "user_id,item_id,timestamp\n" + "".join(
        f'"u, {user}","i, {item}",{item}\n' for user in range(8) for item in range(9) if (user + item) % 3
    )
    (tmp_path / "log.csv").write_text(log)
    words = ["--valid", 0, "--test", 0, "--held-out-items", 0]
    source = ["--source", tmp_path / "log.csv", "--as", "all", "--home", home]
    assert command("data", "prepare", "table", *source, *words) == 0
    return home


def test_fault_18_a_model_of_everything_is_trained_and_serves(
    comma_home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["--dataset", "all", "--home", comma_home]
    for select_on in ("valid", "test"):
        assert command("bench", *common, "--set", "items=id", "--select-on", select_on) == 2
        assert "reclm fit --dataset all --epochs N" in capsys.readouterr().err
    options = ["--epochs", 3, "--set", "items=id", "--set", "dim=4"]
    assert command("fit", *common, "--backbone", "biasmf", *options) == 0
    assert "trained 3 epochs on 48 interactions" in capsys.readouterr().out
    assert command("recommend", "--user", "u, 1", "--home", comma_home, "--k", 2, "--json") == 0
    assert len(json.loads(capsys.readouterr().out)["items"]) == 2


def test_fault_29_ids_with_commas_and_several_users(
    comma_home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--epochs", 1, "--set", "items=id", "--set", "dim=4", "--home", comma_home]
    assert command("fit", "--dataset", "all", "--backbone", "biasmf", *options) == 0
    capsys.readouterr()
    same = ["recommend", "--home", comma_home, "--k", 2, "--json"]
    for history, count in ((["i, 1"], 1), (["i, 1", "i, 2"], 2), (['"i, 1","i, 2", "i, 3"'], 3)):
        assert command(*same, *(word for one in history for word in ("--history", one))) == 0
        assert f"a history of {count} item" in json.loads(capsys.readouterr().out)["built_from"]
    assert command(*same, "--user", "u, 1", "--user", "u, 2") == 0
    assert [item["user"] for item in json.loads(capsys.readouterr().out)["items"]] == ["u, 1"] * 2 + [
        "u, 2"
    ] * 2


def test_fault_30_a_failed_bench_names_no_model(
    comma_home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from reclm.backbones.bprmf import BPRMF

    save(checkerboard(), comma_home / "datasets" / "checkerboard")

    def broken(*given: object) -> None:
        raise RuntimeError("no luck")

    monkeypatch.setattr(BPRMF, "__init__", broken)
    bench = ["bench", "--dataset", "checkerboard", "--backbone", "biasmf", "--set", "items=id", "--epochs", 1]
    assert command(*bench, "--home", comma_home) == 1
    assert "reclm recommend" not in capsys.readouterr().out


def test_fit_takes_a_fusion_of_the_stored_profiles(
    comma_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from reclm.recommend.saved import SavedModel

    use_encoder(monkeypatch, Parity)
    monkeypatch.setenv("RECLM_HOME", str(comma_home))
    data = checkerboard()
    save(data, comma_home / "datasets" / "checkerboard")
    texts = {
        "id": data.users.ids(),
        "text": [f"likes {('even', 'odd')[n % 2]}" for n in range(len(data.users))],
    }
    store = Profiles.from_frames(data, users=pd.DataFrame(texts)).folder
    fit = ["fit", "--backbone", "biasmf", "--dataset", "checkerboard", "--epochs", 2, "--set", "dim=4"]
    assert command(*fit, "--fusion", "residual", "--home", comma_home) == 2
    assert "--store" in capsys.readouterr().err
    for fusion in ("residual", "auto"):
        assert command(*fit, "--store", store, "--fusion", fusion, "--out", tmp_path / fusion) == 0
        assert ("chosen on validation" in capsys.readouterr().out) == (fusion == "auto")
    assert SavedModel.from_yaml(tmp_path / "residual" / "model.yaml").fusion == "residual"
