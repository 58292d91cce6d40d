"""The paper's own split: the real files, and a tiny release that can be spoilt."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import sparse

from reclm.data.catalog import load_dataset, prepare_dataset
from reclm.data.dataset import Dataset
from reclm.data.summary import summarise
from reclm.errors import BadInput, NotFound
from reclm.text.item_text import item_texts
from tools.mind_release import MindRelease


@pytest.fixture(scope="module")
def papers(shared_data: Path) -> Dataset:
    """The paper's training set, nothing held out."""
    return MindRelease().read(shared_data / "mind_release", MindRelease.Config(valid=0))


def test_the_papers_counts(papers):
    assert len(papers.users) == 57_128
    assert (len(papers.train), len(papers.valid), len(papers.test)) == (89_734, 0, 87_974)
    assert len(np.unique(papers.train.item_idx)) == 2_386
    _, full, zero = summarise(papers).tables["protocols"]
    assert full == ("full-shot", 2_461, 56_972, 87_974, 60_173)
    assert zero == ("zero-shot", 1_441, 20_394, 25_928, 0)


def test_there_are_15173_distinct_histories(papers):
    matrix = papers.train.matrix(len(papers.users), len(papers.items))
    assert len({row.tobytes() for row in np.split(matrix.indices, matrix.indptr[1:-1])}) == 15_173


def test_validation_is_a_tenth_of_training_and_masks_as_before(papers, shared_data):
    dataset = MindRelease().read(shared_data / "mind_release" / "data" / "mind", MindRelease.Config())
    assert len(dataset.valid) == 8_973  # round(.1 · 89,734)
    assert len(dataset.train) == 89_734 - 8_973
    assert len(np.unique(dataset.train.user_idx)) == 57_128
    both, paper = dataset.joined(["train", "valid"]), papers.train
    width = len(papers.items)
    assert np.array_equal(
        np.sort(both.user_idx * width + both.item_idx), np.sort(paper.user_idx * width + paper.item_idx)
    )
    assert [row[-1] for row in summarise(dataset).tables["protocols"][1:]] == [60_173, 0]
    assert (
        dataset.protocol("zero-shot").candidates.tolist() == papers.protocol("zero-shot").candidates.tolist()
    )
    assert (
        dataset.fingerprint
        == MindRelease().read(shared_data / "mind_release", MindRelease.Config()).fingerprint
    )


def test_item_text_is_that_of_the_items_id(papers, shared_data):
    raw = pickle.loads((shared_data / "mind_release/data/mind/item_info_dict.pkl").read_bytes())
    one = raw[2504]
    text = item_texts(papers.item_text, papers.text_template)[papers.items.idx(["2504"])[0]]
    assert text == f"{one['cate']}, {one['sub_cate']}. {one['title']}. {one['abstract']}"


def test_the_documented_line_prepares_the_data_set_of_the_published_results(shared_data):
    source = shared_data / "mind_release"
    prepare_dataset("tools.mind_release:MindRelease", source, name="mind-release")
    assert load_dataset("mind-release").fingerprint == "f47438b6aab624b5"


def make_release(folder: Path) -> Path:
    """Users 0, 1; training items 0, 1, 2; test items 0, 2, 3 (item 3 is cold)."""

    def matrix(*entries: tuple[int, int], width: int) -> sparse.coo_matrix:
        row, col = zip(*entries, strict=True)
        return sparse.coo_matrix((np.ones(len(row)), (row, col)), shape=(2, width))

    text = {"cate": "news", "sub_cate": "", "title": "T", "abstract": ""}
    files: dict[str, Any] = {
        "item_id_map_train": {0: 0, 1: 1, 2: 2},
        "item_id_map_test": {0: 0, 2: 1, 3: 2},
        "item_id_map_zero": {3: 0},
        "item_info_dict": {item: {**text, "title": f"T{item}"} for item in (3, 1, 0, 2)},
        "user_item_dict_train": {0: [0, 1], 1: [2]},
        "user_item_dict_test": {1: [0, 2], 0: [3]},  # user 1 clicks 2 again
        "trnMat_zero": matrix((0, 0), (0, 1), (1, 2), width=3),
        "tstMat_zero_": matrix((1, 0), (0, 2), width=3),
        "tstMat_zero_shot": matrix((0, 0), width=1),
        "maskMat_zero": matrix((0, 0), (1, 1), width=3),
    }
    folder.mkdir()
    for name, value in files.items():
        (folder / f"{name}.pkl").write_bytes(pickle.dumps(value))
    return folder


def test_a_tiny_release_by_hand(tmp_path):
    dataset = MindRelease().read(make_release(tmp_path / "mind"), MindRelease.Config(valid=0))
    assert dataset.items.ids() == ["0", "1", "2", "3"]
    assert list(zip(dataset.train.user_idx, dataset.train.item_idx, strict=True)) == [(0, 0), (0, 1), (1, 2)]
    assert list(zip(dataset.test.user_idx, dataset.test.item_idx, strict=True)) == [(1, 0), (0, 3)]
    assert [one.candidates.tolist() for one in dataset.protocols] == [[0, 2, 3], [3]]
    assert dataset.report.dropped == {"test click that repeats a training click": 1}
    assert item_texts(dataset.item_text, dataset.text_template)[3] == "news. T3"


def test_the_busiest_user_and_what_it_touches(tmp_path):
    folder = make_release(tmp_path / "mind")
    dataset = MindRelease().read(folder, MindRelease.Config(valid=0, busiest=1))
    assert dataset.users.ids() == ["0"]  # two clicks against one
    assert dataset.items.ids() == ["0", "1", "3"]
    assert dataset.train.item_idx.tolist() == [0, 1]
    assert dataset.test.item_idx.tolist() == [2]
    assert [one.candidates.tolist() for one in dataset.protocols] == [[0, 2], [2]]
    assert dataset.report.dropped["user beyond the busiest"] == 1
    assert dataset.report.dropped["item that none of the busiest users touches"] == 1
    assert item_texts(dataset.item_text, dataset.text_template)[2] == "news. T3"


def spoil(folder: Path, name: str, change: Callable[[Any], Any]) -> None:
    path = folder / f"{name}.pkl"
    path.write_bytes(pickle.dumps(change(pickle.loads(path.read_bytes()))))


def shifted(matrix: sparse.coo_matrix) -> sparse.coo_matrix:
    return sparse.coo_matrix((matrix.data, (matrix.row[::-1], matrix.col)), shape=matrix.shape)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("trnMat_zero", shifted, "user_item_dict_train and trnMat_zero differ"),
        ("tstMat_zero_", shifted, "user_item_dict_test less the training clicks and tstMat_zero_ differ"),
        ("maskMat_zero", shifted, "maskMat_zero is not"),
        ("trnMat_zero", lambda matrix: matrix * 2, r"trnMat_zero\.pkl does not hold a matrix of ones"),
        ("trnMat_zero", lambda _: {1: 2}, r"trnMat_zero\.pkl does not hold a COO matrix of users × 3 items"),
        ("item_id_map_zero", lambda _: {2: 0}, "item_id_map_zero is not the test items absent"),
        ("item_id_map_test", lambda _: {0: 0, 2: 1, 3: 7}, r"item_id_map_test\.pkl does not hold a dict"),
        ("item_info_dict", lambda info: {0: info[0]}, "item_info_dict does not describe"),
        (
            "item_info_dict",
            lambda info: {**info, 0: {"title": "x"}},
            "the texts cate, sub_cate, title, abstract",
        ),
        ("user_item_dict_train", lambda _: {0: [0, 1, 2]}, "a dict of 2 users to lists"),
        ("user_item_dict_train", lambda _: {0: [0, 1], 1: [2**40]}, "item ids from 0 to 3"),
        ("user_item_dict_test", lambda _: [1], "does not hold a dict"),
    ],
)
def test_an_inconsistent_release_is_refused(tmp_path, name, change, message):
    folder = make_release(tmp_path / "mind")
    spoil(folder, name, change)
    with pytest.raises(BadInput, match=message) as caught:
        MindRelease().read(tmp_path, MindRelease.Config())
    assert "\n" not in str(caught.value)


def test_a_file_that_is_missing(tmp_path):
    with pytest.raises(NotFound, match=r"no trnMat_zero\.pkl in"):
        MindRelease().read(tmp_path, MindRelease.Config())
    (make_release(tmp_path / "mind") / "maskMat_zero.pkl").unlink()
    with pytest.raises(BadInput, match=r"cannot read .*maskMat_zero\.pkl: No such file"):
        MindRelease().read(tmp_path, MindRelease.Config())
