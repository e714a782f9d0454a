"""Further test sets in the layouts of the real ones: their labels are the run's, or they are refused by name."""

import copy

import cv2
import numpy as np
import pytest
from mmengine.config import ConfigDict
from mmseg.registry import DATASETS
from mmseg.utils import register_all_modules
from support.data_layouts import write_pair, write_voc

from mmseg_daft.engine.configs import ConfigError
from mmseg_daft.engine.training_data import leaf_datasets
from mmseg_daft.evaluation.sets import mapped_set, read_sets

PIPELINE = [dict(type='LoadImageFromFile'), dict(type='Resize', scale=(32, 24), keep_ratio=True),
            dict(type='LoadAnnotations'), dict(type='PackSegInputs')]
CITYSCAPES = ('road', 'sidewalk', 'building', 'wall', 'fence', 'pole', 'traffic light', 'traffic sign', 'vegetation',
              'terrain', 'sky', 'person', 'rider', 'car', 'truck', 'bus', 'train', 'motorcycle', 'bicycle')
LAYOUTS = dict(
    acdc_fog=('ACDC', 'rgb_anon/fog/val/G1/f_rgb_anon.png', 'gt/fog/val/G1/f_gt_labelTrainIds.png', 19),
    acdc_night=('ACDC', 'rgb_anon/night/val/G2/n_rgb_anon.png', 'gt/night/val/G2/n_gt_labelTrainIds.png', 19),
    acdc_rain=('ACDC', 'rgb_anon/rain/val/G3/r_rgb_anon.png', 'gt/rain/val/G3/r_gt_labelTrainIds.png', 19),
    acdc_snow=('ACDC', 'rgb_anon/snow/val/G4/s_rgb_anon.png', 'gt/snow/val/G4/s_gt_labelTrainIds.png', 19),
    dark_zurich=('DARK_ZURICH', 'rgb_anon/val/night/GOPR0356/a_rgb_anon.png',
                 'gt/val/night/GOPR0356/a_gt_labelTrainIds.png', 19),
    night_driving=('NIGHT_DRIVING', 'leftImg8bit/test/night/a_leftImg8bit.png',
                   'gtCoarse_daytime_trainvaltest/test/night/a_gtCoarse_labelTrainIds.png', 19),
    bdd100k=('BDD100K', 'images/10k/val/a.jpg', 'labels/sem_seg/masks/val/a.png', 19),
    foggy_cityscapes=('CITYSCAPES', 'leftImg8bit_foggy/val/ulm/a_leftImg8bit_foggy_beta_0.02.png',
                      'gtFine/val/ulm/a_gtFine_labelTrainIds.png', 19),
    idd=('IDD', 'leftImg8bit/val/119/a_leftImg8bit.png', 'gtFine/val/119/a_gtFine_labelcsTrainIds.png', 19),
    idd_level3=('IDD', 'leftImg8bit/val/119/a_leftImg8bit.png', 'gtFine/val/119/a_gtFine_labellevel3Ids.png', 26),
    mapillary=('MAPILLARY', 'validation/images/a.jpg', 'validation/v1.2/labels/a.png', 66))
NEXT_TO = [('leftImg8bit_foggy/val/ulm/a_leftImg8bit_foggy_beta_0.01.png', 'foggy_cityscapes'),
           ('rgb_anon/fog/train/G1/x_rgb_anon.png', 'acdc_fog')]
"""Files of other parts, which are not to be read."""


@pytest.fixture(scope='module')
def roots(tmp_path_factory):
    """Every set that is shipped for Cityscapes, in its layout: one image each, in which each label occurs."""
    root = tmp_path_factory.mktemp('sets')
    for i, (place, image, labels, count) in enumerate(LAYOUTS.values()):
        write_pair(root / place / image, root / place / labels, (40, 90), count, i)
        cv2.imwrite(str(root / place / labels), np.append(np.arange(count), 255).astype(np.uint8).repeat(
            -(-3600 // (count + 1)))[:3600].reshape(40, 90))
    for image, name in NEXT_TO:
        (root / LAYOUTS[name][0] / image).parent.mkdir(parents=True, exist_ok=True)
        (root / LAYOUTS[name][0] / image).write_bytes(b'')
    return root


@pytest.fixture
def shipped(roots, monkeypatch):
    """The sets of a shipped file, in the folders above."""
    for place, *_ in LAYOUTS.values():
        monkeypatch.setenv(f'{place}_ROOT', str(roots / place))
    return read_sets('cityscapes')


def built(config):
    config = copy.deepcopy(config)
    config.pop('label_map', None)
    for leaf in leaf_datasets(config):
        leaf.serialize_data = False  # it collects garbage, for seconds
    return DATASETS.build(config)


def labels_of(mapped, i=0):
    return built(mapped.dataset)[i]['data_samples'].gt_sem_seg.data[0].numpy()


@pytest.mark.parametrize('name', LAYOUTS)
def test_shipped_sets_of_cityscapes(shipped, roots, name):
    mapped = mapped_set(name, shipped[name], CITYSCAPES, PIPELINE)
    place, _, file, count = LAYOUTS[name]
    stored, found = cv2.imread(str(roots / place / file), cv2.IMREAD_UNCHANGED), labels_of(mapped)
    assert len(built(mapped.dataset)) == 1 and found.shape == (40, 90)
    assert set(np.unique(stored)) == {*range(count), 255}
    own = built(shipped[name]).metainfo['classes']
    into = {old: set(found[stored == old]) for old in (*range(count), 255)}
    assert all(len(new) == 1 for new in into.values())
    ignored = {old for old, new in into.items() if new == {255}} - {255}
    assert {own[old] for old in ignored} == set(mapped.ignored) and into[255] == {255}
    assert set(mapped.lacking) == set(CITYSCAPES) - {CITYSCAPES[label] for label in np.unique(found) if label != 255}
    names = {own[old]: CITYSCAPES[int(*new)] for old, new in into.items() if new != {255}}
    if count == 19:
        assert names == {one: one for one in CITYSCAPES} and not mapped.lacking
    elif name == 'idd_level3':
        assert names == {one: one for one in CITYSCAPES if one not in ('terrain', 'train')}
        assert mapped.lacking == ('terrain', 'train') and {'curb', 'autorickshaw'} < set(mapped.ignored)
    else:
        assert not mapped.lacking and len(names) == 25 and names['Bicyclist'] == names['Other Rider'] == 'rider'
        assert names['On Rails'] == 'train' and 'Unlabeled' in mapped.ignored


def test_all_of_acdc_is_its_four_parts(shipped):
    mapped = mapped_set('acdc', shipped['acdc'], CITYSCAPES, PIPELINE)
    assert len(built(mapped.dataset)) == 4 and not mapped.lacking
    assert set(np.unique(labels_of(mapped, 3))) == {*range(19), 255}


def test_coco_stuff_for_runs_on_voc(tmp_path, monkeypatch):
    register_all_modules(init_default_scope=True)
    monkeypatch.setenv('COCO_STUFF_ROOT', str(tmp_path))
    file = tmp_path / 'annotations/val2017/a_labelTrainIds.png'
    write_pair(tmp_path / 'images/val2017/a.jpg', file, (40, 90), 171, 0)
    stored = np.arange(180).clip(0, 171).repeat(20).reshape(40, 90).astype(np.uint8)
    stored[stored == 171] = 255
    cv2.imwrite(str(file), stored)
    voc = DATASETS.get('PascalVOCDataset').METAINFO['classes']
    mapped = mapped_set('coco_stuff', read_sets('voc')['coco_stuff'], voc, PIPELINE)
    assert mapped.ignored == ('truck', 'table') and not mapped.lacking
    own, found = DATASETS.get('COCOStuffDataset').METAINFO['classes'], labels_of(mapped)
    into = {own[old]: voc[int(found[stored == old][0])] for old in range(171) if own[old] not in mapped.ignored}
    assert into['tv'] == 'tvmonitor' and into['person'] == 'person' and into['sky-other'] == 'background'
    assert len({one for one in into.values() if one != 'background'}) == 20


@pytest.mark.parametrize('domain', ['day', 'dusk', 'other_place'])
def test_camvid(camvid_layout, monkeypatch, domain):
    monkeypatch.setenv('CAMVID_ROOT', str(camvid_layout))
    (name, config), = read_sets('camvid', [domain]).items()
    mapped = mapped_set(name, config, DATASETS.get('CamVidDataset').METAINFO['classes'], PIPELINE)
    assert len(built(mapped.dataset)) == 2 and set(np.unique(labels_of(mapped))) <= {*range(11), 255}


def test_the_demos_sets(shapes_root, monkeypatch):
    monkeypatch.setenv('SHAPES_ROOT', str(shapes_root))
    mapped = mapped_set('night', read_sets('shapes')['night'], DATASETS.get('ShapesDataset').METAINFO['classes'],
                        PIPELINE)
    assert len(built(mapped.dataset)) == 2


@pytest.fixture
def small(tmp_path):
    """A set of three classes, and a function that maps it to a run's."""
    register_all_modules(init_default_scope=True)
    for name in ('a', 'b'):
        write_pair(tmp_path / 'images' / f'{name}.png', tmp_path / 'labels' / f'{name}.png', (40, 90), 3, 7)
    config = ConfigDict(type='BaseSegDataset', data_root=str(tmp_path), img_suffix='.png',
                        data_prefix=dict(img_path='images', seg_map_path='labels'),
                        metainfo=dict(classes=('car', 'van', 'tree')))

    def use(classes=('car', 'tree'), pipeline=PIPELINE, **options):
        return mapped_set('tiny', ConfigDict({**config, **options}), classes, pipeline)

    use.root = tmp_path
    return use


@pytest.mark.parametrize('options, sentence', [
    (dict(), 'run lacks these classes of the test set tiny: van.*label_map.*None'),
    (dict(label_map={'van': 'vehicle'}), 'tiny maps van to vehicle, which is no class of the run'),
    (dict(label_map={'van': 'caar'}), 'Did you mean car.*Its classes are car, tree'),
    (dict(label_map={'vann': 'car'}), 'names vann, which is no class of its data set. Did you mean van'),
    (dict(label_map=['van']), 'is no dict of class names'),
    (dict(classes=('road',), label_map={'*': None}), 'tiny shares no class with the run: car, van, tree'),
    (dict(metainfo=None), 'names no classes'),
    (dict(type='NoSuchDataset'), 'tiny cannot be built.*NoSuchDataset'),
    (dict(data_rot='x'), 'tiny cannot be built.*data_rot'),
    (dict(data_root='/no/such/place'), 'tiny cannot be built.*/no/such/place/images'),
    (dict(img_suffix='.tif'), 'tiny found 0 images in .*/images.*img_suffix'),
    (dict(seg_map_suffix='_gt.png', label_map={'van': 'car'}), r'found 2 images .* labels of 2, such as .*a_gt.png'),
    (dict(data_prefix=dict(img_path='images'), label_map={'van': 'car'}), 'lacks the labels of 2, .*images/a.png'),
    (dict(label_map={'van': 'car'}, pipeline=PIPELINE[:2]), 'tiny cannot be read.*behind LoadAnnotations.*Resize')])
def test_what_does_not_fit_is_refused(small, options, sentence):
    with pytest.raises(ConfigError, match=sentence):
        small(**options)


@pytest.mark.parametrize('labels, sentence', [
    (np.full((40, 90), 33, np.uint8), 'a.png holds label 33, and the data set has the classes 0 to 2'),
    (np.zeros((40, 91), np.uint8), r'a.png has the shape \(40, 91\), and its image \(40, 90\)'),
    (np.zeros((40, 90, 3), np.uint8), r'shape \(40, 90, 3\).*one channel')])
def test_labels_of_another_kind_are_refused(small, labels, sentence):
    cv2.imwrite(str(small.root / 'labels' / 'a.png'), labels)
    with pytest.raises(ConfigError, match=f'tiny cannot be read: .*{sentence}'):
        small(label_map={'van': 'car'})
    cv2.imwrite(str(small.root / 'labels' / 'b.png'), labels)
    cv2.imwrite(str(small.root / 'labels' / 'a.png'), np.zeros((40, 90), np.uint8))
    later = built(small(label_map={'van': 'car'}).dataset)
    with pytest.raises(ValueError, match=sentence.replace('a.png', 'b.png')):
        later[1]


def test_several_classes_become_one_and_labels_stay_those_of_the_image(small):
    stored = cv2.imread(str(small.root / 'labels' / 'a.png'), cv2.IMREAD_UNCHANGED)
    merged = small(('tree', 'car', 'sky'), label_map={'van': 'car'})
    assert np.array_equal(labels_of(merged), np.array([1, 1, 0, *[255] * 253])[stored]) and merged.lacking == ('sky',)
    ignored = small(label_map={'van': None, 'tree': 'car'})
    assert np.array_equal(labels_of(ignored), np.array([0, 255, 0, *[255] * 253])[stored])
    assert ignored.ignored == ('van',) and ignored.lacking == ('tree',)


def test_labels_are_mapped_inside_test_time_augmentation(small):
    tta = [PIPELINE[0], dict(type='TestTimeAug', transforms=[
        [dict(type='Resize', scale_factor=r, keep_ratio=True) for r in (1.0, 2.0)],
        [dict(type='LoadAnnotations')], [dict(type='PackSegInputs')]])]
    sample = built(small(pipeline=tta, label_map={'van': 'car'}).dataset)[0]
    assert len(sample['inputs']) == 2
    plain = labels_of(small(label_map={'van': 'car'}))
    assert all(np.array_equal(one.gt_sem_seg.data[0].numpy(), plain) for one in sample['data_samples'])


def test_a_set_may_leave_out_classes_in_mmsegs_own_way(tmp_path):
    register_all_modules(init_default_scope=True)
    write_voc(tmp_path)
    config = ConfigDict(type='PascalVOCDataset', data_root=str(tmp_path), ann_file='ImageSets/Segmentation/val.txt',
                        data_prefix=dict(img_path='JPEGImages', seg_map_path='SegmentationClass'),
                        metainfo=dict(classes=('person', 'car')), label_map={'car': None})
    mapped = mapped_set('voc', config, ('cat', 'person'), PIPELINE)
    stored = cv2.imread(str(tmp_path / 'SegmentationClass' / '2007_val0000.png'), cv2.IMREAD_UNCHANGED)
    assert np.array_equal(labels_of(mapped), np.where(stored == 15, 1, 255)) and mapped.lacking == ('cat',)


@pytest.mark.parametrize('text, names, sentence', [
    ('x = 1', (), 'defines no test sets'), ('sets = dict()', (), 'defines no test sets'),
    ("sets = dict(fog=[])", (), 'defines no test sets'), ('sets = (', (), 'cannot be read'),
    ("sets = dict(fog=dict(type='A'))", ('frog',), 'has no test set frog. Did you mean fog'),
    ("sets = {'a/b': dict(type='A')}", (), "names a test set 'a/b'")])
def test_files_that_are_none_are_refused(tmp_path, text, names, sentence):
    file = tmp_path / 'mine.py'
    file.write_text(text)
    with pytest.raises(ConfigError, match=sentence):
        read_sets(file, names)
    with pytest.raises(ConfigError, match='no file of test sets cityscape.* a shipped one: .*cityscapes'):
        read_sets('cityscape')
