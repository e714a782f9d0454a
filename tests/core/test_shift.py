"""The gap's formulas against numerical integration, and what must hold of them."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mmseg_daft.core.shift import statistics_shift
from mmseg_daft.offline.gap import numbers

means, variances = st.floats(-3, 3), st.floats(0.05, 5)


def integral(mean_s, var_s, mean_t, var_t):
    """KL(s‖t) + KL(t‖s) = ∫ (s - t) ln(s/t) dz, by the trapezium rule."""
    width = 12 * math.sqrt(max(var_s, var_t)) + abs(mean_s - mean_t)
    z, step = np.linspace(min(mean_s, mean_t) - width, max(mean_s, mean_t) + width, 40_001, retstep=True)
    log_s, log_t = (-(z - m) ** 2 / (2 * v) - math.log(2 * math.pi * v) / 2 for m, v in (
        (mean_s, var_s), (mean_t, var_t)))
    values = (np.exp(log_s) - np.exp(log_t)) * (log_s - log_t)
    return step * (values.sum() - (values[0] + values[-1]) / 2)


def parts(*statistics):
    shift = statistics_shift(*statistics)
    return shift.mean_divergence, shift.var_divergence


def to(norm, mean, var):
    return statistics_shift(norm.running_mean, norm.running_var, mean, var, norm.eps)


@given(means, variances, means, variances)
def test_jeffreys_is_the_integral_and_symmetric(mean_s, var_s, mean_t, var_t):
    there = parts(*(torch.tensor(x, dtype=torch.float64) for x in (mean_s, var_s, mean_t, var_t)))
    back = parts(*(torch.tensor(x, dtype=torch.float64) for x in (mean_t, var_t, mean_s, var_s)))
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
    row = numbers(to(norm, norm.running_mean, norm.running_var))
    assert row.pop('channels') == 5 and all(abs(value) < 1e-12 for value in row.values())


def test_each_part_sees_its_own_kind_of_change():
    norm = layer()
    mean, var = norm.running_mean.double(), norm.running_var.double()
    std = (var + norm.eps).sqrt()
    moved = to(norm, mean + 2 * std, var)
    torch.testing.assert_close(moved.mean, torch.full((5,), 2.0, dtype=torch.float64))
    torch.testing.assert_close(moved.mean_divergence, torch.full((5,), 4.0, dtype=torch.float64))
    assert moved.var_divergence.abs().max() < 1e-12
    wider = to(norm, mean, 4 * (var + norm.eps) - norm.eps)
    torch.testing.assert_close(wider.log_var_ratio, torch.full((5,), math.log(4), dtype=torch.float64))
    torch.testing.assert_close(wider.var_divergence, torch.full((5,), (4 + 1 / 4 - 2) / 2, dtype=torch.float64))
    assert wider.mean_divergence.abs().max() < 1e-12


def test_the_report_and_the_hook_summarize_alike_and_dead_channels_do_not_rule():
    norm = layer()
    norm.running_var[0] = 1e-12
    shift = to(norm, norm.running_mean + 0.1, norm.running_var + 0.1)
    row = numbers(shift)
    assert row['mean_shift'] == pytest.approx(shift.average.mean_shift)
    assert row['log_var_ratio'] == pytest.approx(shift.average.log_var_ratio)
    assert row['largest_divergence'] > 1000 and row['divergence'] < 1
