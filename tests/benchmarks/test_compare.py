"""Two runs side by side, on results made by hand."""

import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

from reclm.benchmarks.report.page import terminal_table
from reclm.benchmarks.results import ProtocolInfo, Result, ResultRow, RunInfo, TrialResult
from reclm.benchmarks.run_diff import Change, RunDiff, compare_runs
from reclm.benchmarks.significance import holm, paired
from reclm.cli import app
from reclm.errors import BadInput

USERS = np.array([f"u{user}" for user in range(30)], object)
NOISE = np.random.default_rng(0).uniform(0, 0.02, (3, 2, 30))
"""Of a seed, a side and a user."""


def run(
    gain: float = 0.0, side: int = 0, seeds: range = range(2), rest: Any = None, **changes: Any
) -> Result:
    """Two rows, ``base`` and ``augment``; ``gain`` is added to every user's NDCG in ``augment``."""
    about: dict[str, Any] = {
        "title": "a run",
        "dataset": "toy",
        "fingerprint": "f00",
        "metrics": ["ndcg@5", "coverage@5"],
        "protocols": [ProtocolInfo(name="full-shot", users=30, candidates=9)],
        "rows": [ResultRow(name="base"), ResultRow(name="augment")],
    }
    trials = {}
    for row in ("base", "augment"):
        for seed in seeds:
            values = 0.3 + NOISE[seed, side] + (gain if row == "augment" else 0.0)
            trials[row, seed, "full-shot"] = TrialResult(
                user_ids=USERS,
                activity=np.ones(30, np.int64),
                values={"ndcg@5": values.astype(np.float32)},
                overall={"coverage@5": 0.5 + side / 4},
            )
    return Result(RunInfo.build(about | changes), {**trials, **(rest or {})})


def test_means_tests_and_correction_are_those_of_the_users_and_seeds_that_both_have() -> None:
    two = compare_runs(run(), run(gain=0.1, side=1, seeds=range(1, 3)))
    names = [(one.row, one.metric) for one in two.changes]
    assert names == [(row, metric) for row in ("base", "augment") for metric in ("ndcg@5", "coverage@5")]
    before, after = 0.3 + NOISE[[1], 0], 0.3 + NOISE[[1], 1]  # seed 1 ran in both
    base, _, augment, _ = two.changes
    assert (base.a, base.b) == pytest.approx((before.mean(), after.mean()), abs=1e-6)
    tests = [paired(before, after), paired(before, after + 0.1)]
    assert base.test.p == pytest.approx(tests[0].p, rel=1e-3)
    assert [base.p, augment.p] == pytest.approx(holm([one.p for one in tests]), rel=1e-3, abs=1e-12)
    assert augment.significant
    assert not base.significant
    assert augment.test.low < 0.1 < augment.test.high
    assert "higher than A in 1 and significantly lower in 0 of 2 comparisons" in str(two)
    assert "one seed" in str(two)
    back = compare_runs(run(gain=0.1, side=1), run())
    assert "higher than A in 0 and significantly lower in 1 of 2 comparisons" in str(back)


def test_numbers_of_the_whole_have_no_test() -> None:
    coverage = compare_runs(run(), run(side=1)).changes[1]
    assert (coverage.a, coverage.b, coverage.test) == (0.5, 0.75, None)
    assert np.isnan(coverage.p)


def test_only_users_that_both_have_are_compared() -> None:
    other = run(side=1)
    for key, trial in list(other.trials.items()):
        values = {"ndcg@5": np.concatenate([trial.values["ndcg@5"][9::-1], np.array([9.0], np.float32)])}
        ids = np.array([*USERS[9::-1], "stranger"], object)
        other.trials[key] = TrialResult(ids, np.ones(11, np.int64), values)
    about = other.about.model_copy(
        update={"protocols": (ProtocolInfo(name="full-shot", users=11, candidates=9),)}
    )
    change = compare_runs(run(), Result(about, other.trials)).changes[0]
    assert change.test.n == 10
    assert change.b == pytest.approx(0.3 + NOISE[:2, 1, :10].mean(), abs=1e-6)
    assert change.a == pytest.approx(0.3 + NOISE[:2, 0, :10].mean(), abs=1e-6)


def test_equal_runs_agree_and_noise_is_not_significant(tmp_path: Path) -> None:
    run().save(tmp_path)
    assert all(one.equal for one in compare_runs(run(), tmp_path).changes)
    noise = compare_runs(run(), run(side=1))
    assert not any(one.significant for one in noise.changes)
    assert "No significant difference in 2" in str(noise)


def test_what_one_run_alone_has_is_named() -> None:
    more = {"rows": [ResultRow(name="base"), ResultRow(name="shuffled")], "metrics": ["ndcg@5", "mrr@5"]}
    more["protocols"] = [
        ProtocolInfo(name=name, users=30, candidates=9) for name in ("full-shot", "zero-shot")
    ]
    two = compare_runs(run(), run(**more))
    assert two.unmatched == (
        "only in A: row augment",
        "only in B: row shuffled",
        "only in B: protocol zero-shot",
        "only in A: metric coverage@5",
        "only in B: metric mrr@5",
    )
    two = compare_runs(run(seeds=range(1)), run(seeds=range(1, 3)))
    assert two.unmatched[0] == "base, full-shot: no seed ran in both (A: 0; B: 1, 2)"
    assert two.changes == ()
    assert "nothing in common" in str(two)


def test_what_was_made_otherwise_is_said() -> None:
    rows = [{"name": "base", "backbone": "biasmf"}, {"name": "augment", "backbone": "biasmf"}]
    suite = {"title": "x", "train": {"lr": 0.01}, "rows": rows}
    other = {"title": "y", "train": {"lr": 0.1}, "rows": [{**rows[0], "model": {"dim": 8}}, *rows[1:]]}
    a = run(suite=suite, environment={"torch": "2.12", "numpy": "2"})
    chosen = [ResultRow(name="base"), ResultRow(name="augment", chosen={"l2": 0.1})]
    b = run(suite=other, environment={"torch": "2.13", "numpy": "2", "gpus": ["H"]}, rows=chosen)
    assert compare_runs(a, b).differences == (
        "suite: train.lr: 0.01 → 0.1",
        "suite: rows.base.model.dim: not set → 8",
        "row augment: chosen: {} → {'l2': 0.1}",
        "environment: torch: 2.12 → 2.13",
        "environment: gpus: not set → ['H']",
    )


def test_other_data_are_refused() -> None:
    with pytest.raises(BadInput) as caught:
        compare_runs(run(), run(fingerprint="ba5"))
    assert caught.value.value == ("f00", "ba5")
    assert "\n" not in str(caught.value)


def test_a_ranking_among_other_items_is_not_compared() -> None:
    other = run(protocols=[ProtocolInfo(name="full-shot", users=30, candidates=5)])
    two = compare_runs(run(), other)
    assert two.changes == ()
    assert two.differences == ("protocols: full-shot: 30 users × 9 items → 30 users × 5 items",)


def test_the_tables_fit_eighty_columns_and_mark_what_is_significant() -> None:
    console = Console(width=80, record=True, file=io.StringIO())
    two = compare_runs(run(), run(gain=-0.1, side=1))
    console.print(two)
    text = console.export_text()
    assert re.search(r" −\.(09|10)\d\d ", text)
    assert text.count(" *") == 1
    assert str(two) in " ".join(text.split())
    assert max(map(len, text.splitlines())) <= 80
    empty = Change("a", "full-shot", "ndcg@5", float("nan"), float("nan"))
    (table,) = RunDiff((empty,), (), ()).tables()
    assert table.rows[0].cells[1].text == "–"
    assert terminal_table(table, "t").row_count == 1
    frame = two.table()
    assert list(frame["metric"]) == ["NDCG@5", "Coverage@5"] * 2
    assert frame["difference"][2] == pytest.approx(-0.1, abs=0.01)  # pyright: ignore[reportGeneralTypeIssues]
    assert frame["p"].isna().tolist() == [False, True, False, True]


def test_the_command_reads_two_folders_and_takes_nothing_else(tmp_path: Path) -> None:
    for name, one in (("a", run()), ("b", run(gain=0.1))):
        one.save(tmp_path / name)
    asked = ["bench", "--compare", str(tmp_path / "a"), str(tmp_path / "b")]
    found = CliRunner().invoke(app, asked)
    assert found.exit_code == 0
    assert "significantly higher than A in 1" in " ".join(found.output.split())
    for more in (["--seeds", "3"], ["--augment"]):
        refused = CliRunner().invoke(app, [*asked, *more])
        assert f"{more[0]} does not go with --compare" in str(refused.exception)


def test_fault_30_a_difference_is_corrected_within_its_metric() -> None:
    """26 metrics that nearly repeat each other do not make a halved NDCG "no difference"."""
    names = [f"ndcg@{k}" for k in range(1, 27)]
    rng = np.random.default_rng(0)
    runs = []
    for side in range(2):
        made = run(metrics=names)
        for key, trial in list(made.trials.items()):
            loss = 0.1 if side and key[0] == "augment" else 0.0
            values = {name: (0.2 - loss + rng.normal(0, 0.15, 30)).astype(np.float32) for name in names}
            made.trials[key] = TrialResult(USERS, trial.activity, values)
        runs.append(made)
    compared = compare_runs(*runs)
    assert len(compared.tested) == 52
    for change, test in compared.tested:
        other = next(
            test for one, test in compared.tested if one.metric == change.metric and one.row != change.row
        )
        assert change.p == pytest.approx(min(1, max(2 * min(test.p, other.p), test.p)))
