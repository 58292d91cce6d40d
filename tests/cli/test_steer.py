"""``reclm steer``, on films whose titles are written to break a table."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from reclm.data.dataset import Dataset, Interactions, Protocol
from reclm.data.id_map import IdMap
from reclm.data.storage import save
from reclm.folders import Workspace

Run = Callable[..., tuple[int, str, str]]

TITLES = ["[bold]Aa[/bold]", "Bb\x1b[31m", "Cc", "Dd", "Ee", "Ff"]


@pytest.fixture
def genres(home: Path) -> None:
    """A data set of six films of two genres; two users, who touched one each."""
    items = len(TITLES)
    data = Dataset(
        "genres",
        IdMap(["anne", "ben"], "user"),
        IdMap([f"i{row}" for row in range(items)], "item"),
        Interactions(np.array([0, 1]), np.array([0, 1])),
        Interactions.empty(),
        Interactions.empty(),
        pa.table({"title": TITLES, "genre": ["Vvvv", "Vvvv", "Vvvv", "Zzzz", "Zzzz", "Zzzz"]}),
        (Protocol("full-shot", np.arange(items)),),
    )
    save(data, Workspace.at().dataset("genres"))


ANNE = ("steer", "--user", "anne", "--dataset", "films", "--profiler", "titles", "--topk", "1")


def test_history_profile_list_and_the_next_command(run: Run) -> None:
    code, out, err = run(*ANNE)
    assert code == 0, err
    for words in (
        "history of user anne, newest first",
        "profile by titles",
        "Alien, [bold]Heat[/bold]",
        "profile written now, and not stored",
    ):
        assert words in out
    (best,) = [line.split() for line in out.splitlines() if line.split()[:1] == ["1"]]
    assert best[:3] == ["1", "i3", r"Jaws\x1b[31m"]
    assert "\x1b" not in out
    assert "next: reclm steer --user anne --dataset films --profiler titles --k 1 --edit -" in out
    assert "moved" not in out


def test_a_stored_profile_is_shown_as_such(run: Run, home: Path) -> None:
    assert run("profile", "--dataset", "films", "--profiler", "titles", "--kind", "user")[0] == 0
    _, out, _ = run(*ANNE)
    assert f"profile stored in {home / 'profiles' / 'films' / 'titles'}" in out
    _, out, _ = run(*ANNE, "--edit", "jaws", "--home", str(home))
    assert f"next: reclm steer --measure 200 --dataset films --profiler titles --k 1 --home {home}" in out


def test_an_edit_stands_beside_the_profile(run: Run, genres: None) -> None:
    options = ("steer", "--user", "anne", "--dataset", "genres", "--profiler", "titles", "--topk", "2")
    code, out, err = run(*options, "--edit", "[red]zz[/red] dd\x1b[0m")
    assert code == 0, err
    assert r"[red]zz[/red] dd\x1b[0m" in out
    assert "\x1b" not in out
    rows = [line.split() for line in out.splitlines() if line.split() and line.split()[0] in {"1", "2"}]
    # letters of the profile: 2 each of a, b, d, l, o; of the edited one: 2 e, 2 r, 2 z, 4 d, 1 m
    best = f"{2 * 2 / (20 * 20) ** 0.5:.4f}", f"{(2 * 4 + 4 * 2) / (20 * 29) ** 0.5:.4f}"
    assert rows[0] == ["1", "Dd", best[0], "Dd", best[1], "stayed"]
    next_best = f"{2 * 2 / (20 * 21) ** 0.5:.4f}", f"{(2 * 2 + 4 * 2) / (20 * 29) ** 0.5:.4f}"
    assert rows[1][:5] == ["2", r"Bb\x1b[31m", next_best[0], "Ee", next_best[1]]
    assert " ".join(rows[1][5:]) == "new, was 4: rose 2"
    assert r"left the list: Bb\x1b[31m, was 2, now 4: fell 2" in out
    assert "next: reclm profile --dataset genres --profiler titles --kinds user" in out


@pytest.mark.parametrize(("script", "says"), [("printf zzz > $1", "edited profile"), ("true", "is the same")])
def test_an_editor_edits(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, says: str
) -> None:
    editor = tmp_path / "editor"
    editor.write_text(f"#!/bin/sh\n{script}\n")
    editor.chmod(0o755)
    monkeypatch.setenv("VISUAL", str(editor))
    code, out, err = run(*ANNE, "--edit", "-")
    assert says in out + err
    assert code == (0 if "zzz" in script else 2)
    monkeypatch.setenv("VISUAL", os.devnull)
    code, _, err = run(*ANNE, "--edit", "-")
    assert code == 2
    assert "set $EDITOR, or give the text: --edit TEXT" in err


def test_the_measure_is_a_table(run: Run, genres: None) -> None:
    assert run("profile", "--dataset", "genres", "--profiler", "titles", "--kind", "user")[0] == 0
    code, out, err = run(
        "steer",
        "--measure",
        "5",
        "--dataset",
        "genres",
        "--profiler",
        "titles",
        "--topk",
        "2",
        "--set",
        "titles=1",
    )
    assert code == 0, err
    for words in (
        "Loves {category}.",
        "Dislikes {category}.",
        "95 % interval",
        "2 users, each with one of 2 categories",
        "2 of 2 users have a stored profile",
        "next: reclm bench --backbone similarity --augment --dataset genres --profiler titles --profiler-set titles=1",
    ):
        assert words in out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((), "either --user ID, or --measure N"),
        (("--user", "anne", "--measure", "3"), "either --user ID, or --measure N"),
        (("--measure", "3", "--edit", "x"), "--edit goes with --user ID"),
        (("--user", "ane"), "unknown user 'ane' among the 3 users of data set 'films'; ids near it"),
        (("--user", "anne", "--edit", ""), "the edited profile is empty"),
        (("--user", "anne", "--adapter", "x"), "there is no folder x"),
        (("--measure", "3"), "write some: reclm profile --dataset films --profiler titles --kind user"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(run: Run, words: tuple[str, ...], says: str) -> None:
    code, out, err = run("steer", "--dataset", "films", "--profiler", "titles", *words)
    assert (code, out) == (2, "")
    assert says in err
    assert err.splitlines()[-1].startswith("error: ")


def test_a_data_set_without_categories_cannot_be_measured(run: Run) -> None:
    assert run("profile", "--dataset", "films", "--profiler", "titles", "--kind", "user")[0] == 0
    code, _, err = run("steer", "--measure", "3", "--dataset", "films", "--profiler", "titles")
    assert code == 2
    assert "error: data set 'films' has no category" in err
    assert "--topk" not in err  # fault_29: lower k would not help
