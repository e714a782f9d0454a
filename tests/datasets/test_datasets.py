"""The data sets and the color jitter, through mmseg's registries."""

import cv2
import numpy as np
import pytest
from mmseg.registry import DATASETS, TRANSFORMS
from mmseg.utils import register_all_modules
from PIL import Image
from support.data_layouts import write_camvid
from torchvision.transforms import functional as F

PIPELINE = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'), dict(type='PackSegInputs')]


def camvid(root, part='train', **options):
    register_all_modules(init_default_scope=True)
    return DATASETS.build(dict(
        type='CamVidDataset', data_root=str(root), data_prefix=dict(
            img_path=f'images/{part}', seg_map_path=f'labels/{part}'), pipeline=PIPELINE, **options))


def test_camvid_reads_images_and_labels(tmp_path):
    dataset = camvid(write_camvid(tmp_path) / 'dusk', img_suffix='.jpg')
    assert len(dataset) == 6 and len(dataset.metainfo['classes']) == len(dataset.metainfo['palette']) == 11
    sample = dataset[0]
    labels = sample['data_samples'].gt_sem_seg.data
    assert sample['inputs'].shape == (3, 48, 64) and labels.shape == (1, 48, 64)
    assert set(labels.unique().tolist()) <= {*range(11), 255}


@pytest.mark.parametrize('part, count', [('day/train', 305), ('day/val', 101), ('dusk/train', 62), ('dusk/val', 31)])
def test_the_real_camvid(camvid_root, part, count):
    domain, split = part.split('/')
    dataset = camvid(camvid_root / domain, split, img_suffix='.jpg')
    assert len(dataset) == count
    assert set(np.unique(dataset[0]['data_samples'].gt_sem_seg.data)) <= {*range(11), 255}


def test_camvid_without_images_says_what_to_check(tmp_path):
    (tmp_path / 'images' / 'train').mkdir(parents=True)
    with pytest.raises(ValueError, match='CamVidDataset found no image.*img_suffix'):
        camvid(tmp_path)


def jitter(**options):
    register_all_modules(init_default_scope=True)
    return TRANSFORMS.build(dict(type='TorchvisionColorJitter', **options))


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)


@pytest.mark.parametrize('name', ['brightness', 'contrast', 'saturation'])
def test_each_change_is_torchvisions_own_on_the_image_in_rgb(image, name):
    labels = np.arange(600).reshape(20, 30)
    results = jitter(**{name: (1.5, 1.5)})(dict(img=image.copy(), gt_seg_map=labels.copy()))
    expected = getattr(F, f'adjust_{name}')(Image.fromarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB)), 1.5)
    difference = results['img'][..., ::-1].astype(int) - np.asarray(expected).astype(int)
    assert abs(difference).max() <= 2  # Pillow rounds grey values
    assert results['img'].dtype == np.uint8 and np.array_equal(results['gt_seg_map'], labels)


def test_factors_span_the_range_and_come_from_numpys_generator():
    grey = np.full((4, 4, 3), 100, np.uint8)
    np.random.seed(0)
    values = [jitter(brightness=0.5)(dict(img=grey.copy()))['img'][0, 0, 0] for _ in range(300)]
    assert 50 <= min(values) < 53 and 147 < max(values) <= 150
    np.random.seed(0)
    assert values == [jitter(brightness=0.5)(dict(img=grey.copy()))['img'][0, 0, 0] for _ in range(300)]


def test_without_factors_nothing_changes(image):
    assert np.array_equal(jitter()(dict(img=image.copy()))['img'], image)
