"""Teacher profiles from files of every kind, and what is wrong with them."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from reclm.errors import BadInput, NotFound, ReclmError
from reclm.profilers.reclm.config import TeacherConfig
from reclm.profilers.reclm.pipeline import read_teacher

GOOD = "User identity: a, b, c; User interests: x, y, z."
ROWS = [
    ("ada", GOOD),
    ("bob", "User identity: a, b; User interests: x, y, z."),
    ("cyd", ""),
    ("dan", "User identity: a,\n b, c; User interests: x, y, <|im_end|>z."),
    ("ada", GOOD.replace("a,", "other,")),
    ("eve", "User identity: a, b, c; User interests: x, y"),
]


def written(tmp_path, suffix, rows=ROWS, names=("UID", "Response")):
    path = tmp_path / f"teacher{suffix}"
    table = pa.table({name: [row[at] for row in rows] for at, name in enumerate(names)})
    if suffix == ".parquet":
        pq.write_table(table, path)
    elif suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in table.to_pylist()))
    else:
        quoted = [",".join(json.dumps(one).replace("\\n", "\n") for one in row) for row in rows]
        path.write_text("\n".join([",".join(names), *quoted]) + "\n")
    return path


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".jsonl"])
def test_malformed_profiles_are_left_out_and_counted(tmp_path, view, suffix):
    teacher = read_teacher(written(tmp_path, suffix), view, "user", TeacherConfig())
    assert teacher.profiles == {
        "ada": GOOD,
        "dan": "User identity: a, b, c; User interests: x, y, (im_end)z.",
    }
    assert teacher.report.counts == {"user": 2}
    assert teacher.report.dropped == {
        "2 identities instead of 3": 1,
        "no text": 1,
        "another profile of the same id": 1,
        "breaks off: no full stop": 1,
    }


def test_any_number_of_phrases_when_asked(tmp_path, view):
    teacher = read_teacher(written(tmp_path, ".csv"), view, "user", TeacherConfig(phrases=None))
    assert set(teacher.profiles) == {"ada", "bob", "dan"}


def test_ids_that_are_not_in_the_data_set(tmp_path, view):
    path = written(tmp_path, ".csv", [*ROWS, ("zoe", GOOD), ("yan", GOOD)])
    with pytest.raises(BadInput, match=r"2 of 8.*zoe"):
        read_teacher(path, view, "user", TeacherConfig())
    teacher = read_teacher(path, view, "user", TeacherConfig(strict=False))
    assert teacher.report.dropped["id not in the data set"] == 2
    with pytest.raises(BadInput, match="8 of 8"):
        read_teacher(path, view, "item", TeacherConfig(strict=False))


def test_columns_by_name(tmp_path, view):
    path = written(tmp_path, ".csv", names=("who", "what"))
    with pytest.raises(BadInput, match="id_column"):
        read_teacher(path, view, "user", TeacherConfig())
    with pytest.raises(BadInput, match="text_column"):
        read_teacher(path, view, "user", TeacherConfig(id_column="who"))
    with pytest.raises(NotFound, match="whta"):
        read_teacher(path, view, "user", TeacherConfig(id_column="who", text_column="whta"))
    assert read_teacher(path, view, "user", TeacherConfig(id_column="who", text_column="what")).profiles


@pytest.mark.parametrize("content", ["", "UID,Response\n"])
def test_empty_file(tmp_path, view, content):
    path = tmp_path / "teacher.csv"
    path.write_text(content)
    with pytest.raises(BadInput):
        read_teacher(path, view, "user", TeacherConfig())


def test_nothing_in_format(tmp_path, view):
    path = written(tmp_path, ".jsonl", [("ada", "Sorry."), ("bob", "Sorry.")])
    with pytest.raises(BadInput, match="none of 2"):
        read_teacher(path, view, "user", TeacherConfig())


@pytest.mark.parametrize(("name", "content"), [("t.jsonl", "{"), ("t.parquet", "no"), ("t.xlsx", "x")])
def test_files_that_cannot_be_read_are_named_in_one_line(tmp_path, view, name, content):
    (tmp_path / name).write_text(content)
    with pytest.raises(ReclmError, match=name) as caught:
        read_teacher(tmp_path / name, view, "user", TeacherConfig())
    assert "\n" not in str(caught.value)
    with pytest.raises(NotFound, match=r"missing\.csv"):
        read_teacher(tmp_path / "missing.csv", view, "user", TeacherConfig())
