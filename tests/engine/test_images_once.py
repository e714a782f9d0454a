"""Wrapped data sets: a pass, and all that count images, take each image on disk once."""

from collections import Counter

import numpy as np
import pytest
from mmengine.dataset import BaseDataset
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from mmseg.datasets import BaseSegDataset
from mmseg.registry import DATASETS, TRANSFORMS
from torch.utils.data import DataLoader

from mmseg_daft.engine.samples import images_once
from mmseg_daft.engine.training_data import TargetLoader


@DATASETS.register_module()
class WithCategories(BaseSegDataset):
    """A data set that tells the categories of an image, which ClassBalancedDataset asks for: the first is rare."""

    METAINFO = dict(classes=('rare', 'common'))

    def get_cat_ids(self, index):
        return [0, 1] if index == 0 else [1]


@TRANSFORMS.register_module()
class MixWithAnother:
    """The least of a mosaic: it asks for one more image."""

    def get_indices(self, dataset):
        return np.random.randint(len(dataset))

    def __call__(self, results):
        assert len(results['mix_results']) == 1
        return results


PIPELINE = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'), dict(type='PackSegInputs')]


def part(root, split, **options):
    return dict(type='WithCategories', data_root=str(root), img_suffix='.jpg', seg_map_suffix='.png',
                ann_file=f'ImageSets/Segmentation/{split}.txt', pipeline=PIPELINE, **options,
                data_prefix=dict(img_path='JPEGImages', seg_map_path='SegmentationClass'))


def repeat(dataset, times=40000):
    return dict(type='RepeatDataset', times=times, dataset=dataset)


def balanced(dataset):
    return dict(type='ClassBalancedDataset', oversample_thr=0.9, dataset=dataset)


def concat(*datasets):
    return dict(type='ConcatDataset', datasets=list(datasets))


def mixed(dataset):
    return dict(type='MultiImageMixDataset', dataset=dataset, pipeline=[dict(type='MixWithAnother')])


@pytest.mark.parametrize('wrap, length, images', [
    (lambda train, val: train, 7, 7),
    (lambda train, val: repeat(train), 280_000, 7),
    (lambda train, val: balanced(train), 9, 7),
    (lambda train, val: concat(train, val), 9, 9),
    (lambda train, val: concat(train, train), 14, 7),
    (lambda train, val: mixed(concat(train, val)), 9, 9),
    (lambda train, val: repeat(concat(balanced(train), repeat(val, 3))), 600_000, 9),
    (lambda train, val: concat(repeat(val, 5), mixed(concat(train, repeat(balanced(train), 2)))), 35, 9),
])
def test_each_image_once_through_every_wrapper(voc_root, wrap, length, images):
    init_default_scope('mmseg')
    dataset = DATASETS.build(wrap(part(voc_root, 'train'), part(voc_root, 'val')))
    once = images_once(dataset)
    assert len(dataset) == length and len(once) == images
    assert len({dataset.get_data_info(index)['img_path'] for index in once}) == images
    loader = TargetLoader(Runner.build_dataloader(dict(
        batch_size=4, num_workers=0, sampler=dict(type='InfiniteSampler'), dataset=dataset), seed=0), seed=0)
    seen = Counter(sample.img_path for batch in loader for sample in batch['data_samples'])
    assert len(seen) == images == loader.num_images and set(seen.values()) == {1}
    assert loader.taken() == (-(-images // 4), images)


def test_a_plain_data_set_is_taken_in_the_order_that_it_was():
    """Files of statistics stay valid: the permutation is that of the indices."""
    loader = TargetLoader(DataLoader(range(10), batch_size=3), seed=5)
    order = [index for batch in loader for index in batch.tolist()]
    assert order == np.random.default_rng(5).permutation(10).tolist()


def test_samples_without_a_path_are_told_apart():
    dataset = BaseDataset(lazy_init=True)
    dataset.data_list = [dict(text=str(i)) for i in range(3)]
    dataset.serialize_data, dataset._fully_initialized = False, True
    assert images_once(dataset) == [0, 1, 2]
