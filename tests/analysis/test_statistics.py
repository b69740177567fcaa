"""Tests of means, their corrections and the uncertainty of counts, against numbers worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from common.analysis.statistics import benjamini_hochberg, holm, reproduces, t_test, wilson_interval

T2 = 4.302652729911275  # 97.5% quantile of Student's t with 2 degrees of freedom, in printed tables 4.303


def test_mean_and_interval_by_hand() -> None:
    mean, low, high, p = t_test([1, 2, 4])
    error = math.sqrt((16 + 1 + 25) / 9 / 2) / math.sqrt(3)  # deviations −4/3, −1/3, 5/3
    assert mean == pytest.approx(7 / 3)
    assert (low, high) == (pytest.approx(7 / 3 - T2 * error), pytest.approx(7 / 3 + T2 * error))
    statistic = mean / error
    assert p == pytest.approx(1 - statistic / math.sqrt(2 + statistic**2))  # closed form for 2 degrees of freedom
    values = np.random.default_rng(1).normal(0.5, 2, 11)
    tested = stats.ttest_1samp(values, 0)
    assert t_test(values) == pytest.approx((values.mean(), *tested.confidence_interval(), tested.pvalue))


def test_too_few_or_missing_values_have_no_interval() -> None:
    nothing = [math.nan] * 3
    assert t_test([5.0]) == pytest.approx((5.0, *nothing), nan_ok=True)
    assert t_test([1, 2, 3, 4], fewest=5) == pytest.approx((2.5, *nothing), nan_ok=True)
    assert np.isnan(t_test([])).all() and np.isnan(t_test([1.0, 2.0, math.nan])).all()


def test_values_without_spread() -> None:
    assert t_test([0.0, 0.0, 0.0]) == (0, 0, 0, 1)
    assert t_test([2.0, 2.0, 2.0]) == (2, 2, 2, 0)


def test_corrections_by_hand() -> None:
    p = pd.Series({"a": 0.04, "b": 0.01, "none": math.nan, "c": 0.03, "d": 0.02})
    # In order 0.01 0.02 0.03 0.04. Holm: times 4, 3, 2, 1, never falling; BH: times 4/1, 4/2, 4/3, 4/4.
    expected = {"a": 0.06, "b": 0.04, "none": math.nan, "c": 0.06, "d": 0.06}
    assert holm(p).to_dict() == pytest.approx(expected, nan_ok=True)
    expected = {"a": 0.04, "b": 0.04, "none": math.nan, "c": 0.04, "d": 0.04}
    assert benjamini_hochberg(p).to_dict() == pytest.approx(expected, nan_ok=True)
    assert holm(pd.Series([0.6, 0.9])).tolist() == [1, 1]
    nothing = pd.Series([math.nan, math.nan])
    assert holm(nothing).isna().all() and benjamini_hochberg(nothing).isna().all() and len(holm(nothing)) == 2


@pytest.mark.parametrize("count", [0, 1, 16])
def test_interval_of_a_count(count: int) -> None:
    expected = stats.binomtest(count, 16).proportion_ci(method="wilson")
    assert wilson_interval(count, 16) == pytest.approx((16 * expected.low, 16 * expected.high))


@pytest.mark.parametrize(
    ("count", "published", "answer"),
    [(0, 1, False), (1, 0, False), (0, 0, True), (1, 2, True), (2, 1, True), (2, 7, False), (12.7, 13, True),
     (16, 15, False), (15, 16, False), (16, 16, True)],
)  # fmt: skip
def test_a_count_reproduces_another(count: float, published: float, answer: bool) -> None:
    assert reproduces(count, published, 16) == answer
