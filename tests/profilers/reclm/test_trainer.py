"""The order of samples, and what is said where something cannot be written."""

import errno

import numpy as np
import pytest

from reclm.errors import BadInput, MissingExtra
from reclm.profilers.reclm.config import SupervisedConfig
from reclm.profilers.tuning.metrics_log import writing
from reclm.profilers.tuning.training import batch_order, evenly, load_network

LENGTHS = np.random.default_rng(1).integers(10, 500, 1000)


def order(lengths=LENGTHS, seed=0, **options) -> np.ndarray:
    return batch_order(lengths, SupervisedConfig(**options), np.random.default_rng(seed))


def test_a_pass_has_every_sample_once_and_passes_differ() -> None:
    passes = order(epochs=3, batch_size=8).reshape(3, 1000)
    for one in passes:
        assert sorted(one) == list(range(1000))
    assert (passes[0] != passes[1]).any()
    assert (passes[0] != np.arange(1000)).any()


@pytest.mark.parametrize(("epochs", "samples"), [(0.5, 500), (1.25, 1250), (2.5, 2500), (1e-6, 1)])
def test_a_fraction_stops_within_a_pass(epochs: float, samples: int) -> None:
    found = order(epochs=epochs)
    assert len(found) == samples
    assert len(set(found[:1000])) == min(samples, 1000)


def test_a_limit_takes_samples_from_everywhere() -> None:
    found = order(epochs=2, limit=11)
    assert sorted(found) == sorted([0, 100, 200, 300, 400, 500, 599, 699, 799, 899, 999] * 2)
    assert sorted(order(epochs=1, limit=5000)) == list(range(1000))


def test_batches_hold_samples_of_like_length() -> None:
    batches = LENGTHS[order(epochs=1, batch_size=8)].reshape(-1, 8)
    spread = batches.max(1) - batches.min(1)
    # a pool of 128 has 490 lengths in 16 batches: 31 a batch; drawn at random, 8 of 490 spread over 381
    assert spread.mean() < 60
    # but batches do not come by length
    assert abs(np.corrcoef(np.arange(len(batches)), batches.mean(1))[0, 1]) < 0.3


def test_a_last_batch_that_is_not_full_comes_last() -> None:
    found = order(np.arange(10), epochs=1, batch_size=4)
    assert sorted(found) == list(range(10))
    assert (np.diff(found.tolist()[:8])[[0, 1, 2, 4, 5, 6]] > 0).all()


def test_the_same_for_the_same_seed() -> None:
    state = np.random.get_state()  # noqa: NPY002 - it is what must not move
    assert (order(epochs=2) == order(epochs=2)).all()
    assert (order(epochs=2) != order(epochs=2, seed=1)).any()
    assert str(np.random.get_state()) == str(state)  # noqa: NPY002


def test_evenly() -> None:
    assert evenly(5, None).tolist() == [0, 1, 2, 3, 4]
    assert evenly(9, 3).tolist() == [0, 4, 8]
    assert evenly(0, 3).tolist() == []
    assert evenly(3, 0).tolist() == []


def test_four_bits_need_a_gpu(tiny, monkeypatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(MissingExtra, match="bitsandbytes"):
        load_network(tiny.model, True)


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        PermissionError(errno.EACCES, "Permission denied"),
        RuntimeError("[enforce fail at inline_container.cc:862] . PytorchStreamWriter failed writing file"),
    ],
)
def test_what_cannot_be_written_is_one_line(tmp_path, error: Exception) -> None:
    words = r"cannot write .*; make room and run the same command again"
    with pytest.raises(BadInput, match=words), writing(tmp_path):
        raise error


def test_other_errors_are_left_as_they_are(tmp_path) -> None:
    with pytest.raises(RuntimeError, match="shapes"), writing(tmp_path):
        raise RuntimeError("shapes do not fit")
    with pytest.raises(FileNotFoundError), writing(tmp_path):
        (tmp_path / "nothing").read_text()
