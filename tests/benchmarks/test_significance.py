"""The paired tests, intervals and corrections against SciPy, statsmodels, and values worked by hand."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.formula.api import ols
from statsmodels.stats.anova import anova_lm
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower

from reclm.benchmarks.significance import Parts, average, holm, over_users, paired

shapes = st.tuples(st.integers(2, 5), st.integers(2, 30))
seeds = st.integers(0, 2**32 - 1)


def drawn(shape: tuple[int, int], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Values of two lines whose difference has a part of each user, each seed and both together."""
    rng = np.random.default_rng(seed)
    spread = rng.uniform(0.1, 3, 3)
    parts = [
        rng.normal(0, one, size)
        for one, size in zip(spread, ((1, shape[1]), (shape[0], 1), shape), strict=True)
    ]
    before = rng.random(shape)
    return before, before + rng.normal() + parts[0] + parts[1] + parts[2]


@given(seed=seeds, users=st.integers(2, 200))
@settings(max_examples=50, deadline=None)
def test_one_seed_is_scipys_paired_t_test(seed: int, users: int) -> None:
    before, after = (one[0] for one in drawn((1, users), seed))
    ours, theirs = paired(before, after), stats.ttest_rel(after, before)
    assert ours.p == pytest.approx(theirs.pvalue, rel=1e-8)
    assert (ours.low, ours.high) == pytest.approx(tuple(theirs.confidence_interval()))
    assert ours.difference == pytest.approx(after.mean() - before.mean())
    assert ours.effect == pytest.approx(theirs.statistic / math.sqrt(users))
    assert (ours.n, ours.seeds) == (users, 1)
    assert paired(before[None], after[None]).p == ours.p


@given(seed=seeds, shape=shapes)
@settings(max_examples=25, deadline=None)
def test_several_seeds_agree_with_statsmodels_analysis_of_variance(seed: int, shape: tuple[int, int]) -> None:
    before, after = drawn(shape, seed)
    ours = paired(before, after)
    count, n = shape
    seed_of, user_of = np.indices(shape).reshape(2, -1)
    frame = pd.DataFrame({"d": (after - before).ravel(), "seed": seed_of, "user": user_of})
    table = anova_lm(ols("d ~ C(user) + C(seed)", frame).fit())
    squares = [table["mean_sq"][one] for one in ("C(user)", "C(seed)", "Residual")]
    users, of_seeds, rest = np.array(squares, float)
    error = math.sqrt(max(users + of_seeds - rest, users, of_seeds, rest) / (n * count))
    share = of_seeds / (of_seeds + max(users - rest, 0))

    def critical(p: float) -> float:
        return share * stats.t.isf(p / 2, count - 1) + (1 - share) * stats.t.isf(p / 2, n - 1)

    assert (ours.high - ours.low) / 2 == pytest.approx(error * critical(0.05), rel=1e-6)
    assert critical(ours.p) == pytest.approx(abs(ours.difference) / error, rel=1e-6)
    assert (ours.p < 0.05) == (ours.low > 0 or ours.high < 0)
    over_users = stats.ttest_rel(after.mean(0), before.mean(0))
    assert ours.effect == pytest.approx(over_users.statistic / math.sqrt(n), rel=1e-6)
    if n >= count:
        assert ours.p >= over_users.pvalue * (1 - 1e-9)


def test_a_difference_worked_by_hand() -> None:
    # differences [[1, 2, 3], [2, 3, 7]]: mean 3, users' means 1.5, 2.5, 5, seeds' means 2, 4;
    # U = 2 (1.5² + .5² + 2²)/2 = 6.5, S = 3 (1² + 1²)/1 = 6, what is left ±.5, ±.5, ±1: R = 2 (.25 + .25 + 1)/2 = 1.5
    test = paired(np.zeros((2, 3)), np.array([[1.0, 2, 3], [2, 3, 7]]))
    error = math.sqrt((6.5 + 6 - 1.5) / 6)
    critical = (6 * 12.7062047 + 5 * 4.3026527) / 11  # t of 1 and of 2 degrees of freedom
    assert (test.difference, test.high) == pytest.approx((3, 3 + error * critical))
    assert test.effect == pytest.approx(3 / math.sqrt(6.5 / 2))


def test_what_has_no_spread() -> None:
    same = np.array([[0.0, 0.5, 1.0]] * 2)
    for values in (same, same[0]):
        assert paired(values, values).p == 1
        assert paired(values, values + 1).p == 0
    assert paired(same, same).seeds == 2
    for shape in ((0, 0), (3, 0), (0,)):
        nobody = paired(np.zeros(shape), np.zeros(shape))
        assert (nobody.n, nobody.p) == (0, 1)
        assert math.isnan(nobody.difference)
    assert paired(np.zeros((3, 1)), np.ones((3, 1))).p == 1  # one user is no sample


def test_only_seeds_or_only_users_that_differ_leave_one_t_test() -> None:
    rng = np.random.default_rng(0)
    none = np.zeros((4, 9))
    by_seed, by_user = rng.integers(1, 9, (4, 1)).astype(float), rng.integers(1, 9, (1, 9)).astype(float)
    assert paired(none, none + by_seed).p == pytest.approx(stats.ttest_1samp(by_seed[:, 0], 0).pvalue)  # pyright: ignore[reportAttributeAccessIssue]
    assert paired(none, none + by_user).p == pytest.approx(stats.ttest_1samp(by_user[0], 0).pvalue)  # pyright: ignore[reportAttributeAccessIssue]


def test_differences_that_cancel_in_every_mean_are_not_taken_for_certain() -> None:
    assert paired(np.zeros((2, 2)), np.array([[2.0, 0], [0, 2]])).p > 0.2


def test_enormous_differences_have_a_p_all_the_same() -> None:
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(3, 2000)) + rng.normal(size=2000)
    assert 0 < paired(np.zeros((3, 2000)), noise + 10).p < 1e-3
    assert paired(np.zeros(2000), noise[0] + 1e6).p == 0


def test_an_interval_over_users_is_scipys_where_all_seeds_have_them() -> None:
    values = np.random.default_rng(0).normal(size=(3, 50))
    found = over_users(values)
    by_hand = stats.ttest_1samp(values.mean(0), 0).confidence_interval()  # pyright: ignore[reportAttributeAccessIssue]
    assert found is not None
    assert (found.low, found.high) == pytest.approx((by_hand.low, by_hand.high))
    assert over_users(np.zeros((0, 0))) is None


def test_an_interval_over_users_holds_the_truth_where_seeds_draw_their_own() -> None:
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(300):
        people = rng.normal(
            size=200
        )  # whose mean, 0, is what is estimated; a user is the same with each seed
        values = np.full((3, 200), np.nan)
        for row, size in zip(values, (40, 60, 80), strict=True):
            drawn = rng.choice(200, size, replace=False)
            row[drawn] = people[drawn]
        values = values[:, ~np.isnan(values).all(0)]
        found = over_users(values)
        assert found is not None
        assert found.low is not None
        assert found.high is not None
        assert found.mean == pytest.approx(average(values))
        held += found.low <= 0 <= found.high
    assert stats.binomtest(held, 300, 0.95).pvalue > 0.01


def test_arrays_that_do_not_pair_are_refused() -> None:
    with pytest.raises(ValueError, match="different shape"):
        paired(np.zeros(3), np.zeros(4))


@given(seed=seeds, count=st.integers(1, 40))
@settings(max_examples=12, deadline=None)  # statsmodels collects garbage at every call: .1 s
def test_holm_agrees_with_statsmodels(seed: int, count: int) -> None:
    p = np.random.default_rng(seed).random(count).round(2) ** 3  # some are equal
    assert holm(p) == pytest.approx(multipletests(p, method="holm")[1])


def test_holm_does_not_count_what_was_not_tested() -> None:
    assert holm([0.03, np.nan, 0.01]) == pytest.approx([0.03, np.nan, 0.02], nan_ok=True)
    assert holm([]).shape == (0,)


def test_with_one_seed_the_smallest_findable_effect_is_statsmodels() -> None:
    before, after = (values[0] for values in drawn((1, 30), 0))
    spread = (after - before).std(ddof=1)
    size = TTestPower().solve_power(nobs=30, alpha=0.05, power=0.8)
    found = paired(before, after)
    assert found.findable == pytest.approx(size * spread, rel=1e-3)
    assert math.isnan(found.findable_by_users)  # one seed does not tell them from its own part


@pytest.mark.parametrize("seeds", [2, 3, 6])
@pytest.mark.parametrize("parts", [(1, 0, 0), (0.5, 0.1, 1), (0, 0.3, 0.3)], ids=str)
def test_an_effect_of_the_smallest_findable_size_is_found_in_80_percent(
    parts: tuple[float, float, float], seeds: int
) -> None:
    users, repeats = 40, 300
    rng = np.random.default_rng(seeds)
    of_users, of_seeds, rest = np.square(parts).tolist()
    squares = (rest + seeds * of_users, users - 1, rest + users * of_seeds, seeds - 1, seeds - 1, rest)
    effect = Parts(*squares, users * seeds).findable
    found = 0
    for _ in range(repeats):
        change = effect + parts[0] * rng.normal(size=users) + parts[2] * rng.normal(size=(seeds, users))
        change += parts[1] * rng.normal(size=(seeds, 1))
        found += paired(np.zeros_like(change), change).p < 0.05
    assert stats.binomtest(found, repeats, 0.8).pvalue > 0.001


def test_the_smallest_findable_effect_falls_with_seeds_to_that_of_the_users() -> None:
    found = paired(*drawn((3, 30), 1)).parts
    assert found is not None
    assert found.with_seeds(3).findable == pytest.approx(found.findable)
    sizes = [found.with_seeds(seeds).findable for seeds in (3, 5, 9, 20, 10**6)]
    assert sizes == sorted(sizes, reverse=True)
    of_users = max(found.users - found.rest, 0) / found.size
    assert sizes[-1] == pytest.approx(found.of_users.findable, rel=0.01)
    assert found.of_users.variance == pytest.approx(of_users)
    own = np.full((2, 40), np.nan)
    own[0, :20], own[1, 20:] = np.random.default_rng(0).normal(size=(2, 20))
    test = paired(np.zeros_like(own), own)
    assert test.findable > 0 == test.findable_by_users  # more seeds bring more users


def test_what_has_no_spread_has_no_smallest_effect() -> None:
    same = np.ones((2, 3))
    assert paired(same, same).findable == 0
    assert math.isnan(paired(same[:, :1], same[:, :1]).findable)


def test_a_stopping_rule_leaves_the_seeds_the_degrees_of_freedom_of_its_first_look() -> None:
    change = np.random.default_rng(0).normal(size=(8, 1)) + np.zeros((8, 30))
    fixed, looked = paired(0 * change, change), paired(0 * change, change, first_look=5)
    width = stats.t.ppf(0.975, 4) / stats.t.ppf(0.975, 7)
    assert (looked.high - looked.low) / (fixed.high - fixed.low) == pytest.approx(width)
    assert looked.findable > fixed.findable
    assert paired(0 * change[:3], change[:3], first_look=5).p == paired(0 * change[:3], change[:3]).p
