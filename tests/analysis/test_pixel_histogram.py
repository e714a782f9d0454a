"""Quantiles and intervals of a stream of images, against NumPy on all their pixels at once."""

import copy

import numpy as np
import pytest
import torch

from mmseg_daft.analysis.findings import COSINE_EDGES, DISTANCE_EDGES, PixelHistogram, count


def images(number=30, pixels=500):
    g = torch.Generator().manual_seed(0)
    return [1 - torch.rand(pixels, generator=g, dtype=torch.float64) * (0.1 + 0.02 * i) for i in range(number)]


def filled(values, edges=COSINE_EDGES, numbers=None):
    histogram = PixelHistogram(edges)
    for number, value in zip(numbers or range(len(values)), values):
        histogram.add(value, number)
    return histogram


def test_counts_are_those_of_numpy():
    edges = np.linspace(0, 1, 5)
    counts = count(torch.tensor([-1.0, 0.0, 0.1, 0.25, 0.6, 1.0, 1.5]), edges)
    assert counts.tolist() == [1, 2, 1, 1, 1, 1]
    values = torch.rand(10_000, dtype=torch.float64) * 2
    np.testing.assert_array_equal(count(values, edges)[1:-1], np.histogram(values.numpy(), edges)[0])
    exponents = torch.linspace(-8, 8, 10_001, dtype=torch.float64)
    counts = count(10**exponents, DISTANCE_EDGES)
    assert np.abs(counts[1:-1] - np.histogram(10**exponents.numpy(), DISTANCE_EDGES)[0]).max() <= 1  # on an edge
    assert counts.sum() == 10_001 and counts[0] > 0 and counts[-1] > 0


@pytest.mark.parametrize('share', [0.0, 0.05, 0.5, 0.95, 1.0])
def test_quantiles_are_right_to_a_bin(share):
    values = images()
    exact = np.quantile(torch.cat(values).numpy(), share)
    assert filled(values).quantile(share) == pytest.approx(exact, abs=0.0005)
    scaled = [value * 37 for value in values]
    assert filled(scaled, DISTANCE_EDGES).quantile(share) == pytest.approx(37 * exact, rel=0.011)


def test_the_interval_is_that_of_resampled_images():
    values = images()
    rng = np.random.default_rng(1)
    stacked = torch.stack(values).numpy()
    medians = [np.median(stacked[rng.integers(0, 30, 30)]) for _ in range(2000)]
    low, high = np.quantile(medians, [0.025, 0.975])
    median, *mine = filled(values).median()
    assert mine[0] < median == filled(values).quantile(0.5) < mine[1]
    assert mine == pytest.approx([low, high], abs=0.25 * (high - low))
    assert np.isnan(filled(values[:4]).median()[1:]).all()


def test_what_did_not_move_is_exactly_so():
    assert filled([torch.ones(9)] * 6).quantile(0.5) == 1
    assert filled([torch.zeros(9)] * 6, DISTANCE_EDGES).quantile(0.5) == 0
    assert np.isnan(PixelHistogram(COSINE_EDGES).quantile(0.5))


def test_processes_do_not_matter():
    values = images(9)
    whole = filled(values)
    one, two = filled(values[::2], numbers=range(0, 9, 2)), filled(values[1::2], numbers=range(1, 9, 2))
    one.merge(copy.deepcopy(two))
    assert (one.counts == whole.counts).all() and (one.replicates == whole.replicates).all()
    assert one.median() == whole.median() and (one.least, one.largest) == (whole.least, whole.largest)
