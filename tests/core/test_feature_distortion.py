"""Cosine similarity and L2 distance: against NumPy in float64, and by their properties."""

import numpy as np
import pytest
import torch
from support.networks import Network, pretrained

from mmseg_daft.core.batch_norm import find_batch_norms
from mmseg_daft.core.conversion import convert
from mmseg_daft.core.distortion import feature_distortion, layer_tensors, pooled, relative_change
from mmseg_daft.core.statistics import collect_statistics


@pytest.mark.parametrize('shape', [(9, 6), (2, 150, 3, 5)], ids=['images', 'pixels'])
def test_both_measures_equal_the_reference(shape):
    a, b = torch.randn(shape), torch.randn(shape)
    result = feature_distortion(a, b)
    x, y = a.double().numpy(), b.double().numpy()
    cosine = (x * y).sum(1) / np.sqrt((x * x).sum(1) * (y * y).sum(1))
    np.testing.assert_allclose(result.cosine_similarity, cosine, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(result.l2_distance, np.sqrt(((x - y) ** 2).sum(1)), rtol=1e-12)


def test_identical_features_are_undistorted_and_scaling_turns_nothing():
    a = torch.randn(40, 5).relu()  # some are zero
    a[0] = 0
    same = feature_distortion(a, a.clone())
    assert (same.cosine_similarity == 1).all() and (same.l2_distance == 0).all()
    a[0] = 1
    ones = torch.ones(40, dtype=torch.float64)
    torch.testing.assert_close(feature_distortion(a, 3 * a).cosine_similarity[a.norm(dim=1) > 0],
                               ones[a.norm(dim=1) > 0])
    torch.testing.assert_close(feature_distortion(a, -a).cosine_similarity[:1], -ones[:1])
    assert feature_distortion(torch.zeros(1, 5), a[:1]).cosine_similarity == 0


def test_a_rotation_leaves_lengths_and_moves_cosines():
    a = torch.randn(6, 8, dtype=torch.float64)
    q = torch.linalg.qr(torch.randn(8, 8, dtype=torch.float64)).Q
    b = torch.randn(6, 8, dtype=torch.float64)
    for x, y in zip(feature_distortion(a, b), feature_distortion(a @ q, b @ q)):
        torch.testing.assert_close(x, y)
    assert feature_distortion(a, a @ q).cosine_similarity.max() < 0.999


def test_pooling_is_the_mean_and_can_leave_padding_out():
    features = torch.randn(2, 70, 4, 6)
    np.testing.assert_allclose(pooled(features), features.double().numpy().mean((2, 3)), rtol=1e-12, atol=1e-14)
    valid = torch.zeros(2, 4, 6, dtype=torch.bool)
    valid[:, :3, :5] = True
    np.testing.assert_allclose(
        pooled(features, valid), features[:, :, :3, :5].double().numpy().mean((2, 3)), rtol=1e-12, atol=1e-14)


def test_a_converted_model_has_no_feature_distortion_though_its_tensors_differ():
    torch.manual_seed(0)
    before, after = (pretrained(Network(2, depth=3)).double().eval() for _ in range(2))
    after.load_state_dict(before.state_dict())
    batches = [torch.randn(4, 5, 8, 8, dtype=torch.float64) * 2 + 3 for _ in range(3)]
    layers = find_batch_norms(after, ('',))
    convert(layers, collect_statistics(after, layers, batches, after))
    with torch.no_grad():
        for batch in batches:
            distortion = feature_distortion(before(batch), after(batch))
            assert distortion.cosine_similarity.min() > 1 - 1e-12
            assert distortion.l2_distance.max() < 1e-10
    assert {tensor.name for tensor in layer_tensors(after, ('norms',))} < {t.name for t in layer_tensors(after, ('',))}
    for tensor in layer_tensors(after, ('norms',)):
        assert relative_change(before.state_dict()[tensor.name], after.state_dict()[tensor.name]) > 0.05


def test_bad_input():
    with pytest.raises(ValueError, match='not two states of one model'):
        feature_distortion(torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 5))
    with pytest.raises(ValueError, match=r'\(N, C\) or \(N, C, H, W\)'):
        feature_distortion(torch.randn(3), torch.randn(3))
