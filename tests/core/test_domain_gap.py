"""The gap's formulas against numerical integration, and what must hold of them."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mmseg_daft.core.shift import domain_gap, domain_shift, jeffreys_parts
from mmseg_daft.core.statistics import LayerStatistics

means, variances = st.floats(-3, 3), st.floats(0.05, 5)


def integral(mean_s, var_s, mean_t, var_t):
    """KL(s‖t) + KL(t‖s) = ∫ (s - t) ln(s/t) dz, by the trapezium rule."""
    width = 12 * math.sqrt(max(var_s, var_t)) + abs(mean_s - mean_t)
    z, step = np.linspace(min(mean_s, mean_t) - width, max(mean_s, mean_t) + width, 40_001, retstep=True)
    log_s, log_t = (-(z - m) ** 2 / (2 * v) - math.log(2 * math.pi * v) / 2 for m, v in (
        (mean_s, var_s), (mean_t, var_t)))
    values = (np.exp(log_s) - np.exp(log_t)) * (log_s - log_t)
    return step * (values.sum() - (values[0] + values[-1]) / 2)


@given(means, variances, means, variances)
def test_jeffreys_is_the_integral_and_symmetric(mean_s, var_s, mean_t, var_t):
    there = jeffreys_parts(*(torch.tensor(x, dtype=torch.float64) for x in (mean_s, var_s, mean_t, var_t)))
    back = jeffreys_parts(*(torch.tensor(x, dtype=torch.float64) for x in (mean_t, var_t, mean_s, var_s)))
    assert float(sum(there)) == pytest.approx(integral(mean_s, var_s, mean_t, var_t), rel=1e-6, abs=1e-9)
    assert all(float(a) == pytest.approx(float(b)) for a, b in zip(there, back))


def layer(channels=5):
    torch.manual_seed(0)
    norm = torch.nn.BatchNorm2d(channels)
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.1, 2)
    return norm


def test_no_gap_where_statistics_agree():
    norm = layer()
    same = LayerStatistics(norm.running_mean.double(), norm.running_var.double(), 1)
    numbers = domain_gap({'a': norm}, {'a': same})['a'].numbers()
    assert numbers.pop('channels') == 5 and all(abs(value) < 1e-12 for value in numbers.values())


def test_each_part_sees_its_own_kind_of_change():
    norm = layer()
    mean, var = norm.running_mean.double(), norm.running_var.double()
    std = (var + norm.eps).sqrt()
    moved = domain_gap({'a': norm}, {'a': LayerStatistics(mean + 2 * std, var, 1)})['a']
    torch.testing.assert_close(moved.shift, torch.full((5,), 2.0, dtype=torch.float64))
    torch.testing.assert_close(moved.mean_divergence, torch.full((5,), 4.0, dtype=torch.float64))
    assert moved.var_divergence.abs().max() < 1e-12
    wider = domain_gap({'a': norm}, {'a': LayerStatistics(mean, 4 * (var + norm.eps) - norm.eps, 1)})['a']
    torch.testing.assert_close(wider.log_var_ratio, torch.full((5,), math.log(4), dtype=torch.float64))
    torch.testing.assert_close(wider.var_divergence, torch.full((5,), (4 + 1 / 4 - 2) / 2, dtype=torch.float64))
    assert wider.mean_divergence.abs().max() < 1e-12


def test_the_report_and_the_hook_summarise_alike_and_dead_channels_do_not_rule():
    norm = layer()
    norm.running_var[0] = 1e-12
    target = LayerStatistics(norm.running_mean.double() + 0.1, norm.running_var.double() + 0.1, 1)
    numbers, shift = domain_gap({'a': norm}, {'a': target})['a'].numbers(), domain_shift(norm, target)
    assert numbers['mean_shift'] == pytest.approx(shift.mean_shift)
    assert numbers['log_var_ratio'] == pytest.approx(shift.log_var_ratio)
    assert numbers['largest_divergence'] > 1000 and numbers['divergence'] < 1
