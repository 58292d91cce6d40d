"""Tests, corrections and answers of made results whose answer is known."""

from dataclasses import replace

import numpy as np
import pytest

from reclm.benchmarks.comparisons import against_controls, differences
from reclm.benchmarks.report import tables
from reclm.benchmarks.results import ProtocolInfo, Result, ResultRow, RunInfo, TrialResult
from reclm.benchmarks.significance import holm, over_users, paired
from reclm.intervals import percent

USERS = 400
BASE = ResultRow(name="base")


def row(name: str, control: str | None = None, against: str = "base") -> ResultRow:
    return ResultRow(name=name, against=(against,), control=control, kinds=("user",))


def result(
    rows: list[ResultRow],
    gains: dict[str, float],
    seeds: int = 3,
    users: int = USERS,
    protocols: tuple[str, ...] = ("full-shot",),
    metrics: tuple[str, ...] = ("recall@20", "ndcg@20"),
    own_users: bool = False,
) -> Result:
    """Values around .2 plus each row's gain; ``own_users``: each seed has users of its own."""
    rng = np.random.default_rng(0)
    trials = {}
    for protocol in protocols:
        each = rng.uniform(0.1, 0.3, users)
        for one in rows:
            for seed in range(seeds):
                values = {
                    metric: (each + gains.get(one.name, 0) + rng.normal(0, 0.02, users)).astype(np.float32)
                    for metric in metrics
                }
                ids = np.array([f"u{user + seed * own_users}" for user in range(users)])
                if one.name in gains or one.name == "base":
                    trials[one.name, seed, protocol] = TrialResult(ids, np.ones(users, int), values)
    about = RunInfo(
        title="t",
        dataset="d",
        fingerprint="f",
        seeds=seeds,
        metrics=metrics,
        protocols=tuple(ProtocolInfo(name=name, users=users, candidates=50) for name in protocols),
        rows=tuple(rows),
    )
    return Result(about, trials)


def sentences(text: object) -> int:
    return str(text).count(". ") + str(text).endswith(".")


@pytest.mark.parametrize(
    ("gain", "answer"), [(0.02, "helped"), (-0.02, "hurt"), (0.0, "no difference shown")]
)
def test_profiles_that_help_hurt_or_do_neither(gain: float, answer: str) -> None:
    verdict = result([BASE, row("augment")], {"augment": gain}).verdict
    assert verdict.answers == {"full-shot": answer}
    assert verdict.rows == {("augment", "full-shot"): answer}
    assert answer in str(verdict)
    assert sentences(verdict) == 1
    (test,) = [one for one in verdict.differences if one.metric == "ndcg@20"]
    assert (test.better, test.significant) == (gain > 0, gain != 0)
    (reason,) = verdict.reasons()
    assert test.size in reason
    assert test.interval in reason


def test_a_difference_holds_the_tests_numbers() -> None:
    made = result([BASE, row("augment")], {"augment": 0.02})
    test = paired(*made.paired("base", "augment", "full-shot", "ndcg@20"))
    base = made.values("base", "full-shot", "ndcg@20").mean()
    change, low, high = (100 * one / base for one in (test.difference, test.low, test.high))
    found = made.verdict.by_base["augment", "full-shot", "ndcg@20"]
    assert found.test == test
    assert found.family == 1  # one test needs no correction
    assert found.p_holm == test.p
    assert (found.change, found.before) == pytest.approx((change / 100, base))
    assert (found.size, found.interval) == (f"{change:+.1f} %", f"{low:+.1f} % to {high:+.1f} %")


def test_one_seed_is_a_caveat() -> None:
    made = result([BASE, row("augment")], {"augment": 0.02}, seeds=1)
    (caveat,) = made.verdict.caveats
    assert "one seed" in caveat
    assert caveat in str(made.verdict)
    assert sentences(made.verdict) == 2
    apart = result([BASE, row("augment")], {"augment": 0.02}, own_users=True)
    assert apart.verdict.caveats == ()
    assert apart.verdict.by_base["augment", "full-shot", "ndcg@20"].test.n == 402


@pytest.mark.parametrize("users", [0, 1])
def test_too_few_users_decide_nothing(users: int) -> None:
    made = result([BASE, row("augment")], {"augment": 0.02}, users=users)
    assert made.verdict.answers == {"full-shot": "not decided"}
    (reason,) = made.verdict.reasons()
    assert "not tested" in reason
    (table,) = tables.comparisons(made)
    assert table.only("95 % interval", "users").rows[0].cells[1].value == users


@pytest.mark.parametrize(
    "rows",
    [[BASE, row("augment")], [BASE], [BASE, ResultRow(name="wide", against=("base",))]],
)
def test_without_profiles_or_rows_that_ran_nothing_is_decided(rows: list[ResultRow]) -> None:
    made = result(rows, {"wide": 0.02})
    assert made.verdict.answers == {"full-shot": "not decided"}
    assert made.verdict.rows == {}
    assert str(made.verdict).startswith("Not decided")


def test_the_first_row_that_a_row_is_compared_with_is_its_base() -> None:
    both = ResultRow(name="both", against=("base", "one"), kinds=("user",))
    made = result([BASE, row("one"), both], {"one": 0.02, "both": 0.04})
    assert [(one.row, one.against, one.family) for one in differences(made) if one.metric == "ndcg@20"] == [
        ("one", "base", 2),
        ("both", "base", 2),
        ("both", "one", 1),  # neither base nor control nor reference: a question of its own
    ]
    assert made.verdict.by_base["both", "full-shot", "ndcg@20"].against == "base"
    assert made.verdict.rows == {("one", "full-shot"): "helped", ("both", "full-shot"): "helped"}
    assert "2 rows: 2 helped, 0 hurt" in str(made.verdict)
    (table,) = tables.comparisons(made)
    assert [(one.name, one.cells[0].text) for one in table.rows if not one.below] == [
        ("one", "base"), ("both", "base")
    ]  # fmt: skip
    assert table.rows[2].cells[0].text == "one"
    other = ResultRow(name="both", against=("absent", "one"), kinds=("user",))
    made = result([BASE, ResultRow(name="absent"), row("one"), other], {"one": 0.02, "both": 0.04})
    assert ("both", "full-shot", "ndcg@20") not in made.verdict.by_base  # its base did not run


def test_rows_that_disagree_decide_nothing() -> None:
    rows = [BASE, row("one"), row("two")]
    for gains, answer in (
        ({"one": 0.02, "two": -0.02}, "not decided"),
        ({"one": 0.02, "two": 0.0}, "helped"),
        ({"one": -0.02, "two": 0.0}, "hurt"),
        ({"one": 0.0, "two": 0.0}, "no difference shown"),
    ):
        assert result(rows, gains).verdict.answers == {"full-shot": answer}


def test_a_row_whose_base_has_profiles_is_compared_and_not_in_the_answer() -> None:
    rows = [BASE, row("plain"), row("tuned", against="plain")]
    verdict = result(rows, {"plain": 0.0, "tuned": 0.02}).verdict
    assert verdict.answers == {"full-shot": "no difference shown"}
    assert list(verdict.rows) == [("plain", "full-shot")]
    assert verdict.by_base["tuned", "full-shot", "ndcg@20"].better


def test_holm_counts_the_headline_of_all_rows_and_protocols_and_each_other_metric_apart() -> None:
    rows = [BASE, row("one"), row("two"), row("absent")]
    found = differences(result(rows, {"one": 0.001, "two": 0.0}, protocols=("full-shot", "zero-shot")))
    for metric in ("recall@20", "ndcg@20"):
        family = [one for one in found if one.metric == metric]
        assert [(one.row, one.protocol) for one in family] == [
            (name, protocol) for name in ("one", "two") for protocol in ("full-shot", "zero-shot")
        ]
        assert [one.p_holm for one in family] == pytest.approx(holm([one.test.p for one in family]))
        assert {one.family for one in family} == {4}
    assert any(one.p_holm > one.test.p for one in found)


def test_a_row_is_compared_with_its_best_control() -> None:
    rows = [BASE, row("augment"), row("mixed", "shuffled"), row("noise", "random")]
    made = result(rows, {"augment": 0.04, "mixed": 0.02, "noise": 0.01})
    (found,) = against_controls(made)
    assert (found.row, found.against, found.metric) == ("augment", "mixed", "ndcg@20")
    assert found.before == pytest.approx(made.values("mixed", "full-shot", "ndcg@20").mean())
    assert made.verdict.answers == {"full-shot": "helped"}
    assert list(made.verdict.rows) == [("augment", "full-shot")]  # controls are tested, and have no answer
    assert ("mixed", "full-shot", "ndcg@20") in made.verdict.by_base


@pytest.mark.parametrize("noise", [0.02, 0.04])
def test_a_gain_that_a_control_has_too_is_no_help(noise: float) -> None:
    rows = [BASE, row("augment"), row("mixed", "shuffled"), row("noise", "random")]
    made = result(rows, {"augment": 0.02, "mixed": 0.0, "noise": noise})
    assert made.verdict.by_base["augment", "full-shot", "ndcg@20"].better
    assert made.verdict.answers == {"full-shot": "no difference shown"}
    assert "noise" in str(made.verdict)
    assert sentences(made.verdict) == 1


def test_a_row_without_a_base_is_compared_with_its_controls() -> None:
    alone = ResultRow(name="similarity", kinds=("user",))
    control = ResultRow(name="its shuffled", control="shuffled", stands_for="similarity", kinds=("user",))
    gains = {"similarity": 0.02, "its shuffled": 0.0}
    protocols = ("full-shot", "zero-shot", "warm", "cold", "all")
    made = result([alone, control], gains, protocols=protocols)
    assert made.verdict.answers == dict.fromkeys(protocols, "helped")
    found = tables.comparisons(made)
    assert [[one.name for one in table.rows] for table in found] == [["similarity, best control"]] * 5
    assert found[0].rows[0].cells[0].text == "its shuffled"
    assert {one.family for one in made.verdict.by_control.values()} == {5}
    worse = result([alone, control], {"similarity": 0.0, "its shuffled": 0.02})
    assert worse.verdict.answers == {"full-shot": "no difference shown"}


def test_controls_of_another_base_are_left_alone() -> None:
    rows = [BASE, row("augment"), ResultRow(name="other"), row("mixed", "shuffled", against="other")]
    assert against_controls(result(rows, {"augment": 0.02, "other": 0.0, "mixed": 0.0})) == []


def test_each_row_is_compared_with_its_own_controls() -> None:
    mixed = [row(f"{one}, shuffled", "shuffled") for one in ("users", "items")]
    mixed = [one.model_copy(update={"stands_for": one.name.partition(",")[0]}) for one in mixed]
    gains = {"users": 0.01, "items": 0.03, "users, shuffled": 0.0, "items, shuffled": 0.02}
    found = against_controls(result([BASE, row("users"), row("items"), *mixed], gains))
    assert [(one.row, one.against) for one in found] == [
        ("users", "users, shuffled"),
        ("items", "items, shuffled"),
    ]


def test_users_without_a_value_are_left_out_of_its_tests() -> None:
    made = result([BASE, row("augment")], {"augment": 0.02}, seeds=2, metrics=("lift@20", "ndcg@20"))
    for trial in made.trials.values():
        trial.values["lift@20"][:9] = np.nan  # no history
    lift, ndcg = differences(made)
    assert (lift.test.n, ndcg.test.n) == (USERS - 9, USERS)
    before, after = (
        np.stack([made.trials[name, seed, "full-shot"].values["lift@20"][9:] for seed in range(2)])
        for name in ("base", "augment")
    )
    assert lift.test == paired(before, after)
    apart = result([BASE, row("augment")], {"augment": 0.02}, metrics=("ndcg@20",), own_users=True)
    for trial in apart.trials.values():
        trial.values["ndcg@20"][3:-3] = np.nan
    (found,) = differences(apart)
    assert found.test.n == 5 + 5  # the first and last three of u0-u399, u1-u400 and u2-u401
    empty = result([BASE, row("augment")], {"augment": 0.02})
    for trial in empty.trials.values():
        trial.values["recall@20"][:] = np.nan
    assert [one.test.n for one in differences(empty)] == [0, USERS]


def test_the_mean_is_that_of_the_table_where_seeds_draw_their_own_users() -> None:
    made = result([BASE], {})
    for (name, seed, where), trial in made.trials.items():
        some = np.random.default_rng(seed).permutation(USERS)[: 100 * (seed + 1)]
        values = {metric: one[some] for metric, one in trial.values.items()}
        made.trials[name, seed, where] = replace(
            trial, user_ids=trial.user_ids[some], activity=trial.activity[some], values=values
        )
    bar = over_users(made.by_user("base", "full-shot", "ndcg@20"))
    assert bar is not None
    assert bar.mean == pytest.approx(made.values("base", "full-shot", "ndcg@20").mean())


def test_rows_that_are_not_above_a_baseline_are_a_caveat() -> None:
    baselines = [ResultRow(name="Random", baseline=True), ResultRow(name="MostPopular", baseline=True)]
    rows = [BASE, row("one"), row("noise", "random"), *baselines]
    gains = {"one": 0.04, "noise": -0.1, "Random": -0.1, "MostPopular": 0.02}
    made = result(rows, gains)
    (caveat,) = made.verdict.caveats
    assert caveat.startswith("in full-shot, base is not above the baseline MostPopular")
    assert caveat in str(made.verdict)
    assert sentences(made.verdict) == 2
    assert made.verdict.answers == {"full-shot": "not decided"}  # the base does not rank
    stronger = result(rows, gains | {"MostPopular": -0.01})
    assert stronger.verdict.caveats == ()
    assert stronger.verdict.answers == {"full-shot": "helped"}
    assert result(rows[:3], gains).verdict.caveats == ()


def test_rows_whose_training_was_cut_short_are_a_caveat() -> None:
    rows = [one.model_copy(update={"most_epochs": 220}) for one in (BASE, row("one"))]
    made = result(rows, {"one": 0.04}, seeds=3)
    for (name, seed, where), trial in made.trials.items():
        # one base has its best epoch with the last; all others stopped by themselves, 10 epochs after theirs
        best, epochs = (220, 220) if (name, seed) == ("base", 1) else (200, 210)
        made.trials[name, seed, where] = replace(trial, best_epoch=best, epochs=epochs)
    (caveat,) = made.verdict.caveats
    assert caveat.startswith("1 of 2 rows")
    assert "base (1 of 3 seeds)" in caveat
    assert result([BASE], {}).verdict.caveats == ()
    assert made.verdict.answers == {"full-shot": "helped"}  # the other seeds' trainings were done
    for (name, seed, where), trial in made.trials.items():
        if name == "base":
            made.trials[name, seed, where] = replace(trial, best_epoch=215, epochs=220)
    verdict = result([*made.about.rows], {"one": 0.04}, seeds=3).verdict
    assert verdict.answers == {"full-shot": "helped"}
    assert Result(made.about, made.trials).verdict.answers == {"full-shot": "not decided"}


@pytest.mark.parametrize("best", [20, 8])
def test_a_row_that_still_rises_decides_nothing(best: int) -> None:
    rows = [one.model_copy(update={"most_epochs": 20}) for one in (BASE, row("one"))]
    made = result(rows, {"one": -0.04})
    for key, trial in made.trials.items():
        made.trials[key] = replace(trial, best_epoch=best if key[0] == "one" else 5, epochs=20)
    assert made.verdict.answers == {"full-shot": "not decided" if best == 20 else "hurt"}


def test_a_row_without_a_base_is_held_against_the_baselines_itself() -> None:
    rows = [ResultRow(name="similarity", kinds=("user",)), ResultRow(name="Random", baseline=True)]
    rows.append(ResultRow(name="its shuffled", control="shuffled", stands_for="similarity", kinds=("user",)))
    for random, answer in ((0.1, "not decided"), (0.0, "helped")):
        gains = {"similarity": 0.04, "its shuffled": 0.0, "Random": random}
        assert result(rows, gains).verdict.answers == {"full-shot": answer}


def test_a_baseline_with_profiles_has_no_answer() -> None:
    rows = [BASE, row("one"), row("popular").model_copy(update={"baseline": True})]
    verdict = result(rows, {"one": 0.04, "popular": -0.1}).verdict
    assert list(verdict.rows) == [("one", "full-shot")]


def test_lists_that_hold_all_candidates_are_a_caveat() -> None:
    made = result([BASE, row("one")], {"one": 0.0}, metrics=("recall@50", "ndcg@20", "recall@20"))
    (caveat,) = made.verdict.caveats  # of 50 candidates
    assert "50" in caveat
    assert "Recall@50" in caveat
    assert "Recall@20" not in caveat


def test_equal_rows_and_one_user_decide_nothing_that_is_not_there() -> None:
    made = result([BASE, row("one")], {"one": 0.0})
    for name, seed, where in made.trials:
        if name == "one":
            made.trials[name, seed, where] = made.trials["base", seed, where]
    assert made.verdict.answers == {"full-shot": "not decided"}  # the backbone reads no profiles
    assert made.verdict.caveats[0].startswith("one ranks as base")
    assert result([BASE, row("one")], {"one": 0.04}, users=1).verdict.answers == {"full-shot": "not decided"}


def test_fault_1_no_verdict_on_no_profiles() -> None:
    bare = row("augment").model_copy(update={"coverage": {"user": (0, USERS), "item": (0, 9)}})
    verdict = result([BASE, bare], {"augment": 0.02}).verdict
    assert verdict.answers == {"full-shot": "not decided"}
    assert "no profile" in verdict.caveats[0]
    some = bare.model_copy(update={"coverage": {"user": (1, USERS), "item": (0, 9)}})
    assert result([BASE, some], {"augment": 0.02}).verdict.answers == {"full-shot": "helped"}


EASE = ResultRow(name="EASE", reference=True)
KNN = ResultRow(name="ItemKNN", reference=True)


def test_a_family_holds_the_tests_of_one_question_over_all_protocols() -> None:
    tuned = ResultRow(name="tuned", against=("one",), kinds=("user",))
    wide = ResultRow(name="wide", against=("base",))
    rows = [
        BASE,
        row("one"),
        row("two"),
        tuned,
        wide,
        row("mixed", "shuffled"),
        row("noise", "random"),
        EASE,
        KNN,
    ]
    gains = {"one": 0.004, "two": 0.0, "tuned": 0.004, "wide": 0.0, "mixed": 0.001, "noise": 0.02}
    verdict = result(
        rows, gains | {"EASE": 0.02, "ItemKNN": 0.01}, protocols=("full-shot", "zero-shot")
    ).verdict
    headline = [one for one in verdict.differences if one.metric == "ndcg@20"]
    found = {(one.of, one.row): one.family for one in headline}
    assert found == {
        ("base", "one"): 4,
        ("base", "two"): 4,
        ("named", "tuned"): 4,
        ("named", "wide"): 4,
        ("none", "mixed"): 0,
        ("none", "noise"): 0,
    }
    for family in ("base", "named"):
        tests = [one for one in headline if one.of == family]
        assert [one.p_holm for one in tests] == pytest.approx(holm([one.test.p for one in tests]))
    controls = [one for one in headline if one.of == "none"]
    assert all(one.test.p < 0.05 and not one.significant for one in controls if one.row == "noise")
    assert {(*key, one.against, one.family) for key, one in verdict.by_control.items()} == {
        (name, where, "noise", 4) for name in ("one", "two") for where in ("full-shot", "zero-shot")
    }
    assert {(*key, one.against, one.family) for key, one in verdict.by_reference.items()} == {
        (name, where, "EASE", 6) for name in ("one", "two", "tuned") for where in ("full-shot", "zero-shot")
    }
    (table,) = tables.comparisons(result(rows, gains))
    marks = {line.name: line.cells[1].significant for line in table.rows if not line.below}
    assert not marks["noise"]


def test_learned_rows_meet_the_best_reference_where_no_row_has_profiles() -> None:
    rows = [BASE, ResultRow(name="wide"), ResultRow(name="popular", baseline=True), EASE, KNN]
    verdict = result(rows, {"wide": 0.01, "popular": -0.1, "EASE": 0.02, "ItemKNN": 0.03}).verdict
    found = {name: (one.against, one.better, one.family) for (name, _), one in verdict.by_reference.items()}
    assert found == {"base": ("ItemKNN", False, 2), "wide": ("ItemKNN", False, 2)}
    assert verdict.by_reference["wide", "full-shot"].significant
    (caveat,) = verdict.caveats
    assert "wide is significantly worse than the best reference, ItemKNN" in caveat
    assert caveat in str(verdict)


@pytest.mark.parametrize(
    ("ease", "relation"),
    [(0.04, "significantly worse than"), (0.021, "not significantly different from"), (0.0, "")],
)
def test_below_the_best_reference_is_a_caveat_in_the_headline_by_its_test(ease: float, relation: str) -> None:
    rows = [BASE, row("one"), row("two"), EASE, KNN]
    verdict = result(rows, {"one": 0.0, "two": 0.02, "EASE": ease, "ItemKNN": -0.1}).verdict
    assert len(verdict.caveats) == bool(relation)
    assert (f"But in full-shot, two is {relation} the best reference, EASE" in str(verdict)) == bool(relation)


def test_a_reference_above_is_in_the_headline_behind_a_graver_caveat() -> None:
    rows = [BASE, row("one"), ResultRow(name="popular", baseline=True), EASE]
    verdict = result(rows, {"one": 0.02, "popular": 0.01, "EASE": 0.1}).verdict
    assert len(verdict.caveats) == 2
    assert all(caveat in str(verdict) for caveat in verdict.caveats)
    assert sentences(verdict) == 2


@pytest.mark.parametrize("gain", [0.0, 0.1])
def test_what_a_run_could_not_have_found_is_not_decided(gain: float) -> None:
    few = result([BASE, row("one")], {"one": gain}, users=12)
    found = few.verdict.by_base["one", "full-shot", "ndcg@20"]
    assert found.findable == found.test.findable / found.before > 0.05 > found.findable_by_users
    assert found.significant == (gain > 0)
    assert few.verdict.answers == {"full-shot": "not decided"}
    assert found.relation() in str(few.verdict)
    assert "--seeds auto" in str(few.verdict)
    assert sentences(few.verdict) == 1
    many = result([BASE, row("one")], {"one": gain})
    (reason,), (power,) = many.verdict.reasons(), many.verdict.power()
    size = percent(many.verdict.by_base["one", "full-shot", "ndcg@20"].findable, sign=False)
    assert f"3 seeds and 400 users: {size}" in reason
    assert power == f"full-shot, with 3 seeds and 400 users: one {size}"
    assert many.verdict.answers == {"full-shot": "helped" if gain else "no difference shown"}


def test_no_number_of_seeds_helps_where_the_users_alone_exceed_the_limit() -> None:
    made = result([BASE, row("one")], {"one": 0.0}, users=40)
    apart = np.random.default_rng(1).normal(0, 0.1, 40)  # what a user always differs by
    for (name, _, _), trial in made.trials.items():
        trial.values["ndcg@20"] += apart.astype(np.float32) * (name == "one")
    found = made.verdict.by_base["one", "full-shot", "ndcg@20"]
    assert 0.05 < found.findable_by_users < found.findable
    assert made.verdict.answers == {"full-shot": "not decided"}
    assert "no number of seeds helps" in str(made.verdict)
    assert "--seeds" not in str(made.verdict)
