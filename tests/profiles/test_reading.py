"""Reading a store needs no permission to write, takes no lock and changes nothing; stores of version 0.1 are read."""

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from reclm.data.dataset import Interactions, TrainingView
from reclm.data.id_map import IdMap
from reclm.folders import workspace
from reclm.llm.chat import TextGenerator
from reclm.profilers.keywords import Keywords
from reclm.profilers.zero_shot import ZeroShot
from reclm.profiles.profile import Profile
from reclm.profiles.profiles import Profiles
from reclm.profiles.store import ProfileStore
from reclm.profiles.write import estimate_profiles, write_profiles

ANNE = Profile("user", "anne", "aab", "h1", "m")
HERE = Path(__file__).parent


def content(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def killed(tmp_path: Path) -> Path:
    """A store of an early version, without seconds, whose writer was killed: one profile is in the journal alone."""
    folder = tmp_path / "store"
    with ProfileStore.open(folder, "f00d", "zero-shot", "toy") as store:
        store.add([ANNE, replace(ANNE, id="ben", text="cc")])
        store.flush()
        store._table().drop_columns(["seconds"])
    rows = [vars(replace(ANNE, id="carl", text="a")), vars(replace(ANNE, text="bb"))]
    lines = [json.dumps(row | {"fingerprint": "f00d", "created": 1_700_000_000_000_000}) for row in rows]
    (folder / "journal.jsonl").write_text("\n".join(line.replace(', "seconds": 0.0', "") for line in lines))
    return folder


def test_reading_changes_nothing(killed: Path, encoder: Any) -> None:
    (killed / ".lock").unlink(missing_ok=True)
    before = content(killed)
    store = ProfileStore.read(killed)
    assert store.texts("user") == {"anne": "bb", "ben": "cc", "carl": "a"}
    assert (store.count(), store.count("item"), store.get("user", "carl").text) == (3, 0, "a")
    assert store.by_hash(["h1"])["h1"].seconds == 0
    assert content(killed) == before
    assert len(Profiles.open(killed, encoder=encoder).texts()) == 3
    assert content(killed) == before


def test_the_next_writer_puts_the_journal_into_the_table(killed: Path) -> None:
    with ProfileStore.read(killed) as store:
        store.add([replace(ANNE, id="dora", seconds=1.5)])
    assert not (killed / "journal.jsonl").exists()
    store = ProfileStore.read(killed)
    assert store._table().count_rows() == 4
    assert (store.get("user", "dora").seconds, store.get("user", "anne").text) == (1.5, "bb")


def test_a_kill_while_the_table_is_made_is_no_damage(tmp_path: Path) -> None:
    store = ProfileStore.open(tmp_path / "store", "f00d", "zero-shot", "toy")
    (store.folder / "profiles.lance" / "data").mkdir(parents=True)
    assert (store.count(), store.texts("user"), store.get("user", "anne")) == (0, {}, None)
    with store:
        store.add([ANNE])
    assert ProfileStore.read(store.folder).get("user", "anne") == ANNE


@pytest.fixture
def public(killed: Path) -> Iterator[tuple[Path, Path]]:
    """A store that others may read but not write, and an empty folder that everybody may write to."""
    root = Path(tempfile.mkdtemp())
    shutil.copytree(killed, root / "store")
    (root / "home").mkdir()
    for path in root.rglob("*"):
        path.chmod(0o555 if path.is_dir() else 0o444)
    root.chmod(0o755)
    (root / "home").chmod(0o777)
    yield root / "store", root / "home"
    for path in (root, *root.rglob("*")):
        path.chmod(0o755)
    shutil.rmtree(root)


def test_a_store_of_somebody_else_is_read(public: tuple[Path, Path]) -> None:
    store, home = public
    before = content(store)

    def read(home: Path) -> list[str]:
        command = [sys.executable, str(HERE / "reader.py"), str(store), str(home)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.partition("now\n")[2].splitlines()

    texts = "['anne', 'ben', 'carl'] bb 3"
    vectors = str({"anne": [0.0, 2.0, 0.0], "ben": [0.0, 0.0, 2.0], "carl": [1.0, 0.0, 0.0]})
    nowhere = read(store / "nowhere")
    assert nowhere == [texts, "encoded 3", vectors], (
        "without a folder to write to, vectors are held in memory"
    )
    assert read(home) == [texts, "encoded 3", vectors]
    assert read(home) == [texts, vectors], "the workspace has cached them"
    assert content(store) == before


class Silent(TextGenerator):
    """The model of the stored profiles, which must not be asked."""

    model = "tiny@bd4564ec"

    def generate(self, chats: Any, params: Any) -> Any:
        raise AssertionError("a stored profile was asked for again")

    count_tokens = generate  # pyright: ignore[reportAssignmentType]


@pytest.fixture
def old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace with two stores that version 0.1 wrote for the data set ``films``."""
    monkeypatch.setattr("reclm.folders._CURRENT", type("Current", (), {"get": lambda _: None})())
    monkeypatch.setenv("RECLM_HOME", str(tmp_path))
    shutil.unpack_archive(HERE / "stores-0.1.zip", workspace() / "profiles" / "toy")
    return workspace() / "profiles" / "toy"


def films() -> TrainingView:
    titles = pa.table(
        {
            "title": ["Alien", "Brazil", "Casablanca", "Dune"],
            "genre": ["Horror", "Comedy", "Drama", "Horror"],
        }
    )
    return TrainingView(
        "toy",
        IdMap(["u1", "u2", "u3", "u4"], "user"),
        IdMap(["i1", "i2", "i3", "i4"], "item"),
        Interactions(np.array([0, 0, 1, 1, 2]), np.array([0, 1, 0, 1, 2])),
        titles,
        "{title}[. {genre}]",
        "f00d",
    )


@pytest.mark.parametrize(("name", "counts"), [("keywords", [2, 2]), ("zero-shot", [3, 4])])
def test_nothing_that_version_0_1_wrote_is_written_again(
    old: Path, monkeypatch: pytest.MonkeyPatch, name: str, counts: list[int]
) -> None:
    monkeypatch.setattr("reclm.text.encoder.TextEncoder.encode", Silent.generate)
    profiler = Keywords() if name == "keywords" else ZeroShot(model=Silent())
    before = {folder: content(folder) for folder in old.iterdir()}
    assert [kind.plan.stored for kind in estimate_profiles(films(), profiler).kinds] == counts
    profiles = write_profiles(films(), profiler, progress=False)
    assert [(kind.stored, kind.generated) for kind in profiles.run.kinds] == [(count, 0) for count in counts]
    assert profiles.matrix("user").present.tolist() == [True, True, name == "zero-shot", False]
    assert profiles.matrix("item").vectors.shape == (4, 384)
    assert {folder: content(folder) for folder in old.iterdir()} == before
