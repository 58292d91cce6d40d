"""The store keeps what it is given, once, and says whose it is."""

import json
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from reclm import files
from reclm.errors import BadInput, Busy, NotFound
from reclm.files import Journal
from reclm.profiles import store
from reclm.profiles.profile import Profile
from reclm.profiles.store import ProfileStore

ANNE = Profile("user", "anne", "likes noir", "h1", "m", '{"seed": 0}', 12, 5, "stop")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "store"


def test_a_profile_comes_back_as_it_was(folder: Path) -> None:
    with ProfileStore.open(folder, "f00d", "zero-shot") as store:
        store.add([ANNE])
    assert ProfileStore.read(folder).get("user", "anne") == ANNE
    assert ProfileStore.read(folder).get("item", "anne") is None


def test_what_a_killed_run_left_in_the_journal_is_put_into_the_table_by_one_with_nothing_to_add(
    folder: Path,
) -> None:
    ProfileStore.open(folder, "f00d", "zero-shot")
    journal = folder / "journal.jsonl"
    journal.write_text(
        json.dumps(vars(ANNE) | {"fingerprint": "f00d", "created": 1_700_000_000_000_000}) + "\n"
    )
    with ProfileStore.open(folder, "f00d", "zero-shot") as other:
        other.begin()
        with ProfileStore.open(folder, "f00d", "zero-shot"):
            pass  # the other one writes: its journal stays
        assert journal.exists()
    assert not journal.exists()
    assert ProfileStore.read(folder)._table().count_rows() == 1


def test_rows_carry_fingerprint_and_time(folder: Path) -> None:
    with ProfileStore.open(folder, "f00d", "zero-shot") as store:
        store.add([ANNE])
        row = store.rows("user").to_pylist()[0]
    assert row["fingerprint"] == "f00d"
    assert row["created"].year >= 2025


def test_a_store_of_an_earlier_version_goes_on(folder: Path) -> None:
    with ProfileStore.open(folder, "f00d", "zero-shot") as store:
        store.add([ANNE])
    ProfileStore.read(folder)._table().drop_columns(["seconds"])
    # and what it had begun to write when it was killed
    row = vars(replace(ANNE, id="carl")) | {"fingerprint": "f00d", "created": 1_700_000_000_000_000}
    (folder / "journal.jsonl").write_text(
        json.dumps({**row, "seconds": None}).replace(', "seconds": null', "") + "\n"
    )
    for _ in range(2):
        assert ProfileStore.read(folder).get("user", "anne") == ANNE
    with ProfileStore.open(folder, "f00d", "zero-shot") as store:
        assert store.get("user", "anne") == ANNE
        assert store.by_hash(["h1"])["h1"].seconds == 0
        assert store.get("user", "carl") == replace(ANNE, id="carl")
        store.add([replace(ANNE, id="bob", seconds=1.5)])
        assert store.get("user", "bob").seconds == 1.5


def test_same_kind_and_id_is_replaced(folder: Path) -> None:
    with ProfileStore.open(folder, "f00d", "zero-shot") as store:
        store.add([ANNE, replace(ANNE, kind="item"), replace(ANNE, text="likes opera", prompt_hash="h2")])
        store.flush()
        store.add([replace(ANNE, text="likes jazz", prompt_hash="h3")])
        assert store.texts("user") == {"anne": "likes jazz"}
        assert store.hashes("user") == {"anne": "h3"}
        assert store.texts("item") == {"anne": "likes noir"}
        assert (store.count(), store.count("user"), store.count("item")) == (2, 1, 1)


def test_reads_are_not_cut_to_a_page_of_results(folder: Path) -> None:
    with ProfileStore.open(folder, "f00d", "zero-shot") as store:
        store.add(replace(ANNE, id=f"u{n}", prompt_hash=f"h{n}") for n in range(2500))
        assert len(store.texts("user")) == 2500
        assert store.by_hash(["h7", "h2499", "none"]).keys() == {"h7", "h2499"}


@pytest.mark.parametrize("id", ["o'neil", 'say "hi"', "a\tb\nc", "x' OR 'x'='x", "日本 🎬", ""])
def test_any_id_can_be_looked_up(folder: Path, id: str) -> None:
    with ProfileStore.open(folder, "f00d", "zero-shot") as store:
        store.add([ANNE, replace(ANNE, id=id)])
        assert store.get("user", id) == replace(ANNE, id=id)


def test_what_was_added_outlives_a_run_that_never_closed(folder: Path) -> None:
    killed = ProfileStore.open(folder, "f00d", "zero-shot")
    killed.add([ANNE])
    assert killed._table() is None, "else this shows nothing"
    killed.lock.release()  # as the operating system does for a killed process
    (folder / "journal.jsonl").open("ab").write(b'{"kind": "user", "id": "be')  # cut short
    again = ProfileStore.open(folder, "f00d", "zero-shot")
    assert again.texts("user") == {"anne": "likes noir"}
    again.add([replace(ANNE, id="ben")])
    again.close()
    assert ProfileStore.read(folder).texts("user").keys() == {"anne", "ben"}


def test_a_line_that_a_kill_cut_short_costs_no_other(tmp_path: Path) -> None:
    rows = [{"at": 0, "text": 'a "b"\n'}, {"at": 1, "text": "\u2028 é"}]
    whole = b"".join(json.dumps(row).encode() + b"\n" for row in rows)
    for cut in range(len(whole) + 1):
        path = tmp_path / f"{cut}.jsonl"
        path.write_bytes(whole[:cut])
        there = Journal(path).rows()
        assert there == rows[: len(there)]
        assert len(there) >= whole[:cut].count(b"\n")
        journal = Journal(path)
        journal.append({"at": 2})
        journal.append({"at": 3})
        journal.close()
        assert Journal(path).rows() == [*there, {"at": 2}, {"at": 3}]


def test_a_damaged_line_of_the_journal_is_told_and_costs_no_other(folder: Path) -> None:
    killed = ProfileStore.open(folder, "f00d", "zero-shot")
    killed.add([ANNE, replace(ANNE, id="ben"), replace(ANNE, id="cleo")])
    killed.lock.release()
    journal = folder / "journal.jsonl"
    journal.write_bytes(journal.read_bytes().replace(b'"ben"', b'"b\xffn"'))
    with pytest.warns(UserWarning, match="damaged"):
        assert ProfileStore.open(folder, "f00d", "zero-shot").texts("user").keys() == {"anne", "cleo"}


def test_a_carriage_return_ends_no_line_of_the_journal(tmp_path: Path) -> None:
    (tmp_path / "journal.jsonl").write_bytes(b'{"at"\r: 1}\r\n{"at": 2\r, \n{"at": 3}\n{"at"\r: 4')
    assert Journal(tmp_path / "journal.jsonl").rows() == [{"at": 1}, None, {"at": 3}]


def test_leaving_by_an_exception_keeps_what_was_added(folder: Path) -> None:
    def interrupted() -> Iterator[Profile]:
        yield ANNE
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), ProfileStore.open(folder, "f00d", "zero-shot") as store:
        store.add(interrupted())
    assert not (folder / "journal.jsonl").exists()
    assert ProfileStore.read(folder).count() == 1


def test_one_writer_at_a_time_but_many_readers(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reclm.profiles.store.PATIENCE", 0.0)
    with ProfileStore.open(folder, "f00d", "zero-shot") as writer:
        writer.add([ANNE])
        writer.flush()
        other = ProfileStore.open(folder, "f00d", "zero-shot")
        assert other.count() == 1
        with pytest.raises(Busy):
            other.add([ANNE])
    other.add([replace(ANNE, id="ben")])
    assert other._table().count_rows() == 1, "not yet in the table"
    assert writer.count() == 2, "the journal of another process is read along"
    assert writer.get("user", "ben") == replace(ANNE, id="ben")
    other.close()
    assert writer.count() == 2


def test_a_store_for_other_data_is_refused(folder: Path) -> None:
    ProfileStore.open(folder, "f00d", "zero-shot").close()
    with pytest.raises(
        BadInput, match=r"f00d by zero-shot, not beef by zero-shot; .*--store.*--fresh"
    ) as error:
        ProfileStore.open(folder, "beef", "zero-shot")
    assert error.value.value == "f00d"
    with pytest.raises(BadInput) as error:
        ProfileStore.open(folder, "f00d", "keywords")
    assert error.value.value == "zero-shot"


def test_fresh_sets_the_old_store_aside(folder: Path) -> None:
    with ProfileStore.open(folder, "f00d", "zero-shot") as store:
        store.add([ANNE])
    assert ProfileStore.open(folder, "beef", "zero-shot", fresh=True).count() == 0
    (aside,) = folder.parent.glob("store.old-*")
    assert ProfileStore.read(aside).count() == 1


def test_answers_are_carried_over_from_the_same_writer_alone(folder: Path) -> None:
    with ProfileStore.open(folder, "f00d", "zero-shot") as store:
        store.add([ANNE])
    with pytest.raises(BadInput, match="by zero-shot, not f00d by keywords"):
        ProfileStore.open(folder, "f00d", "keywords", carry_over=True)
    assert ProfileStore.open(folder, "f00d", "zero-shot", carry_over=True).count() == 1, "the same data"
    new = ProfileStore.open(folder, "beef", "zero-shot", carry_over=True)
    assert new.count() == 0
    assert new.by_hash({ANNE.prompt_hash, "unheard of"}) == {ANNE.prompt_hash: ANNE}
    (aside,) = folder.parent.glob("store.old-*")
    shutil.rmtree(aside)
    assert new.by_hash({ANNE.prompt_hash}) == {}


def test_other_folders_are_left_alone(folder: Path) -> None:
    folder.mkdir()
    (folder / "thesis.tex").write_text("precious")
    with pytest.raises(BadInput) as error:
        ProfileStore.open(folder, "f00d", "zero-shot")
    assert error.value.where == folder
    with pytest.raises(NotFound, match="no profile store at"):
        ProfileStore.read(folder)
    assert [one.name for one in folder.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("moment", ["before the swap", "after the swap", "no swap"])
def test_fault_34_a_carry_over_that_was_killed_forgets_no_store_and_leaves_none(
    folder: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    with ProfileStore.open(folder, "f00d", "zero-shot") as opened:
        opened.add([ANNE])
    if moment != "no swap":

        def killed(one: Path, other: Path) -> bool:
            if moment == "after the swap":
                files.swap(one, other)
            raise KeyboardInterrupt

        monkeypatch.setattr(store, "swap", killed)
    else:
        monkeypatch.setattr(store, "swap", lambda *_: False)
        rename = Path.rename

        def renamed(one: Path, other: Path) -> Path:
            rename(one, other)
            return sys.exit() if one == folder else other

        monkeypatch.setattr(Path, "rename", renamed)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        ProfileStore.open(folder, "beef", "zero-shot", carry_over=True)
    monkeypatch.undo()
    again = ProfileStore.open(folder, "beef", "zero-shot", carry_over=True)
    assert [path.name for path in folder.parent.iterdir() if path != folder] == [again.info.earlier]
    assert again.by_hash({ANNE.prompt_hash}) == {ANNE.prompt_hash: ANNE}


def test_fault_19_two_processes_may_create_a_store_at_once(folder: Path) -> None:
    folder.mkdir()
    for name in (".lock", ".embeddings.lock", ".store-12345678-1-0.yaml"):
        (folder / name).touch()
    with ProfileStore.open(folder, "f00d", "zero-shot") as opened:
        opened.add([ANNE])
    assert ProfileStore.read(folder).count() == 1


@pytest.mark.skipif(os.name != "posix", reason="permissions are POSIX's")
def test_fault_19_a_store_that_cannot_be_written_is_read(folder: Path, tmp_path: Path) -> None:
    with ProfileStore.open(folder, "f00d", "zero-shot") as opened:
        opened.add([ANNE])
    lock = folder / ".lock"
    lock.unlink(missing_ok=True)
    lock.mkdir()  # whatever takes the lock now fails, for root as well
    reader = ProfileStore.open(folder, "f00d", "zero-shot")
    assert (reader.count(), reader.get("user", "anne"), reader.texts("user")) == (
        1,
        ANNE,
        {"anne": ANNE.text},
    )
    assert reader.by_hash({ANNE.prompt_hash}) == {ANNE.prompt_hash: ANNE}
    with pytest.raises(BadInput):
        reader.add([ANNE])
