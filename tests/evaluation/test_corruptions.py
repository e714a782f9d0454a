"""Corruptions are the library's own, drawn alike wherever they are drawn, on the image as it was decoded."""

import hashlib
import random

import cv2
import imagecorruptions
import numpy as np
import pytest
import torch
from mmengine.config import Config, ConfigDict
from mmengine.dataset import pseudo_collate
from mmseg.registry import DATASETS, TRANSFORMS
from mmseg.utils import register_all_modules
from support.data_layouts import write_camvid
from torch.utils.data import DataLoader

from mmseg_daft.engine.configs import ConfigError
from mmseg_daft.evaluation.corruptions import CITYSCAPES_C, GROUPS, cells, corrupt, corrupted
from mmseg_daft.files import UnwritableError

ALL = imagecorruptions.get_corruption_names('all')
PIPELINE = [dict(type='LoadImageFromFile'), dict(type='Resize', scale=(32, 24)), dict(type='LoadAnnotations'),
            dict(type='PackSegInputs')]


@pytest.fixture(scope='module')
def image():
    return cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (41, 67, 3), dtype=np.uint8), (0, 0), 3)


def transform(name, severity=2, **options):
    register_all_modules(init_default_scope=True)
    return TRANSFORMS.build(dict(type='Corrupt', name=name, severity=severity, **options))


def dataset(root, pipeline=None):
    register_all_modules(init_default_scope=True)
    return ConfigDict(type='CamVidDataset', data_root=str(root), img_suffix='.jpg', pipeline=pipeline or PIPELINE,
                      data_prefix=dict(img_path='images/train', seg_map_path='labels/train'), serialize_data=False)


def state_of_generators():
    return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()


@pytest.mark.parametrize('name', [
    pytest.param(name, marks=pytest.mark.slow if name == 'glass_blur' else ()) for name in ALL])  # numba compiles it
def test_each_is_the_librarys_own_under_the_seed_rule(image, name):
    for severity in (1, 5):
        digest = hashlib.sha256(image.tobytes() + f'(41, 67, 3) {name} {severity}'.encode()).digest()
        seed = int.from_bytes(digest[:4], 'little')
        np.random.seed(seed)
        own = dict(seed=seed) if name in ('impulse_noise', 'glass_blur') else {}
        expected = imagecorruptions.corrupt(image, severity, name, **own)
        before = state_of_generators()
        assert np.array_equal(corrupt(image, name, severity), expected) and not np.array_equal(expected, image)
        assert state_of_generators() == before


def test_generators_are_restored_where_the_library_fails(image):
    before = state_of_generators()
    with pytest.raises(AttributeError):
        corrupt(image[:20], 'fog', 1)
    assert state_of_generators() == before


def test_the_image_is_rgb_and_the_pipeline_bgr(image):
    for name in ('frost', 'jpeg_compression', 'spatter'):  # colored ice, YCbCr, brown mud
        bgr = transform(name)(dict(img=image[..., ::-1].copy()))['img']
        assert np.array_equal(bgr[..., ::-1], corrupt(image, name, 2))
        assert not np.array_equal(bgr, corrupt(image[..., ::-1], name, 2))


def test_float_images_of_8_bits_stay_float(image):
    result = transform('fog')(dict(img=image[..., ::-1].astype(np.float32)))['img']
    assert result.dtype == np.float32 and np.array_equal(result[..., ::-1], corrupt(image, 'fog', 2))


@pytest.mark.parametrize('wrong, sentence', [
    (np.zeros((31, 200, 3), np.uint8), '200x31 pixels.*need 32'),
    (np.zeros((1, 200, 3), np.uint8), '200x1 pixels.*need 32'),
    (np.zeros((200, 0, 3), np.uint8), '0x200 pixels.*need 32'),
    (np.zeros((40, 40), np.uint8), r"shape \(40, 40\).*color_type"),
    (np.zeros((40, 40, 4), np.uint8), r"shape \(40, 40, 4\).*color_type"),
    (np.zeros((40, 40, 3), np.uint16), 'uint16.*color_type'),
    (np.full((40, 40, 3), -0.5, np.float32), 'from -0.5 to -0.5.*behind it')])
def test_images_that_it_cannot_corrupt_are_named(wrong, sentence):
    with pytest.raises(ValueError, match=f'night/7.png .*{sentence}'):
        transform('fog')(dict(img=wrong, img_path='night/7.png'))


@pytest.mark.parametrize('stored', [np.full((40, 50), 7, np.uint8), np.full((40, 50, 3), 9000, np.uint16)])
def test_grey_files_and_those_of_16_bits_are_read_as_color(tmp_path, stored):
    path = str(tmp_path / 'a.png')
    cv2.imwrite(path, stored)
    register_all_modules(init_default_scope=True)
    loaded = TRANSFORMS.build(dict(type='LoadImageFromFile'))(dict(img_path=path))
    assert transform('contrast')(loaded)['img'].shape == (40, 50, 3)


def test_cells_depend_on_neither_workers_nor_order_nor_place(tmp_path):
    first, second = (write_camvid(tmp_path / place) / 'dusk' for place in ('a', 'b'))

    def images(root, workers, order):
        built = DATASETS.build(corrupted(dataset(root), 'impulse_noise', 4))
        loader = DataLoader(built, 1, sampler=order, num_workers=workers, collate_fn=pseudo_collate)
        return dict(zip(order, (batch['inputs'][0].numpy().tobytes() for batch in loader)))

    once = images(first, 0, range(6))
    assert once == images(first, 2, [5, 3, 1, 0, 2, 4]) == images(second, 1, range(6))
    assert len(set(once.values())) == 6


def test_every_data_set_in_wrappers_is_corrupted_before_its_resize(tmp_path):
    root = write_camvid(tmp_path) / 'dusk'
    own = dataset(root)
    wrapped = ConfigDict(type='ConcatDataset', datasets=[own, dict(type='RepeatDataset', times=2, dataset=own)])
    built = DATASETS.build(corrupted(wrapped, 'pixelate', 5))
    path = str(root / 'images' / 'train' / '0.jpg')
    expected = cv2.resize(corrupt(cv2.imread(path)[..., ::-1], 'pixelate', 5), (32, 24))[..., ::-1]
    for i in (0, 6, 12):
        assert np.array_equal(built[i]['inputs'].permute(1, 2, 0).numpy(), expected)
    assert own.pipeline == PIPELINE, 'the config given is left as it was'


def test_with_test_time_augmentation(tmp_path):
    tta = [dict(type='LoadImageFromFile'), dict(type='TestTimeAug', transforms=[
        [dict(type='Resize', scale_factor=r, keep_ratio=True) for r in (1.0, 2.0)],
        [dict(type='LoadAnnotations')], [dict(type='PackSegInputs')]])]
    root = write_camvid(tmp_path) / 'dusk'
    built = DATASETS.build(corrupted(dataset(root, tta), 'fog', 3))
    expected = corrupt(cv2.imread(str(root / 'images' / 'train' / '0.jpg'))[..., ::-1], 'fog', 3)
    assert np.array_equal(built[0]['inputs'][0].permute(1, 2, 0).numpy()[..., ::-1], expected)


def test_a_pipeline_that_reads_no_file_is_refused(tmp_path):
    with pytest.raises(ConfigError, match='belongs behind LoadImageFromFile.*LoadImageFromNDArrays'):
        corrupted(dataset(tmp_path, [dict(type='LoadImageFromNDArrays')]), 'fog', 1)


def test_the_cache_is_lossless_and_mends_itself(tmp_path, image):
    cached = transform('impulse_noise', cache=str(tmp_path / 'cache'))
    expected = transform('impulse_noise')(dict(img=image.copy()))['img']
    assert np.array_equal(cached(dict(img=image.copy()))['img'], expected)
    file, = (tmp_path / 'cache').rglob('*.*')
    written = file.stat().st_mtime_ns
    assert np.array_equal(cached(dict(img=image.copy()))['img'], expected) and file.stat().st_mtime_ns == written
    file.write_bytes(file.read_bytes()[:50])
    assert np.array_equal(cached(dict(img=image.copy()))['img'], expected)


def test_a_cache_that_cannot_be_written_is_refused(tmp_path, image):
    (tmp_path / 'file').touch()
    with pytest.raises(UnwritableError, match='file/fog-2/x.png cannot be written'):
        transform('fog', cache=str(tmp_path / 'file'))
    full = transform('fog', cache=str(tmp_path / 'cache'))
    (tmp_path / 'cache').touch()  # as where a disk is full
    with pytest.raises(UnwritableError, match='cache of corrupted images cannot be written.*without a cache'):
        full(dict(img=image.copy()))


def test_names_stand_for_cells():
    assert len(cells(['all'])) == 75 and {name for name, _ in cells(['all'])} == set(ALL[:15])
    assert {group: list(names) for group, names in GROUPS.items()} == {
        group: imagecorruptions.get_corruption_names(group) for group in GROUPS}
    shorter = cells(['cityscapes-c'])
    assert len(shorter) == 4 * 3 + 12 * 5 and ('shot_noise', 4) not in shorter and ('fog', 5) in shorter
    assert sum(map(len, CITYSCAPES_C.values())) == 16
    assert cells(['fog', 'weather', 'fog'], [2]) == [('fog', 2), ('snow', 2), ('frost', 2), ('brightness', 2)]


@pytest.mark.parametrize('names, severities, sentence', [
    (['gausian_noise'], [1], 'no corruption gausian_noise. Did you mean gaussian_noise'),
    (['fog'], [0, 6], 'Severities 0, 6: give numbers from 1 to 5'), (['fog'], [], 'Severities none')])
def test_unknown_names_and_severities_are_refused(names, severities, sentence):
    with pytest.raises(ConfigError, match=sentence):
        cells(names, severities)
    with pytest.raises(ConfigError, match='one corruption'):
        transform('noise')


def test_without_the_library_the_extra_is_named(monkeypatch):
    monkeypatch.setattr('mmseg_daft.evaluation.corruptions.LIBRARY', 'one-that-is-not-installed')
    with pytest.raises(ConfigError, match=r'mmseg-daft\[corruptions\]'):
        cells(['fog'])


def test_a_config_may_name_it_by_hand(tmp_path):
    config = tmp_path / 'c.py'
    config.write_text("custom_imports = dict(imports=['mmseg_daft'])\n"
                      "step = dict(type='Corrupt', name='fog', severity=1)")
    register_all_modules(init_default_scope=True)
    assert 'fog' in repr(TRANSFORMS.build(Config.fromfile(config).step))
