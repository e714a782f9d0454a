"""How sure a median over images is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

RESAMPLES = 2000


class Median(NamedTuple):
    """A median with a bootstrap interval.

    Attributes:
        value: The median; NaN of nothing.
        low: Where the interval begins; NaN for fewer than five values, which say nothing of their spread.
        high: Where it ends.
    """

    value: float
    low: float = np.nan
    high: float = np.nan


def median_with_interval(values: Sequence[float], level: float = 0.95, seed: int = 0) -> Median:
    """Return the median and its percentile bootstrap interval (Efron and Tibshirani 1993), the same each time."""
    data = np.asarray(values, np.float64)
    if not len(data):
        return Median(np.nan)
    value = float(np.median(data))
    if len(data) < 5:
        return Median(value)
    rng = np.random.default_rng(seed)
    parts = [np.median(data[rng.integers(0, len(data), (100, len(data)))], axis=1) for _ in range(RESAMPLES // 100)]
    low, high = np.quantile(np.concatenate(parts), [(1 - level) / 2, (1 + level) / 2])
    return Median(value, float(low), float(high))
