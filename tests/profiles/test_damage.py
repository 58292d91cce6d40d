"""What is readable of a damaged store is read, the rest is named, and nothing else is lost."""

import errno
import json
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from reclm.folders import workspace
from reclm.profiles.profile import Profile
from reclm.profiles.profiles import Profiles
from reclm.profiles.store import ProfileStore
from reclm.profiles.tables import connect
from reclm.profiles.write import list_profiles

ANNE = Profile("user", "anne", "aab", "h1", "m")
EVERYBODY = {f"u{number}": "aab" for number in range(30)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A store of 30 profiles in three files."""
    folder = tmp_path / "store"
    store = ProfileStore.open(folder, "f00d", "zero-shot", "toy")
    for start in range(0, 30, 10):
        store.add(replace(ANNE, id=id, prompt_hash=id) for id in list(EVERYBODY)[start : start + 10])
        store.flush()
    store.lock.release()
    return folder


def texts(folder: Path) -> tuple[dict[str, str], list[str]]:
    """The profiles of users, and what is said of damage."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = ProfileStore.read(folder).texts("user")
    return found, [str(one.message) for one in caught]


@pytest.mark.parametrize(
    "count", [2**31 - 1, 2**31, 10**30, -1, True, 1.0, 1.5, float("nan"), None, "7", [1]]
)
def test_fault_32_any_count_can_be_stored(tmp_path: Path, count: Any) -> None:
    with ProfileStore.open(tmp_path / "store", "f00d", "zero-shot") as store:
        store.add(
            [replace(ANNE, id="ben"), replace(ANNE, prompt_tokens=count, new_tokens=count, seconds=count)]
        )
        anne = store.get("user", "anne")
    again = ProfileStore.read(tmp_path / "store")
    assert again.texts("user") == {"ben": "aab", "anne": "aab"}
    right = {"2147483647": 2**31 - 1, "1.0": 1, "1.5": 1}.get(str(count), 0)
    assert again.get("user", "anne").prompt_tokens == anne.prompt_tokens == right


@pytest.mark.parametrize("field", ["text", "id", "model", "settings", "prompt_hash", "finish_reason"])
def test_fault_12_a_lone_surrogate_is_stored_as_u_fffd(tmp_path: Path, field: str) -> None:
    with ProfileStore.open(tmp_path / "store", "f00d", "zero-shot") as store:
        store.add([replace(ANNE, id="ben"), replace(ANNE, **{field: "caf\ud83d x"})])
    rows = ProfileStore.read(tmp_path / "store").rows("user").to_pylist()
    assert {row["id"] for row in rows} == {"ben", "anne" if field != "id" else "caf\ufffd x"}
    assert "caf\ufffd x" in {row[field] for row in rows}


def test_fault_12_32_a_journal_that_an_earlier_version_poisoned_is_read(folder: Path) -> None:
    good = {**vars(ANNE), "fingerprint": "f00d", "created": 1_700_000_000_000_000}
    lines: list[Any] = [good | {"id": "cut", "text": "caf\ud83d"}, good | {"id": "many", "new_tokens": 2**31}]
    lines += [good | {"id": "when", "created": "today"}, good | {"id": 7}, good | {"id": "ok"}, 1.5, {"a": 1}]
    lines += [
        None,
        [],
        good | {"kind": "dog"},
        good | {"id": "none", "text": None},
        good | {"id": "", "text": ""},
    ]
    raw = b"\n".join([*(json.dumps(line).encode() for line in lines), b"\xff\xfe{", b"[" * 9000])
    (folder / "journal.jsonl").write_bytes(raw)
    found, said = texts(folder)
    assert found == EVERYBODY | {"cut": "caf\ufffd", "many": "aab", "when": "aab", "ok": "aab"}
    assert len(said) == 1
    with ProfileStore.read(folder) as store, pytest.warns(UserWarning, match="journal"):
        store.add([replace(ANNE, id="new")])
    assert texts(folder) == (found | {"new": "aab"}, [])
    assert ProfileStore.read(folder).get("user", "many").new_tokens == 0


@pytest.mark.parametrize(
    "types",
    [
        {"prompt_tokens": pa.string(), "seconds": pa.string()},
        {"prompt_tokens": pa.float64(), "created": pa.string()},
        {"settings": pa.int64(), "model": pa.bool_()},
        {"text": pa.large_string(), "id": pa.large_string()},
    ],
)
def test_fault_32_columns_of_another_type_are_read(tmp_path: Path, types: dict[str, pa.DataType]) -> None:
    folder = tmp_path / "store"
    with ProfileStore.open(folder, "f00d", "zero-shot", "toy") as store:
        store.add([ANNE])
        rows = store.rows()
    connect(folder).drop_table("profiles")
    for name, kind in types.items():
        value = {"string": "x", "bool": True}.get(str(kind), "aab" if "large" in str(kind) else 1)
        value = "anne" if name == "id" else value
        rows = rows.set_column(rows.column_names.index(name), name, pa.array([value], kind))
    connect(folder).create_table("profiles", rows)
    assert texts(folder)[0] == {"anne": "aab"}
    assert ProfileStore.read(folder).get("user", "anne").text == "aab"
    assert ProfileStore.read(folder).by_hash(["h1"]).keys() == {"h1"}


def test_fault_32_rows_without_a_text_are_no_profiles(tmp_path: Path, encoder: Any) -> None:
    """As version 0.1 stored them, where a model wrote nothing."""
    folder = tmp_path / "store"
    with ProfileStore.open(folder, "f00d", "zero-shot", "toy") as store:
        store.add([replace(ANNE, id="ben", text="bb"), replace(ANNE, id="cleo", text="cc")])
        Profiles.open(folder, encoder=encoder).embed(progress=False)
        store.add([ANNE, replace(ANNE, id="ben", text=" \n", prompt_hash="h2")])
    store = ProfileStore.read(folder)
    assert (store.texts("user"), store.count()) == ({"anne": "aab", "cleo": "cc"}, 2)
    assert (store.get("user", "ben"), store.by_hash(["h2"])) == (None, {}), "it is asked again"
    profiles = Profiles.open(folder, encoder=encoder)
    assert sorted(profiles.embeddings("user")[0]) == ["anne", "cleo"]
    assert list(profiles.search("bb", "user", 2).id) == ["anne", "cleo"]


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "cut": lambda data: data[: len(data) // 2],
    "empty": lambda data: b"",
    "zeros": lambda data: bytes(len(data)),
    "other bytes": lambda data: b"x" * len(data),
    "lengths beyond its end": lambda data: b"\xff\xff\xff\x0f" + data[4:],
}


@pytest.mark.parametrize("how", [*DAMAGE, "gone"])
@pytest.mark.parametrize("part", ["data", "manifest"])
def test_fault_32_damaged_files_cost_what_is_in_them(folder: Path, part: str, how: str) -> None:
    if part == "data":
        file = sorted(
            (folder / "profiles.lance" / "data").iterdir(), key=lambda path: path.stat().st_mtime_ns
        )[1]
    else:
        file = min((folder / "profiles.lance" / "_versions").glob("*.manifest"))
    if how == "gone":
        file.unlink()
    else:
        file.write_bytes(DAMAGE[how](file.read_bytes()))
    found, said = texts(folder)
    if part == "data":
        assert found == dict.fromkeys(list(EVERYBODY)[:10] + list(EVERYBODY)[20:], "aab")
    else:
        assert found == dict(list(EVERYBODY.items())[:20])
    assert len(said) == 1
    store = ProfileStore.read(folder)
    with warnings.catch_warnings(), store:
        warnings.simplefilter("ignore")
        assert store.get("user", "u0").text == "aab"
        store.add([ANNE])
    assert texts(folder) == (found | {"anne": "aab"}, [])
    assert part == "manifest" or list(folder.glob("profiles.lance.damaged-*")), "nothing is deleted"


def test_fault_32_a_damaged_cache_of_vectors_is_made_again(folder: Path, encoder: Any) -> None:
    Profiles.open(folder, encoder=encoder).embed(progress=False)
    (table,) = folder.glob("embeddings-*.lance")
    for file in (table / "data").iterdir():
        file.write_bytes(b"x" * 99)
    ids, vectors = Profiles.open(folder, encoder=encoder).embeddings("user")
    assert sorted(ids) == sorted(EVERYBODY)
    assert vectors.tolist() == [[2.0, 1.0, 0.0]] * 30


def test_fault_12_one_damaged_store_hides_no_other(tmp_path: Path) -> None:
    workspace(tmp_path)
    for name, yaml in (("a", None), ("b", b"\xff\xfe"), ("c", b"writer: x"), ("d", b"")):
        store = workspace() / "profiles" / "toy" / name
        with ProfileStore.open(store, "f00d", name, "toy") as opened:
            opened.add([ANNE])
        if yaml is not None:
            (store / "store.yaml").write_bytes(yaml)
    with pytest.warns(UserWarning, match="left out"):
        assert list(list_profiles()["written by"]) == ["a"]


def test_a_full_disk_is_the_systems_error_and_nothing_is_lost(folder: Path, monkeypatch: Any) -> None:
    from lancedb.merge import LanceMergeInsertBuilder

    def full(*args: object, **options: object) -> None:
        raise RuntimeError("lance error: IO: No space left on device (os error 28), lance-io/src/x.rs:1")

    store = ProfileStore.open(folder, "f00d", "zero-shot", "toy")
    store.add([replace(ANNE, id="late", prompt_hash="late")])
    with monkeypatch.context() as patch:
        patch.setattr(LanceMergeInsertBuilder, "execute", full)
        with pytest.raises(OSError, match="No space left") as raised:
            store.flush()
    assert raised.value.errno == errno.ENOSPC
    store.lock.release()
    assert texts(folder) == (EVERYBODY | {"late": "aab"}, [])
