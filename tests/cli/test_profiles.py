"""``reclm profiles``, through the command line."""

import json
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def written(run: Any) -> None:
    assert run("profile", "--dataset", "films", "--profiler", "titles")[0] == 0


@pytest.mark.usefixtures("written")
def test_show_prints_the_profile_as_it_is(run: Any) -> None:
    code, out, _ = run("profiles", "show", "anne", "--dataset", "films")
    assert code == 0
    assert "Alien, [bold]Heat[/bold]" in out
    assert "user anne" in out
    assert "next: reclm profiles search" in out
    assert "Jaws\\x1b[31m" in run("profiles", "show", "i3", "--dataset", "films")[1]


@pytest.mark.usefixtures("written")
def test_show_offers_the_nearest_id(run: Any) -> None:
    code, out, err = run("profiles", "show", "ana", "--dataset", "films", "--kind", "user")
    assert (code, out) == (2, "")
    assert "no profile of user 'ana'" in err
    assert "did you mean 'anne'" in err


@pytest.mark.usefixtures("written")
def test_search_puts_the_nearest_first(run: Any) -> None:
    code, out, _ = run("profiles", "search", "Jaws", "--dataset", "films", "--kind", "item", "-k", "2")
    assert code == 0
    rows = [line.split()[:2] for line in out.splitlines() if line.split()[:1] == ["item"]]
    assert len(rows) == 2
    assert rows[0] == ["item", "i3"]


@pytest.mark.usefixtures("written")
@pytest.mark.parametrize("format", ["parquet", "npy", "safetensors", "recbole"])
def test_export_says_what_it_wrote(run: Any, tmp_path: Path, format: str) -> None:
    code, out, _ = run("profiles", "export", "--format", format, "--out", "out", "--dataset", "films")
    assert code == 0
    files = [Path(line) for line in out.splitlines() if line.startswith("out")]
    assert all(file.is_file() for file in files)
    assert json.loads(Path("out/manifest.json").read_text())["profiles"] == {"user": 3, "item": 3}
    assert out.splitlines()[-1].startswith("next: ")


@pytest.mark.usefixtures("written")
def test_list_and_stores_by_folder(run: Any, home: Path) -> None:
    code, out, _ = run("profiles", "list")
    assert code == 0
    assert ["films", "titles", "3", "3"] in [line.replace("│", " ").split()[:4] for line in out.splitlines()]
    folder = home / "profiles" / "films" / "titles"
    assert run("profiles", "show", "ben", "--store", folder)[0] == 0
    assert run("profiles", "show", "ben", "--dataset", home / "datasets" / "films")[0] == 0


def test_nothing_written_yet(run: Any) -> None:
    assert "next: reclm profile --dataset ml-100k" in run("profiles", "list")[1]
    code, _, err = run("profiles", "show", "anne", "--dataset", "films")
    assert code == 2
    assert "reclm profile --dataset films" in err
    assert run("profiles", "show", "anne", "--store", "nowhere")[0] == 2


def test_profiles_of_somebody_else_are_imported_with_their_origin(run: Any, home: Path) -> None:
    Path("theirs.csv").write_text("user_id,text,model\nanne,likes space,gpt\nben,likes sharks,gpt\n")
    code, out, _ = run("profiles", "import", "theirs.csv", "--dataset", "films")
    assert code == 0
    (folder,) = (home / "profiles" / "films").iterdir()
    assert f"next: reclm bench --augment --dataset films --store {folder}" in out
    _, out, _ = run("profiles", "show", "anne", "--dataset", "films")
    assert "likes space" in out
    assert "gpt" in out
    assert run("profiles", "import", "theirs.csv", "--dataset", "films", "--kind", "both")[0] == 2


def test_imported_profiles_that_are_left_out_are_counted(run: Any, home: Path) -> None:
    rows = ["anne,likes space", "ben, ", "anne,likes space", "ben,", "anne,likes space"]
    Path("theirs.csv").write_text("\n".join(["user_id,text", *rows]) + "\n")
    code, out, err = run("profiles", "import", "theirs.csv", "--dataset", "films")
    assert code == 0
    assert "1 user" in out
    assert "theirs.csv: 2 user profiles without a text are left out, and 2 repeated ones" in err
    code, _, err = run("profiles", "import", "theirs.csv", "--dataset", "films", "--text", "txt")
    assert code == 2
    assert "--text text" in err
