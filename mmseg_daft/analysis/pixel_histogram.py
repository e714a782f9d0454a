"""The distribution of a measure over all pixels of all images, in memory that does not grow with them.

Values are counted in fixed bins, so counts are exact and quantiles are right to a bin's width. An interval for a
median has to resample images, not pixels, which depend on their neighbours: the Poisson bootstrap (Hanley and
MacGibbon, 2006) does so in a stream, each image entering each replicate a random number of times.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

REPLICATES = 100


@dataclass(frozen=True)
class Bins:
    """Bins of equal width between two bounds, and one bin beyond each.

    Attributes:
        lower: The lower bound; above 0 where ``logarithmic``.
        upper: The upper bound, which belongs to the last bin.
        number: How many bins lie between.
        logarithmic: Whether widths are equal on a logarithmic scale.
    """

    lower: float
    upper: float
    number: int
    logarithmic: bool = False

    @property
    def edges(self) -> NDArray[np.float64]:
        """The ``number + 1`` bounds of the bins."""
        return (np.geomspace if self.logarithmic else np.linspace)(self.lower, self.upper, self.number + 1)

    def counts(self, values: Tensor) -> NDArray[np.int64]:
        """Count values of any shape: ``(number + 2,)``, with those below first and those above last."""
        flat = values.detach().double().flatten()
        low, high, x = (self.lower, self.upper, flat)
        if self.logarithmic:
            low, high, x = np.log(low), np.log(high), torch.log(flat)  # the logarithm of 0 lies below every bin
        index = (1 + torch.floor((x - low) * (self.number / (high - low)))).clamp(0, self.number + 1)
        index[flat == self.upper] = self.number
        return torch.bincount(index.long(), minlength=self.number + 2).cpu().numpy()


COSINE_BINS = Bins(-1.0, 1.0, 4000)
"""0.0005 wide."""

DISTANCE_BINS = Bins(1e-6, 1e6, 2763, logarithmic=True)
"""1 % wide."""


class PixelHistogram:
    """Counts of one measure, and of its bootstrap replicates.

    Args:
        bins: Where to count.
        replicates: How many bootstrap replicates to count besides.
    """

    def __init__(self, bins: Bins, replicates: int = REPLICATES) -> None:
        self.bins = bins
        self.images = 0
        self.least, self.largest = np.inf, -np.inf
        self.counts = np.zeros(bins.number + 2, np.int64)
        self.replicates = np.zeros((replicates, bins.number + 2), np.int64)

    def add(self, values: Tensor, image: int) -> None:
        """Count one image's pixels; ``image`` is its number, which decides its part in the replicates."""
        if not values.numel():
            return
        counts = self.bins.counts(values)
        self.images += 1
        self.least = min(self.least, float(values.min()))
        self.largest = max(self.largest, float(values.max()))
        self.counts += counts
        if len(self.replicates):
            times = np.random.default_rng([0, image]).poisson(1.0, len(self.replicates))
            hit = counts.nonzero()[0]
            self.replicates[:, hit] += times[:, None] * counts[hit]

    def merge(self, other: PixelHistogram) -> None:
        """Take in what another process has counted."""
        self.images += other.images
        self.least, self.largest = min(self.least, other.least), max(self.largest, other.largest)
        self.counts += other.counts
        self.replicates += other.replicates

    def quantile(self, share: float) -> float:
        """Return a quantile, right to a bin's width; NaN where nothing was counted."""
        return self._quantile(self.counts, share)

    def interval(self, share: float = 0.5, level: float = 0.95) -> tuple[float, float]:
        """Return the bootstrap interval of a quantile over images; NaN for fewer than five images."""
        values = [self._quantile(counts, share) for counts in self.replicates if counts.any()]
        if self.images < 5 or not values:
            return np.nan, np.nan
        low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
        return float(low), float(high)

    def _quantile(self, counts: NDArray[np.int64], share: float) -> float:
        cumulative = counts.cumsum()
        if not cumulative[-1]:
            return np.nan
        target = share * cumulative[-1]
        bin_ = int(np.searchsorted(cumulative, target))
        bin_ = max(bin_, int(counts.nonzero()[0][0]))
        edges = np.concatenate([[self.least], self.bins.edges, [self.largest]])
        part = (target - (cumulative[bin_] - counts[bin_])) / counts[bin_]
        return float(np.clip(edges[bin_] + part * (edges[bin_ + 1] - edges[bin_]), self.least, self.largest))
