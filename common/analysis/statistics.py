"""Tests of means, corrections for their number, and what a count can say; no tables."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import pandas as pd
from scipy.stats import false_discovery_control, norm, t

CONFIDENCE = 0.95


def t_test(values: Iterable[float], fewest: int = 2) -> tuple[float, float, float, float]:
    """Mean of independent values, the ends of its 95% interval, and the two-sided p-value of a mean of 0 (Student's t).

    All but the mean are NaN for fewer than `fewest` values, all are where a value is NaN.
    """
    numbers = np.asarray(list(values), dtype=float)
    mean, count = float(numbers.mean()) if len(numbers) else math.nan, len(numbers)
    if count < max(fewest, 2):
        return mean, math.nan, math.nan, math.nan
    error = float(numbers.std(ddof=1)) / math.sqrt(count)
    half = float(t.ppf((1 + CONFIDENCE) / 2, count - 1)) * error
    p = float(mean == 0) if error == 0 else float(2 * t.sf(abs(mean) / error, count - 1))
    return mean, mean - half, mean + half, p


def holm(p: pd.Series) -> pd.Series:
    """P-values of one family after Holm's correction; NaN is no test."""
    known = p.dropna().sort_values()
    return (known * np.arange(len(known), 0, -1)).cummax().clip(upper=1.0).reindex(p.index)


def benjamini_hochberg(p: pd.Series) -> pd.Series:
    """P-values of one family after Benjamini and Hochberg's correction; NaN is no test."""
    known = p.dropna()
    return known if known.empty else pd.Series(false_discovery_control(known), known.index).reindex(p.index)


def wilson_interval(count: float, whole: int) -> tuple[float, float]:
    """The 95% interval of a count out of `whole` (Wilson's score interval), as counts."""
    share, z2 = count / whole, norm.ppf((1 + CONFIDENCE) / 2) ** 2 / whole
    half = math.sqrt(z2 * (share * (1 - share) + z2 / 4))
    return tuple(whole * (share + z2 / 2 + sign * half) / (1 + z2) for sign in (-1, 1))


def reproduces(count: float, published: float, whole: int) -> bool:
    """Whether a count reproduces a published one: inside its interval, and none only where none was, all where all."""
    low, high = wilson_interval(count, whole)
    return low <= published <= high and all((count == end) == (published == end) for end in (0, whole))
