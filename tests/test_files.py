"""Files and folders are written whole or not at all; one process holds a lock."""

import subprocess
import sys
from pathlib import Path

import pytest

from reclm.errors import BadInput, Busy
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
