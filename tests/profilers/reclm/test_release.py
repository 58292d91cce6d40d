"""On the paper's own release of MIND: its teacher files, and samples from them."""

import numpy as np
import pytest

from reclm.profilers.reclm.config import InstructionConfig, TeacherConfig
from reclm.profilers.reclm.neighbours import similar
from reclm.profilers.reclm.pipeline import read_teacher
from reclm.profilers.reclm.samples import Instructions
from tools.mind_release import MindRelease


@pytest.fixture(scope="module")
def release(shared_data):
    folder = shared_data / "mind_release"
    if not folder.is_dir():
        pytest.skip("no mind_release there")
    reader = MindRelease()
    return folder / "sft_data" / "mind", reader.read(folder / "data", reader.Config()).view()


def test_the_teacher_files_as_they_are(release):
    files, view = release
    users = read_teacher(files / "mind_fine_tune.csv", view, "user", TeacherConfig())
    assert users.report.counts == {"user": 1466}
    assert users.report.dropped["2 identities instead of 3"] == 150
    assert sum(users.report.dropped.values()) == 1694 - 1466
    items = read_teacher(files / "item_side_instruction_data.csv", view, "item", TeacherConfig())
    assert (items.report.counts, items.report.dropped) == ({"item": 892}, {})


def test_samples_fit_and_do_not_leak(release, smollm):
    files, view = release
    profiles = read_teacher(files / "mind_fine_tune.csv", view, "user", TeacherConfig()).profiles
    rows = view.users.find(profiles)
    # users as the sum of their items' random vectors: similar users share items
    vectors = np.random.default_rng(0).normal(size=(len(view.items), 16))
    matrix = view.train.matrix(len(view.users), len(view.items))
    near = similar(matrix @ vectors, 5, among=rows)
    limit = 1024
    instructions = Instructions(view, InstructionConfig(max_tokens=limit), smollm)
    samples = list(instructions.collaborative(near, profiles, np.random.default_rng(0)))
    assert len(samples) > 100
    assert sum(one.label == "Yes" for one in samples) * 2 == len(samples)
    lines = instructions.histories.lines
    for sample in samples:
        item = int(view.items.find([sample.item])[0])
        target, *others = sample.messages[1].content.split("User 2 chose:")
        assert f"- {lines[item]}\n" not in target
        assert f"- {lines[item]}\n" in others[0]
    for sample in [*samples[::20], *list(instructions.kd(profiles))[::20]]:
        assert len(smollm.training_ids(sample.messages)[0]) <= limit
