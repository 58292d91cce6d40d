"""`Profiles` has the texts, vectors and origin of its profiles, and changes nothing on disk."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from reclm.data.dataset import TrainingView
from reclm.data.id_map import IdMap
from reclm.data.readers.records import read_records
from reclm.errors import BadInput, NotFound
from reclm.folders import current, workspace
from reclm.profiles.exchange import import_frames
from reclm.profiles.profile import Profile
from reclm.profiles.profiles import Profiles
from reclm.profiles.store import ProfileStore
from reclm.profiles.write import estimate_profiles, list_profiles, write_profiles


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("reclm.folders._CURRENT", type("Current", (), {"get": lambda _: None})())
    monkeypatch.setenv("RECLM_HOME", str(tmp_path / "home"))
    return workspace()


@pytest.fixture
def profiles(view: TrainingView, profiler: Any, encoder: Any) -> Profiles:
    return write_profiles(view, profiler, encoder=encoder, progress=False)


def files(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_written_profiles_are_texts_and_vectors_in_row_order(profiles: Profiles, home: Path) -> None:
    assert profiles.texts()[["id", "text", "model"]].to_numpy().tolist() == [
        ["u1", "likes A, B", "history"],
        ["u2", "likes A, B", "history"],
        ["u3", "likes C", "history"],
    ]
    assert profiles.texts()["written at"].dt.year.min() >= 2025
    ids, vectors = profiles.embeddings("item")
    assert (sorted(ids), vectors.shape, vectors.dtype) == (["i1", "i2", "i3"], (3, 3), np.float32)
    matrix = profiles.matrix("user")
    assert matrix.present.tolist() == [True, True, True, False]
    assert matrix.vectors.shape == (4, 3)
    assert profiles.coverage == {"user": (3, 4), "item": (3, 4)}
    assert len(profiles) == 6
    assert (profiles.name, profiles.fingerprint) == ("toy", "f00d")
    assert repr(profiles) == "Profiles('toy' by 'HistoryProfiler': 3 users, 3 items)"
    assert profiles.folder.parent == home / "profiles" / "toy"
    assert profiles.run is not None
    assert profiles.run.generated == 5


def test_a_second_call_writes_nothing(
    profiles: Profiles, view: TrainingView, profiler: Any, encoder: Any
) -> None:
    profiler.answered.clear()
    encoder.encoded.clear()
    again = write_profiles(view, profiler, encoder=encoder, progress=False)
    assert (again.run.generated, profiler.answered, encoder.encoded) == (0, [], [])
    users, items = estimate_profiles(view, profiler, encoder=encoder).kinds
    assert (users.plan.stored, items.plan.stored, len(items.plan.prompts)) == (3, 3, 0)


def test_only_the_kinds_asked_for_are_in_use(view: TrainingView, profiler: Any, encoder: Any) -> None:
    users = write_profiles(view, profiler, kinds=["user"], limit=1, encoder=encoder, progress=False)
    assert (users.kinds, len(users)) == (("user",), 1)
    assert Profiles.open(users.folder).kinds == ("user",)
    with pytest.raises(BadInput) as error:
        write_profiles(view, profiler, kinds=["users"])  # pyright: ignore[reportArgumentType]
    assert error.value.value == "users"


def test_an_edit_is_a_copy(profiles: Profiles, encoder: Any) -> None:
    before = files(profiles.folder)
    edited = profiles.edit("u1", "abcabc").edit("u4", "a")
    assert edited.texts().set_index("id")["text"].to_dict() == {
        "u1": "abcabc",
        "u2": "likes A, B",
        "u3": "likes C",
        "u4": "a",
    }
    assert edited.matrix("user").vectors[[0, 3]].tolist() == [[2, 2, 2], [1, 0, 0]]
    assert (edited.get("u1").model, len(edited), edited.coverage["user"]) == ("edited", 7, (4, 4))
    assert edited.search("a", k=1)["id"].tolist() == ["u4"]
    assert profiles.get("u1").text == "likes A, B"
    assert not profiles.matrix("user").present[3]
    assert files(profiles.folder) == before
    with pytest.raises(NotFound):
        profiles.edit("nobody", "a")
    with pytest.raises(BadInput):
        profiles.edit("u1", " ")


def test_profiles_are_found_again(profiles: Profiles, view: TrainingView, encoder: Any) -> None:
    assert Profiles.find("toy").folder == profiles.folder
    assert Profiles.find("toy", "HistoryProfiler").folder == profiles.folder
    with pytest.raises(NotFound):
        Profiles.find("toy", "keywords")
    with pytest.raises(NotFound):
        Profiles.find("films")
    listed = list_profiles()
    assert listed[["data set", "written by", "users", "items"]].to_numpy().tolist() == [
        ["toy", "HistoryProfiler", 3, 3]
    ]
    assert list_profiles("films").empty
    with pytest.raises(NotFound) as error:
        profiles.get("u9")
    assert error.value.remedy in {"u1", "u2", "u3"}
    other = replace(view, fingerprint="beef")
    with pytest.raises(BadInput) as error:
        Profiles.open(profiles.folder, other)
    assert error.value.value == "f00d"


FRAME = {
    "user_id": ["u1", "u3", "u9", "u2"],
    "text": ["aab", "ccc", "nobody", " "],
    "model": ["gpt", None, "gpt", "gpt"],
}


@pytest.mark.parametrize("library", ["pandas", "polars", "lazy", "arrow", "duckdb"])
def test_profiles_of_others_come_in_by_any_frame(view: TrainingView, encoder: Any, library: str) -> None:
    table = pa.table(FRAME)
    frame = {
        "pandas": pd.DataFrame(FRAME),
        "polars": pl.DataFrame(FRAME),
        "lazy": pl.LazyFrame(FRAME),
        "arrow": table,
        "duckdb": duckdb.from_arrow(table),
    }[library]
    with pytest.warns(UserWarning, match="1 of 4 user ids are not in data set 'toy': 'u9'"):
        profiles = Profiles.from_frames(view, frame, encoder=encoder)
    assert profiles.texts()[["id", "text", "model"]].to_numpy().tolist() == [
        ["u1", "aab", "gpt"],
        ["u3", "ccc", "imported"],
    ]
    assert profiles.kinds == ("user",)
    assert profiles.matrix("user").vectors[0].tolist() == [2, 1, 0]
    with pytest.warns(UserWarning, match="u9"):
        assert Profiles.from_frames(view, frame).folder == profiles.folder, "equal content, equal store"
    assert profiles.writer.startswith("imported-")


def test_wrong_frames_are_refused(view: TrainingView) -> None:
    with pytest.raises(NotFound) as error:
        Profiles.from_frames(view, pd.DataFrame({"id": ["u1"], "profile": ["a"]}))
    assert error.value.value == "text"
    with pytest.raises(BadInput):
        Profiles.from_frames(view, pd.DataFrame({"a": ["u1"], "b": ["u1"], "text": ["a"]}))
    with pytest.raises(BadInput) as error:
        Profiles.from_frames(view, pd.DataFrame({"id": ["u1", "u1"], "text": ["a", "b"]}))
    assert error.value.value == "u1"
    with pytest.raises(BadInput) as error:
        Profiles.from_frames(view, items=pd.DataFrame({"id": ["u1"], "text": ["a"]}))
    assert error.value.value == "u1"
    with pytest.raises(BadInput):
        Profiles.from_frames(view)
    with pytest.raises(BadInput):
        Profiles.from_frames(view, 7)


def test_the_rooms_import_without_what_the_extras_install() -> None:
    script = (
        "import sys; missing = 'transformers sentence_transformers tokenizers huggingface_hub llguidance gguf jinja2 '"
        "'openvino openvino_genai openai anyio sklearn platformdirs lancedb'.split()\n"
        "sys.modules.update(dict.fromkeys(missing))\n"
        "import reclm.profiles.write, reclm.profiles.tune, reclm.profiles.exchange\n"
        "import reclm.text.encoder, reclm.text.item_text, reclm.llm.models, reclm.files, reclm.fusion.augment\n"
        "from reclm.errors import MissingExtra\n"
        "try: reclm.text.encoder.TextEncoder().model\n"
        "except MissingExtra as error: print(error.remedy)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "pip install 'reclm-toolkit[llm]'\n"), done.stderr


def test_of_several_stores_one_is_chosen_by_its_writer() -> None:
    anne = Profile("user", "anne", "likes noir", "h", "m")
    writers = ("keywords", "zero-shot-tiny@1234", "zero-shot-org/big@5678", "item-text")
    for writer in writers:
        with ProfileStore.open(current().store("films", writer), "f00d", writer, "films") as store:
            store.add([anne])
    ProfileStore.open(current().store("films", "keywords"), "f00d", "keywords", "films", fresh=True)
    assert list_profiles()["written by"].tolist() == [
        "keywords",
        "zero-shot-org/big@5678",
        "zero-shot-tiny@1234",
    ]
    assert Profiles.find("films", "keywords").kinds == (), "of what was set aside nothing is left"
    assert Profiles.find("films", "zero-shot", "org/big").writer == "zero-shot-org/big@5678"
    assert Profiles.find("films", model="models/tiny.gguf").writer == "zero-shot-tiny@1234"
    with pytest.raises(BadInput) as error:
        Profiles.find("films", "zero-shot")
    assert error.value.value == "films"


def test_files_come_in_one_after_the_other(
    view: TrainingView, tmp_path: Path, profiler: Any, encoder: Any
) -> None:
    users, items = tmp_path / "users.csv", tmp_path / "items.jsonl"
    users.write_text('user_id,text\nu1,"aab, b"\nu2,cc\n')
    items.write_text('{"id": "i1", "text": "b"}\n')
    first = import_frames(view, {"user": read_records(users)}, store=tmp_path / "store", encoder=encoder)
    both = import_frames(
        view, {"item": read_records(items)}, origin="items.jsonl", store=tmp_path / "store", encoder=encoder
    )
    assert (first.kinds, both.kinds, len(both)) == (("user",), ("user", "item"), 3)
    assert both.get("u1").text == "aab, b"
    assert json.loads(both.get("i1", "item").settings) == {"origin": "items.jsonl"}
    with pytest.raises(NotFound):
        read_records(tmp_path / "none.csv")
    written = write_profiles(view, profiler, store=tmp_path / "own", encoder=encoder, progress=False)
    with pytest.raises(BadInput) as error:
        import_frames(view, {"user": read_records(users)}, store=written.folder)
    assert error.value.value == "HistoryProfiler"


def test_ids_that_are_numbers_meet(encoder: Any, view: TrainingView) -> None:
    numbered = replace(view, users=IdMap(["1", "2", "3", "4"], "user"))
    profiles = Profiles.from_frames(numbered, pd.DataFrame({"user_id": [1.0, 3.0], "text": ["a", "b"]}))
    assert profiles.texts()["id"].tolist() == ["1", "3"]
    assert Profiles.from_frames(numbered, {4: "c"}, encoder=encoder).matrix("user").present.tolist() == [
        False
    ] * 3 + [True]


def test_a_notebook_shows_texts_as_they_are(view: TrainingView) -> None:
    html = Profiles.from_frames(view, {"u1": "<script>"})._repr_html_()
    assert "&lt;script&gt;" in html
    assert "<script>" not in html


def test_a_kind_that_is_none_is_not_an_empty_answer(profiles: Profiles, tmp_path: Path) -> None:
    assert Profiles.open(profiles.folder, kinds="user").kinds == ("user",)  # pyright: ignore[reportArgumentType]
    profiles.export(tmp_path / "out", kinds="user")  # pyright: ignore[reportArgumentType]
    assert not (tmp_path / "out" / "item.parquet").exists()
    wrong: Any = "users"
    calls = [
        lambda: profiles.texts(wrong),
        lambda: profiles.matrix(wrong),
        lambda: profiles.search("a", wrong),
    ]
    for call in [*calls, lambda: Profiles.open(profiles.folder, kinds=[wrong])]:
        with pytest.raises(BadInput) as error:
            call()
        assert error.value.where == "kinds"


def test_an_encoder_that_cannot_be_loaded_is_not_stored(
    view: TrainingView, profiler: Any, home: Path
) -> None:
    (home / "model").mkdir(parents=True)
    (home / "model" / "model.safetensors").write_bytes(b"not an encoder")
    for write in (
        lambda: write_profiles(view, profiler, encoder=str(home / "model"), progress=False),
        lambda: Profiles.from_frames(view, {"u1": "a"}, encoder=str(home / "model")),
    ):
        with pytest.raises(NotFound):
            write()
    assert not (home / "profiles").exists()


@pytest.mark.parametrize("wrong", [{"limit": -1}, {"limit": 1.5}, {"prompts": -1}, {"prompts": "x"}])
def test_a_number_that_cannot_be_writes_nothing(
    view: TrainingView, profiler: Any, home: Path, wrong: Any
) -> None:
    for call in (write_profiles, estimate_profiles):
        with pytest.raises(BadInput) as error:
            call(view, profiler, **wrong)
        assert [error.value.where] == list(wrong)
    assert not home.exists()
