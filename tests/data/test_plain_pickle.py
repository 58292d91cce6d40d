"""Pickles from strangers."""

import collections
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from scipy import sparse

from reclm.errors import BadInput
from tools.mind_release import read_pickle


def dumped(path: Path, value: object, protocol: int = 4) -> Path:
    path.write_bytes(pickle.dumps(value, protocol))
    return path


class Runs:
    """Runs a command when it is unpickled by the ordinary pickle."""

    def __reduce__(self) -> tuple:
        return os.system, ("touch reclm-was-here",)


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_arrays_scalars_and_plain_values(tmp_path, protocol):
    value = {
        1: [np.int64(5), "é", 2.5, np.float32(0.5)],
        "a": np.arange(6, dtype=np.int32).reshape(2, 3),
        "b": np.asfortranarray([[1.5, 2.5], [3.5, 4.5]]),
        "c": np.array([1, 2], ">i4"),
        "d": np.array([True, False]),
        "e": np.empty(0, np.float64),
    }
    path = tmp_path / "x.pkl"
    loaded = read_pickle(dumped(path, value, protocol))
    assert loaded[1] == [5, "é", 2.5, 0.5]
    for key in value.keys() - {1}:
        assert np.array_equal(loaded[key], value[key])
        assert loaded[key].dtype == value[key].dtype.newbyteorder("=")


def test_coo_matrices(tmp_path):
    matrix = sparse.coo_matrix(np.array([[0, 2.0, 0], [1, 0, 0]]))
    loaded = read_pickle(dumped(tmp_path / "x.pkl", matrix))
    assert loaded.shape == (2, 3)
    assert list(zip(loaded.row, loaded.col, loaded.data, strict=True)) == [(0, 1, 2.0), (1, 0, 1.0)]


@pytest.mark.parametrize(
    ("value", "named"),
    [
        (Runs(), "posix.system"),
        ({1: [Runs()]}, "posix.system"),
        (np.array([Runs()], dtype=object), "posix.system"),
        (collections.OrderedDict(a=1), "collections.OrderedDict"),
        (sparse.csr_matrix(np.eye(2)), "csr_matrix"),
        (Path("x"), "pathlib"),
        (eval, "builtins.eval"),
        (np.load, "numpy.load"),
    ],
)
def test_a_foreign_class_is_named_and_nothing_runs(tmp_path, monkeypatch, value, named):
    monkeypatch.chdir(tmp_path)
    path = dumped(tmp_path / "x.pkl", value)
    with pytest.raises(BadInput) as caught:
        read_pickle(path)
    assert str(path) in str(caught.value)
    assert named in str(caught.value)
    assert not (tmp_path / "reclm-was-here").exists()


@pytest.mark.parametrize(
    "value", [np.array([{1: 2}], dtype=object), np.array(["text"]), {1: {2, 3}}, {1: None}, b"raw", (1, 2)]
)
def test_other_content_is_refused(tmp_path, value):
    with pytest.raises(BadInput, match="is not a pickle of arrays, matrices and dicts"):
        read_pickle(dumped(tmp_path / "x.pkl", value))


def hand_made(module: str, name: str, args: bytes) -> bytes:
    """A pickle that calls ``module.name`` with the pickled ``args``."""
    return f"c{module}\n{name}\n".encode() + args + b"R."


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"no pickle",
        pickle.dumps({1: 2})[:-3],
        hand_made("numpy", "dtype", b"(S'O'\nt"),
        hand_made("numpy", "ndarray", b"((I1000000000000\ntt"),  # would take a terabyte
        hand_made("numpy.core.multiarray", "scalar", b"(cnumpy\ndtype\n(S'O'\ntRS'x'\nt"),
        b"cscipy.sparse._coo\ncoo_matrix\n)R}(S'_shape'\n(I1\nI1\ntub.",
        b"cnumpy\ndtype\n(N}S'plain'\nNstb.",  # tries to overwrite a method of the class itself
    ],
)
def test_broken_and_crafted_pickles_are_refused(tmp_path, raw):
    path = tmp_path / "x.pkl"
    path.write_bytes(raw)
    with pytest.raises(BadInput, match=r"x\.pkl is not a pickle of"):
        read_pickle(path)


def test_entries_outside_the_matrix_are_refused(tmp_path):
    matrix = sparse.coo_matrix((np.ones(1), ([0], [2])), shape=(1, 3))
    matrix._shape = (1, 2)
    with pytest.raises(BadInput, match="entries outside"):
        read_pickle(dumped(tmp_path / "x.pkl", matrix))


def test_a_missing_file(tmp_path):
    with pytest.raises(BadInput, match=r"cannot read .*x\.pkl: No such file"):
        read_pickle(tmp_path / "x.pkl")


def test_fault_39_a_few_bytes_that_name_very_many_lists_are_read_at_once(tmp_path):
    nested = []
    for _ in range(200):
        nested = [nested, nested]
    read = read_pickle(dumped(tmp_path / "nested.pkl", nested))
    assert (len(read), read[0] is read[1]) == (2, True)
    itself = {"a": []}
    itself["a"].append(itself)
    with pytest.raises(BadInput, match="holds itself"):
        read_pickle(dumped(tmp_path / "itself.pkl", itself))


DOUBLED = b"K\x01" + b"2\x86" * 60 + b"\x94"  # a tuple of itself twice, 60 times over


@pytest.mark.parametrize(
    "hashed",
    [
        b"}h\x00K\x01s.",  # {tuple: 1}
        b"}(h\x00K\x01u.",  # the same by another operation
        b"(h\x00K\x01d.",
        b"\x8f(h\x00\x90.",  # {tuple}
        b"(h\x00\x91.",  # frozenset
    ],
)
def test_fault_39_a_tuple_that_takes_for_ever_to_hash_is_refused(tmp_path, hashed):
    path = tmp_path / "x.pkl"
    path.write_bytes(b"\x80\x04" + DOUBLED + b"0" + hashed)
    with pytest.raises(BadInput):
        read_pickle(path)
