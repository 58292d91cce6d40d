"""A whole comparison on a data set whose answer is known: profiles that tell the answer must be found to help."""

import json
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from reclm.adapter import ProfileMatrix
from reclm.backbones.base import Inputs
from reclm.benchmarks.bench import make_plan
from reclm.benchmarks.compare import Comparison, SelectOn, compare
from reclm.benchmarks.compare import test_tasks as tasks_of
from reclm.benchmarks.picture import draw
from reclm.benchmarks.results import save
from reclm.benchmarks.table import table, verdicts
from reclm.data.dataset import Dataset, Interactions
from reclm.errors import ReclmError
from reclm.ranking.evaluate import evaluate
from reclm.testing import checkerboard, features

DATA = checkerboard(users=60, items=40, cold=8)


def told(dataset: Dataset) -> ProfileMatrix:
    """Profiles that say which parity a user likes."""
    vectors = np.zeros((len(dataset.users), 8), np.float32)
    vectors[np.arange(len(vectors)), np.arange(len(vectors)) % 2] = 1
    return ProfileMatrix(vectors, np.ones(len(vectors), bool))


def run(select_on: str = "valid", seeds: int = 2) -> Comparison:
    # two epochs: too few for Base to learn who likes what, which the profiles tell Augment
    settings = {"dim": 4, "lr": 0.01, "batch_size": 64}
    plan = make_plan("biasmf", settings, DATA, seeds=seeds, epochs=2, select_on=select_on)  # pyright: ignore[reportArgumentType]
    base = Inputs(len(DATA.users), len(DATA.items), Interactions.empty(), features(DATA))
    augment = Inputs(base.users, base.items, base.train, base.item_text, told(DATA))
    return compare(plan, DATA, {"base": base, "augment": augment})


def test_numbers_files_and_table_agree(tmp_path) -> None:
    comparison = run()
    save(comparison, tmp_path, {"encoder": "none"})
    rows = pq.read_table(tmp_path / "results.parquet").to_pylist()
    users = pq.read_table(tmp_path / "users.parquet").to_pylist()
    summary = json.loads((tmp_path / "summary.json").read_text())
    for protocol in ("full-shot", "zero-shot"):
        for variant in ("base", "augment"):
            key = (protocol, variant)
            chosen = [
                one["value"]
                for one in rows
                if (*key, "ndcg@20") == (one["protocol"], one["variant"], one["metric"])
            ]
            mean = np.mean([one["ndcg@20"] for one in users if key == (one["protocol"], one["variant"])])
            assert np.mean(chosen) == pytest.approx(mean, rel=1e-6)
            stored = summary["protocols"][protocol]["variants"][variant]["ndcg@20"]
            assert stored["mean"] == pytest.approx(mean, rel=1e-6)
            assert len(stored["seeds"]) == 2
    console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(table(comparison))
    printed = console.export_text()
    base = summary["protocols"]["full-shot"]["variants"]["base"]["ndcg@20"]
    spread = np.std(base["seeds"], ddof=1)
    assert f"{base['mean']:.4f} ± {spread:.4f}" in printed
    draw(comparison, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")


def test_profiles_that_tell_the_answer_are_found_to_help() -> None:
    comparison = run()
    assert comparison.test("full-shot", "ndcg@20").difference > 0
    assert verdicts(comparison)[0].startswith("full-shot: the profiles helped")


def test_selection_on_test_is_said_in_the_table() -> None:
    comparison = run(select_on="test", seeds=1)
    assert "TEST" in str(table(comparison).title)
    assert {row["epoch"] for row in comparison.runs[0].fit.history} == {1, 2}


def test_seeds_share_their_draws_between_variants() -> None:
    comparison = run(seeds=1)
    base, again = (run(seeds=1).values("base", "full-shot", "ndcg@20") for _ in range(2))
    assert base == again == comparison.values("base", "full-shot", "ndcg@20")


def test_unknown_options_offer_the_nearest_and_a_missing_validation_part_is_named() -> None:
    with pytest.raises(ReclmError, match="'batch_size'"):
        make_plan("biasmf", {"batchsize": 3}, DATA)
    bare = Dataset(
        "bare",
        DATA.users,
        DATA.items,
        DATA.train,
        Interactions.empty(),
        DATA.test,
        DATA.item_text,
        DATA.protocols,
    )
    with pytest.raises(ReclmError, match="--select-on test"):
        make_plan("biasmf", {}, bare)
    assert make_plan("biasmf", {}, bare, select_on="test").train.metric == "recall@20"


@pytest.mark.parametrize("select_on", ["valid", "test"])
def test_models_are_handed_out_with_the_weights_of_their_first_protocol(select_on: SelectOn) -> None:
    plan = make_plan("biasmf", {"dim": 4, "lr": 0.01}, DATA, seeds=2, epochs=3, select_on=select_on)
    base = Inputs(len(DATA.users), len(DATA.items), Interactions.empty(), features(DATA))
    found = []

    def look(variant: str, seed: int, model: Any) -> None:
        result = evaluate(model.scorer(), tasks_of(DATA)["full-shot"], ["ndcg@20"])
        found.append((variant, seed, result.mean()["ndcg@20"]))

    comparison = compare(plan, DATA, {"base": base}, on_model=look)
    values = comparison.values("base", "full-shot", "ndcg@20")
    assert found == [("base", 0, values[0]), ("base", 1, values[1])]
