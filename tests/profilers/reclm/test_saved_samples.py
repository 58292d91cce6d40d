"""Saving, opening and showing instruction data."""

import datasets
import numpy as np
import pytest
import yaml
from datasets import load_from_disk

from reclm.errors import BadInput
from reclm.llm.chat import Message
from reclm.profilers.reclm.samples import formatted


@pytest.fixture
def saved(made, profiles, neighbours, tmp_path):
    instructions = made()
    samples = list(instructions.collaborative(neighbours, profiles, np.random.default_rng(0)))
    instructions.save(tmp_path / "collab", iter(samples))
    return tmp_path / "collab", samples


def test_an_ordinary_folder_of_datasets_with_everything_in_it(saved):
    folder, samples = saved
    opened = datasets.Dataset.load_from_disk(str(folder))
    assert len(opened) == len(samples) == 6
    for row, sample in zip(opened.to_list(), samples, strict=True):
        assert [Message(**turn) for turn in row["messages"]] == list(sample.messages)
        assert (row["subject"], row["label"], row["item"]) == (sample.subject, sample.label, sample.item)
        assert (row["stage"], row["kind"]) == ("collab", "user")
        assert tuple(row["neighbours"]) == sample.neighbours
    about = yaml.safe_load((folder / "about.yaml").read_text())
    assert (about["dataset"], about["fingerprint"], about["samples"]) == ("films", "fingerprint", 6)
    assert about["dropped"] == {"collab: no item to ask for": 1}
    assert [one.name for one in folder.parent.iterdir()] == ["collab"]


def test_a_person_can_read_a_sample(saved):
    folder, samples = saved
    text = formatted(load_from_disk(str(folder)), 2)
    assert text.startswith("── sample 0: collab, user ada; asked: item ")
    assert "── sample 5: " in text
    assert f"[assistant]\n{samples[0].messages[2].content}\n[user]\n" in text
    assert formatted(load_from_disk(str(folder)), 100).count("── sample") == 6


def test_written_again_and_never_over_something_else(saved, made, profiles, tmp_path):
    folder, _ = saved
    instructions = made()
    instructions.save(folder, instructions.kd(profiles))
    assert len(load_from_disk(str(folder))) == 4
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.txt").write_text("mine")
    with pytest.raises(BadInput):
        instructions.save(other, instructions.kd(profiles))
    assert (other / "thesis.txt").read_text() == "mine"
    for taken in (other / "thesis.txt", other / "thesis.txt" / "kd"):
        with pytest.raises(BadInput):
            instructions.save(taken, instructions.kd(profiles))
    assert [one.name for one in tmp_path.iterdir() if one.name.startswith(".")] == []


def test_no_sample_is_an_error_and_leaves_nothing(made, profiles, tmp_path):
    instructions = made(max_tokens=64)
    with pytest.raises(BadInput, match="4 kd"):
        instructions.save(tmp_path / "kd", instructions.kd(profiles))
    assert list(tmp_path.iterdir()) == []
