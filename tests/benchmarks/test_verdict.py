"""Sentences and corrections of made records whose answer is known."""

from dataclasses import replace

import numpy as np
import pytest

from reclm.benchmarks.comparisons import FEW, HEAD, Comparisons
from reclm.benchmarks.remarks import remarks
from reclm.benchmarks.report.facts import facts
from reclm.benchmarks.report.numbers import Numbers
from reclm.benchmarks.report.tables import comparisons
from reclm.benchmarks.results import ProtocolInfo, Result, ResultRow, RunInfo, TrialResult
from reclm.benchmarks.significance import holm, paired
from reclm.benchmarks.suite_table import conclusions, markdown
from reclm.benchmarks.verdict import against_controls, differences, of_controls, verdicts

USERS = 400
BASE = ResultRow(name="base")


def line(name: str, control: str | None = None, against: str = "base") -> ResultRow:
    return ResultRow(name=name, against=against, control=control, kinds=("user",))


def record(
    lines: list[ResultRow],
    gains: dict[str, float],
    seeds: int = 3,
    users: int = USERS,
    protocols: tuple[str, ...] = ("full-shot",),
    metrics: tuple[str, ...] = ("recall@20", "ndcg@20"),
    own_users: bool = False,
) -> Result:
    """Values around .2 plus each line's gain; ``own_users``: each seed has users of its own."""
    rng = np.random.default_rng(0)
    cells = {}
    for protocol in protocols:
        each = rng.uniform(0.1, 0.3, users)
        for one in lines:
            for seed in range(seeds):
                values = {
                    metric: (each + gains.get(one.name, 0) + rng.normal(0, 0.02, users)).astype(np.float32)
                    for metric in metrics
                }
                ids = np.array([f"u{user + seed * own_users}" for user in range(users)])
                if one.name in gains or one.name == "base":
                    cells[one.name, seed, protocol] = TrialResult(ids, np.ones(users, int), values)
    ranked = tuple(ProtocolInfo(name=name, users=users, candidates=50) for name in protocols)
    about = RunInfo(
        title="t",
        dataset="d",
        fingerprint="f",
        seeds=seeds,
        metrics=metrics,
        protocols=ranked,
        rows=tuple(lines),
    )
    return Result(about, cells)


def test_a_line_that_is_compared_with_several() -> None:
    both = ResultRow(name="both", against=("base", "one"), kinds=("user",))
    found = record([BASE, line("one"), both], {"one": 0.02, "both": 0.04})
    assert [(one.row, one.against, one.family) for one in differences(found) if one.metric == "ndcg@20"] == [
        ("one", "base", 3),
        ("both", "base", 3),
        ("both", "one", 3),
    ]
    said = verdicts(found)
    assert "both against base: the profiles helped" in said[2]
    assert "both against one: both did better" in said[3]
    numbers = Numbers(found)
    assert numbers.differences["both", "full-shot", "ndcg@20"].against == "base"
    assert [one.against for one in numbers.against("both", "full-shot")] == ["base", "one"]
    (table,) = comparisons(numbers)
    assert [row.cells[0].text for row in table.rows] == ["base", "base", "one"]


def test_profiles_that_help_hurt_or_do_neither() -> None:
    for gain, said in (
        (0.02, "the profiles helped in NDCG@20 (+"),
        (-0.02, "the profiles hurt in NDCG@20 (−"),
        (0.0, "the profiles made no significant difference in NDCG@20 ("),
    ):
        (sentence,) = verdicts(record([BASE, line("augment")], {"augment": gain}))
        assert sentence.startswith(f"full-shot: {said}"), sentence
        assert sentence.endswith(", 400 users, 3 seeds)")
        assert "Holm" not in sentence  # one test needs no correction


def test_a_sentence_holds_the_tests_numbers() -> None:
    found = record([BASE, line("augment")], {"augment": 0.02})
    test = paired(*found.paired("base", "augment", "full-shot", "ndcg@20"))
    base = found.values("base", "full-shot", "ndcg@20").mean()
    change, low, high = (100 * one / base for one in (test.difference, test.low, test.high))
    (sentence,) = verdicts(found)
    assert f"({change:+.1f} %, 95 % interval {low:+.1f} % to {high:+.1f} %, p " in sentence
    (one,) = [one for one in differences(found) if one.metric == "ndcg@20"]
    assert (one.change, one.before) == pytest.approx((change / 100, base))


def test_one_seed_claims_no_more_than_its_models() -> None:
    (sentence,) = verdicts(record([BASE, line("augment")], {"augment": 0.02}, seeds=1))
    assert sentence.startswith("full-shot: for this one seed the profiles helped")
    assert sentence.endswith("1 seed)")


def test_seeds_with_users_of_their_own_are_not_called_one_seed() -> None:
    (sentence,) = verdicts(record([BASE, line("augment")], {"augment": 0.02}, own_users=True))
    assert "one seed" not in sentence
    assert sentence.endswith("402 users, 3 seeds)")


def test_nobody_to_evaluate_and_lines_that_did_not_run() -> None:
    (sentence,) = verdicts(record([BASE, line("augment")], {"augment": 0.02}, users=0))
    assert sentence.startswith("full-shot: nobody to evaluate")
    (sentence,) = verdicts(record([BASE, line("augment")], {"augment": 0.02}, users=1))
    assert sentence.endswith(" %, not tested, 1 user)")
    assert verdicts(record([BASE, line("augment")], {})) == []
    assert verdicts(record([BASE], {})) == []


def test_holm_counts_the_headline_of_all_lines_and_protocols_and_each_other_metric_apart() -> None:
    lines = [BASE, line("one"), line("two"), line("absent")]
    found = differences(record(lines, {"one": 0.001, "two": 0.0}, protocols=("full-shot", "zero-shot")))
    for metric in ("recall@20", "ndcg@20"):
        family = [one for one in found if one.metric == metric]
        assert [(one.row, one.protocol) for one in family] == [
            (name, protocol) for name in ("one", "two") for protocol in ("full-shot", "zero-shot")
        ]
        assert [one.p_holm for one in family] == pytest.approx(holm([one.test.p for one in family]))
        assert {one.family for one in family} == {4}
    assert any(one.p_holm > one.test.p for one in found)
    (_, first, *_) = verdicts(record(lines, {"one": 0.02, "two": 0.0}))
    assert first.startswith("full-shot, one against base: the profiles helped")
    assert "after Holm over 2 tests" in first


def test_a_line_is_held_against_its_best_control() -> None:
    lines = [BASE, line("augment"), line("mixed", "shuffled"), line("noise", "random")]
    better = record(lines, {"augment": 0.04, "mixed": 0.02, "noise": 0.01})
    (found,) = against_controls(better)
    assert (found.row, found.against, found.metric) == ("augment", "mixed", "ndcg@20")
    best = f"{better.values('mixed', 'full-shot', 'ndcg@20').mean():.4f}"[1:]
    said = [one for one in verdicts(better) if "best control" in one]
    assert len(said) == 1
    assert said[0].startswith(f"full-shot: augment beats its best control (shuffled, {best}) by +")
    assert said[0].count(" % (95 % interval ") == 1
    assert any("the control (random) helped" in one for one in of_controls(better))
    assert not any("the control (random) helped" in one for one in verdicts(better))


def test_a_gain_that_a_control_has_too_is_not_what_the_profiles_say() -> None:
    lines = [BASE, line("augment"), line("mixed", "shuffled"), line("noise", "random")]
    for gains, said in (
        ({"augment": 0.02, "mixed": 0.0, "noise": 0.02}, "does not beat its best control (random, "),
        ({"augment": 0.02, "mixed": 0.0, "noise": 0.04}, "falls behind its best control (random, "),
    ):
        (sentence,) = [one for one in verdicts(record(lines, gains)) if "best control" in one]
        assert said in sentence
        assert "what helps need not be what the profiles say" in sentence
    (sentence,) = [one for one in verdicts(record(lines, dict.fromkeys(gains, 0.0))) if "best control" in one]
    assert "what helps" not in sentence  # nothing does


def test_a_line_that_is_compared_with_nothing_has_its_controls() -> None:
    alone = ResultRow(name="similarity", kinds=("user",))
    control = ResultRow(name="its shuffled", control="shuffled", stands_for="similarity", kinds=("user",))
    found = record([alone, control], {"similarity": 0.02, "its shuffled": 0.0})
    (said,) = verdicts(found)
    assert said.startswith("full-shot: similarity beats its best control (shuffled, ")
    numbers = Numbers(found)
    assert (numbers.verdicts, numbers.of_controls) == ([said], [])


def test_controls_of_another_base_are_left_alone() -> None:
    lines = [BASE, line("augment"), ResultRow(name="other"), line("mixed", "shuffled", against="other")]
    assert against_controls(record(lines, {"augment": 0.02, "other": 0.0, "mixed": 0.0})) == []


def test_each_line_is_held_against_its_own_controls() -> None:
    mixed = [line(f"{one}, shuffled", "shuffled") for one in ("users", "items")]
    mixed = [one.model_copy(update={"stands_for": one.name.partition(",")[0]}) for one in mixed]
    gains = {"users": 0.01, "items": 0.03, "users, shuffled": 0.0, "items, shuffled": 0.02}
    found = against_controls(record([BASE, line("users"), line("items"), *mixed], gains))
    assert [(one.row, one.against) for one in found] == [
        ("users", "users, shuffled"),
        ("items", "items, shuffled"),
    ]


def test_users_without_a_value_are_left_out_of_its_tests() -> None:
    made = record([BASE, line("augment")], {"augment": 0.02}, seeds=2, metrics=("lift@20", "ndcg@20"))
    for cell in made.cells.values():
        cell.values["lift@20"][:9] = np.nan  # no history
    lift, ndcg = differences(made)
    assert (lift.test.n, ndcg.test.n) == (USERS - 9, USERS)
    before, after = (
        np.stack([made.cells[name, seed, "full-shot"].values["lift@20"][9:] for seed in range(2)])
        for name in ("base", "augment")
    )
    assert lift.test == paired(before, after)
    apart = record([BASE, line("augment")], {"augment": 0.02}, metrics=("ndcg@20",), own_users=True)
    for cell in apart.cells.values():
        cell.values["ndcg@20"][3:-3] = np.nan
    (found,) = differences(apart)
    assert found.test.n == 5 + 5  # the first and last three of u0-u399, u1-u400 and u2-u401
    empty = record([BASE, line("augment")], {"augment": 0.02})
    for cell in empty.cells.values():
        cell.values["recall@20"][:] = np.nan
    assert [one.test.n for one in differences(empty)] == [0, USERS]


def test_lines_without_profiles_are_called_by_name() -> None:
    (said,) = verdicts(record([BASE, ResultRow(name="wide", against="base")], {"wide": 0.02}))
    assert said.startswith("full-shot: wide did better in NDCG@20 (")


def test_lines_that_both_have_profiles_are_called_by_name() -> None:
    lines = [BASE, line("plain"), line("tuned", against="plain")]
    found = verdicts(record(lines, {"plain": 0.0, "tuned": 0.02}))
    assert found[2].startswith("full-shot, tuned against plain: tuned did better in NDCG@20 (")


def test_a_report_does_not_speak_of_profiles_where_lines_have_none() -> None:
    lines = [BASE, *(ResultRow(name=one, against="base") for one in ("wide", "deep"))]
    said = Numbers(record(lines, {"wide": 0.02, "deep": 0.02})).verdicts[0]
    assert said.startswith("The compared line was better in 2 of 2 comparisons")


GAINS = {"one": 0.02, "one, shuffled": 0.0, "two": 0.0, "two, shuffled": 0.0}


@pytest.fixture
def many() -> Result:
    """Two lines with a control each, in two protocols."""
    controls = [
        ResultRow(
            name=f"{name}, shuffled", against="base", control="shuffled", stands_for=name, kinds=("user",)
        )
        for name in ("one", "two")
    ]
    lines = [BASE, line("one"), line("two"), *controls]
    return record(lines, GAINS, protocols=("full-shot", "zero-shot"))


def test_a_row_a_comparison_and_its_best_control_below(many: Result) -> None:
    found = Comparisons.many(many)
    assert found is not None
    assert [row[:3] for row in found.cells[:4]] == [
        ("full-shot", "one", "base"),
        ("full-shot", "one", "one, shuffled (best control)"),
        ("zero-shot", "one", "base"),
        ("zero-shot", "one", "one, shuffled (best control)"),
    ]
    assert len(found.cells) == 8
    assert found.summary == verdicts(many)[0]
    assert all(len(row) == len(HEAD) for row in found.cells)


def test_the_numbers_are_those_of_the_sentences(many: Result) -> None:
    found = Comparisons.many(many)
    assert found is not None
    first = next(one for one in differences(many) if one.metric == "ndcg@20")
    sentence = verdicts(many)[1]
    _, _, _, change, interval, p, users, seeds = found.cells[0]
    assert f"({change}, 95 % interval {interval}, p " in sentence
    assert sentence.endswith(f", {users} users, {seeds} seeds)")
    assert p == f"{first.p_holm:.3f} *".removeprefix("0")
    assert [row[5].endswith(" *") for row in found.cells] == [True] * 4 + [False] * 4
    controls = against_controls(many)
    assert (
        f"p is after Holm over {first.family} tests and {len(controls)} tests of best controls"
        in found.tested
    )
    assert "one seed" not in found.tested


def test_few_are_sentences(many: Result) -> None:
    few = record([BASE, line("one"), line("two")], GAINS)
    assert Comparisons.many(few) is None
    assert conclusions(few) == verdicts(few)
    assert len(verdicts(few)) <= 1 + FEW
    summary, grid, tested = conclusions(many)
    assert (summary, grid.row_count) == (verdicts(many)[0], 8)  # pyright: ignore[reportAttributeAccessIssue]
    page = markdown(many)
    assert str(summary) in page.replace("\\", "")
    assert "| full-shot | one | base | +" in page
    assert verdicts(many)[1] not in page
    assert "base" not in str(tested)


def test_one_seed_is_said_and_who_could_not_be_compared() -> None:
    lines = [BASE, *(line(name) for name in "abcde")]
    found = Comparisons.many(record(lines, dict.fromkeys("abcde", 0.01), seeds=1))
    assert found is not None
    assert found.tested.endswith("between these trained models, not between methods.")
    alone = Comparisons.many(record(lines, dict.fromkeys("abcde", 0.01), users=1))
    assert alone is not None
    assert [row[3:] for row in alone.cells] == [("", "not tested", "", "1", "3")] * 5
    assert alone.tested == "NDCG@20."


def test_controls_of_a_line_that_is_compared_with_nothing() -> None:
    lines = [ResultRow(name="similarity", kinds=("user",))]
    lines += [ResultRow(name="its shuffled", control="shuffled", stands_for="similarity", kinds=("user",))]
    gains = {"similarity": 0.02, "its shuffled": 0.0}
    protocols = ("full-shot", "zero-shot", "warm", "cold", "all")
    made = record(lines, gains, protocols=protocols)
    found = Comparisons.many(made)
    assert found is not None
    assert [row[:3] for row in found.cells] == [
        (one, "similarity", "its shuffled (best control)") for one in protocols
    ]
    assert found.summary == ""
    assert "Holm over 5 tests of best controls" in found.tested
    assert len(conclusions(made)) == 2
    assert "\n\n\n" not in markdown(made)
    shown = comparisons(Numbers(made))
    assert [[row.name for row in table.rows] for table in shown] == [["similarity, its best control"]] * 5
    assert shown[0].rows[0].cells[0].text == "its shuffled"


def test_the_bar_of_a_line_is_its_cell_of_the_table_where_seeds_draw_their_own_users() -> None:
    made = record([BASE], {})
    for (name, seed, where), cell in made.cells.items():
        some = np.random.default_rng(seed).permutation(USERS)[: 100 * (seed + 1)]
        values = {metric: one[some] for metric, one in cell.values.items()}
        made.cells[name, seed, where] = replace(
            cell, user_ids=cell.user_ids[some], activity=cell.activity[some], values=values
        )
    bar = Numbers(made).interval("base", "full-shot", "ndcg@20")
    assert bar is not None
    assert bar.mean == pytest.approx(made.values("base", "full-shot", "ndcg@20").mean())


def test_lines_that_are_not_above_a_floor_are_named() -> None:
    floors = [ResultRow(name="Random", baseline=True), ResultRow(name="MostPopular", baseline=True)]
    lines = [BASE, line("one"), line("noise", "random"), *floors]
    gains = {"one": 0.04, "noise": -0.1, "Random": -0.1, "MostPopular": 0.02}
    (said,) = [one for one in remarks(record(lines, gains)) if "learns nothing" in one]
    assert said.startswith("full-shot: not above MostPopular (NDCG@20 .")
    assert ": base. Differences between" in said
    assert not any("learns nothing" in one for one in remarks(record(lines, gains | {"MostPopular": -0.01})))
    assert not any("learns nothing" in one for one in remarks(record(lines[:3], gains)))


def test_lines_whose_training_was_cut_short_are_named() -> None:
    lines = [one.model_copy(update={"most_epochs": 220}) for one in (BASE, line("one"))]
    found = record(lines, {"one": 0.04}, seeds=2)
    for (name, seed, where), cell in found.cells.items():
        # one base has its best epoch with the last; all others stopped by themselves, 10 epochs after theirs
        best, epochs = (220, 220) if (name, seed) == ("base", 1) else (200, 210)
        found.cells[name, seed, where] = replace(cell, best_epoch=best, epochs=epochs)
    (said,) = [one for one in remarks(found) if "still getting better" in one]
    assert ": base (1 of 2 seeds). " in said
    assert ("remark", said) in facts(Numbers(found))
    assert not any("still getting better" in one for one in remarks(record([BASE], {})))
