"""The paired t-test against SciPy's two-sample form and against itself on noise."""

import numpy as np
import pytest
from scipy import stats

from reclm.benchmarks.significance import paired_t


def test_agrees_with_scipys_ttest_rel() -> None:
    rng = np.random.default_rng(0)
    before, after = rng.random(50), rng.random(50)
    ours, theirs = paired_t(before, after), stats.ttest_rel(after, before)
    assert ours.p == pytest.approx(theirs.pvalue)
    assert (ours.low, ours.high) == pytest.approx(tuple(theirs.confidence_interval()))
    assert ours.difference == pytest.approx(after.mean() - before.mean())


def test_no_difference_at_all_is_no_evidence() -> None:
    same = np.array([0.0, 0.5, 1.0])
    assert paired_t(same, same).p == 1


def test_false_alarms_come_at_the_nominal_rate() -> None:
    rng = np.random.default_rng(1)
    alarms = sum(paired_t(rng.random(40), rng.random(40)).p < 0.05 for _ in range(1000))
    assert 30 <= alarms <= 72  # 50 expected, standard deviation 6.9


def test_arrays_that_do_not_pair_are_refused() -> None:
    with pytest.raises(ValueError, match="different shape"):
        paired_t(np.zeros(3), np.zeros(4))
