"""CKA from sums over images: against the definitions on whole matrices, and by its properties."""

import copy

import numpy as np
import pytest
import torch

from mmseg_daft.core.distortion import CrossMoments, debiased_cka, linear_cka


def moments(x, y, parts=3):
    result = []
    for a, b in ((x, y), (x, x), (y, y)):
        sums = CrossMoments(x.shape[1])
        for p, q in zip(a.tensor_split(parts), b.tensor_split(parts)):
            sums.add(p, q)
        result.append(sums)
    return result


def reference(x, y):
    """Both variants from the n x n Gram matrices, as they are published."""
    n = len(x)
    k, m = x @ x.T, y @ y.T
    h = np.eye(n) - 1 / n
    biased = [np.sum((h @ a @ h) * (h @ b @ h)) for a, b in ((k, m), (k, k), (m, m))]

    def hsic(a, b):
        a, b = a * (1 - np.eye(n)), b * (1 - np.eye(n))
        one = np.ones(n)
        sums = (one @ a @ one) * (one @ b @ one) / ((n - 1) * (n - 2))
        return np.trace(a @ b) + sums - 2 / (n - 2) * one @ a @ b @ one

    unbiased = [hsic(a, b) for a, b in ((k, m), (k, k), (m, m))]
    return [v[0] / np.sqrt(v[1] * v[2]) for v in (biased, unbiased)]


@pytest.mark.parametrize('images', [6, 40])
def test_both_equal_the_reference(images):
    torch.manual_seed(0)
    x = torch.randn(images, 10, dtype=torch.float64) + 100
    y = x @ torch.randn(10, 10, dtype=torch.float64) + torch.randn(images, 10, dtype=torch.float64)
    biased, unbiased = reference(*(z.numpy() - z.numpy().mean(0) for z in (x, y)))  # neither is changed by a shift
    assert linear_cka(*moments(x, y)) == pytest.approx(biased, rel=1e-9)
    assert debiased_cka(*moments(x, y)) == pytest.approx(unbiased, rel=1e-5)


def test_identical_features_have_cka_1_and_so_have_rotated_and_scaled_ones():
    x = torch.randn(20, 8, dtype=torch.float64)
    q = torch.linalg.qr(torch.randn(8, 8, dtype=torch.float64)).Q
    y = torch.randn(20, 8, dtype=torch.float64)
    for cka in (linear_cka, debiased_cka):
        assert cka(*moments(x, x)) == pytest.approx(1, abs=1e-12)
        assert cka(*moments(x, 3 * x @ q + 5)) == pytest.approx(1, abs=1e-12)
        assert cka(*moments(x, y @ q)) == pytest.approx(cka(*moments(x, y)), abs=1e-12)
        assert cka(*moments(x, y)) < 0.9


def test_few_images_inflate_the_one_and_not_the_other():
    torch.manual_seed(0)
    x, y = (torch.randn(12, 200, dtype=torch.float64) for _ in range(2))
    assert linear_cka(*moments(x, y)) > 0.8
    assert abs(debiased_cka(*moments(x, y))) < 0.2


def test_parts_and_processes_do_not_matter():
    x, y = (torch.randn(11, 7, dtype=torch.float64) for _ in range(2))
    whole, (one, two) = moments(x, y, 1), (moments(x[:4], y[:4]), moments(x[4:], y[4:]))
    for a, b in zip(one, two):
        b.merge(copy.deepcopy(a))
    for cka in (linear_cka, debiased_cka):
        assert cka(*two) == pytest.approx(cka(*whole), rel=1e-12)


def test_one_image_has_none():
    x = torch.rand(1, 5)
    assert np.isnan(linear_cka(*moments(x, x, 1))) and np.isnan(debiased_cka(*moments(x, x, 1)))
    same = torch.rand(1, 5).expand(6, 5)
    assert np.isnan(linear_cka(*moments(same, same, 1)))
