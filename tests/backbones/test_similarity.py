import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from fake_encoder import use_encoder

import reclm.cli
from reclm.backbones.similarity import Similarity
from reclm.benchmarks.results import Result
from reclm.benchmarks.suite import REFERENCES
from reclm.benchmarks.trial import Plan, Runner
from reclm.data.dataset import Interactions
from reclm.data.storage import save
from reclm.errors import ReclmError
from reclm.profiles.matrix import ProfileMatrix
from reclm.recommend.base import Inputs
from reclm.testing import checkerboard, features, profiles

TEXT = np.array([[2.0, 0.0], [0.0, 0.5], [-1.0, 0.0], [0.0, 0.0]], np.float32)
TOLD = ProfileMatrix(np.array([[3, 4], [9, 9], [0, -7]], np.float32), np.array([True, False, True]))
INPUTS = Inputs(3, 4, Interactions(np.array([0]), np.array([1])), TEXT, TOLD)


def build(inputs: Inputs) -> Similarity:
    return Similarity(Similarity.Config(), inputs, torch.Generator())


def test_scores_are_cosines_0_without_a_profile_and_below_all_cosines_without_text() -> None:
    scores = build(INPUTS).scorer()(torch.arange(3), torch.arange(4))
    expected = [[3 / 5, 4 / 5, -3 / 5, -2], [0, 0, 0, -2], [0, -1, 0, -2]]
    torch.testing.assert_close(scores, torch.tensor(expected), atol=2e-6, rtol=0)


def test_ties_are_in_an_order_of_the_seed() -> None:
    inputs = replace(INPUTS, item_text=np.ones((50, 2), np.float32))
    orders = [
        Similarity(Similarity.Config(), inputs, torch.Generator().manual_seed(seed))
        .scorer()(torch.arange(1), torch.arange(50))
        .argsort()
        .tolist()
        for seed in (0, 0, 1)
    ]
    assert orders[0] == orders[1] != orders[2]


def test_any_users_and_items_in_any_order() -> None:
    scorer = build(INPUTS).scorer()
    torch.testing.assert_close(
        scorer(torch.tensor([2, 0]), torch.tensor([2, 1])),
        torch.tensor([[0, -1], [-3 / 5, 4 / 5]]),
        atol=2e-6,
        rtol=0,
    )
    scores = scorer(torch.arange(1), torch.arange(4))
    scores[0, 0] = 9  # a scorer's memory is its caller's
    assert scorer(torch.arange(1), torch.arange(4))[0, 0] == pytest.approx(3 / 5)


def test_it_has_nothing_to_train_and_keeps_its_inputs_as_they_are() -> None:
    model = build(INPUTS)
    assert list(model.parameters()) == []
    assert not model.trains
    assert TOLD.vectors[1].tolist() == [9, 9]


@pytest.mark.parametrize(
    ("inputs", "says"),
    [
        (replace(INPUTS, user_profiles=None), "there are none; add --augment"),
        (replace(INPUTS, user_profiles=ProfileMatrix(TEXT, np.zeros(4, bool))), "there are none"),
        (replace(INPUTS, item_text=None), "ranks items by their text, and there is none"),
        (replace(INPUTS, item_text=np.zeros((4, 2), np.float32)), "by their text, and there is none"),
        (
            replace(INPUTS, item_text=TEXT[:, :1]),
            "vectors of 2 and item texts of 1; encode both with the same",
        ),
    ],
)
def test_what_it_cannot_do_without(inputs: Inputs, says: str) -> None:
    with pytest.raises(ReclmError, match=says) as raised:
        build(inputs)
    assert "\n" not in str(raised.value)


def test_it_ranks_items_that_training_never_saw() -> None:
    data = checkerboard()
    inputs = Inputs(
        len(data.users), len(data.items), data.train, features(data), profiles(data)["user"]
    )  # users and items of one parity point the same way
    run = Runner(Plan(backbone="similarity", metrics=("precision@2",)), data).run(inputs, seed=0)
    assert run.fit.history == []
    assert run.results["zero-shot"].mean()["precision@2"] == 1.0


class Parity:
    """An encoder that knows the words of even items and those of odd ones."""

    name = source = "parity"
    dim = 2

    def __init__(self, name: str | None = None) -> None:
        pass

    def encode(
        self, texts: Sequence[str], batch_size: int = 32, progress: Callable[[int], None] | None = None
    ) -> np.ndarray:
        kinds = ("even", "calm", "blue", "water"), ("odd", "loud", "red", "fire")
        return np.array(
            [[sum(word in text for word in kind) for kind in kinds] for text in texts], np.float32
        )


Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs ``reclm …`` on the checkerboard: exit code, stdout, stderr."""
    use_encoder(monkeypatch, Parity)
    monkeypatch.setenv("COLUMNS", "160")
    save(checkerboard(), tmp_path / "datasets" / "checkerboard")

    def command(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["reclm", *words, "--home", str(tmp_path)])
        with pytest.raises(SystemExit) as ended:
            reclm.cli.main()
        output = capsys.readouterr()
        return int(ended.value.code or 0), output.out, output.err

    return command


BENCH = ("bench", "--backbone", "similarity", "--profiler", "keywords", "--dataset")


def test_bench_ranks_by_profiles_alone_and_writes_no_others(command: Command, tmp_path: Path) -> None:
    code, out, err = command(*BENCH, "checkerboard", "--augment", "--out", str(tmp_path / "run"))
    assert code == 0, err
    assert "base" not in out
    assert "profiles by keywords: 24 of 24 users" in out
    record = Result.load(tmp_path / "run")
    assert record.row("augment").coverage == {"user": (24, 24)}
    assert {line for line, _, _ in record.trials} == {"augment", *REFERENCES.values()}
    # a user's keywords name its parity: both unseen items of it come before the two others
    assert record.values("augment", "zero-shot", "ndcg@20") == pytest.approx([1.0])
    (recommended,) = [line for line in out.splitlines() if "reclm recommend" in line]
    code, out, _ = command(*recommended.removeprefix("next: reclm ").split())
    assert code == 0
    assert "model: similarity, augment, in" in out


def test_equal_scores_do_not_stand_in_the_order_of_the_rows() -> None:
    text = np.ones((500, 4), np.float32)
    users = ProfileMatrix(np.ones((2, 4), np.float32), np.array([True, False]))
    inputs = Inputs(2, 500, Interactions.empty(), text, users)
    model = Similarity(Similarity.Config(), inputs, torch.Generator())
    scores = model.scorer()(torch.arange(2), torch.arange(500))
    for row in scores:
        places = torch.argsort(row, descending=True)
        assert abs(float(torch.corrcoef(torch.stack([places.float(), torch.arange(500.0)]))[0, 1])) < 0.2
    assert float(scores.max()) <= 1 + 2e-6


def test_bench_says_in_one_line_what_is_missing(command: Command) -> None:
    for words, says in (
        ((*BENCH, "checkerboard"), "--profiler is about profiles, which this trains without; add --augment"),
        ((*BENCH, "checkerboard", "--augment", "--kind", "item"), "add --augment --kind user"),
    ):
        code, _, err = command(*words)
        assert code == 2
        assert says in err
        assert err.strip().splitlines()[-1].startswith("error: ")
