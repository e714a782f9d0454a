"""RandomScale: one factor of the image's own size, for image and label alike, from NumPy's generator."""

import numpy as np
import pytest
from mmseg.registry import TRANSFORMS
from mmseg.utils import register_all_modules


def scale(low, high):
    register_all_modules(init_default_scope=True)
    return TRANSFORMS.build(dict(type='RandomScale', ratio_range=(low, high)))


@pytest.mark.parametrize('size', [(30, 41), (200, 100)])
@pytest.mark.parametrize('factor', [0.5, 1.0, 1.7])
def test_sizes_and_labels(size, factor):
    labels = np.random.default_rng(0).integers(0, 5, size).astype(np.uint8) * 50
    results = scale(factor, factor)(dict(
        img=np.repeat(labels[..., None], 3, 2), gt_seg_map=labels, seg_fields=['gt_seg_map']))
    assert results['img'].shape[:2] == results['gt_seg_map'].shape
    assert np.allclose(results['gt_seg_map'].shape, np.array(size) * factor, atol=1.5)
    assert set(np.unique(results['gt_seg_map'])) <= set(np.unique(labels))
    if factor == 1:
        assert np.array_equal(results['gt_seg_map'], labels)


def test_one_generator_and_another_factor_each_time():
    transform, image = scale(0.5, 2), np.zeros((100, 100, 3), np.uint8)

    def sizes():
        np.random.seed(0)
        return [transform(dict(img=image))['img'].shape[0] for _ in range(50)]

    assert sizes() == sizes() and len(set(sizes())) > 30


@pytest.mark.parametrize('bounds', [(0, 1), (2, 1), (-1, 1), (float('nan'), 1)])
def test_a_range_without_factors_is_refused(bounds):
    with pytest.raises(ValueError, match='two positive factors, the smaller one first'):
        scale(*bounds)
