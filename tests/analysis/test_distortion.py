"""Distortion and parameter change: against NumPy in float64, and by their properties."""

import numpy as np
import pytest
import torch
from networks import Network, pretrained

from mmseg_daft.analysis.feature_distortion import feature_distortion, measure_distortion
from mmseg_daft.analysis.parameter_change import relative_change, relative_changes
from mmseg_daft.core.batch_norm import find_batch_norms
from mmseg_daft.core.conversion import convert
from mmseg_daft.core.statistics import collect_statistics


def test_both_measures_equal_the_reference():
    a, b = torch.randn(9, 6), torch.randn(9, 6)
    result = feature_distortion(a, b)
    x, y = a.double().numpy(), b.double().numpy()
    cosine = (x * y).sum(1) / np.sqrt((x * x).sum(1) * (y * y).sum(1))
    np.testing.assert_allclose(result.cosine_similarity, cosine, rtol=1e-12)
    np.testing.assert_allclose(result.l2_distance, np.sqrt(((x - y) ** 2).sum(1)), rtol=1e-12)


def test_identical_features_are_undistorted_and_scaling_turns_nothing():
    a = torch.randn(4, 5)
    assert feature_distortion(a, a).l2_distance.abs().max() == 0
    torch.testing.assert_close(feature_distortion(a, 3 * a).cosine_similarity, torch.ones(4, dtype=torch.float64))
    torch.testing.assert_close(feature_distortion(a, -a).cosine_similarity, -torch.ones(4, dtype=torch.float64))
    assert feature_distortion(torch.zeros(1, 5), a[:1]).cosine_similarity == 0


def test_a_converted_model_has_no_feature_distortion_though_its_tensors_differ():
    torch.manual_seed(0)
    before, after = (pretrained(Network(2, depth=3)).eval() for _ in range(2))
    after.load_state_dict(before.state_dict())
    batches = [torch.randn(4, 5, 8, 8) * 2 + 3 for _ in range(3)]
    layers = find_batch_norms(after, ('',))
    convert(layers, collect_statistics(after, layers, batches, after))
    distortion = measure_distortion(batches, before, after)
    assert distortion.cosine_similarity.shape == (12,)
    assert distortion.cosine_similarity.min() > 1 - 1e-6
    assert distortion.l2_distance.max() < 1e-4
    for statistic in ('running_mean', 'running_var', 'weight', 'bias'):
        changes = relative_changes(before.state_dict(), after.state_dict(), layers, statistic)
        assert min(changes.values()) > 0.05


def test_streaming_equals_all_at_once():
    torch.manual_seed(0)
    before, after = pretrained(Network(2, 2), 0).eval(), pretrained(Network(2, 2), 1).eval()
    images = torch.randn(7, 5, 6, 6)
    whole = measure_distortion([images], before, after)
    parts = measure_distortion(images.split(3), before, after)
    for a, b in zip(whole, parts):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_relative_change_is_equation_6():
    assert relative_change(torch.tensor([3.0, 4.0]), torch.tensor([3.0, 5.0])) == pytest.approx(1 / 5)
    assert relative_change(torch.ones(3), torch.ones(3)) == 0


def test_bad_input():
    with pytest.raises(ValueError, match='pool feature maps first'):
        feature_distortion(torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4))
    with pytest.raises(ValueError, match='no test images'):
        measure_distortion([], lambda batch: batch, lambda batch: batch)
    with pytest.raises(ValueError, match='not two states of one model'):
        relative_change(torch.ones(2), torch.ones(3))
