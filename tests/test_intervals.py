import numpy as np
import pytest
from scipy import stats
from statsmodels.api import OLS

from reclm.intervals import Estimate, mean, rise, share

Z = 1.959963984540054


def test_a_share_has_wilsons_interval():
    # (p + z²/2n ± z √(p(1-p)/n + z²/4n²)) / (1 + z²/n) with p = 3/4, n = 4
    n, p = 4, 3 / 4
    middle, half = p + Z**2 / (2 * n), Z * (p * (1 - p) / n + Z**2 / (4 * n**2)) ** 0.5
    found = share([True, True, True, False])
    assert (found.mean, found.n) == (3 / 4, 4)
    assert found.low == pytest.approx((middle - half) / (1 + Z**2 / n))
    assert found.high == pytest.approx((middle + half) / (1 + Z**2 / n))


def test_a_share_of_none_in_ten_may_still_be_a_quarter():
    found = share([False] * 10)
    assert (found.mean, found.low) == (0, 0)
    assert found.high == pytest.approx(Z**2 / (10 + Z**2))  # .28


def test_a_mean_has_students_interval():
    found = mean([1.0, 2.0, 3.0])
    # s = 1, t of two degrees of freedom = 4.302653
    assert found.mean == 2
    assert found.high - 2 == pytest.approx(4.302653 / 3**0.5, abs=1e-6)
    assert found.low - 2 == pytest.approx(-4.302653 / 3**0.5, abs=1e-6)


def test_one_value_tells_nothing_of_its_spread_and_none_nothing_at_all():
    assert mean([0.5]) == Estimate(0.5, None, None, 1)
    assert mean([]) is None
    assert share([]) is None


def test_a_rise_of_one_series_is_students_test_of_its_halves():
    values = np.random.default_rng(0).normal(size=11)
    found = rise([values])
    # of an odd number the first is left out
    wanted = stats.ttest_ind(values[6:], values[1:6]).confidence_interval()
    assert (found.low, found.high, found.n) == (pytest.approx(wanted.low), pytest.approx(wanted.high), 10)
    assert found.mean == pytest.approx(values[6:].mean() - values[1:6].mean())


def test_a_rise_of_several_is_the_contrast_of_a_linear_model():
    series = [np.random.default_rng(seed).normal(seed, 1, size) for seed, size in enumerate((10, 6, 8))]
    found = rise(series)
    cells = np.concatenate([np.repeat([2 * at, 2 * at + 1], len(one) // 2) for at, one in enumerate(series)])
    fitted = OLS(np.concatenate(series), np.eye(6)[cells]).fit()
    wanted = fitted.t_test(np.tile([-1, 1], 3) / 3)
    assert found.mean == pytest.approx(wanted.effect[0])
    assert (found.low, found.high) == pytest.approx(tuple(wanted.conf_int()[0]))


def test_a_rise_needs_two_values_a_half():
    assert rise([]) is None
    assert rise([[1, 2, 3]]) is None
    assert rise([[1, 1, 2, 2]]) == Estimate(1, 1, 1, 4)
