"""Files and folders are written whole or not at all; one process holds a lock."""

import itertools
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from reclm import files
from reclm.errors import BadInput, Busy, Damaged
from reclm.files import Lock, atomic_file, atomic_folder


def interrupted(draft: Path) -> None:
    draft.write_text("half of it")
    raise KeyboardInterrupt


def test_a_file_is_replaced_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "about.yaml"
    with atomic_file(path) as draft:
        draft.write_text("first")
        assert (draft.suffix, path.exists()) == (".yaml", False)
    with pytest.raises(KeyboardInterrupt), atomic_file(path) as draft:
        interrupted(draft)
    assert [(file.name, file.read_text()) for file in path.parent.iterdir()] == [("about.yaml", "first")]


def test_a_folder_is_replaced_when_it_is_whole(tmp_path: Path) -> None:
    folder = tmp_path / "films"
    for text in ("first", "second"):
        with atomic_folder(folder) as draft:
            (draft / text).write_text(text)
        assert [file.name for file in folder.iterdir()] == [text]
    with pytest.raises(KeyboardInterrupt), atomic_folder(folder) as draft:
        interrupted(draft / "third")
    assert [file.name for file in folder.iterdir()] == ["second"]
    assert list(tmp_path.iterdir()) == [folder]


def test_what_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    path = tmp_path / "file" / "below"
    for context in (atomic_file(path), atomic_folder(path)):
        with pytest.raises(BadInput) as error, context as draft:
            draft.write_text("")
        assert error.value.where == path
    with pytest.raises(BadInput):
        Lock(path / ".lock", "busy").acquire()


HOLDER = """
import sys
from pathlib import Path
from reclm.files import Lock
with Lock(Path(sys.argv[1]), "busy"):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_lock_is_held_by_one_process_until_it_dies(tmp_path: Path) -> None:
    path = tmp_path / "below" / ".lock"
    command = [sys.executable, "-c", HOLDER, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with pytest.raises(Busy) as error:
            Lock(path, "another run is at work").acquire()
        assert (str(error.value), error.value.where) == ("another run is at work", path)
        process.kill()
    lock = Lock(path, "busy")
    with lock, lock:
        assert lock._lock.is_locked
    assert not lock._lock.is_locked


def killed_at(step: int, action: Callable[[], None]) -> bool:
    """Run ``action`` in a process that dies at its ``step``-th change of a folder; return whether it died."""
    child = os.fork()
    if child == 0:
        calls = itertools.count(1)
        for owner, name in (
            *((Path, name) for name in ("rename", "replace", "mkdir", "unlink", "write_text")),
            (files, "swap"),
            (shutil, "rmtree"),
        ):
            real = getattr(owner, name)

            def counted(*given: Any, real: Any = real, **options: Any) -> Any:
                if next(calls) == step:
                    os._exit(9)
                return real(*given, **options)

            setattr(owner, name, counted)
        with suppress(BaseException):
            action()
        os._exit(0)
    return os.waitpid(child, 0)[1] != 0


def write_folder(folder: Path, text: str) -> None:
    with atomic_folder(folder) as draft:
        (draft / "a").write_text(text)
        (draft / "b").write_text(text)


@pytest.mark.parametrize("exchange", [True, False])
def test_fault_34_a_folder_that_was_there_is_there_wherever_a_process_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchange: bool
) -> None:
    if not exchange:  # as where a file system cannot exchange two folders
        monkeypatch.setattr(files, "swap", lambda *_: False)
    folder, deaths = tmp_path / "shop", 0
    write_folder(folder, "old")
    for step in itertools.count(1):
        died = killed_at(step, lambda: write_folder(folder, "new"))
        deaths += died
        if not exchange:  # the next process brings back what was set aside
            files.clean(tmp_path)
        assert {path.read_text() for path in folder.iterdir()} in ({"old"}, {"new"})
        assert {path.name for path in folder.iterdir()} == {"a", "b"}
        write_folder(folder, "old")
        assert [path.name for path in tmp_path.iterdir()] == ["shop"], "what killed processes left is removed"
        if not died:
            break
    assert deaths >= 5


@pytest.mark.parametrize("links", [True, False])
def test_a_change_of_some_files_is_there_as_a_whole_and_the_others_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    folder = tmp_path / "run"
    if not links:  # as on a file system without them

        def refused(*_: Any, **options: Any) -> None:
            raise OSError

        monkeypatch.setattr(os, "link", refused)

    def write(text: str) -> None:
        with files.atomic_change(folder, ["about", "users"]) as draft:
            for name in ("about", *(["users"] if text == "old" else [])):
                (draft / name).write_text(text)

    whole, step = {}, 0
    for step in itertools.count(1):
        write("old")
        (folder / "models").mkdir(exist_ok=True)
        (folder / "models" / "about").write_text("mine")
        died = killed_at(step, lambda: write("new"))
        whole = {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("a*")}
        assert (folder / "users").exists() == (whole["about"] == "old")
        assert whole.pop("models/about") == "mine"
        if not died:
            break
    assert whole == {"about": "new"}
    assert step > 5


def test_fault_34_the_drafts_of_living_processes_and_other_machines_stay(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "one") as draft:
        (draft / "file").write_text("")
        other = tmp_path / ".one-00000000-1-1.new"
        other.mkdir()
        write_folder(tmp_path / "two", "x")
        assert draft.is_dir()
    assert sorted(path.name for path in tmp_path.iterdir()) == [other.name, "one", "two"]


def test_fault_34_drafts_of_files_are_removed_too(tmp_path: Path) -> None:
    path = tmp_path / "store.yaml"

    def write() -> None:
        with atomic_file(path) as draft:
            draft.write_text("new")
            os._exit(9)

    assert killed_at(99, write)
    assert len(list(tmp_path.iterdir())) == 1
    with atomic_file(path) as draft:
        draft.write_text("whole")
    assert [file.name for file in tmp_path.iterdir()] == ["store.yaml"]


@pytest.mark.parametrize("beside", [[], ["mine.txt"]])
def test_fault_33_files_and_what_says_that_they_are_whole(tmp_path: Path, beside: list[str]) -> None:
    folder = tmp_path / "out"

    def write(text: str, names: Sequence[str]) -> None:
        with files.atomic_files(folder, ["ids", "vectors", "whole"], "whole") as draft:
            for name in names:
                (draft / name).write_text(text)

    for step in itertools.count(1):
        shutil.rmtree(folder, ignore_errors=True)
        write("old", ["ids", "vectors", "whole"])
        for name in beside:
            (folder / name).write_text("mine")
        died = killed_at(step, lambda: write("new", ["ids", "vectors", "whole"]))
        found = {path.name: path.read_text() for path in folder.iterdir() if path.is_file()}
        assert [found.pop(name) for name in beside] == ["mine"] * len(beside)
        assert len(set(found.values())) <= 1, "old and new never stand beside each other"
        if beside and "whole" not in found:
            continue
        assert found.keys() == {"ids", "vectors", "whole"}
        if not died:
            break
    write("newest", ["ids", "whole"])
    assert sorted(path.name for path in folder.iterdir()) == sorted(["ids", *beside, "whole"])


@pytest.mark.parametrize("damage", ["cut", "changed", "gone", "sums"])
def test_fault_35_files_that_are_not_as_they_were_written(tmp_path: Path, damage: str) -> None:
    (tmp_path / "a.bin").write_bytes(b"12345")
    files.check_files(tmp_path, "thing", "make it again")  # there are no checksums yet
    files.write_checksums(tmp_path, ["a.bin", "never.there"])
    files.check_files(tmp_path, "thing", "make it again")
    change: dict[str, Callable[[], Any]] = {
        "cut": lambda: (tmp_path / "a.bin").write_bytes(b"1234"),
        "changed": lambda: (tmp_path / "a.bin").write_bytes(b"12346"),
        "gone": (tmp_path / "a.bin").unlink,
        "sums": lambda: (tmp_path / files.CHECKSUMS).write_text("[1]"),
    }
    change[damage]()
    with pytest.raises(Damaged):
        files.check_files(tmp_path, "thing", "make it again")
