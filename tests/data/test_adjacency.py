"""Adjacency lists: lines of a user and all items."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reclm.data.catalog import load_dataset, prepare_dataset
from reclm.data.dataset import Dataset, Interactions
from reclm.data.readers.adjacency import Adjacency, LastFM
from reclm.data.storage import load_folder, save
from reclm.data.summary import summarise
from reclm.errors import BadInput, ReclmError
from reclm.folders import current
from reclm.profiles.write import estimate_profiles, write_profiles

TRAIN = "10 5 7 5\n2 7\n\n3\n10 9\n"
VALID = "2 9\n"
TEST = "10 11 7\n2 9 5\n4 5"


def write(folder: Path, train: str = TRAIN, test: str = TEST, valid: str | None = None) -> Path:
    folder.mkdir(exist_ok=True)
    for name, text in (("train", train), ("valid", valid), ("test", test)):
        if text is not None:
            (folder / f"{name}.txt").write_text(text, encoding="utf-8")
    return folder


def read(folder: Path, strict: bool = False, **options: object) -> Dataset:
    return Adjacency().read(folder, Adjacency.Config.build(options), strict=strict)


def named(dataset: Dataset, part: Interactions) -> list[tuple[str, str]]:
    return list(zip(dataset.users.ids(part.user_idx), dataset.items.ids(part.item_idx), strict=True))


def test_by_hand(tmp_path):
    dataset = read(write(tmp_path / "x", valid=VALID))
    assert dataset.users.ids() == ["2", "3", "4", "10"]  # by number; 3 has no items, 4 none to train on
    assert dataset.items.ids() == ["5", "7", "9", "11"]
    assert named(dataset, dataset.train) == [("2", "7"), ("10", "5"), ("10", "7"), ("10", "9")]
    assert named(dataset, dataset.valid) == [("2", "9")]
    assert named(dataset, dataset.test) == [("2", "5"), ("4", "5"), ("10", "11")]
    # 10-5 twice in train, 10-7 again in test, 2-9 in test after valid
    assert dataset.report.dropped == {"repeated interaction": 3}
    (protocol,) = dataset.protocols
    assert (protocol.name, protocol.candidates.tolist(), protocol.mask) == (
        "full-shot",
        [0, 1, 2, 3],
        ("train",),
    )
    assert summarise(dataset).tables["protocols"][1][-1] == 4


def test_ids_keep_their_leading_zeros(tmp_path):
    dataset = read(write(tmp_path / "x", "007 10 9 09\n7 010\n", "007 0\n7 10\n"))
    assert dataset.users.ids() == ["7", "007"]
    assert dataset.items.ids() == ["0", "9", "09", "10", "010"]
    assert named(dataset, dataset.test) == [("7", "10"), ("007", "0")]


def test_both_splits_can_be_masked(tmp_path):
    folder = write(tmp_path / "x", valid=VALID)
    assert read(folder, mask="train, valid").protocols[0].mask == ("train", "valid")
    assert summarise(read(folder, mask="train,valid")).tables["protocols"][1][-1] == 5
    with pytest.raises(BadInput, match=r"mask\.0 = 'test'"):
        read(folder, mask="test")


def test_without_valid_txt_a_tenth_of_each_users_items_can_be_held_out(tmp_path):
    lines = [f"{user} {' '.join(map(str, range(count)))}" for user, count in enumerate([30, 10, 2, 1])]
    folder = write(tmp_path / "x", train="\n".join(lines), test="0 77\n")
    assert len(read(folder).valid) == 0
    dataset = read(folder, valid=0.1)
    # ⌊.1 · n⌋ but at least one, and one is left to train on
    assert np.bincount(dataset.valid.user_idx, minlength=4).tolist() == [3, 1, 1, 0]
    assert np.bincount(dataset.train.user_idx).tolist() == [27, 9, 1, 1]
    assert (
        read(folder, valid=0.1).fingerprint
        == dataset.fingerprint
        != read(folder, valid=0.1, seed=1).fingerprint
    )
    (folder / "valid.txt").write_text("0 78\n")
    with pytest.raises(BadInput, match=r"has a valid\.txt of its own; leave valid=0\.1 out"):
        read(folder, valid=0.1)


def test_malformed_lines_are_named_and_passed_over(tmp_path):
    folder = write(
        tmp_path / "x", train="1 2 3\n\n1 2.5\n4 x 5\n6 -1\n7 1234567890123456789\n8 9\n", test="1 8\nann\n"
    )
    dataset = read(folder)
    assert named(dataset, dataset.train) == [("1", "2"), ("1", "3"), ("8", "9")]
    assert dataset.report.dropped == {"malformed line": 5}
    why = " (an id that is no whole number)"
    assert [line.removeprefix(str(folder)).removesuffix(why) for line in dataset.report.malformed] == [
        "/train.txt:3: 1 2.5",
        "/train.txt:4: 4 x 5",
        "/train.txt:5: 6 -1",
        "/train.txt:6: 7 1234567890123456789",
        "/test.txt:2: ann",
    ]
    with pytest.raises(
        BadInput, match=r"train\.txt:3: 1 2\.5 \(an id that is no whole number\); mend the line"
    ):
        read(folder, strict=True)


def test_bytes_that_are_no_text_cost_their_line_only(tmp_path):
    folder = write(tmp_path / "x")
    (folder / "train.txt").write_bytes(b"1 2\r\n3 \xff4\r\n 5\t6 \r\n")
    dataset = read(folder)
    assert named(dataset, dataset.train) == [("1", "2"), ("5", "6")]
    assert dataset.report.dropped["malformed line"] == 1


ids = st.integers(0, 30).map(str)
good = st.lists(ids, min_size=1, max_size=6).map(" ".join)
bad = st.tuples(good, st.sampled_from(["x", "1.0", "-2", "1,2", "٣", "NaN", "0x1", "²"])).map(" ".join)
blank = st.sampled_from(["", "  ", "\t"])
spaced = good.map(lambda line: f" {line}  ".replace(" ", " \t"))


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.sampled_from("gbns"), good, bad, blank, spaced), max_size=25))
def test_just_the_malformed_lines_are_lost(tmp_path_factory, drawn):
    chosen = [(kind, line["gbns".index(kind)]) for kind, *line in drawn]
    folder = write(tmp_path_factory.mktemp("x"), train="\n".join(["40 41", *(line for _, line in chosen)]))
    dataset = read(folder, **{})
    expected = {("40", "41")}
    for kind, line in chosen:
        user, *items = line.split() or [""]
        expected |= {(user, item) for item in items if kind in "gs"}
    assert set(named(dataset, dataset.train)) == expected
    wrong = [number for number, (kind, _) in enumerate(chosen, start=2) if kind == "b"]
    assert dataset.report.dropped.get("malformed line", 0) == len(wrong)
    quoted = {int(line.split(".txt:")[1].split(":")[0]) for line in dataset.report.malformed}
    assert quoted == set(wrong[:5])


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"train": "1 2\n"}, r"no test\.txt in .*; --source must be a folder with train\.txt and test\.txt"),
        ({"test": "1 2\n"}, r"no train\.txt in"),
        ({"train": "", "test": "1 2\n"}, r"train\.txt is empty"),
        ({"train": "1\n", "test": "1 2\n"}, "has no training interactions"),
        ({"train": "1\n", "test": "1\n"}, "has no training interactions"),
        ({"train": "a b\n", "test": "c d\n"}, "has no training interactions"),
    ],
)
def test_folders_that_are_none(tmp_path, files, message):
    for name, text in files.items():
        (tmp_path / f"{name}.txt").write_text(text)
    with pytest.raises(ReclmError, match=message) as caught:
        read(tmp_path)
    assert "\n" not in str(caught.value)


def test_no_item_text_is_kept_shown_and_no_profile_is_written_from_it(tmp_path):
    dataset = prepare_dataset("adjacency", write(tmp_path / "x"), name="gowalla")
    again = load_dataset("gowalla")
    assert again.fingerprint == dataset.fingerprint
    assert (again.item_text.num_rows, again.item_text.column_names) == (4, [])
    save(again, tmp_path / "copy")
    assert load_folder(tmp_path / "copy").fingerprint == dataset.fingerprint
    assert summarise(again).tables.keys().isdisjoint({"item text", "items as a model reads them"})
    for function in (write_profiles, estimate_profiles):
        with pytest.raises(BadInput) as error:
            function(again, "keywords")
        assert error.value.value == "gowalla"
    assert not current().store("gowalla", "keywords").exists()


def test_lastfm_counted(shared_data):
    dataset = LastFM().read(shared_data / "lastfm", LastFM.Config(), strict=True)
    assert (len(dataset.users), len(dataset.items)) == (1_885, 17_388)
    assert [len(dataset.split(name)) for name in ("train", "valid", "test")] == [64_315, 9_143, 18_321]
    assert dataset.users.ids(np.array([0, 1_884])) == ["0", "1884"]  # row and id are the same
    assert dataset.items.ids(np.array([17_387])) == ["17387"]
    assert dataset.report.dropped == {}
    first = (shared_data / "lastfm" / "train.txt").read_text().splitlines()[2].split()
    assert first[0] == "2"
    assert dataset.train.item_idx[dataset.train.user_idx == 2].tolist() == sorted(map(int, first[1:]))
    assert summarise(dataset).tables["protocols"][1] == ("full-shot", 17_388, 1_863, 18_321, 64_315)
