"""``reclm profile``, through the command line."""

import re
from pathlib import Path
from typing import Any

import pytest

from reclm import plugins
from reclm.data.storage import save
from reclm.profiles.store import ProfileStore

from .conftest import Titles, dataset

BASIC = ("profile", "--dataset", "films", "--profiler", "titles")


def cells(out: str) -> list[list[str]]:
    """The cells of tables, line by line."""
    return [re.split(r"\s{2,}", line.strip()) for line in out.splitlines()]


def test_profiles_are_written_shown_and_embedded(run: Any, home: Path) -> None:
    code, out, err = run(*BASIC)
    assert code == 0
    assert ["subjects", "3", "3"] in cells(out)
    assert ["profiles in the store", "3", "3"] in cells(out)
    assert ["in the profile format", "100.0%", "100.0%"] in cells(out)
    assert "3 users, 3 distinct prompts; stored: 0" in err
    assert "next: reclm bench --backbone lightgcn --augment --dataset films --profiler titles" in out
    assert f"reclm profiles show anne --store {home / 'profiles' / 'films' / 'titles'}" in out
    store = ProfileStore.read(home / "profiles" / "films" / "titles")
    assert store.texts("user")["anne"] == "Alien, [bold]Heat[/bold]"
    assert store.db.open_table("embeddings-letters").count_rows() == 6


def test_text_from_data_cannot_style_the_terminal(run: Any) -> None:
    _, out, _ = run(*BASIC)
    assert "[bold]Heat[/bold]" in out
    assert "Jaws\\x1b[31m" in out
    assert "\x1b" not in out


def test_a_second_run_and_a_limit(run: Any) -> None:
    _, out, _ = run(*BASIC, "--limit", "1", "--kind", "user")
    assert ["profiles written", "1"] in cells(out)
    _, out, _ = run(*BASIC, "--kind", "user")
    assert ["stored before", "1"] in cells(out)
    assert ["profiles written", "2"] in cells(out)


def test_a_number_of_prompts(run: Any) -> None:
    code, out, _ = run(*BASIC, "--set", "titles=1", "--prompts", "1", "--kind", "user", "--dry-run")
    # two of three users are asked the same
    assert code == 0
    assert ["subjects", "2"] in cells(out)
    assert ["left out by prompts", "1"] in cells(out)
    assert (
        "next: reclm profile --dataset films --profiler titles --kinds user --prompts 1 --set titles=1" in out
    )
    _, out, err = run(*BASIC, "--set", "titles=1", "--prompts", "1", "--kind", "user")
    assert "2 of 3 users, 1 distinct prompts; stored: 0" in err
    assert ["profiles written", "2"] in cells(out)


def test_settings_change_prompts(run: Any, home: Path) -> None:
    run(*BASIC)
    _, out, _ = run(*BASIC, "--kind", "user", "--set", "titles=1")
    # only anne's history is longer than one item; what she is asked now, cleo has answered
    assert ["stored before", "2"] in cells(out)
    assert ["copied from an equal prompt", "1"] in cells(out)


def test_a_dry_run_writes_nothing(run: Any, home: Path) -> None:
    code, out, _ = run(*BASIC, "--dry-run")
    assert code == 0
    assert ["subjects", "3", "3"] in cells(out)
    assert ["prompts to write", "3", "3"] in cells(out)
    assert ["prompts answered for the estimate", "3", "3"] in cells(out)
    assert "next: reclm profile --dataset films --profiler titles" in out
    assert not (home / "profiles").exists()


def test_a_dry_run_says_how_many_texts_are_cut(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Titles, "cut_texts", lambda self, view, kind: ["2 of 3 titles are cut"])
    out = run(*BASIC, "--dry-run")[1]
    assert out.count("2 of 3 titles are cut") == 1


def test_a_store_of_other_data_is_kept_and_refused(run: Any, home: Path, request: Any) -> None:
    run(*BASIC)
    request.getfixturevalue("other_films")
    code, out, err = run(*BASIC)
    assert (code, out) == (2, "")
    assert "was written for data set" in err.splitlines()[-1]
    assert err.splitlines()[-1].startswith("error: ")
    assert run(*BASIC, "--dry-run")[0] == 2
    assert run(*BASIC, "--store", "elsewhere")[0] == 0
    code, out, _ = run(*BASIC, "--carry-over", "--dry-run")
    assert code == 0
    assert "--carry-over" in out
    assert len(list((home / "profiles" / "films").iterdir())) == 1
    assert run(*BASIC, "--carry-over")[0] == 0
    assert len(list((home / "profiles" / "films").iterdir())) == 2
    assert run(*BASIC, "--fresh")[0] == 0
    assert len(list((home / "profiles" / "films").iterdir())) == 3


@pytest.mark.parametrize(
    "spelling", [["--profiler"], ["--profiler", "titles", "--adapter"]], ids=["now", "0.1"]
)
def test_a_tuned_profiler_is_opened_from_its_folder(
    run: Any, home: Path, monkeypatch: pytest.MonkeyPatch, spelling: list[str]
) -> None:
    def opened(cls: Any, folder: Path, settings: dict[str, Any], model: str, engine: str) -> Any:
        assert (model, engine) == ("m", "e")
        monkeypatch.setattr(cls, "writer", f"titles-{folder.name}", raising=False)
        return cls(cls.Config.build(settings))

    monkeypatch.setattr(plugins.get("profiler", "titles"), "open", classmethod(opened))
    Path("tuned here").mkdir()
    (Path("tuned here") / "about.yaml").write_text("profiler: titles\n")
    options = (
        "--dataset",
        "films",
        *spelling,
        "tuned here",
        "--model",
        "m",
        "--engine",
        "e",
        "--set",
        "titles=1",
    )
    _, out, err = run("profile", *options, "--dry-run")
    same = "--dataset films --profiler 'tuned here' --model m --engine e"
    assert f"next: reclm profile {same} --set titles=1" in out
    assert ("--adapter FOLDER is now --profiler FOLDER" in err) == (len(spelling) > 1)
    _, out, _ = run("profile", *options)
    assert f"next: reclm bench --backbone lightgcn --augment {same} --profiler-set titles=1" in out
    folder = home / "profiles" / "films" / "titles-tuned-here"
    assert ProfileStore.read(folder).texts("user")["anne"] == "[bold]Heat[/bold]"
    assert f"reclm profiles show anne --store {folder}" in out
    assert run("profiles", "show", "anne", "--store", folder)[0] == 0


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--dataset", "filns"), "did you mean 'films'?"),
        (("--profiler", "keyword"), "unknown profiler 'keyword'; did you mean 'keywords'?"),
        (("--set", "title=3"), "unknown profiler titles key 'title'; did you mean 'titles'?"),
        (("--set", "titles=many"), "profiler titles: titles = 'many'"),
        (("--set", "titles"), "write key=value"),
        (
            ("--model", "m"),
            "profiler 'titles' uses no language model; leave --model, --engine and --engine-set out",
        ),
        (("--adapter", "./a"), "there is no folder a"),
        (("--profiler", "./empty"), "empty holds no tuned profiler"),
        (("--profiler", "zero-shot", "--model", "./empty"), "the model folder empty has no weights"),
        (("--store", "."), "holds something else than a profile store"),
    ],
)
def test_bad_input_is_told_in_one_line(run: Any, arguments: tuple[str, ...], told: str) -> None:
    Path("empty").mkdir()
    code, out, err = run(*BASIC, *arguments)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert err.startswith("error: ")
    assert told in err


def test_data_without_item_text_are_told_and_nothing_is_stored(run: Any, home: Path) -> None:
    save(dataset(["", " ", ""]), home / "datasets" / "blank")
    code, out, err = run("profile", "--dataset", "blank", "--profiler", "titles")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "no item text" in err
    assert not (home / "profiles" / "blank").exists()


def test_a_profiler_that_finds_nothing_to_write_from_is_told(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Titles, "subjects", lambda *_: iter(()))
    code, out, err = run(*BASIC)
    assert (code, out) == (2, "")
    assert "found nothing to write profiles of users and items from" in err.splitlines()[-1]
