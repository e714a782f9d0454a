"""The paper's augmentations, read out of transformed samples: images that carry their own coordinates or colours."""

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.registry import DATASETS, MODELS
from support.small_runs import CONFIGS, DAFT_VOC, FT_VOC


def dataset_and_preprocessor(config, root):
    cfg = Config.fromfile(CONFIGS / config)
    init_default_scope('mmseg')
    for part in cfg.train_dataloader.dataset.get('datasets', [cfg.train_dataloader.dataset]):
        part.data_root = str(root)
    return DATASETS.build(cfg.train_dataloader.dataset), MODELS.build(cfg.model.data_preprocessor)


def write(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), array)


SIZES = {'wide': (375, 500), 'small': (180, 240)}


@pytest.fixture(scope='module')
def coordinates(tmp_path_factory):
    """VOC's layout: blue grows along x and green along y, from 20 to 235; every pixel is labeled 1."""
    root = tmp_path_factory.mktemp('voc')
    for i, (name, (h, w)) in enumerate(SIZES.items()):
        image = np.zeros((h, w, 3), np.uint8)
        image[..., 0] = np.linspace(20, 235, w)[None]
        image[..., 1] = np.linspace(20, 235, h)[:, None]
        write(root / 'JPEGImages' / f'{name}.jpg', image)
        write(root / ('SegmentationClass', 'SegmentationClassAug')[i] / f'{name}.png', np.ones((h, w), np.uint8))
    lists = root / 'ImageSets' / 'Segmentation'
    lists.mkdir(parents=True)
    (lists / 'train.txt').write_text('wide\n')
    (lists / 'aug.txt').write_text('small\n')
    return root


def slope(values):
    return np.polyfit(np.arange(len(values)), values, 1)[0]


def test_voc_scale_crop_flip_and_padding(coordinates):
    torch.manual_seed(0)
    np.random.seed(0)
    dataset, preprocessor = dataset_and_preprocessor(DAFT_VOC, coordinates)
    factors, flipped, cropped = {name: [] for name in SIZES}, [], 0
    for _ in range(60):
        samples = [dataset[i] for i in range(len(dataset))]
        for (name, (h, w)), sample in zip(SIZES.items(), samples):
            image, labels = sample['inputs'].numpy(), sample['data_samples'].gt_sem_seg.data[0].numpy()
            assert image.shape[1:] == labels.shape and max(labels.shape) <= 513
            assert set(np.unique(labels)) == {1}  # nearest: no new label
            along_x, along_y = slope(image[0].mean(0)), slope(image[1].mean(1))
            factors[name].append((215 / (w - 1)) / abs(along_x))
            assert factors[name][-1] == pytest.approx((215 / (h - 1)) / along_y, rel=0.04)  # the ratio is kept
            flipped.append(along_x < 0)
            size = np.array([h, w]) * factors[name][-1]
            assert np.allclose(labels.shape, np.minimum(size, 513), atol=8)
            cropped += bool((size > 520).any())
        batch = preprocessor({key: [s[key] for s in samples] for key in ('inputs', 'data_samples')}, True)
        assert batch['inputs'].shape == (2, 3, 513, 513)
        for image, sample, before in zip(batch['inputs'], batch['data_samples'], samples):
            h, w = before['inputs'].shape[1:]
            padded = torch.ones(513, 513, dtype=torch.bool)
            padded[:h, :w] = False
            assert torch.equal(sample.gt_sem_seg.data[0] == 255, padded)
            assert (image[:, padded] == 0).all()  # after normalisation: the mean colour
    for name in SIZES:  # of the image's own size, also of the small one's
        assert 0.49 < min(factors[name]) < 0.62 and 1.85 < max(factors[name]) < 2.02, name
        assert abs(np.mean(factors[name]) - 1.25) < 0.2
    assert 0.35 < np.mean(flipped) < 0.65 and cropped > 10


COLOUR = np.array([46, 58, 70])  # BGR
LUMINANCE = np.array([0.114, 0.587, 0.2989])


@pytest.fixture(scope='module')
def stripes(tmp_path_factory):
    """Cityscapes' layout and size: dark and bright stripes of one hue, 8 wide; labels count columns of 64."""
    root = tmp_path_factory.mktemp('cityscapes')
    x = np.arange(2048)
    row = (np.where(x // 8 % 2, 1.6, 0.4)[:, None] * COLOUR).round()
    image = np.broadcast_to(row, (1024, 2048, 3)).astype(np.uint8)
    labels = np.broadcast_to(x // 64 % 19, (1024, 2048)).astype(np.uint8)
    write(root / 'leftImg8bit' / 'train' / 'ulm' / 'ulm_0_leftImg8bit.png', image)
    write(root / 'gtFine' / 'train' / 'ulm' / 'ulm_0_gtFine_labelTrainIds.png', labels)
    return root


def hue(colour):
    """The angle of a color around the axis of greys, in degrees."""
    a, b, c = colour
    return np.degrees(np.arctan2(np.sqrt(3) * (b - c), 2 * a - b - c))


def test_cityscapes_crop_and_jitter(stripes):
    """Brightness scales everything, contrast the stripes' difference, saturation the colours' distance from grey."""
    np.random.seed(0)
    dataset, preprocessor = dataset_and_preprocessor(
        DAFT_VOC.replace('voc12aug-513x513', 'cityscapes-768x768'), stripes)
    seen, flipped, starts, hues = [], [], [], []
    bright, dark = 1.6 * COLOUR, 0.4 * COLOUR
    for _ in range(80):
        sample = dataset[0]
        image, labels = sample['inputs'].numpy(), sample['data_samples'].gt_sem_seg.data[0].numpy()
        assert image.shape == (3, 768, 768) and labels.shape == (768, 768)
        edges = np.flatnonzero(np.diff(labels[0].astype(int))) + 1
        assert set(np.diff(edges)) == {64}  # no scale
        step = np.diff(labels[0].astype(int))[edges - 1]
        flipped.append((step == -1).sum() > (step == 1).sum())
        starts.append(int(edges[0]))
        columns = image.reshape(3, -1).T.reshape(768, 768, 3)[100].astype(float)
        lum = columns @ LUMINANCE
        high, low = columns[lum > lum.mean()].mean(0), columns[lum <= lum.mean()].mean(0)
        if high.max() > 253 or low.min() < 2:
            continue  # clipped: the factors cannot be told apart
        middle = (high + low) / 2
        hues.append(hue(high))
        brightness = middle @ LUMINANCE / (COLOUR @ LUMINANCE)
        contrast = (high - low) @ LUMINANCE / ((bright - dark) @ LUMINANCE) / brightness
        saturation = (middle[2] - middle[0]) / (COLOUR[2] - COLOUR[0]) / brightness / contrast
        seen.append((brightness, contrast, saturation))
    turned = abs(np.array(hues) - hue(COLOUR))
    assert np.median(turned) < 1, turned  # degrees, by rounding to 8 bits; a jitter of 0.01 has a median of 1.8
    assert len(seen) > 50 and len(set(starts)) > 20
    low, high = np.min(seen, 0), np.max(seen, 0)
    assert (low > 0.47).all() and (high < 1.53).all(), (low, high)
    assert (low < 0.6).all() and (high > 1.33).all(), (low, high)  # strong contrasts are those that clip
    assert abs(np.corrcoef(np.array(seen).T)[np.triu_indices(3, 1)]).max() < 0.4  # drawn apart
    assert 0.35 < np.mean(flipped) < 0.65
    batch = preprocessor(dict(inputs=[sample['inputs']], data_samples=[sample['data_samples']]), True)
    assert batch['inputs'].shape == (1, 3, 768, 768)


@pytest.mark.parametrize('name, crop, start', [
    ('voc12aug-513x513', (513, 513), 'moco_v2_800ep_pretrain.pth.tar'),
    ('cityscapes-768x768', (768, 768), 'moco_v2_800ep_pretrain.pth.tar')])
def test_optimizer_schedule_batch_and_start(name, crop, start):
    cfg = Config.fromfile(CONFIGS / FT_VOC.replace('voc12aug-513x513', name))
    assert tuple(cfg.model.data_preprocessor['size']) == crop
    assert cfg.train_dataloader.batch_size == cfg.default_hooks.batch.images == 16
    assert cfg.train_cfg.max_iters == cfg.train_cfg.val_interval == cfg.param_scheduler[0]['end'] == 30000
    assert (cfg.param_scheduler[0]['power'], cfg.param_scheduler[0]['eta_min']) == (0.9, 0)
    assert (cfg.optim_wrapper.optimizer['type'], cfg.optim_wrapper.optimizer['momentum']) == ('SGD', 0.9)
    assert (cfg.model.backbone['type'], cfg.model.backbone['depth']) == ('ResNet', 50)
    assert cfg.model.backbone['init_cfg']['checkpoint'].endswith(start)
